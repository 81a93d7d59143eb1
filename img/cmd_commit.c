/*
 * cmd_commit.c - `commit`: writes what an overlay holds into a file below it.
 *
 * Every layer from the overlay down to, but without, the base is opened alone: what a layer does not
 * hold comes from the next one, and what none of them holds is in the base already. The base is opened
 * for writing, with its own chain, so that parts of clusters can be completed.
 *
 * Order: the base grows to the overlay's size if it is smaller; data is copied; the base is flushed;
 * only then the overlay is emptied. Until that flush the overlay is untouched, so a commit that was cut
 * short is simply run again.
 */
#include "checked.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "pace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CHUNK = 2 << 20, ALIGNMENT = 4096, MAX_LAYERS = 4096 };

struct commit_args {
    const char *path, *format;
    const char *base_name; /* -b */
    enum blk_cache cache;
    uint64_t rate; /* -r: bytes a second; 0: no limit */
    bool quiet, progress, drop;
};

struct layer {
    struct blk *blk;
    dev_t device; /* which file it is; 0, 0: not known */
    ino_t inode;
};

struct chain {
    struct layer *layers; /* the overlay first */
    unsigned count;
    struct blk *base;
};

static bool parse_args(int argc, char **argv, struct commit_args *args, int *status)
{
    static const struct option longopts[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hf:t:b:dpqr:", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->format = optarg;
            break;
        case 't':
            if (!img_parse_cache(optarg, "cache", &args->cache))
                return false;
            break;
        case 'b':
            args->base_name = optarg;
            /* The overlay goes on standing on the layers between, which are stale now. */
            args->drop = true;
            break;
        case 'd':
            args->drop = true;
            break;
        case 'p':
            args->progress = true;
            break;
        case 'q':
            args->quiet = true;
            break;
        case 'r':
            if (!img_parse_size(optarg, "rate limit", &args->rate))
                return false;
            break;
        default:
            return false;
        }
    }
    return img_take_image(argc, argv, &args->path, status);
}

static bool add_layer(struct chain *chain, struct blk *blk)
{
    struct layer *layers = realloc(chain->layers, (chain->count + 1) * sizeof(layers[0]));
    struct stat st = {0};

    if (layers == NULL) {
        log_error("out of memory");
        img_close(blk, NULL);
        return false;
    }
    chain->layers = layers;
    (void)stat(blk_path(blk), &st);
    chain->layers[chain->count++] =
        (struct layer){.blk = blk, .device = st.st_dev, .inode = st.st_ino};
    return true;
}

static bool is_loop(const struct chain *chain, const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return false; /* opening it says why */
    for (unsigned i = 0; i < chain->count; i++) {
        if (chain->layers[i].device == st.st_dev && chain->layers[i].inode == st.st_ino)
            return true;
    }
    return chain->count > MAX_LAYERS; /* the top is not below itself */
}

static bool is_base(const struct commit_args *args, const struct blk_info *info)
{
    return args->base_name == NULL ||
           (info->backing_name != NULL && strcmp(args->base_name, info->backing_name) == 0) ||
           strcmp(args->base_name, info->backing_path) == 0 ||
           img_same_file(args->base_name, info->backing_path);
}

/* What stands below the last layer, or false after a message. */
static bool look_below(const struct commit_args *args, const struct chain *chain,
                       struct blk_info *info)
{
    const struct blk_backing_choice *choice;
    struct err err;

    if (blk_get_info(chain->layers[chain->count - 1].blk, info, &err) < 0) {
        log_error("%s", err.text);
        return false;
    }
    if (info->backing_name == NULL && info->backing_path == NULL) {
        if (chain->count == 1 && args->base_name == NULL)
            log_error("Image does not have a backing file");
        else
            log_error("Did not find '%s' in the backing chain of '%s'", args->base_name,
                      args->path);
        return false;
    }
    if (info->backing_path == NULL) {
        log_error("Could not open backing file '%s': not a path", info->backing_name);
        return false;
    }
    /* What was given by name may be another part of the same file. */
    choice = image_opts_below(args->path, chain->count - 1);
    if ((choice == NULL || choice->path == NULL) && is_loop(chain, info->backing_path)) {
        log_error("The backing chain of '%s' has a loop or is too deep", args->path);
        return false;
    }
    return true;
}

/* Opens everything; false after a message. chain_close() is due in any case. */
static bool chain_open(const struct commit_args *args, struct chain *chain)
{
    const struct blk_backing_choice *choice;
    struct blk_open_options open = {
        .path = args->path,
        .format = args->format,
        .writable = !args->drop,
        .no_backing = true,
        .cache = args->cache,
    };

    for (;;) {
        struct blk *blk = img_open(&open);
        struct blk_info info;

        if (blk == NULL || !add_layer(chain, blk) || !look_below(args, chain, &info))
            return false;
        open = (struct blk_open_options){.path = info.backing_path,
                                         .path_is_named = true,
                                         .format = info.backing_format,
                                         .no_backing = true};
        choice = image_opts_below(args->path, chain->count - 1);
        if (choice != NULL) {
            open.path_is_named = choice->path == NULL;
            open.format = choice->format != NULL ? choice->format : open.format;
            open.place = choice->place;
        }
        image_opts_apply(&open, args->path, chain->count);
        if (is_base(args, &info))
            break;
    }
    open.no_backing = false;
    open.writable = true;
    open.cache = args->cache;
    chain->base = img_open(&open);
    return chain->base != NULL;
}

static void chain_close(struct chain *chain, int *status)
{
    img_close(chain->base, status);
    for (unsigned i = 0; i < chain->count; i++)
        img_close(chain->layers[i].blk, status);
    free(chain->layers);
}

/* Which layer above the base holds `offset` (NULL: none, *extent says how far that goes). A layer that
 * is shorter than the one above shows zeros behind its end, not what lies below it. */
static int find_layer(const struct chain *chain, uint64_t offset, uint64_t length,
                      struct blk **layer, struct blk_extent *extent)
{
    *layer = NULL;
    for (unsigned i = 0; i < chain->count; i++) {
        struct blk *blk = chain->layers[i].blk;
        int rc;

        if (offset >= blk_length(blk)) {
            *layer = blk;
            *extent = (struct blk_extent){.kind = BLK_EXTENT_ZERO, .length = length};
            return 0;
        }
        rc = blk_map(blk, offset, min_u64(length, blk_length(blk) - offset), BLK_MAP_TOP_ONLY,
                     extent);
        if (rc < 0)
            return rc;
        length = min_u64(length, extent->length);
        if (extent->kind != BLK_EXTENT_UNALLOCATED) {
            *layer = blk;
            break;
        }
    }
    extent->length = length;
    return 0;
}

/* Makes zeros of at most *length bytes, unless the base shows zeros there. */
static int commit_zeros(struct blk *base, uint64_t offset, uint64_t *length)
{
    struct blk_extent extent;
    int rc = blk_map(base, offset, *length, 0, &extent);

    if (rc < 0)
        return rc;
    *length = min_u64(*length, extent.length);
    if (extent.kind == BLK_EXTENT_ZERO || extent.kind == BLK_EXTENT_UNALLOCATED)
        return 0;
    return blk_pwrite_zeroes(base, offset, *length, BLK_REQ_MAY_UNMAP);
}

static int commit_data(const struct chain *chain, struct progress *progress, struct pace *pace,
                       void *buf, struct err *err)
{
    uint64_t total = blk_length(chain->layers[0].blk);

    for (uint64_t offset = 0; offset < total;) {
        struct blk_extent extent;
        struct blk *layer;
        uint64_t length;
        int rc = find_layer(chain, offset, total - offset, &layer, &extent);

        if (rc < 0)
            return err_set_errno(err, rc, "error while reading image metadata at byte %" PRIu64,
                                 offset);
        length = extent.length;
        if (layer != NULL && extent.kind == BLK_EXTENT_ZERO) {
            rc = commit_zeros(chain->base, offset, &length);
        } else if (layer != NULL) {
            length = min_u64(length, CHUNK - offset % CHUNK);
            rc = blk_pread(layer, offset, buf, (size_t)length);
            if (rc < 0)
                return err_set_errno(err, rc, "error while reading at byte %" PRIu64, offset);
            pace_wait(pace, length);
            rc = blk_pwrite(chain->base, offset, buf, (size_t)length);
        }
        if (rc < 0)
            return err_set_errno(err, rc, "Block job failed");
        offset += length;
        progress_update(progress, offset, total);
    }
    return 0;
}

static int commit(const struct commit_args *args, const struct chain *chain)
{
    uint64_t total = blk_length(chain->layers[0].blk);
    void *buf = aligned_alloc(ALIGNMENT, CHUNK);
    struct pace pace = {.rate = args->rate};
    struct progress progress;
    struct err err;
    int rc = 0;

    if (buf == NULL) {
        log_error("out of memory");
        return 1;
    }
    progress_start(&progress, args->progress && !args->quiet);
    if (blk_length(chain->base) < total)
        rc = blk_resize(chain->base, total, &err);
    if (rc == 0)
        rc = commit_data(chain, &progress, &pace, buf, &err);
    free(buf);
    if (rc == 0) {
        rc = blk_flush(chain->base);
        if (rc < 0)
            (void)err_set_errno(&err, rc, "Could not flush '%s'", blk_path(chain->base));
    }
    if (rc == 0 && !args->drop)
        rc = blk_make_empty(chain->layers[0].blk, &err);
    progress_end(&progress, rc == 0);
    if (rc < 0) {
        log_error("%s", err.text);
        return 1;
    }
    return 0;
}

int cmd_commit(int argc, char **argv)
{
    struct commit_args args = {0};
    struct chain chain = {0};
    int status;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    status = chain_open(&args, &chain) ? commit(&args, &chain) : 1;
    chain_close(&chain, &status);
    if (status == 0 && !args.quiet)
        printf("Image committed.\n");
    return status;
}
