/*
 * pci_host.h - what a PCI function asks of the machine it is plugged into.
 *
 * virtio/ does not know KVM. The VMM implements this table over KVM (ioeventfd, GSI routing, irqfd),
 * another transport or a unit test implements it with plain eventfds.
 *
 * Threads: called with the PCI lock of the machine held, or before the first vCPU runs.
 */
#ifndef VIRTIO_PCI_HOST_H
#define VIRTIO_PCI_HOST_H

#include <stdint.h>

struct pci_host;

struct pci_host_ops {
    /* From now on a guest write of any size (1, 2, 4 or 8 bytes) at gpa adds 1 to the eventfd `fd`
     * without leaving the kernel. Returns 0 or a negative errno value; a host that cannot do it says
     * -ENOSYS, and the write then arrives at the function's bar_write(). */
    int (*doorbell_assign)(struct pci_host *host, uint64_t gpa, int fd);
    void (*doorbell_deassign)(struct pci_host *host, uint64_t gpa, int fd);

    /* A message-signalled interrupt source. msi_create returns a handle >= 0 or a negative errno
     * value; msi_route gives it the message that the guest programmed (address, data), often the one
     * that it has already; msi_connect makes each signal of the eventfd `fd` (not blocking) send it,
     * a signal already pending in `fd` included; msi_disconnect leaves `fd` to collect signals (the
     * pending bit of a masked vector). */
    int (*msi_create)(struct pci_host *host);
    int (*msi_route)(struct pci_host *host, int msi, uint64_t address, uint32_t data);
    int (*msi_connect)(struct pci_host *host, int msi, int fd);
    void (*msi_disconnect)(struct pci_host *host, int msi, int fd);
    void (*msi_destroy)(struct pci_host *host, int msi);
};

struct pci_host {
    const struct pci_host_ops *ops;
};

#endif
