/*
 * cmd_convert.c - `convert`: copies images, flattened, into a new image or an existing one (-n).
 */
#include "checked.h"
#include "convert_bitmaps.h"
#include "copy.h"
#include "create_options.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "snapshot_param.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEFAULT_SPARSE = 4096, MAX_SPARSE = 16 << 20, SECTOR = 512, MAX_COROUTINES = 16 };
enum { OPT_BITMAPS = 0x200, OPT_SKIP_BROKEN, OPT_SALVAGE, OPT_TARGET_IS_ZERO };

struct convert_args {
    const char *format, *out_format;      /* -f, -O */
    const char *backing, *backing_format; /* -B, -F */
    const char *snapshot;                 /* -l */
    enum blk_cache cache, source_cache;
    uint64_t sparse, rate;
    bool has_sparse, has_out_format; /* -S, -O were given */
    bool quiet, progress, skip_create, force_share, compress;
    bool offload, salvage, target_is_zero; /* -C */
    bool bitmaps, skip_broken_bitmaps;
    struct create_options options;
    const char **source_paths;
    unsigned source_count;
    const char *target_path;
};

static bool parse_coroutines(const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && n >= 1 && n <= MAX_COROUTINES)
        return true;
    log_error("Invalid number of coroutines. Allowed number of coroutines is between 1 and %d",
              MAX_COROUTINES);
    return false;
}

static bool parse_sparse(const char *text, uint64_t *sparse)
{
    if (!img_parse_size(text, "buffer size for sparse output", sparse))
        return false;
    if (*sparse % SECTOR == 0 && *sparse <= MAX_SPARSE)
        return true;
    log_error("Invalid buffer size for sparse output specified. Valid sizes are multiples of %d up "
              "to %d. Select 0 to disable sparse detection (fully allocates output).",
              SECTOR, MAX_SPARSE);
    return false;
}

/* One option; false after a message. */
static bool parse_option(struct convert_args *args, int c)
{
    switch (c) {
    case 'f':
        args->format = optarg;
        return true;
    case 'O':
        args->out_format = optarg;
        args->has_out_format = true;
        return true;
    case 'B':
        args->backing = optarg;
        return true;
    case 'F':
        args->backing_format = optarg;
        return true;
    case 'o':
        return create_options_add(&args->options, optarg) == 0;
    case 't':
        return img_parse_cache(optarg, "cache", &args->cache);
    case 'T':
        return img_parse_cache(optarg, "source cache", &args->source_cache);
    case 'S':
        args->has_sparse = true;
        return parse_sparse(optarg, &args->sparse);
    case 'l':
        args->snapshot = optarg;
        return true;
    case 'm':
        return parse_coroutines(optarg);
    case 'W':
        return true; /* the order of writes is free anyway */
    case 'n':
        args->skip_create = true;
        return true;
    case 'p':
        args->progress = true;
        return true;
    case 'q':
        args->quiet = true;
        return true;
    case 'U':
        args->force_share = true;
        return true;
    case 'C':
        args->offload = true;
        return true;
    case 'r':
        return img_parse_size(optarg, "rate limit", &args->rate);
    case OPT_BITMAPS:
        args->bitmaps = true;
        return true;
    case OPT_SKIP_BROKEN:
        args->skip_broken_bitmaps = true;
        return true;
    case OPT_SALVAGE:
        args->salvage = true;
        return true;
    case OPT_TARGET_IS_ZERO:
        args->target_is_zero = true;
        return true;
    default: /* 'c' */
        args->compress = true;
        return true;
    }
}

/* What does not go together; false after a message. */
static bool check_options(const struct convert_args *args)
{
    const char *problem = NULL;

    if (args->skip_broken_bitmaps && !args->bitmaps)
        problem = "Use of --skip-broken-bitmaps requires --bitmaps";
    else if (image_opts_enabled(true) && !args->skip_create)
        problem = "--target-image-opts requires use of -n flag";
    else if (args->target_is_zero && !args->skip_create)
        problem = "--target-is-zero requires use of -n flag";
    else if (args->offload && args->compress)
        problem = "Cannot enable copy offloading when -c is used";
    else if (args->offload && args->has_sparse)
        problem = "Cannot enable copy offloading when -S is used";
    else if (args->offload && args->salvage)
        problem = "Cannot use copy offloading in salvaging mode";
    if (problem != NULL)
        log_error("%s", problem);
    return problem == NULL;
}

static bool parse_args(int argc, char **argv, struct convert_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"force-share", no_argument, NULL, 'U'},
        {"bitmaps", no_argument, NULL, OPT_BITMAPS},
        {"skip-broken-bitmaps", no_argument, NULL, OPT_SKIP_BROKEN},
        {"salvage", no_argument, NULL, OPT_SALVAGE},
        {"target-is-zero", no_argument, NULL, OPT_TARGET_IS_ZERO},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hf:O:B:F:l:o:t:T:S:m:WnpqUcCr:", longopts, status)) !=
           -1) {
        if (c == IMG_OPT_STOP || !parse_option(args, c))
            return false;
    }
    if (!check_options(args))
        return false;
    if (!img_known_format(args->out_format)) {
        log_error("Unknown file format '%s'", args->out_format);
        return false;
    }
    if (create_options_help(&args->options, args->out_format, optind < argc)) {
        *status = 0;
        return false;
    }
    if (args->skip_create && args->options.text != NULL) {
        log_error("-o has no effect when skipping image creation");
        return false;
    }
    if (argc - optind < 2) {
        log_error("Must specify image file name");
        return false;
    }
    args->source_paths = (const char **)(argv + optind);
    args->source_count = (unsigned)(argc - optind - 1);
    for (unsigned i = 0; i < args->source_count; i++) {
        args->source_paths[i] = image_opts_path(argv[optind + (int)i], false);
        if (args->source_paths[i] == NULL)
            return false;
    }
    args->target_path = image_opts_path(argv[argc - 1], true);
    return args->target_path != NULL;
}

/* ---- the target ---- */

static int resolve_backing(struct convert_args *args)
{
    struct blk_create_options *blk = &args->options.blk;
    struct err err;
    char *path;

    if (args->backing != NULL)
        blk->backing_name = args->backing;
    if (args->backing_format != NULL)
        blk->backing_format = args->backing_format;
    if (blk->backing_name == NULL || blk->backing_format != NULL)
        return 0;
    if (blk_backing_path(blk->path, blk->backing_name, &path, &err) < 0) {
        log_error("%s", err.text);
        return -1;
    }
    blk->backing_format = img_find_backing_format(blk->path, path);
    free(path);
    return blk->backing_format != NULL ? 0 : -1;
}

/* Makes the new image. 0 or, after a message, -1. */
static int create_target(struct convert_args *args, uint64_t size)
{
    struct create_options *options = &args->options;
    struct blk_create_options *blk = &options->blk;
    struct err err;

    if (create_options_finish(options, NULL) < 0)
        return -1;
    blk->size = size; /* whatever -o says: as qemu-img does it */
    if (resolve_backing(args) < 0)
        return -1;
    if (blk->backing_name != NULL && strcmp(blk->format, "raw") == 0) {
        log_error("Backing file not supported for file format 'raw'");
        return -1;
    }
    if (blk_create(blk, &err) < 0) {
        log_error("%s: error while converting %s: %s", blk->path, blk->format,
                  img_without_path(err.text, blk->path));
        return -1;
    }
    return 0;
}

static bool is_block_device(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

/* ---- the whole ---- */

static void close_sources(struct blk **sources, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        img_close(sources[i], NULL);
    free(sources);
}

/* Opens all sources and sums up their lengths; NULL after a message. */
static struct blk **open_sources(const struct convert_args *args, uint64_t *size)
{
    struct blk **sources = calloc(args->source_count, sizeof(struct blk *));

    *size = 0;
    if (sources == NULL) {
        log_error("out of memory");
        return NULL;
    }
    for (unsigned i = 0; i < args->source_count; i++) {
        const char *path = args->source_paths[i];

        if (img_same_file(path, args->target_path)) {
            log_error("%s: error while converting %s: '%s' is the input as well", args->target_path,
                      args->out_format, path);
            close_sources(sources, i);
            return NULL;
        }
        sources[i] = img_open(&(struct blk_open_options){
            .path = path,
            .format = args->format,
            .force_share = args->force_share,
            .cache = args->source_cache,
        });
        if (sources[i] != NULL && args->snapshot != NULL && args->source_count == 1 &&
            snapshot_param_show(sources[i], args->snapshot) < 0) {
            close_sources(sources, i + 1);
            return NULL;
        }
        if (sources[i] == NULL || !add_u64(*size, blk_length(sources[i]), size)) {
            close_sources(sources, i + 1);
            return NULL;
        }
    }
    if (args->snapshot != NULL && args->source_count > 1) {
        log_error("No support for concatenating multiple snapshot");
        close_sources(sources, args->source_count);
        return NULL;
    }
    return sources;
}

/* False after a message. */
static bool check_target(const struct convert_args *args, struct blk *target, uint64_t size)
{
    if (blk_length(target) < size) {
        log_error("output file is smaller than input file");
        return false;
    }
    if (args->target_is_zero && blk_backing(target) != NULL) {
        log_error("Cannot use --target-is-zero when the destination image has a backing file");
        return false;
    }
    if (args->bitmaps && !convert_bitmaps_can_have(target)) {
        log_error("Format driver '%s' does not support bitmaps", blk_format(target));
        return false;
    }
    return true;
}

static int copy(const struct convert_args *args, struct blk **sources, uint64_t size)
{
    struct progress progress;
    struct copy_job job = {
        .sources = sources,
        .source_count = args->source_count,
        .sparse = args->sparse,
        .compress = args->compress,
        .skip_unallocated = args->backing != NULL || args->options.blk.backing_name != NULL,
        .offload = args->offload,
        .salvage = args->salvage,
        .quiet = args->quiet,
        .rate = args->rate,
        .progress = &progress,
    };
    const struct blk_luks_options *luks = args->options.blk.luks;
    struct err err;
    int status = 0, rc;

    job.target_is_zero = args->target_is_zero || (!args->skip_create && !job.skip_unallocated &&
                                                  !is_block_device(args->target_path));
    job.target = img_open(&(struct blk_open_options){
        .path = args->target_path,
        .format = image_opts_enabled(true) && !args->has_out_format ? NULL : args->out_format,
        .writable = true,
        .discard = true,
        .keys = luks != NULL ? &luks->key : NULL,
        .key_count = luks != NULL,
        .cache = args->cache,
    });
    if (job.target == NULL)
        return 1;
    if (!check_target(args, job.target, size)) {
        img_close(job.target, NULL);
        return 1;
    }
    progress_start(&progress, args->progress && !args->quiet);
    rc = copy_images(&job, &err);
    if (rc == 0) {
        rc = blk_flush(job.target);
        if (rc < 0)
            (void)err_set_errno(&err, rc, "error while flushing '%s'", args->target_path);
    }
    if (rc == 0 && args->bitmaps)
        rc = convert_bitmaps_copy(sources[0], job.target, args->skip_broken_bitmaps, &err);
    progress_end(&progress, rc == 0);
    if (rc < 0) {
        log_error("%s", err.text);
        status = 1;
    }
    img_close(job.target, &status);
    return status;
}

/* 0 or, after a message, -1. */
static int check_compression(const struct convert_args *args)
{
    const char *preallocation = args->options.preallocation;

    if (args->compress && args->options.blk.luks != NULL) {
        log_error("Compression and encryption not supported at the same time");
        return -1;
    }
    if (!args->compress)
        return 0;
    if (strcmp(args->out_format, "raw") == 0) {
        log_error("Compression not supported for this file format");
        return -1;
    }
    if (preallocation != NULL && strcmp(preallocation, "off") != 0) {
        log_error("Compression and preallocation not supported at the same time");
        return -1;
    }
    return 0;
}

/* False after a message. */
static bool check_bitmaps(const struct convert_args *args, struct blk *source)
{
    if (!args->bitmaps)
        return true;
    if (args->source_count > 1)
        log_error("Copying bitmaps only possible with single source");
    else if (!convert_bitmaps_can_have(source))
        log_error("Source lacks bitmap support");
    else
        return convert_bitmaps_check(source, args->skip_broken_bitmaps);
    return false;
}

static int convert(struct convert_args *args)
{
    struct blk **sources;
    uint64_t size;
    int status = 1;
    bool is_new;

    args->options.blk.path = args->target_path;
    args->options.blk.format = args->out_format;
    if (create_options_parse(&args->options, NULL) < 0)
        return 1;
    sources = open_sources(args, &size);
    if (sources == NULL)
        return 1;
    if (args->source_count > 1 &&
        (args->backing != NULL || args->options.blk.backing_name != NULL)) {
        log_error("Having a backing file for the target makes no sense when concatenating multiple "
                  "input images");
        close_sources(sources, args->source_count);
        return 1;
    }
    is_new = !args->skip_create && access(args->target_path, F_OK) != 0;
    if (check_compression(args) < 0 || !check_bitmaps(args, sources[0])) {
        close_sources(sources, args->source_count);
        return 1;
    }
    if (args->skip_create || create_target(args, size) == 0) {
        status = copy(args, sources, size);
        /* Half an image looks like a whole one. */
        if (status != 0 && is_new)
            img_remove_made(args->target_path);
    }
    close_sources(sources, args->source_count);
    return status;
}

int cmd_convert(int argc, char **argv)
{
    struct convert_args args = {
        .out_format = "raw", .sparse = DEFAULT_SPARSE, .cache = BLK_CACHE_UNSAFE};
    int status;

    if (parse_args(argc, argv, &args, &status))
        status = convert(&args);
    create_options_free(&args.options);
    return status;
}
