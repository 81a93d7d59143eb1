/*
 * bus.h - an address space of devices: ports, or memory outside RAM.
 *
 * Threads: ranges are added before the first vCPU runs; accesses come from any vCPU thread at once and
 * take no lock, so each device locks what it shares.
 */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include <stdbool.h>
#include <stdint.h>

struct bus_ops {
    /* `offset` is from the start of the range; len is 1, 2, 4 or 8 and never crosses its end. */
    void (*read)(void *device, uint64_t offset, void *data, unsigned len);
    void (*write)(void *device, uint64_t offset, const void *data, unsigned len);
};

enum { BUS_MAX_RANGES = 32 };

struct bus_range {
    uint64_t start, size;
    const struct bus_ops *ops;
    void *device;
};

struct bus {
    struct bus_range ranges[BUS_MAX_RANGES]; /* sorted by start */
    unsigned count;
};

/* -EEXIST when the range overlaps another, -EINVAL when it is empty or wraps, -ENOSPC when the table
 * is full. `device` is borrowed. */
int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops,
            void *device);

/* An access that no range holds reads as all ones and writes into nothing; returns false then. */
bool bus_read(const struct bus *bus, uint64_t address, void *data, unsigned len);
bool bus_write(const struct bus *bus, uint64_t address, const void *data, unsigned len);

#endif
