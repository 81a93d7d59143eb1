/*
 * pci_function.h - one PCI function: 256 bytes of configuration space with a mask of the bits that
 * software may change, up to six BARs, a capability list and an optional MSI-X table.
 *
 * The PCI root (vmm/) finds the function by its number, forwards configuration accesses to
 * pci_function_config_read/write, keeps guest accesses to mapped BARs flowing to ops->bar_read/write,
 * and asks pci_function_bar_at() which BAR an address belongs to.
 *
 * Source of the rules: PCI Local Bus Specification 3.0, chapter 6. All multi-byte registers are
 * little-endian.
 *
 * Threads: everything here runs under the PCI lock of the machine (vCPU threads take it), or before
 * the first vCPU runs. Interrupts may be signalled from any thread (see msix.h).
 */
#ifndef VIRTIO_PCI_FUNCTION_H
#define VIRTIO_PCI_FUNCTION_H

#include "pci_host.h"

#include <stdbool.h>
#include <stdint.h>

enum { PCI_CONFIG_SIZE = 256, PCI_BAR_COUNT = 6 };

struct pci_function;

struct pci_function_ops {
    /* A guest access of len 1, 2, 4 or 8 bytes within a BAR; never crosses its end. */
    void (*bar_read)(struct pci_function *fn, unsigned bar, uint64_t offset, void *data,
                     unsigned len);
    void (*bar_write)(struct pci_function *fn, unsigned bar, uint64_t offset, const void *data,
                      unsigned len);
    /* After software wrote [offset, offset + len) of configuration space; may be NULL. */
    void (*config_written)(struct pci_function *fn, unsigned offset, unsigned len);
    /* Before software reads it: the function may refresh config[]; may be NULL. */
    void (*config_reading)(struct pci_function *fn, unsigned offset, unsigned len);
    /* A BAR was mapped at bar[i].address or unmapped (bar[i].mapped says); may be NULL. */
    void (*bar_moved)(struct pci_function *fn, unsigned bar);
    /* Machine reset: back to the power-on state, nothing in flight on return. */
    void (*reset)(struct pci_function *fn);
    /* Stops, releases and frees the function. */
    void (*destroy)(struct pci_function *fn);
};

struct pci_bar {
    uint64_t size;    /* a power of two; 0: not implemented, or the upper half of a 64-bit BAR */
    uint64_t address; /* as programmed; meaningful while mapped */
    bool is_64bit;
    bool mapped; /* memory decoding is on and the address is usable */
};

struct pci_function {
    const struct pci_function_ops *ops;
    struct pci_host *host; /* set by the root before the machine runs */
    const char *name;      /* for messages; owned by the function */
    unsigned device;       /* device number on bus 0, set by the root */
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; /* bits that software may change */
    struct pci_bar bar[PCI_BAR_COUNT];
    unsigned capability_end; /* first free byte for a capability */
};

struct pci_identity {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision;
    uint32_t class_code; /* 24 bits: class, subclass, programming interface */
};

/* Fills a type 0 header. The function owns no memory of its own. */
void pci_function_init(struct pci_function *fn, const struct pci_function_ops *ops,
                       const struct pci_identity *identity, const char *name);

/* Declares a memory BAR of `size` bytes (a power of two, at least 4096); a 64-bit one takes `bar` and
 * `bar` + 1. The root gives it an address. */
void pci_function_add_bar(struct pci_function *fn, unsigned bar, uint64_t size, bool is_64bit);

/* Appends a capability of `length` bytes (its ID and next pointer included; `body` is what follows
 * those two bytes) and returns its offset in configuration space. Aborts when the list is full: the
 * layout of a device is fixed at build time. */
unsigned pci_function_add_capability(struct pci_function *fn, uint8_t id, const void *body,
                                     unsigned length);

/* Gives BAR `bar` an address, as firmware would, and switches memory decoding and bus mastering on. */
void pci_function_place_bar(struct pci_function *fn, unsigned bar, uint64_t address);

/* Configuration accesses of 1, 2 or 4 bytes. Reads beyond 256 bytes give zeros (no extended
 * capabilities), writes there are ignored. */
uint32_t pci_function_config_read(struct pci_function *fn, unsigned offset, unsigned len);
void pci_function_config_write(struct pci_function *fn, unsigned offset, uint32_t value,
                               unsigned len);

/* The mapped BAR that holds all of [address, address + len), or -1; *offset is the place within it. */
int pci_function_bar_at(const struct pci_function *fn, uint64_t address, unsigned len,
                        uint64_t *offset);

#endif
