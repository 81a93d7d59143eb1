/*
 * virtio_pci.h - the PCI transport (VIRTIO 1.2 section 4.1), modern devices only, MSI-X only.
 */
#ifndef VIRTIO_PCI_H
#define VIRTIO_PCI_H

#include "err.h"
#include "guestmem.h"
#include "pci_function.h"

struct virtio_device;

/* Wraps `device` into a PCI function. Takes the device over, on failure too. `mem` is borrowed and
 * outlives the function. The caller plugs *out into its PCI root, sets fn->host before the machine
 * runs, and ends it with ops->destroy. */
int virtio_pci_create(struct virtio_device *device, const struct guestmem *mem,
                      struct pci_function **out, struct err *err);

#endif
