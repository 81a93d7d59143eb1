/*
 * guestmem.h - guest memory, reached only through one checked call.
 *
 * A guest-physical address (gpa) and a length become a host pointer when the whole range lies inside
 * one region of RAM, and NULL otherwise. The memory behind the pointer is shared with running vCPUs:
 * a value is copied once, checked, and only the copy is used.
 *
 * Threads: regions are added before the first vCPU runs and never change afterwards (behind vhost-user:
 * only while no queue's thread runs); look-ups need no lock. Ownership: the regions' memory belongs to whoever mapped it (the VMM).
 */
#ifndef VIRTIO_GUESTMEM_H
#define VIRTIO_GUESTMEM_H

#include <stdint.h>

enum { GUESTMEM_MAX_REGIONS = 32 };

struct guestmem_region {
    uint64_t gpa;
    uint64_t size;
    void *host;
};

struct guestmem {
    struct guestmem_region regions[GUESTMEM_MAX_REGIONS];
    unsigned count;
};

/* Adds [gpa, gpa + size) backed by `host`. -EINVAL for an empty, wrapping or overlapping range,
 * -ENOSPC when the table is full. */
int guestmem_add(struct guestmem *mem, uint64_t gpa, uint64_t size, void *host);

/* The host address of [gpa, gpa + length), or NULL when any byte of it is not RAM, when it spans two
 * regions, wraps, or is empty. */
void *guestmem_ptr(const struct guestmem *mem, uint64_t gpa, uint64_t length);

#endif
