/*
 * size.h - byte counts as people write and read them, in QEMU's forms.
 */
#ifndef BASE_SIZE_H
#define BASE_SIZE_H

#include <stdint.h>

/* Parses "10G", "1.5M", "0x200", "4096": powers of 1024; suffixes b, k/K, M, G, T, P, E; without a
 * suffix `default_suffix` applies ('B' for bytes). A fraction needs a suffix above bytes.
 * Returns 0, -EINVAL (not a size) or -ERANGE (negative, or above 2^63-1). */
int size_parse(const char *text, char default_suffix, uint64_t *bytes);

/* "196 KiB", "1.37 GiB", "0 B": QEMU's human form (three significant digits). `out` has room for
 * SIZE_TEXT_MAX bytes; returns `out`. */
#define SIZE_TEXT_MAX 32
char *size_format(uint64_t bytes, char *out);

#endif
