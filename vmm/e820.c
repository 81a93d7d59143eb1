/*
 * e820.c - the memory map of layout.h in a list.
 *
 * Reserved: the EBDA, so that a guest never looks for one in RAM it uses; the area of the ACPI tables;
 * ECAM, without which Linux does not use it; the pages that KVM needs on Intel hosts.
 */
#include "e820.h"

#include "checked.h"
#include "layout.h"
#include "memory.h"

static void add(struct e820_entry *entries, unsigned *count, uint64_t start, uint64_t end,
                enum e820_type type)
{
    if (start < end)
        entries[(*count)++] =
            (struct e820_entry){.address = start, .size = end - start, .type = type};
}

unsigned e820_build(uint64_t memory, struct e820_entry entries[E820_MAX_ENTRIES])
{
    uint64_t low = memory_low_size(memory), high = memory_high_size(memory);
    unsigned count = 0;

    add(entries, &count, 0, LAYOUT_EBDA, E820_RAM);
    add(entries, &count, LAYOUT_EBDA, LAYOUT_EBDA_END, E820_RESERVED);
    add(entries, &count, LAYOUT_ACPI_START, LAYOUT_ACPI_END, E820_RESERVED);
    add(entries, &count, LAYOUT_ACPI_END, low, E820_RAM);
    add(entries, &count, LAYOUT_ECAM_START, LAYOUT_ECAM_START + LAYOUT_ECAM_SIZE, E820_RESERVED);
    add(entries, &count, LAYOUT_IDENTITY_MAP, LAYOUT_TSS + LAYOUT_TSS_SIZE, E820_RESERVED);
    add(entries, &count, LAYOUT_HOLE_END, LAYOUT_HOLE_END + high, E820_RAM);
    return count;
}
