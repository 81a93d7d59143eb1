/*
 * cmd_compare.c - `compare`: whether two images hold the same.
 */
#include "checked.h"
#include "compare.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"

#include <inttypes.h>
#include <stdarg.h>

/* The exit status; a usage error is 1 as well. */
enum {
    EXIT_SAME = 0,
    EXIT_DIFFERENT = 1,
    EXIT_NOT_OPENED = 2,
    EXIT_NOT_MAPPED = 3,
    EXIT_NOT_READ = 4
};

struct compare_args {
    struct blk_open_options open[2];
    bool quiet, progress, strict;
};

static bool parse_args(int argc, char **argv, struct compare_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"force-share", no_argument, NULL, 'U'},
        {NULL, 0, NULL, 0},
    };
    enum blk_cache cache = BLK_CACHE_WRITEBACK;
    const char *cache_text = NULL;
    bool force_share = false;
    int c;

    while ((c = img_getopt(argc, argv, ":hf:F:T:pqsU", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->open[0].format = optarg;
            break;
        case 'F':
            args->open[1].format = optarg;
            break;
        case 'T':
            cache_text = optarg;
            break;
        case 'p':
            args->progress = true;
            break;
        case 'q':
            args->quiet = true;
            break;
        case 's':
            args->strict = true;
            break;
        case 'U':
            force_share = true;
            break;
        default:
            return false;
        }
    }
    if (argc - optind != 2) {
        *status = img_usage_error("Expecting two image file names");
        return false;
    }
    *status = EXIT_NOT_OPENED;
    if (cache_text != NULL && !img_parse_cache(cache_text, "source cache", &cache))
        return false;
    for (int i = 0; i < 2; i++) {
        args->open[i].path = image_opts_path(argv[optind + i], false);
        args->open[i].cache = cache;
        args->open[i].force_share = force_share;
        if (args->open[i].path == NULL)
            return false;
    }
    return true;
}

/* What was found out, on stdout unless quiet. */
static void say(const struct compare_args *args, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void say(const struct compare_args *args, const char *fmt, ...)
{
    va_list list;

    va_start(list, fmt);
    if (!args->quiet)
        (void)vprintf(fmt, list);
    va_end(list);
}

static int report(const struct compare_args *args, struct blk *a, struct blk *b,
                  const struct compare_result *result)
{
    uint64_t shorter = min_u64(blk_length(a), blk_length(b));
    struct err problem;

    if (blk_length(a) != blk_length(b) &&
        (result->kind == COMPARE_SAME || result->offset >= shorter))
        say(args, "Warning: Image size mismatch!\n");
    switch (result->kind) {
    case COMPARE_SAME:
        say(args, "Images are identical.\n");
        return EXIT_SAME;
    case COMPARE_CONTENT_DIFFERS:
        say(args, "Content mismatch at offset %" PRIu64 "!\n", result->offset);
        return EXIT_DIFFERENT;
    case COMPARE_STATUS_DIFFERS:
        say(args, "Strict mode: Offset %" PRIu64 " block status mismatch!\n", result->offset);
        return EXIT_DIFFERENT;
    default:
        break;
    }
    img_explain(result->failed, result->error, &problem);
    if (result->kind == COMPARE_MAP_FAILED) {
        log_error("Sector allocation test failed for %s: %s", blk_path(result->failed),
                  problem.text);
        return EXIT_NOT_MAPPED;
    }
    log_error("Error while reading offset %" PRIu64 " of %s: %s", result->offset,
              blk_path(result->failed), problem.text);
    return EXIT_NOT_READ;
}

static int compare(const struct compare_args *args, struct blk *a, struct blk *b)
{
    struct compare_result result;
    struct progress progress;
    int status;

    progress_start(&progress, args->progress && !args->quiet);
    if (args->strict && blk_length(a) != blk_length(b)) {
        say(args, "Strict mode: Image size mismatch!\n");
        status = EXIT_DIFFERENT;
    } else if (compare_images(
                   &(struct compare_job){
                       .a = a, .b = b, .strict = args->strict, .progress = &progress},
                   &result) < 0) {
        log_error("out of memory");
        status = EXIT_NOT_READ;
    } else {
        status = report(args, a, b, &result);
    }
    progress_end(&progress, false);
    return status;
}

int cmd_compare(int argc, char **argv)
{
    struct compare_args args = {0};
    struct blk *blk[2] = {NULL, NULL};
    int status;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    blk[0] = img_open(&args.open[0]);
    blk[1] = blk[0] != NULL ? img_open(&args.open[1]) : NULL;
    status = blk[1] != NULL ? compare(&args, blk[0], blk[1]) : EXIT_NOT_OPENED;
    img_close(blk[1], NULL);
    img_close(blk[0], NULL);
    return status;
}
