/*
 * virtio_blk.h - a virtio block device (VIRTIO 1.2 section 5.2) over an open image.
 */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "err.h"

#include <stdbool.h>

struct blk;
struct virtio_device;

struct virtio_blk_options {
    struct blk *blk;    /* borrowed until the device is destroyed */
    const char *serial; /* at most 20 bytes, answered to GET_ID; NULL: empty. Copied. */
    unsigned queues;    /* 1 .. 64 virtqueues, a thread each */
    bool discard;       /* offer discard and write-zeroes with unmap */
    bool read_only;     /* offer VIRTIO_BLK_F_RO and refuse writes */
};

/* On success *out is to be plugged into a transport (virtio_pci.h), which then owns it. */
int virtio_blk_create(const struct virtio_blk_options *options, struct virtio_device **out,
                      struct err *err);

#endif
