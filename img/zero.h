/*
 * zero.h - whether a buffer is all zeros.
 */
#ifndef IMG_ZERO_H
#define IMG_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* A buffer whose first bytes are zero and which equals itself shifted by them is zero throughout. The
 * first comparison ends quickly on data, the second runs at the speed of memcmp. */
static inline bool buffer_is_zero(const unsigned char *data, size_t length)
{
    enum { HEAD = 32 };
    static const unsigned char zeros[HEAD];

    if (length <= HEAD)
        return memcmp(data, zeros, length) == 0;
    return memcmp(data, zeros, HEAD) == 0 && memcmp(data, data + HEAD, length - HEAD) == 0;
}

#endif
