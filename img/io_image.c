/*
 * io_image.c - commands about the image: what lies where, its length, what it is.
 */
#include "checked.h"
#include "create_options.h"
#include "info.h"
#include "io.h"
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { SECTOR = 512, L2_ENTRY = 8, EXTENDED_L2_ENTRY = 16 };

int io_discard_command(struct io *io, int argc, char **argv)
{
    struct io_job job = {.request.op = BLK_DISCARD, .failed = "discard failed", .verb = "discard"};
    int c, rc;

    while ((c = getopt(argc, argv, "Cq")) != -1) {
        if (c == 'C')
            job.report.for_machines = true;
        else if (c == 'q')
            job.report.quiet = true;
        else
            return io_usage(argv[0]);
    }
    if (optind != argc - 2)
        return io_usage(argv[0]);
    rc = io_parse_range(argv + optind, IO_MAX_BYTES, "", &job.request.offset, &job.request.length);
    return rc < 0 ? rc : io_finish(&job, io_run(io, &job));
}

int io_flush_command(struct io *io, int argc, char **argv)
{
    struct io_job job = {.request.op = BLK_FLUSH, .failed = "flush failed", .report.quiet = true};

    (void)argc;
    (void)argv;
    return io_finish(&job, io_run(io, &job));
}

int io_aio_flush_command(struct io *io, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    io_drain(io);
    return 0;
}

/* ---- length ---- */

static int complain(int rc, const char *text)
{
    log_error("%s", text);
    return rc;
}

static int resize(struct io *io, uint64_t size, enum blk_prealloc mode)
{
    bool is_raw = blk_cluster_size(io->blk) == 0;
    uint64_t old = blk_length(io->blk);
    struct err err;
    int rc;

    if (size % SECTOR != 0 && !is_raw)
        return complain(-EINVAL, "The new size must be a multiple of 512");
    if (size < old && mode != BLK_PREALLOC_OFF) {
        return complain(-EINVAL, is_raw ? "Cannot use preallocation for shrinking files"
                                        : "Preallocation can't be used for shrinking an image");
    }
    if (is_raw && mode == BLK_PREALLOC_METADATA)
        return complain(-EINVAL, "Unsupported preallocation mode: metadata");
    rc = blk_resize_preallocated(io->blk, size, mode, &err);
    return rc < 0 ? complain(rc, err.text) : 0;
}

int io_truncate_command(struct io *io, int argc, char **argv)
{
    enum blk_prealloc mode = BLK_PREALLOC_OFF;
    int64_t size;
    int c, rc;

    while ((c = getopt(argc, argv, "m:")) != -1) {
        if (c != 'm')
            return io_usage(argv[0]);
        if (!create_options_preallocation(optarg, &mode)) {
            log_error("Invalid preallocation mode '%s'", optarg);
            return -EINVAL;
        }
    }
    if (optind != argc - 1)
        return io_usage(argv[0]);
    rc = io_parse_number(argv[optind], &size);
    if (rc < 0)
        return rc;
    io_drain(io); /* the engine wants to be alone */
    return resize(io, (uint64_t)size, mode);
}

int io_length_command(struct io *io, int argc, char **argv)
{
    char text[IO_SIZE_TEXT_MAX];

    (void)argc;
    (void)argv;
    printf("%s\n", io_size_text((double)blk_length(io->blk), text));
    return 0;
}

/* ---- what lies where ---- */

/* Whether the top layer itself holds what is at `offset`, and how many bytes share this answer. In a
 * raw file everything is held. */
static int find_run(struct blk *blk, uint64_t offset, uint64_t length, bool *is_held, uint64_t *run)
{
    bool is_raw = blk_cluster_size(blk) == 0;

    *run = is_raw ? length : 0;
    *is_held = true;
    while (*run < length) {
        struct blk_extent extent;
        bool held;
        int rc = blk_map(blk, offset + *run, length - *run, BLK_MAP_TOP_ONLY, &extent);

        if (rc < 0)
            return rc;
        held = extent.kind != BLK_EXTENT_UNALLOCATED;
        if (*run > 0 && held != *is_held)
            break;
        *is_held = held;
        *run += extent.length;
    }
    return 0;
}

static int map_failed(struct io *io, const char *what, int rc)
{
    struct err problem;

    img_explain(io->blk, rc, &problem);
    log_error("%s: %s", what, problem.text);
    return rc;
}

int io_map_command(struct io *io, int argc, char **argv)
{
    uint64_t length = blk_length(io->blk), run = 0;

    (void)argc;
    (void)argv;
    for (uint64_t at = 0; at < length; at += run) {
        char size[IO_SIZE_TEXT_MAX], from[IO_SIZE_TEXT_MAX];
        bool is_held;
        int rc = find_run(io->blk, at, length - at, &is_held, &run);

        if (rc < 0)
            return map_failed(io, "Failed to get allocation status", rc);
        printf("%s (0x%" PRIx64 ") bytes %s at offset %s (0x%" PRIx64 ")\n",
               io_size_text((double)run, size), run, is_held ? "    allocated" : "not allocated",
               io_size_text((double)at, from), at);
    }
    return 0;
}

int io_alloc_command(struct io *io, int argc, char **argv)
{
    uint64_t length = blk_length(io->blk), held = 0, run = 0, count;
    int64_t offset, asked = SECTOR;
    char text[IO_SIZE_TEXT_MAX];
    int rc = io_parse_number(argv[1], &offset);

    if (rc == 0 && argc == 3)
        rc = io_parse_number(argv[2], &asked);
    if (rc < 0)
        return rc;
    count = (uint64_t)offset < length ? min_u64((uint64_t)asked, length - (uint64_t)offset) : 0;
    for (uint64_t at = 0; at < count; at += run) {
        bool is_held;

        rc = find_run(io->blk, (uint64_t)offset + at, count - at, &is_held, &run);
        if (rc < 0)
            return map_failed(io, "is_allocated failed", rc);
        held += is_held ? run : 0;
    }
    printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", held, count,
           io_size_text((double)offset, text));
    return 0;
}

/* ---- info ---- */

/* Where VM state begins: behind what the L2 tables of the disk can reach. */
static uint64_t vm_state_offset(const struct blk_info *info)
{
    uint64_t entry = info->extended_l2 ? EXTENDED_L2_ENTRY : L2_ENTRY;
    uint64_t reach = info->cluster_size / entry * info->cluster_size;

    return reach == 0 ? 0 : div_round_up(info->virtual_size, reach) * reach;
}

int io_info_command(struct io *io, int argc, char **argv)
{
    char cluster[IO_SIZE_TEXT_MAX], state[IO_SIZE_TEXT_MAX];
    struct blk_info info;
    struct err err;
    int rc = blk_get_info(io->blk, &info, &err);

    (void)argc;
    (void)argv;
    if (rc < 0)
        return complain(rc, err.text);
    printf("format name: %s\ncluster size: %s\nvm state offset: %s\n", blk_format(io->blk),
           io_size_text(info.cluster_size, cluster),
           io_size_text((double)vm_state_offset(&info), state));
    info_print_specific(io->blk, &info);
    return 0;
}
