/*
 * rate_limit.h - token buckets: how much a disk may do in a second, over time, and how much at once
 * after a pause.
 *
 * A bucket is one number, the time at which everything taken so far is paid for. Something may begin
 * while that lies no further ahead of now than a burst less one unit takes; so what is larger than the
 * burst is let through, and paid for by whoever comes next.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC. Threads: any; threads that begin at the same moment may
 * overdraw by one each, which is paid for like all else.
 */
#ifndef VIRTIO_RATE_LIMIT_H
#define VIRTIO_RATE_LIMIT_H

#include <stdatomic.h>
#include <stdint.h>

/* More a second, or in a burst, is no limit. */
#define RATE_LIMIT_MAX UINT64_C(1000000000000)

struct rate_limit {
    uint64_t per_second; /* 0: no limit */
    uint64_t burst_time; /* how far ahead of now may be paid for */
    _Atomic uint64_t paid_until;
};

/* `burst` 0: what a tenth of a second brings. Both at most RATE_LIMIT_MAX. */
void rate_limit_init(struct rate_limit *limit, uint64_t per_second, uint64_t burst);

/* 0 when something may begin now, else how long to wait until it may. */
uint64_t rate_limit_delay(const struct rate_limit *limit, uint64_t now);

/* Takes `amount`, at most 2^30, out of the bucket. */
void rate_limit_take(struct rate_limit *limit, uint64_t amount, uint64_t now);

#endif
