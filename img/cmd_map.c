/*
 * cmd_map.c - `map`: what lies where in an image and its chain.
 *
 * Neighbours with the same answer are one line, whatever the tables they come from; what is
 * printed is never kept, so an image of any size needs no memory.
 */
#include "checked.h"
#include "extent.h"
#include "image_opts.h"
#include "img.h"
#include "keys.h"
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_START = 0x200, OPT_LENGTH };

struct map_args {
    struct blk_open_options open;
    uint64_t start, length;
    bool json;
};

/* One line: a run of extents that go on where the one before ends. */
struct map_entry {
    uint64_t start;
    struct blk_extent extent;
};

struct map_output {
    struct blk *blk;
    const char *path; /* as the command line has it */
    bool json;
    bool is_first;
    /* The file of the layer at file_depth, as opened; NULL: not looked for yet. */
    char *file;
    unsigned file_depth;
};

static bool parse_args(int argc, char **argv, struct map_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"format", required_argument, NULL, 'f'},
        {"output", required_argument, NULL, IMG_OPT_OUTPUT},
        {"force-share", no_argument, NULL, 'U'},
        {"start-offset", required_argument, NULL, OPT_START},
        {"max-length", required_argument, NULL, OPT_LENGTH},
        {NULL, 0, NULL, 0},
    };
    const char *output = NULL;
    int c;

    *status = 1;
    args->length = UINT64_MAX;
    while ((c = img_getopt(argc, argv, ":f:s:l:hU", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->open.format = optarg;
            break;
        case 'U':
            args->open.force_share = true;
            break;
        case IMG_OPT_OUTPUT:
            output = optarg;
            break;
        case 's':
        case OPT_START:
            if (!img_parse_size(optarg, "start offset", &args->start))
                return false;
            break;
        case 'l':
        case OPT_LENGTH:
            if (!img_parse_size(optarg, "max length", &args->length))
                return false;
            break;
        default:
            return false;
        }
    }
    return img_take_image(argc, argv, &args->open.path, status) &&
           (output == NULL || img_parse_output(output, &args->json));
}

static bool has_data(const struct blk_extent *extent)
{
    return extent->kind == BLK_EXTENT_DATA || extent->kind == BLK_EXTENT_COMPRESSED;
}

/* ---- printing ---- */

/* The path of the file with the guest's data at `depth`; NULL after a message. */
static const char *find_file(struct map_output *out, unsigned depth)
{
    struct blk *layer = extent_layer(out->blk, depth);
    struct blk_info info;
    struct err err;
    int rc;

    if (out->file != NULL && out->file_depth == depth)
        return out->file;
    free(out->file);
    out->file = NULL;
    out->file_depth = depth;
    rc = blk_get_info(layer, &info, &err);
    if (rc == 0 && info.data_name != NULL) {
        rc = blk_backing_path(blk_path(layer), info.data_name, &out->file, &err);
    } else if (rc == 0) {
        out->file = image_opts_shown_file(out->path, depth, blk_path(layer), blk_format(layer));
        if (out->file == NULL)
            rc = err_set(&err, -ENOMEM, "out of memory");
    }
    if (rc < 0)
        log_error("%s", err.text);
    return out->file;
}

/* False after a message. */
static bool print_human(struct map_output *out, const struct map_entry *entry)
{
    const struct blk_extent *extent = &entry->extent;
    const char *file;

    if (!has_data(extent) || extent_is_zero(extent))
        return true;
    if (!extent->has_host_offset) {
        log_error("File contains external, encrypted or compressed clusters.");
        return false;
    }
    file = find_file(out, extent->depth);
    if (file == NULL)
        return false;
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", entry->start, extent->length,
           extent->host_offset, file);
    return true;
}

static const char *true_or_false(bool value)
{
    return value ? "true" : "false";
}

static void print_json(const struct map_output *out, const struct map_entry *entry)
{
    const struct blk_extent *extent = &entry->extent;

    /* What is nothing, behind the end of the image, is not said to be zero either. */
    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, "
           "\"zero\": %s, \"data\": %s",
           out->is_first ? "" : ",\n", entry->start, extent->length, extent->depth,
           true_or_false(extent->kind != BLK_EXTENT_UNALLOCATED),
           true_or_false(extent->length > 0 && extent_is_zero(extent)),
           true_or_false(has_data(extent)));
    if (extent->kind == BLK_EXTENT_COMPRESSED)
        printf(", \"compressed\": true");
    if (extent->has_host_offset)
        printf(", \"offset\": %" PRIu64, extent->host_offset);
    printf("}");
}

/* False after a message. */
static bool print_entry(struct map_output *out, const struct map_entry *entry)
{
    if (!out->json)
        return print_human(out, entry);
    print_json(out, entry);
    out->is_first = false;
    return true;
}

/* ---- the walk ---- */

static bool goes_on(const struct blk_extent *a, const struct blk_extent *b)
{
    return a->kind == b->kind && a->is_hole == b->is_hole && a->depth == b->depth &&
           a->has_host_offset == b->has_host_offset &&
           (!a->has_host_offset || a->host_offset + a->length == b->host_offset);
}

/* False after a message. */
static bool print_range(struct map_output *out, uint64_t start, uint64_t end)
{
    struct map_entry entry = {.start = start, .extent = {.kind = BLK_EXTENT_UNALLOCATED}};
    uint64_t at = start;

    while (at < end) {
        struct blk_extent extent;
        struct err problem;
        int rc = blk_map(out->blk, at, end - at, 0, &extent);

        if (rc < 0) {
            img_explain(out->blk, rc, &problem);
            log_error("Could not read file metadata: %s", problem.text);
            return false;
        }
        if (at > start && goes_on(&entry.extent, &extent)) {
            entry.extent.length += extent.length;
        } else {
            if (at > start && !print_entry(out, &entry))
                return false;
            entry.start = at;
            entry.extent = extent;
        }
        at += extent.length;
    }
    return print_entry(out, &entry);
}

int cmd_map(int argc, char **argv)
{
    struct map_args args = {0};
    struct map_output out = {.is_first = true};
    uint64_t end, size;
    int status;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    out.json = args.json;
    out.path = args.open.path;
    out.blk = img_open(&args.open);
    if (out.blk == NULL)
        return 1;
    size = blk_length(out.blk);
    end = args.start < size ? args.start + min_u64(args.length, size - args.start) : args.start;
    if (args.json)
        printf("[");
    else
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    status = print_range(&out, args.start, end) ? 0 : 1;
    if (status == 0 && args.json)
        printf("]\n");
    free(out.file);
    img_close(out.blk, &status);
    return status;
}
