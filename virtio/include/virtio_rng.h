/*
 * virtio_rng.h - an entropy device (VIRTIO 1.2 section 5.4) over getrandom(2).
 */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "err.h"

struct virtio_device;

/* On success *out is to be plugged into a transport, which then owns it. */
int virtio_rng_create(struct virtio_device **out, struct err *err);

#endif
