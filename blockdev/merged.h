/*
 * merged.h - what the layers below the top are together: answers of chain_map() that are remembered, so that
 * a look-up costs the same however deep the chain is.
 *
 * The layers below are open for reading alone and do not change, so nothing that is remembered becomes wrong.
 * Any thread, without a lock.
 */
#ifndef BLOCKDEV_MERGED_H
#define BLOCKDEV_MERGED_H

#include "block.h"

/* For the chain below `top`; NULL where it would gain nothing, or memory is short. */
struct merged *merged_create(const struct blk *top);
/* NULL is fine. */
void merged_free(struct merged *merged);

/* What is known about a range from `offset` on: true with the answer of chain_map(), depths counted from
 * the top. */
bool merged_find(struct merged *merged, uint64_t offset, uint64_t length, struct blk **layer,
                 unsigned *depth, struct layer_extent *extent);
/* An answer that was found for `offset`, to be remembered. */
void merged_keep(struct merged *merged, uint64_t offset, struct blk *layer, unsigned depth,
                 const struct layer_extent *extent);
/* Where it is best to ask from, for a look-up at `offset` that found nothing. */
uint64_t merged_start(const struct merged *merged, uint64_t offset);

#endif
