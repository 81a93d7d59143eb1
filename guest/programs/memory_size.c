/*
 * memory_size - the memory map of the boot information holds `memory=` bytes of RAM (less what the
 * machine keeps for itself below 1 MiB), none of it in the device hole, and the first and last page
 * of each range can be written.
 */
#include "lib.h"

#define MIB        0x100000ULL
#define HOLE_START 0xc0000000ULL
#define HOLE_END   0x100000000ULL
/* What start.S maps. */
#define MAPPED 0x200000000ULL

static bool writable(uint64_t address)
{
    volatile uint64_t *p = at(address & ~7ULL);
    uint64_t saved = *p;
    bool held;

    *p = 0x5aa5c33c0ff0a55aULL;
    held = *p == 0x5aa5c33c0ff0a55aULL;
    *p = saved;
    return held;
}

int main(void)
{
    const struct start_info *info = boot_start_info;
    const struct memory_map_entry *map;
    uint64_t sum = 0, expected = argument("memory", 0), end = 0;

    if (!check(info && info->magic == START_INFO_MAGIC && info->version >= 1,
               "the boot information has a memory map"))
        return 0;
    map = at(info->memory_map);
    for (uint32_t i = 0; i < info->memory_map_entries; i++) {
        uint64_t last = map[i].address + map[i].size;

        say("%lx - %lx type %u\n", map[i].address, last, map[i].type);
        check(map[i].size != 0 && map[i].address >= end, "entry %u is in order", i);
        end = last;
        if (map[i].type != MEMORY_RAM)
            continue;
        sum += map[i].size;
        check(last <= HOLE_START || map[i].address >= HOLE_END, "and leaves the devices alone");
        if (last <= MAPPED)
            check(writable(map[i].address) && writable(last - 8), "its ends can be written");
    }
    check(sum <= expected && sum + MIB > expected, "%lx bytes in sum", sum);
    return 0;
}
