/*
 * msix.h - MSI-X (PCI Local Bus Specification 3.0, section 6.8.2): the capability, the vector table
 * and the pending bit array, the last two within a BAR of the function.
 *
 * Each vector has an eventfd. While the vector may interrupt, the host has the eventfd connected to
 * the message that the guest programmed, so that a signal reaches the vCPU without passing through
 * this code. While it may not, the host is disconnected and signals collect in the eventfd: they
 * are the pending bit, and are delivered when the vector is connected again.
 *
 * Threads: msix_signal() and msix_enabled() from any thread; everything else under the PCI lock.
 */
#ifndef VIRTIO_MSIX_H
#define VIRTIO_MSIX_H

#include "pci_function.h"

struct msix;

/* Adds the capability for `count` vectors whose table and pending bits lie in BAR `bar` at the two
 * offsets (multiples of 8). `fn` is borrowed. 0 or a negative errno value. */
int msix_create(struct pci_function *fn, unsigned count, unsigned bar, uint32_t table_offset,
                uint32_t pba_offset, struct msix **out);
/* NULL is allowed. */
void msix_destroy(struct msix *msix);

/* Bytes of the vector table and of the pending bit array. */
uint64_t msix_table_size(const struct msix *msix);
uint64_t msix_pba_size(const struct msix *msix);

/* Accesses of 1 to 8 bytes at `offset` within the table or the pending bits; beyond their end reads
 * give zeros. The pending bits are read-only. */
void msix_table_read(struct msix *msix, uint64_t offset, void *data, unsigned len);
void msix_table_write(struct msix *msix, uint64_t offset, const void *data, unsigned len);
void msix_pba_read(struct msix *msix, uint64_t offset, void *data, unsigned len);

/* To be called after [offset, offset + len) of configuration space was written. */
void msix_config_written(struct msix *msix, unsigned offset, unsigned len);

/* Power-on state: disabled, every vector masked, nothing pending. */
void msix_reset(struct msix *msix);
/* Drops what is pending: the device behind the vectors was reset. */
void msix_clear_pending(struct msix *msix);

bool msix_enabled(const struct msix *msix);
unsigned msix_count(const struct msix *msix);
/* Sends vector `vector`, below msix_count(), or makes it pending. */
void msix_signal(struct msix *msix, unsigned vector);

#endif
