/*
 * refcount_width.c - the entries of refcount blocks, which are 1 to 64 bits wide.
 */
#include "bytes.h"
#include "qcow2/format.h"

/* Specification, "Refcount block entry": below a byte, entry 0 is in the least significant bits. */
uint64_t qcow2_refcount_decode(const uint8_t *block, unsigned bits, uint64_t index)
{
    switch (bits) {
    case 8:
        return block[index];
    case 16:
        return load_be16(block + index * 2);
    case 32:
        return load_be32(block + index * 4);
    case 64:
        return load_be64(block + index * 8);
    default:
        return (unsigned)block[index * bits / 8] >> (index * bits % 8) & ((1U << bits) - 1);
    }
}

void qcow2_refcount_encode(uint8_t *block, unsigned bits, uint64_t index, uint64_t value)
{
    switch (bits) {
    case 8:
        block[index] = (uint8_t)value;
        break;
    case 16:
        store_be16(block + index * 2, (uint16_t)value);
        break;
    case 32:
        store_be32(block + index * 4, (uint32_t)value);
        break;
    case 64:
        store_be64(block + index * 8, value);
        break;
    default: {
        unsigned shift = (unsigned)(index * bits % 8);
        unsigned mask = ((1U << bits) - 1) << shift;
        uint8_t *byte = &block[index * bits / 8];

        *byte = (uint8_t)((*byte & ~mask) | ((unsigned)value << shift & mask));
    }
    }
}

uint64_t qcow2_refcount_limit(unsigned bits)
{
    return UINT64_MAX >> (64 - bits);
}
