/*
 * compressor.h - threads that compress the clusters of buffers, for one thread that writes them in
 * order: so what is written does not depend on how many threads there are, or how fast.
 *
 * Any threads add buffers and wait for them, in any order.
 */
#ifndef IMG_COMPRESSOR_H
#define IMG_COMPRESSOR_H

#include "img.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A buffer. The first group is the caller's, to be left alone from add to wait (or stop). */
struct compress_work {
    const unsigned char *data;
    uint64_t length;
    const uint64_t *used;  /* a bit a cluster: the others are left out */
    unsigned char *packed; /* as long as the data: cluster i's result is at i * cluster size */
    size_t *packed_length; /* of each cluster; 0: to be written as it is */

    uint64_t next, left; /* clusters nobody has begun with, and those not done */
    int status;
    struct compress_work *link;
};

struct compressor;

/* NULL after filling `err`. */
struct compressor *compressor_start(struct blk *target, struct err *err);
void compressor_add(struct compressor *c, struct compress_work *work);
/* 0 or a negative errno value. */
int compressor_wait(struct compressor *c, struct compress_work *work);
/* Ends the threads, whatever is left to do. NULL is allowed. */
void compressor_stop(struct compressor *c);

#endif
