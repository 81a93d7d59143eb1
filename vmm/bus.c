/*
 * bus.c - look-up of the device behind an address. The table is small, sorted by start and disjoint:
 * a binary search would not beat the walk over a handful of ranges.
 */
#include "bus.h"

#include "checked.h"

#include <errno.h>
#include <string.h>

int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops, void *device)
{
    uint64_t end;
    unsigned at = 0;

    if (size == 0 || !add_u64(start, size, &end))
        return -EINVAL;
    if (bus->count == BUS_MAX_RANGES)
        return -ENOSPC;
    for (unsigned i = 0; i < bus->count; i++) {
        if (ranges_overlap(start, size, bus->ranges[i].start, bus->ranges[i].size))
            return -EEXIST;
        if (bus->ranges[i].start < start)
            at = i + 1;
    }
    memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof(bus->ranges[0]));
    bus->ranges[at] =
        (struct bus_range){.start = start, .size = size, .ops = ops, .device = device};
    bus->count++;
    return 0;
}

static const struct bus_range *bus_find(const struct bus *bus, uint64_t address, unsigned len)
{
    for (unsigned i = 0; i < bus->count && bus->ranges[i].start <= address; i++) {
        const struct bus_range *range = &bus->ranges[i];

        if (range_within(address - range->start, len, range->size))
            return range;
    }
    return NULL;
}

bool bus_read(const struct bus *bus, uint64_t address, void *data, unsigned len)
{
    const struct bus_range *range = bus_find(bus, address, len);

    memset(data, 0xff, len);
    if (!range)
        return false;
    range->ops->read(range->device, address - range->start, data, len);
    return true;
}

bool bus_write(const struct bus *bus, uint64_t address, const void *data, unsigned len)
{
    const struct bus_range *range = bus_find(bus, address, len);

    if (!range)
        return false;
    range->ops->write(range->device, address - range->start, data, len);
    return true;
}
