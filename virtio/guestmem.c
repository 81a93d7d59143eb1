#include "guestmem.h"

#include "checked.h"

#include <errno.h>
#include <stddef.h>

int guestmem_add(struct guestmem *mem, uint64_t gpa, uint64_t size, void *host)
{
    uint64_t end;

    if (size == 0 || !add_u64(gpa, size, &end) || !host)
        return -EINVAL;
    for (unsigned i = 0; i < mem->count; i++) {
        if (ranges_overlap(gpa, size, mem->regions[i].gpa, mem->regions[i].size))
            return -EINVAL;
    }
    if (mem->count == GUESTMEM_MAX_REGIONS)
        return -ENOSPC;
    mem->regions[mem->count++] = (struct guestmem_region){.gpa = gpa, .size = size, .host = host};
    return 0;
}

void *guestmem_ptr(const struct guestmem *mem, uint64_t gpa, uint64_t length)
{
    if (length == 0)
        return NULL;
    for (unsigned i = 0; i < mem->count; i++) {
        const struct guestmem_region *region = &mem->regions[i];

        if (gpa >= region->gpa && range_within(gpa - region->gpa, length, region->size))
            return (unsigned char *)region->host + (gpa - region->gpa);
    }
    return NULL;
}
