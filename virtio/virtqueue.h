/*
 * virtqueue.h - the device's side of a split virtqueue (VIRTIO 1.2 section 2.7).
 *
 * The configuration half belongs to the transport while the device is not active. From
 * virtqueue_start() on the rest belongs to the queue's thread: no lock, no call from anywhere else.
 *
 * A rule that the driver breaks makes the queue `broken`: functions return -EPROTO from then on,
 * and the device is to ask for a reset. Nothing is logged or aborted; chains taken before may still
 * be completed.
 */
#ifndef VIRTIO_VIRTQUEUE_H
#define VIRTIO_VIRTQUEUE_H

#include "guestmem.h"

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct virtqueue {
    /* Configuration. Addresses are guest-physical. */
    uint16_t size_max; /* what the device offers; a power of two */
    uint16_t size;     /* what the driver chose */
    uint64_t desc_gpa, avail_gpa, used_gpa;
    bool ready;   /* the driver enabled the queue */
    int doorbell; /* eventfd that collects the driver's notifications */
    int kick;     /* -1, or a descriptor of somebody else that does so too, which is never read */

    /* The running queue. next_avail and next_used are all that a saved machine would need. */
    const struct guestmem *mem;
    const struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    bool indirect, event_idx; /* negotiated features */
    bool broken;
    uint16_t chain_max;        /* descriptors of a chain with an indirect table */
    uint16_t avail_seen;       /* avail->idx as last loaded */
    uint16_t next_avail;       /* free-running index of the next chain to take */
    uint16_t next_used;        /* free-running index of the next used element */
    uint16_t used_published;   /* used->idx as last stored */
    struct inflight *inflight; /* where chains that were taken are written down; NULL: nowhere */
};

/* A descriptor chain, copied and checked. iov holds `readable` entries that the device may read and
 * behind them `writable` entries that it may write. */
struct virtqueue_chain {
    struct iovec *iov; /* the caller's: room for size_max entries */
    uint16_t head;
    unsigned readable, writable;
    uint64_t readable_bytes, writable_bytes;
};

/* Creates the doorbell and sets the power-on configuration. 0 or a negative errno value. */
int virtqueue_init(struct virtqueue *vq, uint16_t size_max);
void virtqueue_destroy(struct virtqueue *vq);
/* Back to the power-on configuration; pending notifications are dropped. */
void virtqueue_reset(struct virtqueue *vq);

/* Resolves the rings in guest memory. -EINVAL when one is misaligned, -EFAULT when it is not RAM.
 */
int virtqueue_start(struct virtqueue *vq, const struct guestmem *mem, uint64_t features);

/*
 * Lets chains that have an indirect table be as long as a queue may be at most, and not only as long as
 * this one is. For transports where somebody else than the device and the driver chooses the size: Linux
 * goes by the number of segments that a device takes. After virtqueue_start().
 */
void virtqueue_allow_long_chains(struct virtqueue *vq);

/* For a queue that somebody else has served before: the indices of the next chain to take and of the next
 * used element. After virtqueue_start(). */
void virtqueue_set_position(struct virtqueue *vq, uint16_t next_avail, uint16_t next_used);
/* The used index that the driver sees: for virtqueue_set_position(). */
uint16_t virtqueue_used_index(const struct virtqueue *vq);
/* Finds the rings of a started queue again, after guest memory has changed. The errors of
 * virtqueue_start(). */
int virtqueue_map(struct virtqueue *vq, const struct guestmem *mem);

/* What a notification does: wakes the queue's thread. Any thread. */
void virtqueue_ring_doorbell(const struct virtqueue *vq);

/* Takes the next available chain: 1 with its head, 0 when there is none, -EPROTO. */
int virtqueue_take(struct virtqueue *vq, uint16_t *head);
/* Whether the driver has made more available than was taken, or broken rule 1; cheap, and orders nothing. */
bool virtqueue_has_more(const struct virtqueue *vq);
/* Copies and checks the chain that begins at `head` into `chain` (iov set by the caller). 0,
 * -EPROTO. */
int virtqueue_read_chain(struct virtqueue *vq, uint16_t head, struct virtqueue_chain *chain);
/* For a rule of the device type that the driver broke. Returns -EPROTO. */
int virtqueue_fail(struct virtqueue *vq);

/* Puts a chain on the used ring, into which the device wrote `written` bytes. Not yet visible. */
void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written);
/* Makes all that was pushed visible; true when the driver wants an interrupt for it. */
bool virtqueue_publish(struct virtqueue *vq);

/* Asks the driver not to ring the doorbell; it may all the same. */
void virtqueue_notify_disable(struct virtqueue *vq);
/* Asks the driver to ring the doorbell for the next chain. True when one is there already: the
 * caller looks again instead of waiting. */
bool virtqueue_notify_enable(struct virtqueue *vq);

/* Whether a free-running index that moved from `old` to `now` passed `event` (sections 2.7.7 and 2.7.10). */
static inline bool virtqueue_index_passed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

#endif
