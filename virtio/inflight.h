/*
 * inflight.h - which chains of a queue are being worked on, written down in memory that outlives this
 * process (vhost-user, "Inflight I/O tracking", split virtqueues).
 *
 * The memory is shared with the front end, which hands it to the next back end. What it says is copied
 * once and checked, as guest memory is.
 *
 * A chain that was taken and is not on the used ring is marked, with a counter that keeps the order.
 * Between the ring's index and the marks a crash may come: `used_idx` tells how many of the chains that
 * were last put on the ring have marks that no longer count, and a list through `next` which.
 *
 * Threads: the queue's thread; attach and detach while it does not run.
 */
#ifndef VIRTIO_INFLIGHT_H
#define VIRTIO_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INFLIGHT_MAX_SIZE = 1024, INFLIGHT_ALIGN = 64 };

struct inflight_region;

struct inflight {
    struct inflight_region *region; /* NULL: nothing is written down */
    uint16_t size;                  /* descriptors of the queue */
    uint64_t counter;
    /* What was in flight when the last back end ended, in the order in which it was taken. */
    uint16_t *resubmit;
    uint16_t resubmit_count, resubmit_next;
};

/* Bytes of a queue's part of the memory; the parts follow each other. */
size_t inflight_region_size(uint16_t queue_size);

/*
 * Begins with the part at `region`, made for queues of `region_size` descriptors, for a queue of `size`
 * whose used ring is at `used_idx`. Afterwards resubmit_count chains are to be taken by
 * inflight_resubmit(). -EPROTO: the memory was made for another queue; -ENOMEM.
 */
int inflight_attach(struct inflight *inflight, void *region, uint16_t region_size, uint16_t size,
                    uint16_t used_idx);
/* Leaves the memory as it is. Harmless when nothing is attached. */
void inflight_detach(struct inflight *inflight);

/* The head of the next chain that is to be carried out once more; false when there is none. */
bool inflight_resubmit(struct inflight *inflight, uint16_t *head);

/* A chain was taken from the ring; one was put on the used ring; the ring's index was stored, which
 * made the last `count` of these visible. Heads are below the size. */
void inflight_taken(struct inflight *inflight, uint16_t head);
void inflight_pushed(struct inflight *inflight, uint16_t head);
void inflight_published(struct inflight *inflight, uint16_t count, uint16_t used_idx);

#endif
