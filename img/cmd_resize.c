/*
 * cmd_resize.c - `resize`: another virtual size for an image.
 *
 * qemu-img's rules: the size is the last argument and may begin with '-', which is why it is taken
 * off before the options are read; a smaller size needs --shrink. A qcow2 image's size
 * must be a multiple of 512.
 */
#include "create_options.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "size.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { OPT_SHRINK = 0x200, OPT_PREALLOCATION, SECTOR = 512 };

/* The largest device that QEMU knows: 2^63 bytes less a GiB. */
static const uint64_t MAX_LENGTH = (UINT64_C(1) << 63) - (UINT64_C(1) << 30);

struct resize_args {
    struct blk_open_options open;
    const char *size;
    enum blk_prealloc prealloc;
    bool quiet, shrink;
};

static bool parse_args(int argc, char **argv, struct resize_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"quiet", no_argument, NULL, 'q'},
        {"shrink", no_argument, NULL, OPT_SHRINK},
        {"preallocation", required_argument, NULL, OPT_PREALLOCATION},
        {NULL, 0, NULL, 0}};
    int c;

    if (argc < 3 &&
        !(argc == 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0))) {
        *status = img_usage_error("Not enough arguments");
        return false;
    }
    if (argc >= 3)
        args->size = argv[--argc];
    while ((c = img_getopt(argc, argv, ":f:hq", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->open.format = optarg;
            break;
        case 'q':
            args->quiet = true;
            break;
        case OPT_PREALLOCATION:
            if (!create_options_preallocation(optarg, &args->prealloc)) {
                log_error("Invalid preallocation mode '%s'", optarg);
                *status = 1;
                return false;
            }
            break;
        case OPT_SHRINK:
            args->shrink = true;
            break;
        default:
            return false;
        }
    }
    if (optind + 1 != argc) {
        *status = img_usage_error("Expecting image file name and size");
        return false;
    }
    args->open.path = image_opts_path(argv[optind], false);
    return args->open.path != NULL;
}

/* "+SIZE" and "-SIZE" are *sign 1 and -1, "SIZE" is 0. */
static bool parse_size(const char *text, int *sign, uint64_t *size)
{
    *sign = *text == '+' ? 1 : *text == '-' ? -1 : 0;
    if (*sign != 0)
        text++;
    if (*sign != 0 && *text == '+') /* a sign of the number itself */
        text++;
    switch (strchr(text, '-') != NULL ? -EINVAL : size_parse(text, 'B', size)) {
    case 0:
        return true;
    case -ERANGE:
        log_error("Value '%s' is out of range for parameter 'size'", text);
        return false;
    default:
        log_error("Parameter 'size' expects a non-negative number below 2^64");
        fprintf(stderr,
                "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                "and exabytes, respectively.\n");
        return false;
    }
}

/* The size to be; false after a message. */
static bool find_size(const struct blk *blk, int sign, uint64_t given, uint64_t *size)
{
    uint64_t now = blk_length(blk);

    *size = sign > 0 ? now + given : sign < 0 ? now - given : given;
    if (*size == 0 || *size > INT64_MAX || given > INT64_MAX || (sign < 0 && given > now)) {
        log_error("New image size must be positive");
        return false;
    }
    if (*size > MAX_LENGTH) {
        log_error("offset(%" PRIu64 ") exceeds maximum(%" PRIu64 ")", *size, MAX_LENGTH);
        return false;
    }
    return true;
}

static int resize(struct blk *blk, const struct resize_args *args, int sign, uint64_t given)
{
    uint64_t old = blk_length(blk), size;
    struct err err;
    int rc;

    if (!find_size(blk, sign, given, &size))
        return 1;
    if (size <= old && args->prealloc != BLK_PREALLOC_OFF) {
        log_error("Preallocation can only be used for growing images");
        return 1;
    }
    if (size < old && !args->shrink) {
        log_error("Use the --shrink option to perform a shrink operation.");
        log_warn("Shrinking an image will delete all data beyond the shrunken image's end. Before "
                 "performing such an operation, make sure there is no important data there.");
        return 1;
    }
    if (size % SECTOR != 0 && strcmp(blk_format(blk), "raw") != 0) {
        log_error("The new size must be a multiple of %d", SECTOR);
        return 1;
    }
    if (args->prealloc == BLK_PREALLOC_METADATA && strcmp(blk_format(blk), "raw") == 0) {
        log_error("Unsupported preallocation mode: metadata");
        return 1;
    }
    rc = blk_resize_preallocated(blk, size, args->prealloc, &err);
    if (rc < 0) {
        log_error("%s", err.text);
        img_hint_bitmap(rc);
        return 1;
    }
    return 0;
}

int cmd_resize(int argc, char **argv)
{
    struct resize_args args = {.open = {.writable = true}};
    struct blk *blk;
    uint64_t given;
    int sign, status = 1;

    if (!parse_args(argc, argv, &args, &status) || !parse_size(args.size, &sign, &given))
        return status;
    blk = img_open(&args.open);
    if (blk == NULL)
        return 1;
    status = resize(blk, &args, sign, given);
    img_close(blk, &status);
    if (status == 0 && !args.quiet)
        printf("Image resized.\n");
    return status;
}
