/*
 * compare.h - finds the first place where two images differ.
 */
#ifndef IMG_COMPARE_H
#define IMG_COMPARE_H

#include "img.h"

struct compare_job {
    struct blk *a, *b; /* the shorter one is compared as if it went on with zeros */
    bool strict;       /* what is allocated must agree as well */
    struct progress *progress;
};

struct compare_result {
    /* In the order that counts when several hold for one offset. */
    enum compare_kind {
        COMPARE_MAP_FAILED,
        COMPARE_STATUS_DIFFERS,
        COMPARE_READ_FAILED,
        COMPARE_CONTENT_DIFFERS,
        COMPARE_SAME
    } kind;
    uint64_t offset; /* of the first sector that differs, or of what could not be had */
    struct blk *failed;
    int error; /* of that image: a negative errno value */
};

/* Compares with a thread for each processor; the result does not depend on how many there are.
 * -ENOMEM: nothing was compared. */
int compare_images(const struct compare_job *job, struct compare_result *result);

#endif
