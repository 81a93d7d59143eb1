/*
 * cmd_create.c - `create`: a new image, alone or as an overlay over a backing file.
 *
 * A backing file is opened (without taking locks: it may be in use by a guest) to see that its whole
 * chain is there and to take over its size; -u leaves that out. Its format is always recorded: without
 * -F it is found and said, because a raw image whose format is probed later is in its guest's hands.
 */
#include "create_options.h"
#include "img.h"
#include "log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct create_args {
    const char *format;
    const char *backing, *backing_format; /* -b, -F */
    const char *size;
    bool quiet, unsafe;
    struct create_options options;
};

/* Returns false when the command is over, with *status. */
static bool parse_args(int argc, char **argv, struct create_args *args, int *status)
{
    static const struct option longopts[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = img_getopt(argc, argv, ":hf:b:F:o:qu0123456789", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->format = optarg;
            break;
        case 'b':
            args->backing = optarg;
            break;
        case 'F':
            args->backing_format = optarg;
            break;
        case 'o':
            if (create_options_add(&args->options, optarg) < 0) {
                *status = 1;
                return false;
            }
            break;
        case 'q':
            args->quiet = true;
            break;
        case 'u':
            args->unsafe = true;
            break;
        case IMG_OPT_STOP:
            return false;
        default:
            /* A digit: "-10G" as the size looks like options. */
            log_error("Invalid image size specified. Must be between 0 and %lld.",
                      (long long)INT64_MAX);
            *status = 1;
            return false;
        }
    }
    return true;
}

/* Whether `path` is the image that `backing` names, or one further down its chain. */
static bool chain_holds(struct blk *backing, const char *path)
{
    for (struct blk *layer = backing; layer != NULL; layer = blk_backing(layer)) {
        if (img_same_file(blk_path(layer), path))
            return true;
    }
    return false;
}

static int refuse_own_backing(const char *path)
{
    log_error("%s: Error: Trying to create an image with the same filename as the backing file",
              path);
    return -1;
}

/* Looks at the backing file: its format if none is given, its size if none is given. */
static int examine_backing(struct create_args *args, const char *backing_path)
{
    struct blk_create_options *blk = &args->options.blk;
    struct blk_open_options open = {.path = backing_path,
                                    .path_is_named = true,
                                    .force_share = true,
                                    .trust_probe = true,
                                    .metadata_only = true,
                                    .backing_root = img_backing_root()};
    struct blk *backing;
    struct err err;
    int rc = 0;

    if (strcmp(backing_path, blk->path) == 0 || img_same_file(backing_path, blk->path))
        return refuse_own_backing(blk->path);
    if (!img_may_name(blk->path, backing_path))
        return -1;
    if (args->unsafe && (blk->backing_format != NULL || access(backing_path, F_OK) != 0)) {
        if (blk->backing_format != NULL)
            return 0;
        log_error("%s: The format of '%s' cannot be found; specify it with -F", blk->path,
                  backing_path);
        return -1;
    }
    if (blk->backing_format == NULL) {
        blk->backing_format = img_find_backing_format(blk->path, backing_path);
        if (blk->backing_format == NULL)
            return -1;
        if (args->unsafe)
            return 0;
    } else if (!img_known_format(blk->backing_format)) {
        log_error("%s: Unknown driver '%s'", blk->path, blk->backing_format);
        fprintf(stderr, "Could not open backing image.\n");
        return -1;
    }
    open.format = blk->backing_format;
    if (blk_open(&open, &backing, &err) < 0) {
        log_error("%s: %s", blk->path, err.text);
        fprintf(stderr, "Could not open backing image.\n");
        return -1;
    }
    if (chain_holds(backing, blk->path))
        rc = refuse_own_backing(blk->path);
    if (!args->options.has_size)
        blk->size = blk_length(backing);
    args->options.has_size = true;
    img_close(backing, NULL);
    return rc;
}

static int resolve_backing(struct create_args *args)
{
    struct blk_create_options *blk = &args->options.blk;
    struct err err;
    char *backing_path;
    int rc;

    if (blk->backing_name == NULL)
        return 0;
    if (blk->backing_name[0] == '\0') {
        log_error("%s: Expected backing file name, got empty string", blk->path);
        return -1;
    }
    if (strcmp(blk->format, "raw") == 0) {
        log_error("%s: Backing file not supported for file format 'raw'", blk->path);
        return -1;
    }
    if (blk_backing_path(blk->path, blk->backing_name, &backing_path, &err) < 0) {
        log_error("%s: %s", blk->path, err.text);
        return -1;
    }
    rc = examine_backing(args, backing_path);
    free(backing_path);
    return rc;
}

static int create(struct create_args *args)
{
    struct create_options *options = &args->options;
    struct blk_create_options *blk = &options->blk;
    struct err err;

    blk->format = args->format;
    if (!img_known_format(args->format)) {
        log_error("%s: Unknown file format '%s'", blk->path, args->format);
        return 1;
    }
    if (create_options_parse(options, blk->path) < 0)
        return 1;
    if (args->size != NULL) {
        if (options->has_size) {
            log_error("%s: The image size must be specified only once", blk->path);
            return 1;
        }
        if (!img_parse_size(args->size, "image size", &blk->size))
            return 1;
        options->has_size = true;
    }
    if (args->backing != NULL)
        blk->backing_name = args->backing;
    if (args->backing_format != NULL)
        blk->backing_format = args->backing_format;
    if (resolve_backing(args) < 0)
        return 1;
    if (!options->has_size) {
        log_error("%s: Image creation needs a size parameter", blk->path);
        return 1;
    }
    if (!args->quiet)
        create_options_print(options);
    if (create_options_finish(options, blk->path) < 0)
        return 1;
    if (blk_create(blk, &err) < 0) {
        log_error("%s", err.text);
        return 1;
    }
    return 0;
}

int cmd_create(int argc, char **argv)
{
    struct create_args args = {.format = "raw"};
    int status = 1;

    if (!parse_args(argc, argv, &args, &status))
        goto out;
    if (create_options_asked(&args.options) && !img_known_format(args.format)) {
        log_error("Unknown file format '%s'", args.format);
        goto out;
    }
    if (create_options_help(&args.options, args.format, optind < argc)) {
        status = 0;
        goto out;
    }
    if (optind >= argc) {
        status = img_usage_error("Expecting image file name");
        goto out;
    }
    args.options.blk.path = argv[optind++];
    if (optind < argc)
        args.size = argv[optind++];
    if (optind < argc) {
        status = img_usage_error("Unexpected argument: %s", argv[optind]);
        goto out;
    }
    status = create(&args);
out:
    create_options_free(&args.options);
    return status;
}
