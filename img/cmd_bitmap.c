/*
 * cmd_bitmap.c - `bitmap`: adds, removes and changes a persistent dirty bitmap.
 *
 * The actions are carried out in the order in which they were given; the first that fails ends the
 * command, and those before it stay.
 */
#include "image_opts.h"
#include "img.h"
#include "log.h"

#include <errno.h>
#include <stdlib.h>

enum { OPT_ADD = 0x200, OPT_REMOVE, OPT_CLEAR, OPT_ENABLE, OPT_DISABLE, OPT_MERGE };

struct action {
    int option;
    const char *source; /* OPT_MERGE */
};

struct bitmap_args {
    const char *path, *format;
    const char *name;
    const char *source_path, *source_format; /* -b, -F */
    uint64_t granularity;                    /* -g */
    struct action *actions;
    unsigned count;
    bool adds, merges;
};

static bool parse_args(int argc, char **argv, struct bitmap_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"add", no_argument, NULL, OPT_ADD},
        {"remove", no_argument, NULL, OPT_REMOVE},
        {"clear", no_argument, NULL, OPT_CLEAR},
        {"enable", no_argument, NULL, OPT_ENABLE},
        {"disable", no_argument, NULL, OPT_DISABLE},
        {"merge", required_argument, NULL, OPT_MERGE},
        {"granularity", required_argument, NULL, 'g'},
        {"source-file", required_argument, NULL, 'b'},
        {"source-format", required_argument, NULL, 'F'},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hb:f:F:g:", longopts, status)) != -1) {
        switch (c) {
        case 'b':
            args->source_path = optarg;
            break;
        case 'f':
            args->format = optarg;
            break;
        case 'F':
            args->source_format = optarg;
            break;
        case 'g':
            if (!img_parse_size(optarg, "granularity", &args->granularity))
                return false;
            break;
        case IMG_OPT_STOP:
            return false;
        default:
            args->adds = args->adds || c == OPT_ADD;
            args->merges = args->merges || c == OPT_MERGE;
            args->actions[args->count++] =
                (struct action){.option = c, .source = c == OPT_MERGE ? optarg : NULL};
        }
    }
    if (optind + 2 != argc) {
        log_error("Expecting filename and bitmap name");
        return false;
    }
    args->path = image_opts_path(argv[optind], false);
    if (args->path == NULL)
        return false;
    args->name = argv[optind + 1];
    if (args->count == 0) {
        log_error("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
        return false;
    }
    if (args->granularity != 0 && !args->adds) {
        log_error("granularity only supported with --add");
        return false;
    }
    if (args->source_format != NULL && args->source_path == NULL) {
        log_error("-F only supported with -b");
        return false;
    }
    if (args->source_path != NULL && !args->merges) {
        log_error("Merge bitmap source file only supported with --merge");
        return false;
    }
    return true;
}

static const char *action_name(int option)
{
    switch (option) {
    case OPT_ADD:
        return "add";
    case OPT_REMOVE:
        return "remove";
    case OPT_CLEAR:
        return "clear";
    case OPT_ENABLE:
        return "enable";
    case OPT_DISABLE:
        return "disable";
    default:
        return "merge";
    }
}

static int carry_out(const struct bitmap_args *args, const struct action *action, struct blk *blk,
                     struct blk *source, struct err *err)
{
    switch (action->option) {
    case OPT_ADD:
        return blk_bitmap_add(blk, args->name, args->granularity, true, err);
    case OPT_REMOVE:
        return blk_bitmap_remove(blk, args->name, err);
    case OPT_CLEAR:
        return blk_bitmap_clear(blk, args->name, err);
    case OPT_ENABLE:
        return blk_bitmap_enable(blk, args->name, true, err);
    case OPT_DISABLE:
        return blk_bitmap_enable(blk, args->name, false, err);
    default:
        return blk_bitmap_merge(blk, args->name, source, action->source, err);
    }
}

static int run_actions(const struct bitmap_args *args, struct blk *blk, struct blk *source)
{
    for (unsigned i = 0; i < args->count; i++) {
        const struct action *action = &args->actions[i];
        struct err err;
        int rc = carry_out(args, action, blk, source, &err);

        if (rc < 0) {
            log_error("Operation %s on bitmap %s failed: %s", action_name(action->option),
                      args->name, err.text);
            img_hint_bitmap(rc);
            return 1;
        }
    }
    return 0;
}

static int change_bitmap(const struct bitmap_args *args)
{
    struct blk *source = NULL, *blk = img_open(&(struct blk_open_options){
                                   .path = args->path,
                                   .format = args->format,
                                   .writable = true,
                                   .no_backing = true,
                               });
    int status = 1;

    if (blk == NULL)
        return 1;
    if (args->source_path != NULL) {
        source = img_open(&(struct blk_open_options){
            .path = args->source_path,
            .format = args->source_format,
            .no_backing = true,
        });
    }
    if (args->source_path == NULL || source != NULL)
        status = run_actions(args, blk, source != NULL ? source : blk);
    img_close(source, NULL);
    img_close(blk, &status);
    return status;
}

int cmd_bitmap(int argc, char **argv)
{
    /* Each argument is one action at most. */
    struct bitmap_args args = {.actions = calloc((size_t)argc, sizeof(struct action))};
    int status;

    if (args.actions == NULL) {
        log_error("out of memory");
        return 1;
    }
    if (parse_args(argc, argv, &args, &status))
        status = change_bitmap(&args);
    free(args.actions);
    return status;
}
