/*
 * toy.h - a virtio device that records what the transport asks of it.
 */
#ifndef TESTS_VIRTIO_TOY_H
#define TESTS_VIRTIO_TOY_H

#include "harness.h"

#include <linux/virtio_config.h>

enum { TOY_QUEUES = 3, TOY_QUEUE_SIZE = 16, TOY_CONFIG_SIZE = 11 };

#define TOY_FEATURES (1ULL << 5 | 1ULL << 9)
#define VERSION_1    (1ULL << VIRTIO_F_VERSION_1)
#define EVENT_IDX    (1ULL << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT     (1ULL << VIRTIO_RING_F_INDIRECT_DESC)

struct toy {
    struct virtio_device dev; /* first */
    struct virtqueue queues[TOY_QUEUES];
    uint8_t config[TOY_CONFIG_SIZE];
    unsigned activated, resets, destroyed;
    uint64_t features_at_activate;
    int activate_result;
};

extern struct toy toy;

/* For cmocka: *state becomes a struct guest with the device plugged in; the end checks that the device
 * was destroyed once. */
int toy_start(void **state);
int toy_stop(void **state);
/* The device running with `queues` rings, MSI-X on. */
void toy_run(struct guest *guest, struct ring *rings, unsigned queues, uint64_t features);
/* Rings at the doorbell of queue `q`, counted and taken. */
uint64_t toy_doorbell_rings(unsigned q);

#endif
