/*
 * pace.h - keeps a copy from writing faster than it may.
 */
#ifndef IMG_PACE_H
#define IMG_PACE_H

#include <stdint.h>

struct pace {
    uint64_t rate;       /* bytes a second; 0: no limit */
    uint64_t paid_until; /* the time (clock_ns()) at which all that was written may have been */
};

/* Waits until more may be written, and counts `bytes` (at most 2^30) as written. One thread at a time. */
void pace_wait(struct pace *pace, uint64_t bytes);

#endif
