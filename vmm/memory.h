/*
 * memory.h - the guest's RAM: one anonymous mapping, shown to the guest below the hole of layout.h and
 * from 4 GiB on.
 *
 * Threads: create and destroy by the main thread, with no vCPU or queue thread running.
 */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include "err.h"
#include "guestmem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct memory {
    struct guestmem map; /* what devices see: one region, or two when RAM goes on above the hole */
    void *mapping;       /* aligned to MEMORY_ALIGN */
    uint64_t size;
};

/* Mapping alignment: the guest's and the host's 2 MiB pages coincide. */
enum { MEMORY_ALIGN = 2 << 20 };

/* How much of `size` bytes of RAM lies below the hole, and how much above 4 GiB. */
uint64_t memory_low_size(uint64_t size);
uint64_t memory_high_size(uint64_t size);

/* Maps `size` bytes (a multiple of 4096), none of them touched. With `hugepages` reserved huge pages
 * are used where the host has enough of them, and transparent ones, with a warning, where it has not. */
int memory_create(struct memory *memory, uint64_t size, bool hugepages, struct err *err);
void memory_destroy(struct memory *memory);

/* Makes a SIGBUS that touches guest memory (the host could not provide a page) end the process with
 * status 2 and one line that says so. Holds for one memory at a time. */
void memory_guard(const struct memory *memory);

/* Called by the guard just before the process ends; async-signal-safe. NULL: nothing. */
void memory_guard_on_exit(void (*cleanup)(void));

#endif
