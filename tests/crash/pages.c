#include "pages.h"
#include "checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct page {
    unsigned users;
    uint8_t bytes[PAGE_BYTES];
};

static const uint8_t zeroes[PAGE_BYTES];

static void *must(void *memory)
{
    if (memory == NULL) {
        perror("crash");
        exit(1);
    }
    return memory;
}

void pages_copy(struct pages *to, const struct pages *from)
{
    *to = (struct pages){.count = from->count, .size = from->size};
    to->page = must(malloc((from->count + 1) * sizeof(void *)));
    for (size_t i = 0; i < from->count; i++) {
        to->page[i] = from->page[i];
        if (to->page[i] != NULL) {
            to->page[i]->users++;
        }
    }
}

static void drop(struct pages *pages, size_t i)
{
    if (pages->page[i] != NULL && --pages->page[i]->users == 0) {
        free(pages->page[i]);
    }
    pages->page[i] = NULL;
}

void pages_free(struct pages *pages)
{
    for (size_t i = 0; i < pages->count; i++) {
        drop(pages, i);
    }
    free(pages->page);
    *pages = (struct pages){0};
}

/* The page `i` for this file alone. */
static uint8_t *own(struct pages *pages, size_t i)
{
    struct page *old = pages->page[i], *page = old;

    if (old == NULL || old->users > 1) {
        page = must(malloc(sizeof(*page)));
        page->users = 1;
        memcpy(page->bytes, old != NULL ? old->bytes : zeroes, PAGE_BYTES);
        drop(pages, i);
        pages->page[i] = page;
    }
    return page->bytes;
}

void pages_read(const struct pages *pages, uint64_t offset, void *bytes, size_t length)
{
    uint8_t *to = bytes;

    while (length > 0) {
        uint64_t i = offset / PAGE_BYTES, at = offset % PAGE_BYTES;
        size_t n = min_u64(length, PAGE_BYTES - at);
        bool is_there = i < pages->count && pages->page[i] != NULL;

        memcpy(to, is_there ? pages->page[i]->bytes + at : zeroes, n);
        to += n;
        offset += n;
        length -= n;
    }
}

void pages_resize(struct pages *pages, uint64_t size)
{
    size_t count = div_round_up(size, PAGE_BYTES);

    if (size < pages->size) {
        pages_zero(pages, size, pages->size - size);
    }
    for (size_t i = count; i < pages->count; i++) {
        drop(pages, i);
    }
    pages->page = must(realloc(pages->page, (count + 1) * sizeof(void *)));
    for (size_t i = pages->count; i < count; i++) {
        pages->page[i] = NULL;
    }
    pages->count = count;
    pages->size = size;
}

void pages_write(struct pages *pages, uint64_t offset, const void *bytes, size_t length)
{
    const uint8_t *from = bytes;

    if (offset + length > pages->size) {
        pages_resize(pages, offset + length);
    }
    while (length > 0) {
        uint64_t at = offset % PAGE_BYTES;
        size_t n = min_u64(length, PAGE_BYTES - at);

        memcpy(own(pages, offset / PAGE_BYTES) + at, from, n);
        from += n;
        offset += n;
        length -= n;
    }
}

void pages_zero(struct pages *pages, uint64_t offset, uint64_t length)
{
    uint64_t end = min_u64(offset + length, pages->size);

    while (offset < end) {
        uint64_t i = offset / PAGE_BYTES, at = offset % PAGE_BYTES;
        size_t n = min_u64(end - offset, PAGE_BYTES - at);

        if (n == PAGE_BYTES) {
            drop(pages, i);
        } else if (pages->page[i] != NULL) {
            memset(own(pages, i) + at, 0, n);
        }
        offset += n;
    }
}

bool pages_hold(const struct pages *pages, uint64_t offset)
{
    uint64_t i = offset / PAGE_BYTES;

    return i < pages->count && pages->page[i] != NULL;
}

bool pages_load(struct pages *pages, const char *path)
{
    uint8_t bytes[PAGE_BYTES];
    FILE *f = fopen(path, "r");
    uint64_t at = 0;
    size_t n;

    *pages = (struct pages){0};
    if (f == NULL) {
        return false;
    }
    while ((n = fread(bytes, 1, sizeof(bytes), f)) > 0) {
        pages_resize(pages, at + n);
        if (memcmp(bytes, zeroes, n) != 0) {
            pages_write(pages, at, bytes, n);
        }
        at += n;
    }
    return fclose(f) == 0;
}

bool pages_store(const struct pages *pages, const char *path)
{
    FILE *f = fopen(path, "w");
    bool ok = f != NULL;

    for (size_t i = 0; i < pages->count && ok; i++) {
        if (pages->page[i] != NULL) {
            ok = fseek(f, (long)(i * PAGE_BYTES), SEEK_SET) == 0 &&
                 fwrite(pages->page[i]->bytes, 1, PAGE_BYTES, f) == PAGE_BYTES;
        }
    }
    ok = ok && fflush(f) == 0 && ftruncate(fileno(f), (off_t)pages->size) == 0;
    return f != NULL && fclose(f) == 0 && ok;
}
