/*
 * extent.h - what lies where in images that are looked at side by side.
 */
#ifndef IMG_EXTENT_H
#define IMG_EXTENT_H

#include "blockdev.h"

#include <stdbool.h>
#include <stdint.h>

/* Reads as zeros, as is known without reading. */
bool extent_is_zero(const struct blk_extent *extent);

/* blk_map() through the whole chain of an image that may be missing (NULL) or shorter: unallocated
 * there. */
int extent_map(struct blk *blk, uint64_t offset, uint64_t length, struct blk_extent *extent);

/* Two chains; the rest is remembered between calls: the pair of layers that was looked at last. */
struct extent_pair {
    struct blk *a, *b;
    const struct blk *layer_a, *layer_b;
    bool is_same_file;
};

/* Whether both extents, each of its chain, lie in the same place of the same file. */
bool extent_same_storage(struct extent_pair *pair, const struct blk_extent *a,
                         const struct blk_extent *b);

/* The image `depth` below the top of a chain; NULL: it is not so deep. */
struct blk *extent_layer(struct blk *blk, unsigned depth);

#endif
