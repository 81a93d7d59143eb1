/*
 * pages.h - the bytes of a file in memory, in pages that copies share until one of them writes.
 * A page that is not there reads as zeros. Threads: one at a time over a set of copies.
 */
#ifndef CRASH_PAGES_H
#define CRASH_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct page;

struct pages {
    struct page **page;
    size_t count;
    uint64_t size; /* of the file, in bytes */
};

/* `to` holds nothing before. */
void pages_copy(struct pages *to, const struct pages *from);
void pages_free(struct pages *pages);
/* What lies behind the end reads as zeros. */
void pages_read(const struct pages *pages, uint64_t offset, void *bytes, size_t length);
/* Makes the file longer where it must. */
void pages_write(struct pages *pages, uint64_t offset, const void *bytes, size_t length);
/* Never makes the file longer. */
void pages_zero(struct pages *pages, uint64_t offset, uint64_t length);
void pages_resize(struct pages *pages, uint64_t size);
/* Whether the page that holds `offset` is there. */
bool pages_hold(const struct pages *pages, uint64_t offset);
/* The whole content from, or to, a file of the host; false when that fails. */
bool pages_load(struct pages *pages, const char *path);
bool pages_store(const struct pages *pages, const char *path);

enum { PAGE_BYTES = 4096 };

#endif
