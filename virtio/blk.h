/*
 * blk.h - what the two files of the block device share.
 *
 * blk.c creates the device, shows its configuration and runs its life; blk_request.c carries out
 * what the queues bring.
 */
#ifndef VIRTIO_BLK_PRIVATE_H
#define VIRTIO_BLK_PRIVATE_H

#include "blockdev.h"
#include "queue_thread.h"
#include "rate_limit.h"
#include "virtio_blk.h"
#include "virtio_device.h"
#include "virtqueue.h"

#include <linux/virtio_blk.h>

enum {
    BLK_QUEUE_SIZE = 256,
    BLK_MAX_QUEUES = 64,
    BLK_SECTOR_SIZE = 512,
    /* Header and status take a descriptor each, so that the longest request fits without
       indirection. */
    BLK_SEG_MAX = BLK_QUEUE_SIZE - 2,
    BLK_SIZE_MAX = 256 << 10,
    /* Bounds on what one request may ask for, so that stopping a device, which waits for what is in
     * flight, takes bounded time. Data: BLK_SEG_MAX segments of BLK_SIZE_MAX bytes stay below. */
    BLK_DATA_MAX = 64 << 20,
    BLK_RANGE_SECTORS_MAX = BLK_DATA_MAX / BLK_SECTOR_SIZE,
    BLK_RANGES_MAX = 16,
};

struct blk_device;
struct blk_vq;

/* A range of a discard or write-zeroes request, in bytes. */
struct blk_range {
    uint64_t offset, length;
    bool unmap;
};

/* One request slot for each descriptor of the queue: a chain in flight uses the slot of its head.
 */
struct blk_slot {
    struct blk_request request;
    struct blk_vq *queue;
    bool in_flight; /* the chain is ours */
    uint64_t taken; /* when, in nanoseconds; with measure alone */
    bool kept;      /* it failed, and waits to be carried out again */
    uint16_t head;
    uint8_t *status;                      /* in guest memory */
    uint32_t written, written_on_failure; /* for the used ring */
    uint64_t bytes;                       /* for the counters */
    unsigned range, range_count;
    struct blk_range ranges[BLK_RANGES_MAX];
    struct blk_slot *next; /* in a list of the queue's */
};

struct blk_vq {
    struct queue_thread thread; /* first: cast back */
    struct blk_device *device;
    struct blk_queue *engine;
    struct blk_slot *slots;
    struct iovec *iov;  /* BLK_QUEUE_SIZE entries a slot */
    unsigned in_flight; /* given to the engine */
    unsigned kept;
    /* Carried out, and not to be given back before a flush; those that wait for one, and for the one
     * that is under way. Both count as in flight. */
    struct blk_slot *unsettled, *settling;
    struct blk_request settle;
    /* The queue's thread alone writes them. */
    struct {
        _Atomic uint64_t requests, errors, bytes;
        _Atomic uint64_t latency[VIRTIO_BLK_LATENCIES];
    } counters[VIRTIO_BLK_KINDS];
};

enum { BLK_WCE_AS_NEGOTIATED = -1 };

struct blk_device {
    struct virtio_device dev; /* first: cast back */
    struct blk *blk;
    bool read_only;
    bool discard;
    bool measure;
    char serial[VIRTIO_BLK_ID_BYTES];
    atomic_int wce; /* what the driver wrote into the configuration, or BLK_WCE_AS_NEGOTIATED */
    enum virtio_blk_on_error on_read_error, on_write_error;
    void (*halted)(void *opaque, const char *request, int error);
    void (*failed)(void *opaque);
    void *opaque;
    struct rate_limit request_limit, byte_limit;
    unsigned queue_count;
    struct blk_vq queues[];
};

/* Whether a write may stay in a cache until a flush (section 5.2.5.2). Any thread. */
bool blk_device_writeback(const struct blk_device *device);

/* Forgets the requests that a stopped queue keeps. */
void blk_request_drop_kept(struct blk_vq *queue);

extern const struct queue_thread_ops blk_request_ops;

#endif
