/*
 * rebase_copy.c - finds where two chains differ below an overlay.
 *
 * What need not be read is not read: ranges that are zero in both chains, and ranges that both take
 * from the same place of the same file (a rebase within one chain). The rest is read from both and
 * compared cluster by cluster of the overlay.
 */
#include "rebase_copy.h"

#include "checked.h"
#include "extent.h"
#include "zero.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_CHUNK = 512 << 10, ALIGNMENT = 4096, DEFAULT_UNIT = 65536 };

struct comparison {
    struct blk *overlay;
    struct blk *old_base, *new_base; /* NULL: none */
    struct extent_pair bases;
    uint64_t unit;  /* what is compared and copied as a whole */
    uint64_t chunk; /* of both chains that is read at once: whole units */
    bool compress;
    unsigned char *old_data, *new_data;
};

static int read_below(struct blk *base, uint64_t offset, unsigned char *buf, size_t length)
{
    uint64_t end = base != NULL ? blk_length(base) : 0;
    size_t inside = offset < end ? (size_t)min_u64(length, end - offset) : 0;

    memset(buf + inside, 0, length - inside);
    return inside > 0 ? blk_pread(base, offset, buf, inside) : 0;
}

static int write_old(struct comparison *c, uint64_t offset, const unsigned char *data,
                     size_t length)
{
    if (buffer_is_zero(data, length))
        return blk_pwrite_zeroes(c->overlay, offset, length, BLK_REQ_HIDE);
    if (c->compress && is_aligned(offset, c->unit) &&
        (is_aligned(length, c->unit) || offset + length == blk_length(c->overlay)))
        return blk_pwrite_compressed(c->overlay, offset, data, length);
    return blk_pwrite(c->overlay, offset, data, length);
}

/* Compares one chunk and copies each run of units that differ. */
static int copy_chunk(struct comparison *c, uint64_t offset, size_t length, struct err *err)
{
    size_t run = 0, at = 0; /* [run, at) differs */
    int rc = read_below(c->old_base, offset, c->old_data, length);

    if (rc == 0)
        rc = read_below(c->new_base, offset, c->new_data, length);
    if (rc < 0)
        return err_set_errno(err, rc, "error while reading at byte %" PRIu64, offset);
    while (at < length && rc == 0) {
        uint64_t unit_end = align_down(offset + at, c->unit) + c->unit;
        size_t end = (size_t)min_u64(unit_end - offset, length);
        bool same = memcmp(c->old_data + at, c->new_data + at, end - at) == 0;

        if (same && at > run)
            rc = write_old(c, offset + run, c->old_data + run, at - run);
        at = end;
        if (same)
            run = at;
    }
    if (rc == 0 && at > run)
        rc = write_old(c, offset + run, c->old_data + run, at - run);
    if (rc < 0)
        return err_set_errno(err, rc, "Error while writing to COW image");
    return 0;
}

/* Clusters are compressed as a whole: what ends inside one ends before it, or (within the range of `left`
 * bytes) behind it. True: behind it. */
static bool end_with_cluster(const struct comparison *c, uint64_t offset, uint64_t left,
                             uint64_t *length)
{
    uint64_t end = align_down(offset + *length, c->unit);

    if (*length == left || end == offset + *length)
        return false;
    if (end > offset) {
        *length = end - offset;
        return false;
    }
    *length = min_u64(left, align_down(offset, c->unit) + c->unit - offset);
    return true;
}

/* One step within a range that the overlay does not hold: *length shrinks to what was dealt with. */
static int copy_step(struct comparison *c, uint64_t offset, uint64_t *length, struct err *err)
{
    struct blk_extent old_extent = {0}, new_extent = {0};
    uint64_t left = *length;
    int rc = extent_map(c->old_base, offset, *length, &old_extent);

    if (rc == 0)
        rc = extent_map(c->new_base, offset, *length, &new_extent);
    if (rc < 0)
        return err_set_errno(err, rc, "error while reading image metadata at byte %" PRIu64,
                             offset);
    *length = min_u64(*length, min_u64(old_extent.length, new_extent.length));
    if (!c->compress || !end_with_cluster(c, offset, left, length)) {
        if (extent_is_zero(&old_extent) && extent_is_zero(&new_extent))
            return 0;
        if (extent_same_storage(&c->bases, &old_extent, &new_extent))
            return 0;
    }
    *length = min_u64(*length, c->chunk - offset % c->chunk);
    return copy_chunk(c, offset, (size_t)*length, err);
}

static int copy_all(struct comparison *c, struct progress *progress, struct err *err)
{
    uint64_t total = blk_length(c->overlay);

    for (uint64_t offset = 0; offset < total;) {
        struct blk_extent extent;
        uint64_t length;
        int rc = blk_map(c->overlay, offset, total - offset, BLK_MAP_TOP_ONLY, &extent);

        if (rc < 0)
            return err_set_errno(err, rc, "error while reading image metadata at byte %" PRIu64,
                                 offset);
        length = extent.length;
        if (extent.kind == BLK_EXTENT_UNALLOCATED) {
            rc = copy_step(c, offset, &length, err);
            if (rc < 0)
                return rc;
        }
        offset += length;
        progress_update(progress, offset, total);
    }
    return 0;
}

int rebase_copy(struct blk *overlay, struct blk *new_base, bool compress, struct progress *progress,
                struct err *err)
{
    unsigned cluster_size = blk_cluster_size(overlay);
    struct comparison c = {
        .overlay = overlay,
        .old_base = blk_backing(overlay),
        .new_base = new_base,
        .bases = {.a = blk_backing(overlay), .b = new_base},
        .unit = cluster_size != 0 ? cluster_size : DEFAULT_UNIT,
        .compress = compress,
    };
    int rc;

    c.chunk = max_u64(c.unit, MIN_CHUNK);
    c.old_data = aligned_alloc(ALIGNMENT, c.chunk);
    c.new_data = aligned_alloc(ALIGNMENT, c.chunk);
    if (c.old_data == NULL || c.new_data == NULL)
        rc = err_set(err, -ENOMEM, "out of memory");
    else
        rc = copy_all(&c, progress, err);
    free(c.old_data);
    free(c.new_data);
    return rc;
}
