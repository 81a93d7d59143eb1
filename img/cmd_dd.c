/*
 * cmd_dd.c - `dd`: copies a part of an image into a new one.
 *
 * bs= is the unit of count= and skip=, and nothing else: the copying itself goes in larger steps and
 * leaves out zeros, which the new image shows anyway. As in qemu-img, count= is where the copied
 * part ends: the blocks of skip= are among them.
 */
#include "checked.h"
#include "extent.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "zero.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR = 512, CHUNK = 2 << 20, ALIGNMENT = 4096 };

struct dd_args {
    struct blk_open_options open;
    const char *out_format, *target;
    uint64_t block_size, count, skip;
    bool has_count;
};

/* ---- command line ---- */

/* One KEY=VALUE; false after a message. */
static bool parse_operand(struct dd_args *args, char *text)
{
    char *value = strchr(text, '=');

    if (value != NULL)
        *value++ = '\0';
    if (value != NULL && strcmp(text, "if") == 0) {
        args->open.path = value;
        return true;
    }
    if (value != NULL && strcmp(text, "of") == 0) {
        args->target = value;
        return true;
    }
    if (value != NULL && strcmp(text, "count") == 0) {
        args->has_count = true;
        return img_parse_size(value, "count", &args->count);
    }
    if (value != NULL && strcmp(text, "skip") == 0)
        return img_parse_size(value, "skip", &args->skip);
    if (value == NULL || strcmp(text, "bs") != 0) {
        log_error("unrecognized operand %s", text);
        return false;
    }
    return img_parse_size_within(value, "bs", 1, INT_MAX, &args->block_size);
}

static bool parse_args(int argc, char **argv, struct dd_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"force-share", no_argument, NULL, 'U'},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hf:O:U", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->open.format = optarg;
            break;
        case 'O':
            args->out_format = optarg;
            break;
        case 'U':
            args->open.force_share = true;
            break;
        default:
            return false;
        }
    }
    for (; optind < argc; optind++) {
        if (!parse_operand(args, argv[optind]))
            return false;
    }
    if (args->open.path == NULL || args->target == NULL) {
        log_error("Must specify both input and output files");
        return false;
    }
    args->open.path = image_opts_path(args->open.path, false);
    return args->open.path != NULL;
}

/* ---- copying ---- */

/* Copies [from, end) to the start of an empty image. 0, or negative after a message. */
static int copy_range(struct blk *source, struct blk *target, uint64_t from, uint64_t end)
{
    unsigned char *data = aligned_alloc(ALIGNMENT, CHUNK);
    bool is_writing = false;
    uint64_t at = from, length;
    int rc = data != NULL ? 0 : -ENOMEM;

    for (; at < end && rc == 0; at += length) {
        struct blk_extent extent = {0};

        is_writing = false;
        rc = extent_map(source, at, end - at, &extent);
        length = extent.length;
        if (rc < 0 || extent_is_zero(&extent))
            continue;
        length = min_u64(end - at, CHUNK - (at - from) % CHUNK);
        rc = blk_pread(source, at, data, (size_t)length);
        if (rc == 0 && !buffer_is_zero(data, (size_t)length)) {
            is_writing = true;
            rc = blk_pwrite(target, at - from, data, (size_t)length);
        }
        if (rc < 0)
            break;
    }
    free(data);
    if (rc < 0) {
        struct err problem;

        img_explain(is_writing ? target : source, rc, &problem);
        log_error("error while %s image file: %s",
                  is_writing ? "writing to output" : "reading from input", problem.text);
    }
    return rc;
}

static int copy(const struct dd_args *args, struct blk *source, uint64_t from, uint64_t end)
{
    struct blk_create_options create = {
        .path = args->target, .format = args->out_format, .size = align_up(end - from, SECTOR)};
    bool is_new = access(args->target, F_OK) != 0;
    struct blk *target;
    struct err err;
    int status = 0;

    if (blk_create(&create, &err) < 0) {
        log_error("%s: error while creating output image: %s", args->target,
                  img_without_path(err.text, args->target));
        return 1;
    }
    target = img_open(&(struct blk_open_options){
        .path = args->target, .format = args->out_format, .writable = true});
    if (target == NULL || copy_range(source, target, from, end) < 0)
        status = 1;
    img_close(target, &status);
    /* Half an image looks like a whole one. */
    if (status != 0 && is_new)
        img_remove_made(args->target);
    return status;
}

int cmd_dd(int argc, char **argv)
{
    struct dd_args args = {.out_format = "raw", .block_size = SECTOR};
    uint64_t from, end, limit;
    struct blk *source;
    int status;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    source = img_open(&args.open);
    if (source == NULL)
        return 1;
    if (!img_known_format(args.out_format)) {
        log_error("Unknown file format");
        status = 1;
    } else if (img_same_file(args.open.path, args.target)) {
        log_error("'%s' is the input as well", args.target);
        status = 1;
    } else {
        end = blk_length(source);
        if (args.has_count && mul_u64(args.count, args.block_size, &limit))
            end = min_u64(end, limit);
        if (!mul_u64(args.skip, args.block_size, &from) || from > end) {
            log_error("%s: cannot skip to specified offset", image_opts_name(args.open.path));
            from = end;
        }
        status = copy(&args, source, from, end);
    }
    img_close(source, NULL);
    return status;
}
