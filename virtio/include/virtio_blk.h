/*
 * virtio_blk.h - a virtio block device (VIRTIO 1.2 section 5.2) over an open image.
 */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "err.h"

#include <stdbool.h>
#include <stdint.h>

struct blk;
struct guestmem;
struct virtio_device;

/* What becomes of a request that the image could not carry out. */
enum virtio_blk_on_error {
    VIRTIO_BLK_REPORT,        /* the driver sees an I/O error */
    VIRTIO_BLK_HALT_NO_SPACE, /* as HALT when the host has no space left, else as REPORT */
    /* The request is kept, no queue of the device goes on, and `halted` is called. */
    VIRTIO_BLK_HALT,
};

/* Requests or bytes; 0 a second: as many as there are. A burst of 0 is a tenth of a second's. Both at most
 * 10^12. */
struct virtio_blk_rate {
    uint64_t per_second, burst;
};

/* More than a sleep and a wake-up take is never worth waiting for; the limit is for who measures. */
enum { VIRTIO_BLK_POLL_US_DEFAULT = 32, VIRTIO_BLK_POLL_US_MAX = 1000 };

struct virtio_blk_options {
    struct blk *blk;    /* borrowed until the device is destroyed */
    const char *serial; /* at most 20 bytes, answered to GET_ID; NULL: empty. Copied. */
    unsigned queues;    /* 1 .. 64 virtqueues, a thread each */
    bool discard;       /* offer discard and write-zeroes with unmap */
    bool read_only;     /* offer VIRTIO_BLK_F_RO and refuse writes */
    bool fixed_cache;   /* the driver may not switch the cache: nobody would remember its choice */
    bool measure;       /* latencies, at the price of reading the clock twice a request */

    /* Guest memory to be registered with the queues (blk_queue_create_fixed()); NULL: none. Used in the call alone. */
    const struct guestmem *fixed_memory;
    bool fixed_files; /* and the image's files */

    /* Microseconds for which a queue looks at its empty ring at most before it sleeps, as far as that
     * pays; 0: not at all. Up to VIRTIO_BLK_POLL_US_MAX. */
    unsigned poll_us;

    /* Of all queues together: requests that reach the image, and bytes that are read and written. */
    struct virtio_blk_rate request_rate, byte_rate;

    enum virtio_blk_on_error on_read_error, on_write_error; /* write: all that is not a read */
    /* The device has come to a halt, until virtio_blk_retry() or a reset: `request` ("write", static)
     * failed with `error` (-errno). In a queue's thread; once a halt. */
    void (*halted)(void *opaque, const char *request, int error);
    /* The image could not carry out a request: the driver sees an I/O error. In a queue's thread. Or
     * NULL. */
    void (*failed)(void *opaque);
    void *opaque; /* of both */
};

/* On success *out is to be plugged into a transport (virtio_pci.h), which then owns it. */
int virtio_blk_create(const struct virtio_blk_options *options, struct virtio_device **out,
                      struct err *err);

enum virtio_blk_kind {
    VIRTIO_BLK_READS,
    VIRTIO_BLK_WRITES,
    VIRTIO_BLK_FLUSHES,
    VIRTIO_BLK_DISCARDS,
    VIRTIO_BLK_ZEROES,
    VIRTIO_BLK_KINDS
};

/* Latency: how many requests took less than 2^n microseconds, and not less than half of that; the last
 * one has what took longer. From when a request was taken from the ring to when it was given back. */
enum { VIRTIO_BLK_LATENCIES = 24 };

/* Since the device was created, requests that the driver got an answer to. */
struct virtio_blk_counters {
    struct {
        uint64_t requests, errors, bytes;
        uint64_t latency[VIRTIO_BLK_LATENCIES]; /* with options.measure alone */
    } kinds[VIRTIO_BLK_KINDS];
    const char *engine; /* what carries out reads that wait: blk_queue_engine() */
    int engine_error;   /* blk_queue_engine_error() */
};

/* Any thread; while requests run, numbers may be of moments that lie a request apart. */
void virtio_blk_get_counters(const struct virtio_device *device,
                             struct virtio_blk_counters *counters);

/* Lets a device that has come to a halt carry out what it kept, each request from its start, and go
 * on. Any thread; harmless for a device that has not. */
void virtio_blk_retry(struct virtio_device *device);

#endif
