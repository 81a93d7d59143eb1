/*
 * pci_root.h - PCI bus 0: the host bridge, up to 31 functions, configuration access by ports and by
 * ECAM, and the window of memory addresses that BARs lie in.
 *
 * Sources: PCI Local Bus Specification 3.0, section 3.2.2.3.2 (configuration mechanism 1); PCI Express
 * Base Specification 3.1, section 7.2.2 (ECAM).
 *
 * Threads: one lock, the machine's PCI lock, orders everything that a guest does to functions; it is
 * taken by the accesses that arrive over the buses and by pci_root_reset(). The rest is called by the
 * main thread while no vCPU runs.
 */
#ifndef VMM_PCI_ROOT_H
#define VMM_PCI_ROOT_H

#include "bus.h"
#include "err.h"
#include "pci_function.h"

struct pci_root;

struct pci_root_options {
    struct pci_host *host;  /* given to every function; borrowed */
    struct bus *pio, *mmio; /* borrowed; the root stays in them */
    /* A device of one port inside the eight of PCI configuration (the reset register): one-byte
     * accesses to `inner_port` go there. */
    uint16_t inner_port;
    const struct bus_ops *inner_ops;
    void *inner_device;
};

int pci_root_create(const struct pci_root_options *options, struct pci_root **out, struct err *err);

/* Plugs `fn` into the next free device number and gives its BARs addresses. Takes the function over,
 * on failure too. -ENOSPC when the bus or the address window is full. */
int pci_root_add(struct pci_root *root, struct pci_function *fn, struct err *err);

/* Resets every function: nothing is in flight on return. */
void pci_root_reset(struct pci_root *root);

/* Destroys the functions, the last one first. NULL is allowed. */
void pci_root_destroy(struct pci_root *root);

#endif
