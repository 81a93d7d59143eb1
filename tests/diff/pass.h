/*
 * pass.h - one opening of a chain's top layer with random requests in it, checked on the way and as
 * a whole before it is closed.
 */
#ifndef DIFF_PASS_H
#define DIFF_PASS_H

#include "chain.h"

/* One queue, or `threads` queues on as many threads. 0, or -EIO with the finding (details, such as
 * the requests that led there, are printed as TAP comments). */
int pass_requests(struct chain *chain, struct rng *rng, unsigned threads, uint64_t ops,
                  struct err *err);

/* Opens, reads everything, compares with the model and closes. */
int pass_compare(struct chain *chain, struct rng *rng, struct err *err);

/* Opens, takes a snapshot or goes back to the one there is, by turns, and compares. */
int pass_snapshot(struct chain *chain, struct rng *rng, struct err *err);

/* Opens, grows the device by a random amount, and compares. */
int pass_grow(struct chain *chain, struct rng *rng, struct err *err);

/*
 * Threads that write where the others write: each 8-byte word says which request of which thread
 * put it there. A read may return what a write left that overlapped it in time, or the newest
 * before it; never a value that was overwritten by a write that began after the value's own had
 * ended, and that ended before the read began. The whole device is written with initial stamps
 * first (in the base, when the layout has one).
 */
int pass_overlapping(const struct layout *layout, struct rng *rng, unsigned threads, uint64_t ops,
                     struct err *err);

/*
 * The same over an overlay that is warm: gigabytes with L2 tables and refcount blocks everywhere, more
 * than the cache holds, and little data. `threads` queues (at most 64) read, write, zero, discard and
 * flush in the area of every L2 table, next to each other; results are known exactly.
 */
int pass_warm(const struct layout *layout, struct rng *rng, unsigned threads, uint64_t ops,
              struct err *err);

#endif
