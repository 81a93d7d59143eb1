/*
 * ring.h - reads and writes of one queue that are under way in the kernel, through an io_uring of its own.
 *
 * The ring can do nothing else (IORING_REGISTER_RESTRICTIONS): what the process may not do by system call it
 * may not do by ring.
 *
 * Files are not registered with it: such a file stays open, with the locks of an image, after the process has ended.
 * Memory is where the caller wants it: it is all there from the start then, which a guest's is not.
 *
 * By the queue's thread alone.
 */
#ifndef BLOCKDEV_RING_H
#define BLOCKDEV_RING_H

#include "blockdev.h"

#include <stdbool.h>

struct ring;

enum { RING_REGIONS = 4 };

/* `regions`: memory to be registered, at most RING_REGIONS; it stays mapped as it is until the ring is destroyed. Returns
 * 0 or what the kernel says: -EPERM, -ENOSYS and others where it has none to give, -ENOMEM when more than RLIMIT_MEMLOCK
 * was to be registered. */
int ring_create(const struct iovec *regions, unsigned count, struct ring **out);
/* Nothing may be under way. NULL is fine. */
void ring_destroy(struct ring *ring);

/* Reads or writes (request->op) the request's vector at `offset` of `fd`: at the latest once ring_start() is
 * called. `layer` and `hold` are the caller's, to be had back. False: too many are under way. */
bool ring_transfer(struct ring *ring, int fd, uint64_t offset, struct blk_request *request,
                   struct blk *layer, int hold);
void ring_start(struct ring *ring);
/* Polls readable while there is something to take back. */
int ring_fd(const struct ring *ring);
/* How many are under way. */
unsigned ring_count(const struct ring *ring);

struct ring_ended {
    struct blk_request *request;
    struct blk *layer;
    int hold;
    int result; /* bytes, or a negative errno value */
};
/* Takes one back that has ended; false: none has. */
bool ring_take_back(struct ring *ring, struct ring_ended *ended);

#endif
