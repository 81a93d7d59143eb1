/*
 * chain.c - reads through a chain of layers, from the top down, in a loop and never recursively.
 *
 * Each layer narrows the range to what shares one answer with its first byte; the first layer that
 * holds it ends the search. A layer that is shorter than the one above it reads as zeros behind its
 * end; a longer one is never seen past the end of the layer above, because every search is first
 * clipped to the top layer's length and then to each layer's on the way down.
 *
 * Of a chain with several layers below the top the answers of those are remembered (merged.c).
 */
#include "block.h"
#include "checked.h"
#include "iov.h"
#include "merged.h"

#include <errno.h>
#include <string.h>

enum { SLICE_ENTRIES = 64, AHEAD = 1 << 20 };

/* From `blk` down, which lies `depth` layers below the top. */
static int walk(struct blk *blk, unsigned d, uint64_t offset, uint64_t length, unsigned flags,
                struct blk **layer, unsigned *depth, struct layer_extent *extent)
{
    *depth = d == 0 ? 0 : d - 1;
    *layer = NULL;
    *extent = (struct layer_extent){.kind = BLK_EXTENT_UNALLOCATED, .hold = BLK_NOT_HELD};
    for (; blk != NULL; blk = blk->backing, d++) {
        int r;

        if (offset >= blk->length) {
            break;
        }
        *depth = d;
        r = blk->format->map(blk, offset, min_u64(length, blk->length - offset), flags, extent);
        if (r != 0) {
            return r;
        }
        length = extent->length;
        if (extent->kind != BLK_EXTENT_UNALLOCATED) {
            *layer = blk;
            return 0;
        }
    }
    /* Nobody's, but the last layer may keep a place for it. */
    extent->length = length;
    return 0;
}

/* The same from the layer below `top` on, by what is remembered of it. What is not is asked from the start
 * of a piece on, and for more than is wanted now: so the answer serves others too. (That is in the same
 * cluster of every layer: what is wrong elsewhere is not met here.) */
static int map_below(struct blk *top, uint64_t offset, uint64_t length, unsigned flags,
                     struct blk **layer, unsigned *depth, struct layer_extent *extent)
{
    uint64_t start = merged_start(top->merged, offset);

    if (merged_find(top->merged, offset, length, layer, depth, extent)) {
        return 0;
    }
    if (walk(top->backing, 1, start, max_u64(length, AHEAD) + (offset - start),
             flags & ~(unsigned)LAYER_MAP_HOLD, layer, depth, extent) == 0) {
        merged_keep(top->merged, start, *layer, *depth, extent);
        if (merged_find(top->merged, offset, length, layer, depth, extent)) {
            return 0;
        }
    }
    return walk(top->backing, 1, offset, length, flags, layer, depth, extent);
}

int chain_map(struct blk *top, uint64_t offset, uint64_t length, unsigned flags, struct blk **layer,
              unsigned *depth, struct layer_extent *extent)
{
    int r;

    /* Holes inside of what is allocated are not remembered. */
    if (top == NULL || top->merged == NULL || (flags & LAYER_MAP_PRECISE) != 0 ||
        offset >= top->length) {
        return walk(top, 0, offset, length, flags, layer, depth, extent);
    }
    *depth = 0;
    *layer = top;
    r = top->format->map(top, offset, min_u64(length, top->length - offset), flags, extent);
    return r != 0 || extent->kind != BLK_EXTENT_UNALLOCATED
               ? r
               : map_below(top, offset, extent->length, flags, layer, depth, extent);
}

void chain_unhold(struct blk *layer, int hold)
{
    if (layer != NULL && hold != BLK_NOT_HELD) {
        layer->format->unhold(layer, hold);
    }
}

static int read_file(struct file *file, uint64_t host_offset, const struct iovec *iov, int count,
                     bool may_wait)
{
    return may_wait ? file_preadv(file, host_offset, iov, count)
                    : file_try_preadv(file, host_offset, iov, count);
}

/* Bytes [skip, skip + length) of the vector from a host file. */
static int read_part(struct file *file, uint64_t host_offset, const struct iovec *iov, int count,
                     uint64_t skip, uint64_t length, bool may_wait)
{
    struct iovec slice[SLICE_ENTRIES];

    while (length > 0) {
        int entries = iov_slice(slice, SLICE_ENTRIES, iov, count, skip, length);
        uint64_t n = iov_length(slice, entries);
        int r = read_file(file, host_offset, slice, entries, may_wait);

        if (r != 0) {
            return r;
        }
        host_offset += n;
        skip += n;
        length -= n;
    }
    return 0;
}

/* Decompressing and decrypting take long, wherever the data is. */
static int read_extent(struct blk *layer, uint64_t offset, const struct layer_extent *extent,
                       const struct iovec *iov, int count, uint64_t skip, bool may_wait)
{
    bool is_whole = skip == 0 && extent->length == iov_length(iov, count);

    switch (extent->kind) {
    case BLK_EXTENT_DATA:
        if (extent->file == NULL) {
            return -ENOMEDIUM;
        }
        if (extent->is_encrypted) {
            break;
        }
        return is_whole ? read_file(extent->file, extent->host_offset, iov, count, may_wait)
                        : read_part(extent->file, extent->host_offset, iov, count, skip,
                                    extent->length, may_wait);
    case BLK_EXTENT_COMPRESSED:
        break;
    case BLK_EXTENT_ZERO:
    case BLK_EXTENT_UNALLOCATED:
        iov_fill(iov, count, skip, 0, extent->length);
        return 0;
    }
    return may_wait ? layer->format->read(layer, offset, extent, iov, count, skip) : -EAGAIN;
}

static int read_chain(struct blk *top, uint64_t offset, const struct iovec *iov, int count,
                      uint64_t length, bool may_wait)
{
    unsigned flags = may_wait ? LAYER_MAP_HOLD : LAYER_MAP_HOLD | LAYER_MAP_NO_WAIT;
    uint64_t done = 0;

    while (done < length) {
        struct layer_extent extent;
        struct blk *layer;
        unsigned depth;
        int r = chain_map(top, offset + done, length - done, flags, &layer, &depth, &extent);

        if (r != 0) {
            return r;
        }
        r = read_extent(layer, offset + done, &extent, iov, count, done, may_wait);
        chain_unhold(layer, extent.hold);
        if (r != 0) {
            return r;
        }
        done += extent.length;
    }
    return 0;
}

int chain_readv(struct blk *top, uint64_t offset, const struct iovec *iov, int count,
                uint64_t length)
{
    return read_chain(top, offset, iov, count, length, true);
}

int chain_try_readv(struct blk *top, uint64_t offset, const struct iovec *iov, int count,
                    uint64_t length)
{
    return read_chain(top, offset, iov, count, length, false);
}
