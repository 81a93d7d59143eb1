/*
 * cmd_measure.c - `measure`: how large the file will be that convert or create makes.
 *
 * What the format itself needs is counted as if every cluster had a place; of the guest's data those
 * clusters count in which the source's chain has any. So the result is what convert needs at most.
 */
#include "checked.h"
#include "create_options.h"
#include "extent.h"
#include "image_opts.h"
#include "img.h"
#include "json.h"
#include "log.h"
#include "snapshot_param.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum {
    OPT_SIZE = 0x200,
    SECTOR = 512,
    /* qcow2's bitmaps: specification, "Bitmap directory" and "Bitmap table". */
    BITMAP_ENTRY = 24,
    BITMAP_TABLE_ENTRY = 8
};

struct measure_args {
    struct blk_open_options open;
    const char *out_format, *snapshot;
    uint64_t size;
    bool has_size, json;
    struct create_options options;
};

struct measure_result {
    uint64_t required, fully_allocated;
    uint64_t bitmaps;
    bool has_bitmaps;
};

/* False after a message. */
static bool check_operands(int argc, char **argv, struct measure_args *args)
{
    int count = argc - optind;
    const char *problem = NULL;

    if (count > 1)
        problem = "At most one filename argument is allowed.";
    else if (count == 1 && args->has_size)
        problem = "--size N cannot be used together with a filename.";
    else if (count == 0 &&
             (image_opts_enabled(false) || args->open.format != NULL || args->snapshot != NULL))
        problem = "--image-opts, -f, and -l require a filename argument.";
    else if (count == 0 && !args->has_size)
        problem = "Either --size N or one filename must be specified.";
    if (problem != NULL) {
        log_error("%s", problem);
        return false;
    }
    if (count == 1)
        args->open.path = image_opts_path(argv[optind], false);
    return count == 0 || args->open.path != NULL;
}

static bool parse_args(int argc, char **argv, struct measure_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"output", required_argument, NULL, IMG_OPT_OUTPUT},
        {"size", required_argument, NULL, OPT_SIZE},
        {"force-share", no_argument, NULL, 'U'},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    args->out_format = "raw";
    while ((c = img_getopt(argc, argv, ":hf:l:o:O:U", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->open.format = optarg;
            break;
        case 'l':
            args->snapshot = optarg;
            break;
        case 'o':
            if (create_options_add(&args->options, optarg) < 0)
                return false;
            break;
        case 'O':
            args->out_format = optarg;
            break;
        case 'U':
            args->open.force_share = true;
            break;
        case IMG_OPT_OUTPUT:
            if (!img_parse_output(optarg, &args->json))
                return false;
            break;
        case OPT_SIZE:
            if (!img_parse_size(optarg, "image size", &args->size))
                return false;
            args->has_size = true;
            break;
        default:
            return false;
        }
    }
    return check_operands(argc, argv, args);
}

/* ---- options ---- */

static bool read_options(struct measure_args *args)
{
    struct create_options *options = &args->options;
    const char *compat;

    options->blk.path = "";
    options->blk.format = args->out_format;
    if (!img_known_format(args->out_format)) {
        log_error("Unknown file format '%s'", args->out_format);
        return false;
    }
    if (create_options_parse(options, NULL) < 0) {
        log_error("Invalid options for file format '%s'", args->out_format);
        return false;
    }
    if (strcmp(args->out_format, "raw") == 0)
        return true;
    compat = options->compat;
    if (compat != NULL && strcmp(compat, "1.1") != 0 && strcmp(compat, "v3") != 0 &&
        strcmp(compat, "0.10") != 0 && strcmp(compat, "v2") != 0) {
        log_error("Invalid compatibility level: '%s'", compat);
        return false;
    }
    if (options->preallocation != NULL &&
        !create_options_preallocation(options->preallocation, &options->blk.prealloc)) {
        log_error("invalid parameter value: %s", options->preallocation);
        return false;
    }
    return create_options_finish(options, NULL) == 0;
}

/* ---- measuring ---- */

/* The guest's clusters that have data; negative after a message. */
static int count_data(struct blk *blk, uint64_t cluster_size, uint64_t *bytes)
{
    uint64_t size = blk_length(blk);

    *bytes = 0;
    for (uint64_t at = 0; at < size;) {
        struct blk_extent extent;
        struct err problem;
        int rc = blk_map(blk, at, size - at, 0, &extent);

        if (rc < 0) {
            img_explain(blk, rc, &problem);
            log_error("Unable to get block status: %s", problem.text);
            return rc;
        }
        if (extent_is_zero(&extent)) {
            at += extent.length;
        } else {
            uint64_t end = align_up(at + extent.length, cluster_size);

            /* What begins inside a cluster counts it all; it was not counted before. */
            *bytes += end - align_down(at, cluster_size);
            at = end;
        }
    }
    return 0;
}

/* What the source's bitmaps would take in the new image. */
static uint64_t measure_bitmaps(struct blk *blk, uint64_t cluster_size)
{
    struct blk_bitmap_info bitmap;
    uint64_t clusters = 0, directory = 0;

    for (unsigned i = 0; blk_bitmap_get(blk, i, &bitmap); i++) {
        uint64_t bits = div_round_up(blk_length(blk), bitmap.granularity);
        uint64_t data = div_round_up(div_round_up(bits, 8), cluster_size);

        if (bitmap.is_inconsistent)
            continue;
        clusters += data + div_round_up(data * BITMAP_TABLE_ENTRY, cluster_size);
        directory += align_up(BITMAP_ENTRY + strlen(bitmap.name), 8);
    }
    return (clusters + div_round_up(directory, cluster_size)) * cluster_size;
}

/* False after a message. */
static bool measure(struct measure_args *args, struct blk *blk, struct measure_result *result)
{
    struct blk_create_options *options = &args->options.blk;
    uint64_t size = align_up(blk != NULL ? blk_length(blk) : args->size, SECTOR);
    uint64_t cluster_size = options->cluster_size, data = 0, metadata;
    bool is_all = strcmp(options->format, "raw") == 0 || options->backing_name != NULL ||
                  options->prealloc == BLK_PREALLOC_FALLOC ||
                  options->prealloc == BLK_PREALLOC_FULL;
    struct blk_info info;
    struct err err;
    int rc;

    *result = (struct measure_result){.required = size, .fully_allocated = size};
    if (strcmp(options->format, "raw") == 0)
        return true;
    options->size = size;
    /* Whether it has a name and a format does not matter yet, nor what preallocation goes with. */
    options->backing_name = options->backing_format = NULL;
    options->prealloc = BLK_PREALLOC_OFF;
    rc = blk_create_measure(options, &metadata, &err);
    if (rc < 0) {
        log_error("%s", rc == -EFBIG
                            ? "The image size is too large (try using a larger cluster size)"
                            : img_without_path(err.text, options->path));
        return false;
    }
    if (!is_all && blk != NULL && count_data(blk, cluster_size, &data) < 0)
        return false;
    size = align_up(size, cluster_size);
    result->fully_allocated = metadata + size;
    result->required = metadata + (is_all ? size : data);
    result->has_bitmaps = options->compat >= 3 && blk != NULL &&
                          blk_get_info(blk, &info, NULL) == 0 && info.compat >= 3;
    if (result->has_bitmaps)
        result->bitmaps = measure_bitmaps(blk, cluster_size);
    return true;
}

static int print_result(const struct measure_args *args, const struct measure_result *result)
{
    json_t *object;

    if (!args->json) {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", result->required,
               result->fully_allocated);
        if (result->has_bitmaps)
            printf("bitmaps size: %" PRIu64 "\n", result->bitmaps);
        return 0;
    }
    object = json_object();
    if (result->has_bitmaps)
        json_add_number(object, "bitmaps", result->bitmaps);
    json_add_number(object, "required", result->required);
    json_add_number(object, "fully-allocated", result->fully_allocated);
    return json_print(object) < 0 ? 1 : 0;
}

static int run(struct measure_args *args)
{
    struct measure_result result;
    struct blk *blk = NULL;
    int status = 1;

    if (args->open.path != NULL) {
        blk = img_open(&args->open);
        if (blk == NULL)
            return 1;
    }
    if ((blk == NULL || args->snapshot == NULL || snapshot_param_show(blk, args->snapshot) == 0) &&
        read_options(args) && measure(args, blk, &result))
        status = print_result(args, &result);
    img_close(blk, NULL);
    return status;
}

int cmd_measure(int argc, char **argv)
{
    struct measure_args args = {0};
    int status;

    if (parse_args(argc, argv, &args, &status))
        status = run(&args);
    create_options_free(&args.options);
    return status;
}
