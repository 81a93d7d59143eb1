/*
 * ring.h - reads and writes of one queue that are under way in the kernel, through an io_uring of its own.
 *
 * The ring can do nothing else (IORING_REGISTER_RESTRICTIONS): what the process may not do by system call it
 * may not do by ring.
 *
 * Memory and files are registered with it where the caller wants that. Memory is all there from then on, which a
 * guest's is not. A registered file stays open for a while after a process was killed; so it has to be one that holds no
 * locks, and may not be written to: of a process that is gone, writes on their way keep the locks of an image.
 *
 * By the queue's thread alone.
 */
#ifndef BLOCKDEV_RING_H
#define BLOCKDEV_RING_H

#include "blockdev.h"

#include <stdbool.h>

struct ring;

enum { RING_REGIONS = 4 };

/* Returns 0 or what the kernel says: -EPERM, -ENOSYS and others where it has none to give. It carries out nothing until
 * ring_enable(). */
int ring_create(struct ring **out);
/* Registers memory in at most RING_REGIONS pieces, which stay mapped as they are until the ring is destroyed. Once at
 * most. -ENOMEM when it is more than RLIMIT_MEMLOCK. */
int ring_register_memory(struct ring *ring, const struct iovec *regions, unsigned count);
/* Room for files that stand for the descriptors 0 .. count - 1. Once at most. */
int ring_reserve_files(struct ring *ring, unsigned count);
/* From now on reads of `fd` are reads of `file`, which may be closed then; `fd` stays what it is until the ring is
 * destroyed. */
int ring_register_file(struct ring *ring, int fd, int file);
/* Nothing is registered any more. */
int ring_enable(struct ring *ring);
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
