/*
 * random.h - bytes of the kernel's generator.
 */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>

/* Fills all of it, or returns -EIO and leaves it in part. Waits, once after the host has started, for the generator to
 * be ready. Any thread. */
int random_bytes(void *bytes, size_t length);

#endif
