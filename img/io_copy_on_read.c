/*
 * io_copy_on_read.c - what a read finds below the image is written into it first, by whole clusters.
 *
 * That is two requests to the engine, a read and a write, with nothing that keeps another write from
 * coming between them. So all that is in flight is waited for; then this program, which alone writes to
 * the image, does nothing else.
 */
#include "checked.h"
#include "io.h"
#include "log.h"
#include "zero.h"

#include <errno.h>
#include <stdlib.h>

enum {
    COPY_MAX = 16 << 20
}; /* QEMU's: what is zeros, and what is not, is decided for so much at once */

/* Zeros are recorded, but for where that would take room and there is nothing below to hide: images of
 * version 2 have no flag for them. */
static unsigned zero_flags(struct blk *blk)
{
    struct blk_info info;

    if (blk_backing(blk) == NULL && blk_get_info(blk, &info, NULL) == 0 && info.compat == 2)
        return 0;
    return BLK_REQ_HIDE;
}

static int copy(struct blk *blk, uint64_t offset, unsigned char *buffer, size_t length)
{
    int rc = blk_pread(blk, offset, buffer, length);

    if (rc < 0)
        return rc;
    return buffer_is_zero(buffer, length) ? blk_pwrite_zeroes(blk, offset, length, zero_flags(blk))
                                          : blk_pwrite(blk, offset, buffer, length);
}

/* Copies what the image lacks of a range, from its start on, as far as one copy goes; *length becomes how
 * far that was. `*buffer` is made when it is needed. */
static int fill_some(struct io *io, uint64_t offset, uint64_t *length, unsigned char **buffer)
{
    struct blk_extent extent;
    int rc = blk_map(io->blk, offset, *length, BLK_MAP_TOP_ONLY, &extent);

    if (rc < 0)
        return rc;
    *length = extent.length;
    if (extent.kind != BLK_EXTENT_UNALLOCATED)
        return 0;
    *length = min_u64(*length, COPY_MAX);
    if (*buffer == NULL)
        *buffer = malloc(COPY_MAX);
    if (*buffer == NULL) {
        log_error("out of memory");
        return -ENOMEM;
    }
    return copy(io->blk, offset, *buffer, (size_t)*length);
}

int io_copy_on_read(struct io *io, uint64_t offset, uint64_t length)
{
    uint64_t cluster = max_u64(blk_cluster_size(io->blk), 1);
    uint64_t end = min_u64(div_round_up(offset + length, cluster) * cluster, blk_length(io->blk));
    unsigned char *buffer = NULL;
    int rc = 0;

    io_drain(io);
    for (offset -= offset % cluster; rc == 0 && offset < end; offset += length) {
        length = end - offset;
        rc = fill_some(io, offset, &length, &buffer);
    }
    free(buffer);
    return rc;
}
