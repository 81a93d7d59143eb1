/*
 * cmd_rebase.c - `rebase`: gives an overlay another backing file.
 *
 * Safe mode keeps what the overlay shows: where the overlay holds nothing of its own and the old and
 * the new chain differ, the old content is copied into the overlay. The overlay still stands on its
 * old chain while that happens, so a crash harms nothing; the header is switched last, after a flush.
 * Unsafe mode (-u) switches the header alone.
 */
#include "checked.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "rebase_copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rebase_args {
    const char *path, *format;
    const char *backing, *backing_format; /* -b, -F */
    enum blk_cache cache, source_cache;
    bool quiet, progress, unsafe, force_share, compress;
    char *backing_path; /* resolved; NULL: no backing file */
};

static bool parse_args(int argc, char **argv, struct rebase_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"force-share", no_argument, NULL, 'U'},
        {"compress", no_argument, NULL, 'c'},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hf:F:b:upt:T:qUc", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->format = optarg;
            break;
        case 'F':
            args->backing_format = optarg;
            break;
        case 'b':
            args->backing = optarg;
            break;
        case 'u':
            args->unsafe = true;
            break;
        case 'p':
            args->progress = true;
            break;
        case 't':
            if (!img_parse_cache(optarg, "cache", &args->cache))
                return false;
            break;
        case 'T':
            if (!img_parse_cache(optarg, "source cache", &args->source_cache))
                return false;
            break;
        case 'q':
            args->quiet = true;
            break;
        case 'U':
            args->force_share = true;
            break;
        case 'c':
            args->compress = true;
            break;
        default:
            return false;
        }
    }
    if (!img_take_image(argc, argv, &args->path, status))
        return false;
    if (args->backing == NULL && !args->unsafe) {
        *status = img_usage_error("Must specify backing file (-b) or use unsafe mode (-u)");
        return false;
    }
    if (args->compress && args->unsafe) {
        log_error("Nothing is written in unsafe mode (-u) that could be compressed (-c)");
        return false;
    }
    if (args->backing_format != NULL && !img_known_format(args->backing_format)) {
        log_error("Invalid format name: '%s'", args->backing_format);
        return false;
    }
    return true;
}

/* Finds where the new name leads and which format that is. */
static bool examine_backing(struct rebase_args *args)
{
    struct err err;

    if (args->backing == NULL || args->backing[0] == '\0')
        return true;
    if (blk_backing_path(args->path, args->backing, &args->backing_path, &err) < 0) {
        log_error("%s", err.text);
        return false;
    }
    if (img_same_file(args->backing_path, args->path)) {
        log_error("'%s' cannot be its own backing file", args->path);
        return false;
    }
    if (!img_may_name(args->path, args->backing_path))
        return false;
    if (args->backing_format != NULL)
        return true;
    if (args->unsafe && access(args->backing_path, F_OK) != 0) {
        log_error("Could not change the backing file to '%s': backing format must be specified",
                  args->backing);
        return false;
    }
    if (!args->unsafe && access(args->backing_path, F_OK) != 0)
        return true; /* opening it says why not */
    args->backing_format = img_find_backing_format(args->path, args->backing_path);
    return args->backing_format != NULL;
}

/* Copies what would change. 0, or 1 after a message. */
static int copy_differences(const struct rebase_args *args, struct blk *overlay)
{
    struct blk *new_base = NULL;
    struct progress progress;
    struct err err;
    int rc;

    if (args->backing_path != NULL) {
        struct blk_open_options open = {
            .path = args->backing_path,
            .format = args->backing_format,
            .trust_probe = true,
            .path_is_named = true,
            .backing_root = img_backing_root(),
            .force_share = args->force_share,
        };

        image_opts_apply(&open, args->path, 1);
        rc = blk_open(&open, &new_base, &err);
        if (rc < 0) {
            img_trim_open_error(open.path, rc, &err);
            log_error("Could not open new backing file '%s': %s", args->backing, err.text);
            return 1;
        }
    }
    progress_start(&progress, args->progress && !args->quiet);
    rc = rebase_copy(overlay, new_base, args->compress, &progress, &err);
    progress_end(&progress, rc == 0);
    if (rc < 0)
        log_error("%s", err.text);
    img_close(new_base, NULL);
    return rc < 0 ? 1 : 0;
}

static int rebase(struct rebase_args *args)
{
    struct blk *overlay;
    struct err err;
    int status = 0, rc;

    if (!examine_backing(args))
        return 1;
    overlay = img_open(&(struct blk_open_options){
        .path = args->path,
        .format = args->format,
        .writable = true,
        .no_backing = args->unsafe,
        .cache = args->cache,
    });
    if (overlay == NULL)
        return 1;
    if (args->compress && !blk_can_compress(overlay)) {
        log_error("Compression not supported for %s", strcmp(blk_format(overlay), "raw") == 0
                                                          ? "this file format"
                                                          : "encrypted images");
        status = 1;
    }
    if (status == 0 && !args->unsafe)
        status = copy_differences(args, overlay);
    if (status == 0) {
        rc = blk_flush(overlay);
        if (rc < 0)
            (void)err_set_errno(&err, rc, "Could not flush '%s'", args->path);
        else
            rc = blk_set_backing(overlay, args->backing_path != NULL ? args->backing : NULL,
                                 args->backing_path != NULL ? args->backing_format : NULL, &err);
        if (rc < 0) {
            log_error("Could not change the backing file to '%s': %s",
                      args->backing != NULL ? args->backing : "",
                      rc == -ENOTSUP ? strerror(-rc) : err.text);
            status = 1;
        }
    }
    img_close(overlay, &status);
    return status;
}

int cmd_rebase(int argc, char **argv)
{
    struct rebase_args args = {0};
    int status;

    if (parse_args(argc, argv, &args, &status))
        status = rebase(&args);
    free(args.backing_path);
    return status;
}
