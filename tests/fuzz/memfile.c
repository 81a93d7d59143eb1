/*
 * memfile.c - the bytes: pages in a hash table, from a pool that outlives an input.
 */
#include "memfile.h"
#include "bytes.h"
#include "checked.h"

#include <stdlib.h>
#include <string.h>

static struct mem_page *pool;

static struct mem_page **bucket_of(const struct memfile *mem, uint64_t index)
{
    uint64_t hash = index ^ (index >> 10) ^ (index >> 20);

    return (struct mem_page **)(uintptr_t)&mem->buckets[hash % MEM_BUCKETS];
}

static struct mem_page *find(const struct memfile *mem, uint64_t index)
{
    struct mem_page *page = *bucket_of(mem, index);

    while (page != NULL && page->index != index) {
        page = page->next;
    }
    return page;
}

static struct mem_page *find_or_add(struct memfile *mem, uint64_t index)
{
    struct mem_page *page = find(mem, index), **bucket = bucket_of(mem, index);

    if (page != NULL || mem->pages >= MEM_MAX_PAGES) {
        return page;
    }
    if (pool != NULL) {
        page = pool;
        pool = page->next;
    } else {
        page = malloc(sizeof(*page));
        if (page == NULL) {
            abort();
        }
    }
    memset(page->bytes, 0, sizeof(page->bytes));
    page->index = index;
    page->next = *bucket;
    *bucket = page;
    mem->pages++;
    return page;
}

/* Drops the pages from `first` to before `end`. */
static void drop(struct memfile *mem, uint64_t first, uint64_t end)
{
    for (size_t i = 0; i < MEM_BUCKETS && mem->pages > 0; i++) {
        for (struct mem_page **at = &mem->buckets[i]; *at != NULL;) {
            struct mem_page *page = *at;

            if (page->index < first || page->index >= end) {
                at = &page->next;
                continue;
            }
            *at = page->next;
            page->next = pool;
            pool = page;
            mem->pages--;
        }
    }
}

void memfile_clear(struct memfile *mem)
{
    drop(mem, 0, UINT64_MAX);
    *mem = (struct memfile){0};
}

void memfile_copy(struct memfile *to, const struct memfile *from)
{
    memfile_clear(to);
    for (size_t i = 0; i < MEM_BUCKETS; i++) {
        for (const struct mem_page *page = from->buckets[i]; page != NULL; page = page->next) {
            memcpy(find_or_add(to, page->index)->bytes, page->bytes, MEM_PAGE);
        }
    }
    to->size = from->size;
}

void memfile_read(const struct memfile *mem, uint64_t offset, void *buf, size_t length)
{
    uint8_t *out = buf;

    while (length > 0) {
        size_t inside = offset % MEM_PAGE, part = min_u64(length, MEM_PAGE - inside);
        const struct mem_page *page = find(mem, offset / MEM_PAGE);

        if (page != NULL) {
            memcpy(out, page->bytes + inside, part);
        } else {
            memset(out, 0, part);
        }
        offset += part;
        out += part;
        length -= part;
    }
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

bool memfile_write(struct memfile *mem, uint64_t offset, const void *buf, size_t length)
{
    const uint8_t *in = buf;

    if (!range_within(offset, length, INT64_MAX)) {
        return false;
    }
    while (length > 0) {
        size_t inside = offset % MEM_PAGE, part = min_u64(length, MEM_PAGE - inside);
        struct mem_page *page = find(mem, offset / MEM_PAGE);

        if (page == NULL && !is_zero(in, part)) {
            page = find_or_add(mem, offset / MEM_PAGE);
            if (page == NULL) {
                return false;
            }
        }
        if (page != NULL) {
            memcpy(page->bytes + inside, in, part);
        }
        offset += part;
        in += part;
        length -= part;
    }
    mem->size = max_u64(mem->size, offset);
    return true;
}

bool memfile_resize(struct memfile *mem, uint64_t size)
{
    struct mem_page *last = find(mem, size / MEM_PAGE);

    if (size > INT64_MAX) {
        return false;
    }
    if (size < mem->size) {
        drop(mem, div_round_up(size, MEM_PAGE), UINT64_MAX);
        if (last != NULL && size % MEM_PAGE != 0) {
            memset(last->bytes + size % MEM_PAGE, 0, MEM_PAGE - size % MEM_PAGE);
        }
    }
    mem->size = size;
    return true;
}

static bool holds(const struct memfile *a, const struct memfile *b)
{
    static const uint8_t zeros[MEM_PAGE];

    for (size_t i = 0; i < MEM_BUCKETS; i++) {
        for (const struct mem_page *page = a->buckets[i]; page != NULL; page = page->next) {
            const struct mem_page *other = find(b, page->index);

            if (memcmp(page->bytes, other != NULL ? other->bytes : zeros, MEM_PAGE) != 0) {
                return false;
            }
        }
    }
    return true;
}

bool memfile_equal(const struct memfile *a, const struct memfile *b)
{
    return a->size == b->size && holds(a, b) && holds(b, a);
}

const struct mem_page *memfile_next(const struct memfile *mem, uint64_t index)
{
    const struct mem_page *best = NULL;

    /* Mostly it is near. */
    for (uint64_t i = 0; i < 4; i++) {
        best = find(mem, index + i);
        if (best != NULL) {
            return best;
        }
    }
    for (size_t i = 0; i < MEM_BUCKETS; i++) {
        for (const struct mem_page *page = mem->buckets[i]; page != NULL; page = page->next) {
            if (page->index >= index && (best == NULL || page->index < best->index)) {
                best = page;
            }
        }
    }
    return best;
}

uint64_t memfile_be64(const struct memfile *mem, uint64_t offset)
{
    uint8_t raw[8];

    memfile_read(mem, offset, raw, sizeof(raw));
    return load_be64(raw);
}

uint32_t memfile_be32(const struct memfile *mem, uint64_t offset)
{
    uint8_t raw[4];

    memfile_read(mem, offset, raw, sizeof(raw));
    return load_be32(raw);
}

uint16_t memfile_be16(const struct memfile *mem, uint64_t offset)
{
    uint8_t raw[2];

    memfile_read(mem, offset, raw, sizeof(raw));
    return load_be16(raw);
}

void memfile_set_be64(struct memfile *mem, uint64_t offset, uint64_t value)
{
    uint8_t raw[8];

    store_be64(raw, value);
    (void)memfile_write(mem, offset, raw, sizeof(raw));
}

void memfile_set_be32(struct memfile *mem, uint64_t offset, uint32_t value)
{
    uint8_t raw[4];

    store_be32(raw, value);
    (void)memfile_write(mem, offset, raw, sizeof(raw));
}

void memfile_set_be16(struct memfile *mem, uint64_t offset, uint16_t value)
{
    uint8_t raw[2];

    store_be16(raw, value);
    (void)memfile_write(mem, offset, raw, sizeof(raw));
}
