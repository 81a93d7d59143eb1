/*
 * copy.h - copies the content of images one behind the other into another image.
 */
#ifndef IMG_COPY_H
#define IMG_COPY_H

#include "img.h"

struct copy_job {
    struct blk **sources;
    unsigned source_count;
    struct blk *target;    /* at least as long as the sources together */
    uint64_t sparse;       /* zeros of at least so many bytes become holes; 0: nothing does */
    bool target_is_zero;   /* the target shows zeros where nothing is written */
    bool compress;         /* the target's format can; its clusters are written compressed */
    bool skip_unallocated; /* leave out what a source with a backing file does not hold itself */
    bool offload;          /* let the kernel copy what it can; data is not looked at for zeros */
    bool salvage;          /* sectors that cannot be read are zeros, after a warning */
    bool quiet;            /* and that without the warning */
    uint64_t rate;         /* bytes a second to write at most; 0: no limit */
    struct progress *progress;
};

int copy_images(const struct copy_job *job, struct err *err);

#endif
