/*
 * stamp.c - a sector that says whose it is: each of its words holds the value, the sector's number on
 * the device and the word's number. All zeros are the value zero. It compresses well.
 */
#include "disk.h"
#include "model.h"

#include <stdio.h>
#include <string.h>

enum { WORDS = SECTOR / 8 };

/* Two at once, where the processor can. */
typedef uint64_t pair __attribute__((vector_size(16)));

static uint64_t word_of(uint64_t sector, uint32_t value, unsigned i)
{
    return (uint64_t)value << 32 | (sector & 0xffffff) << 8 | i;
}

void stamp_fill(uint8_t *bytes, uint64_t sector, uint64_t count, uint32_t value)
{
    if (value == VALUE_ZERO) {
        memset(bytes, 0, count * SECTOR);
        return;
    }
    for (uint64_t s = sector; s < sector + count; s++) {
        for (unsigned i = 0; i < WORDS; i++) {
            uint64_t word = word_of(s, value, i);

            memcpy(bytes, &word, sizeof(word));
            bytes += sizeof(word);
        }
    }
}

/* This is where the tests spend their time. */
bool stamp_read(const uint8_t *bytes, uint64_t sector, uint32_t *value)
{
    static const uint8_t zeros[SECTOR];
    uint64_t first;
    union {
        uint64_t words[WORDS];
        pair pairs[WORDS / 2];
    } sector_is;
    pair expected, differs = {0, 0};

    memcpy(&first, bytes, sizeof(first));
    *value = (uint32_t)(first >> 32);
    if (*value == VALUE_ZERO) {
        return memcmp(bytes, zeros, SECTOR) == 0;
    }
    first = word_of(sector, *value, 0);
    expected = (pair){first, first + 1};
    memcpy(sector_is.words, bytes, SECTOR);
    for (unsigned i = 0; i < WORDS / 2; i++) {
        differs |= sector_is.pairs[i] ^ expected;
        expected += 2;
    }
    return (differs[0] | differs[1]) == 0;
}

void stamp_describe(const uint8_t *bytes, uint64_t sector, char *text, size_t size)
{
    uint32_t value;
    uint64_t word;

    memcpy(&word, bytes, sizeof(word));
    if (stamp_read(bytes, sector, &value)) {
        snprintf(text, size, "value %u", value);
    } else if (stamp_read(bytes, (word >> 8) & 0xffffff, &value)) {
        snprintf(text, size, "value %u of sector %u", value, (unsigned)(word >> 8) & 0xffffff);
    } else {
        snprintf(text, size, "no stamp: %016llx", (unsigned long long)word);
    }
}
