#include "vhost_user_memory.h"

#include "checked.h"
#include "mapguard.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Mappings begin and end at blocks of the file system: with huge pages these are larger than a page. */
static uint64_t mapping_unit(const struct stat *st)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), block = (uint64_t)st->st_blksize;

    return block > page && is_power_of_2(block) ? block : page;
}

int shared_map_open(struct shared_map *map, int fd, uint64_t offset, uint64_t size,
                    atomic_bool *lost, int event, struct err *err)
{
    uint64_t end, unit, start;
    struct stat st;
    void *base;
    int ret;

    if (fstat(fd, &st) < 0)
        return err_set_errno(err, -errno, "cannot look at the shared memory");
    if (size == 0 || !add_u64(offset, size, &end) || end > INT64_MAX)
        return err_set(err, -EINVAL, "a piece of %" PRIu64 " bytes at %" PRIu64 " cannot be", size,
                       offset);
    if (S_ISREG(st.st_mode) && end > (uint64_t)st.st_size)
        return err_set(err, -EINVAL,
                       "a piece of %" PRIu64 " bytes at %" PRIu64 " ends behind its file", size,
                       offset);
    unit = mapping_unit(&st);
    start = align_down(offset, unit);
    map->length = (size_t)align_up(end - start, unit);
    base = mmap(NULL, map->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                (off_t)start);
    if (base == MAP_FAILED)
        return err_set_errno(err, -errno, "cannot map the shared memory");
    ret = mapguard_add(base, map->length, lost, event);
    if (ret < 0) {
        munmap(base, map->length);
        return err_set_errno(err, ret, "cannot guard the shared memory");
    }
    map->base = base;
    map->data = (uint8_t *)base + (offset - start);
    return 0;
}

void shared_map_close(struct shared_map *map)
{
    if (!map->base)
        return;
    mapguard_remove(map->base);
    munmap(map->base, map->length);
    *map = (struct shared_map){0};
}

/* What the device sees follows from the regions. */
static void rebuild(struct vhost_user_memory *memory)
{
    memory->guest.count = 0;
    for (unsigned i = 0; i < memory->count; i++)
        (void)guestmem_add(&memory->guest, memory->regions[i].region.gpa,
                           memory->regions[i].region.size, memory->regions[i].map.data);
}

int vhost_user_memory_add(struct vhost_user_memory *memory, const struct vu_region *region, int fd,
                          struct err *err)
{
    struct shared_map map = {0};
    uint64_t end;
    int ret;

    if (memory->count == GUESTMEM_MAX_REGIONS)
        return err_set(err, -ENOSPC, "more than %d regions of memory", GUESTMEM_MAX_REGIONS);
    if (!add_u64(region->user, region->size, &end))
        return err_set(err, -EINVAL, "the region at 0x%" PRIx64 " has no end", region->user);
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vu_region *other = &memory->regions[i].region;

        if (ranges_overlap(region->user, region->size, other->user, other->size))
            return err_set(err, -EINVAL, "the regions at 0x%" PRIx64 " and 0x%" PRIx64 " overlap",
                           region->user, other->user);
    }
    ret = shared_map_open(&map, fd, region->offset, region->size, memory->lost, memory->event, err);
    if (ret < 0)
        return ret;
    ret = guestmem_add(&memory->guest, region->gpa, region->size, map.data);
    if (ret < 0) {
        shared_map_close(&map);
        return err_set(err, ret, "the region at 0x%" PRIx64 " of the guest overlaps, or has no end",
                       region->gpa);
    }
    memory->regions[memory->count].region = *region;
    memory->regions[memory->count++].map = map;
    return 0;
}

int vhost_user_memory_remove(struct vhost_user_memory *memory, const struct vu_region *region,
                             struct err *err)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vu_region *mine = &memory->regions[i].region;

        if (mine->gpa != region->gpa || mine->user != region->user || mine->size != region->size)
            continue;
        shared_map_close(&memory->regions[i].map);
        memory->regions[i] = memory->regions[--memory->count];
        rebuild(memory);
        return 0;
    }
    return err_set(err, -ENOENT, "there is no region at 0x%" PRIx64, region->user);
}

void vhost_user_memory_clear(struct vhost_user_memory *memory)
{
    while (memory->count > 0)
        shared_map_close(&memory->regions[--memory->count].map);
    memory->guest.count = 0;
}

bool vhost_user_memory_find(const struct vhost_user_memory *memory, uint64_t user, uint64_t *gpa)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vu_region *region = &memory->regions[i].region;

        if (user >= region->user && user - region->user < region->size) {
            *gpa = region->gpa + (user - region->user);
            return true;
        }
    }
    return false;
}
