/*
 * bytes.h - loads and stores of a stated byte order at any alignment.
 * qcow2 metadata is big-endian; virtio 1.x, PCI and ACPI are little-endian.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BYTES_DEFINE(order, bits)                                                                  \
    static inline uint##bits##_t load_##order##bits(const void *p)                                 \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
                                                                                                   \
        memcpy(&v, p, sizeof(v));                                                                  \
        return order##bits##toh(v);                                                                \
    }                                                                                              \
    static inline void store_##order##bits(void *p, uint##bits##_t host)                           \
    {                                                                                              \
        uint##bits##_t v = hto##order##bits(host);                                                 \
                                                                                                   \
        memcpy(p, &v, sizeof(v));                                                                  \
    }

BYTES_DEFINE(be, 16)
BYTES_DEFINE(be, 32)
BYTES_DEFINE(be, 64)
BYTES_DEFINE(le, 16)
BYTES_DEFINE(le, 32)
BYTES_DEFINE(le, 64)

#endif
