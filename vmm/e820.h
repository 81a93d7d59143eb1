/*
 * e820.h - the guest's memory map, as the boot protocols hand it over.
 */
#ifndef VMM_E820_H
#define VMM_E820_H

#include <stdint.h>

enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };

struct e820_entry {
    uint64_t address, size;
    enum e820_type type;
};

enum { E820_MAX_ENTRIES = 8 };

/* Fills `entries`, sorted and disjoint, for `memory` bytes of RAM; returns how many. */
unsigned e820_build(uint64_t memory, struct e820_entry entries[E820_MAX_ENTRIES]);

#endif
