/*
 * virtio_device.h - between a transport and a device.
 *
 * The transport owns negotiation, queue addresses, vectors and status; a device owns what its queues
 * mean. A device keeps no state that it could not write out and read back (save and load come later).
 *
 * Life: create -> [negotiate -> activate -> (pause <-> resume) -> reset]* -> destroy.
 *
 * Threads: every op is called by one thread at a time, under the machine's PCI lock or by the one thread of
 * a vhost-user back end. Queue threads are
 * the device's own; they call into the transport through its ops alone, which take no lock.
 */
#ifndef VIRTIO_DEVICE_H
#define VIRTIO_DEVICE_H

#include "guestmem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct virtio_device;
struct virtqueue;

struct virtio_device_ops {
    /* DRIVER_OK: every enabled queue is configured (queue[i].ready) and features are final. The device
     * starts its threads. A negative errno value marks the device as needing reset. */
    int (*activate)(struct virtio_device *dev);
    /* Stops; when it returns nothing is in flight and guest memory is not touched any more. The
     * transport then clears queues and features. Harmless when not active. */
    void (*reset)(struct virtio_device *dev);
    /* Nothing new is taken from the rings and nothing is in flight on return; resume goes on. */
    void (*pause)(struct virtio_device *dev);
    void (*resume)(struct virtio_device *dev);
    /* Device configuration space, within config_size; the transport answers beyond it. May be NULL
     * without one; NULL write: read-only. */
    void (*config_read)(struct virtio_device *dev, uint32_t offset, void *data, unsigned len);
    void (*config_write)(struct virtio_device *dev, uint32_t offset, const void *data,
                         unsigned len);
    void (*destroy)(struct virtio_device *dev);
};

/* What the transport offers to the device's threads. Callable from any thread while active. */
struct virtio_transport_ops {
    /* Sends the queue's used-buffer interrupt (VIRTIO 1.2 section 4.1.4.5 and 4.1.5.1.2). */
    void (*interrupt_queue)(struct virtio_device *dev, unsigned queue);
    /* Marks DEVICE_NEEDS_RESET and sends a configuration change interrupt (section 2.1.2). */
    void (*needs_reset)(struct virtio_device *dev);
};

struct virtio_device {
    const struct virtio_device_ops *ops;
    const char *name;
    uint16_t type;             /* virtio device ID: 2 block, 4 entropy */
    uint32_t pci_class;        /* class code shown on PCI */
    uint64_t offered_features; /* the device's; the transport adds VERSION_1 and the ring's */
    uint64_t features;         /* negotiated; valid from FEATURES_OK to reset */
    unsigned queue_count;
    struct virtqueue *queues; /* queue_count of them, allocated by the device */
    uint32_t config_size;     /* bytes of device configuration space */

    /* The driver broke a rule: no queue takes chains any more until the transport, at reset, clears
     * this. Any thread. */
    atomic_bool broken;
    /* The device keeps a request that it could not carry out: no queue takes chains any more until
     * the device, told to try again or reset, clears this. Any thread. */
    atomic_bool halted;

    /* The transport's: set before the first activate. */
    const struct virtio_transport_ops *transport;
    void *transport_data;
    const struct guestmem *mem;
};

/* Stops the device's queues from taking chains and tells the driver, once. From any thread. */
static inline void virtio_device_fail(struct virtio_device *dev)
{
    if (!atomic_exchange(&dev->broken, true))
        dev->transport->needs_reset(dev);
}

#endif
