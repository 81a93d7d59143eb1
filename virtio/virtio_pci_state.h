/*
 * virtio_pci_state.h - what the files of the PCI transport share: its state, and the layout of its
 * BAR.
 *
 * Threads: everything under the PCI lock, but for the fields marked atomic: queue threads read the
 * vectors and set bits of status and isr.
 */
#ifndef VIRTIO_PCI_STATE_H
#define VIRTIO_PCI_STATE_H

#include "msix.h"
#include "pci_function.h"
#include "virtio_device.h"
#include "virtqueue.h"

#include <stdatomic.h>

/* BAR 0: one page for each structure, so that their pages can be mapped apart. The doorbell of
 * queue n is at NOTIFY + 4 * n. */
enum {
    VIRTIO_PCI_BAR = 0,
    VIRTIO_PCI_PAGE = 0x1000,
    VIRTIO_PCI_COMMON_OFFSET = 0x0000,
    VIRTIO_PCI_ISR_OFFSET = 0x1000,
    VIRTIO_PCI_DEVICE_OFFSET = 0x2000,
    VIRTIO_PCI_NOTIFY_OFFSET = 0x3000,
    VIRTIO_PCI_MSIX_TABLE_OFFSET = 0x4000,
    VIRTIO_PCI_MSIX_PBA_OFFSET = 0x5000,
    VIRTIO_PCI_BAR_SIZE = 0x8000,
    VIRTIO_PCI_NOTIFY_MULTIPLIER = 4,
    /* Vectors (one more than queues) and doorbells each fit their page. */
    VIRTIO_PCI_MAX_QUEUES = 255,
};

struct virtio_pci_queue {
    _Atomic uint16_t vector; /* VIRTIO_MSI_NO_VECTOR, or below msix_count() */
    bool doorbell_assigned;  /* the host signals the queue's doorbell for writes at doorbell_gpa */
    uint64_t doorbell_gpa;
};

struct virtio_pci {
    struct pci_function fn; /* first: a function is cast back to its transport */
    struct virtio_device *dev;
    struct msix *msix;
    unsigned pci_cfg; /* where the PCI configuration access capability stands */

    uint64_t offered_features; /* the device's, the ring's and the transport's */
    uint64_t driver_features;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint8_t config_generation;
    bool active; /* the device's activate() succeeded */

    _Atomic uint8_t status;
    _Atomic uint8_t isr;
    _Atomic uint16_t config_vector;
    struct virtio_pci_queue *queues; /* dev->queue_count of them */
};

/* Accesses to the common configuration structure (VIRTIO 1.2 section 4.1.4.3), of any width at any
 * offset: a write that covers part of a field changes that part. */
void virtio_pci_common_read(struct virtio_pci *vp, uint64_t offset, void *data, unsigned len);
void virtio_pci_common_write(struct virtio_pci *vp, uint64_t offset, const void *data,
                             unsigned len);

/* Starts the device after DRIVER_OK; failure marks it as needing reset. */
void virtio_pci_activate(struct virtio_pci *vp);
/* Stops the device and forgets everything that was negotiated (section 2.4). */
void virtio_pci_reset(struct virtio_pci *vp);

#endif
