/*
 * extent.c - see extent.h.
 */
#include "extent.h"
#include "checked.h"
#include "img.h"

#include <stddef.h>

bool extent_is_zero(const struct blk_extent *extent)
{
    return extent->kind == BLK_EXTENT_ZERO || extent->kind == BLK_EXTENT_UNALLOCATED ||
           (extent->kind == BLK_EXTENT_DATA && extent->is_hole);
}

int extent_map(struct blk *blk, uint64_t offset, uint64_t length, struct blk_extent *extent)
{
    uint64_t end = blk != NULL ? blk_length(blk) : 0;

    if (offset >= end) {
        *extent = (struct blk_extent){.kind = BLK_EXTENT_UNALLOCATED, .length = length};
        return 0;
    }
    return blk_map(blk, offset, min_u64(length, end - offset), 0, extent);
}

struct blk *extent_layer(struct blk *blk, unsigned depth)
{
    for (; blk != NULL && depth > 0; depth--)
        blk = blk_backing(blk);
    return blk;
}

static bool same_file(struct extent_pair *pair, unsigned depth_a, unsigned depth_b)
{
    const struct blk *a = extent_layer(pair->a, depth_a);
    const struct blk *b = extent_layer(pair->b, depth_b);

    if (a == NULL || b == NULL)
        return false;
    if (a != pair->layer_a || b != pair->layer_b) {
        pair->layer_a = a;
        pair->layer_b = b;
        pair->is_same_file = img_same_file(blk_path(a), blk_path(b));
    }
    return pair->is_same_file;
}

bool extent_same_storage(struct extent_pair *pair, const struct blk_extent *a,
                         const struct blk_extent *b)
{
    return a->kind == BLK_EXTENT_DATA && b->kind == BLK_EXTENT_DATA && a->has_host_offset &&
           b->has_host_offset && a->host_offset == b->host_offset &&
           same_file(pair, a->depth, b->depth);
}
