/*
 * check_refs.c - counters for clusters, where an image refers to any.
 *
 * Time and memory follow the number of references, not the size that a sparse file claims nor how far
 * apart a hostile table's entries lie: chunks of some counters stand in a hash table by their place,
 * and in an array that is put into order when somebody walks over them. A chunk counts in bytes until one
 * of its clusters is referred to more often than that.
 */
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BITS = 6, CHUNK = 1 << CHUNK_BITS, FIRST_ROOM = 64 };

struct check_chunk {
    uint64_t index;
    uint32_t *wide; /* if not NULL, it counts and `narrow` does not */
    uint8_t narrow[CHUNK];
};

static uint32_t get_count(const struct check_chunk *chunk, uint64_t cluster)
{
    size_t i = cluster & (CHUNK - 1);

    return chunk->wide != NULL ? chunk->wide[i] : chunk->narrow[i];
}

static int widen(struct check_chunk *chunk)
{
    chunk->wide = malloc(CHUNK * sizeof(chunk->wide[0]));
    if (chunk->wide == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < CHUNK; i++)
        chunk->wide[i] = chunk->narrow[i];
    return 0;
}

static int set_count(struct check_chunk *chunk, uint64_t cluster, uint32_t count)
{
    size_t i = cluster & (CHUNK - 1);

    if (chunk->wide == NULL && count > UINT8_MAX && widen(chunk) < 0)
        return -ENOMEM;
    if (chunk->wide != NULL)
        chunk->wide[i] = count;
    else
        chunk->narrow[i] = (uint8_t)count;
    return 0;
}

void check_refs_init(struct check_refs *refs, uint64_t clusters)
{
    *refs = (struct check_refs){.clusters = clusters};
}

void check_refs_grow(struct check_refs *refs, uint64_t clusters)
{
    refs->clusters = max_u64(refs->clusters, clusters);
}

void check_refs_clear(struct check_refs *refs)
{
    for (size_t i = 0; i < refs->count; i++) {
        free(refs->chunks[i]->wide);
        free(refs->chunks[i]);
    }
    if (refs->room > 0)
        memset(refs->slots, 0, refs->room * sizeof(struct check_chunk *));
    refs->count = 0;
    refs->is_sorted = true;
}

void check_refs_free(struct check_refs *refs)
{
    check_refs_clear(refs);
    free(refs->chunks);
    free(refs->slots);
    *refs = (struct check_refs){0};
}

/* The slot of the chunk with `index`, or the free one where it would go. */
static struct check_chunk **slot_of(const struct check_refs *refs, uint64_t index)
{
    uint64_t i = (index * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (refs->room - 1);

    while (refs->slots[i] != NULL && refs->slots[i]->index != index)
        i = (i + 1) & (refs->room - 1);
    return &refs->slots[i];
}

static struct check_chunk *find(const struct check_refs *refs, uint64_t cluster)
{
    return refs->room > 0 ? *slot_of(refs, cluster >> CHUNK_BITS) : NULL;
}

/* Keeps half of the slots free. */
static int make_room(struct check_refs *refs)
{
    size_t room = refs->room > 0 ? refs->room * 2 : FIRST_ROOM;
    struct check_chunk **slots, **chunks;

    if (refs->count < refs->room / 2)
        return 0;
    chunks = realloc(refs->chunks, room / 2 * sizeof(struct check_chunk *));
    if (chunks == NULL)
        return -ENOMEM;
    refs->chunks = chunks;
    slots = calloc(room, sizeof(struct check_chunk *));
    if (slots == NULL)
        return -ENOMEM;
    free(refs->slots);
    refs->slots = slots;
    refs->room = room;
    for (size_t i = 0; i < refs->count; i++)
        *slot_of(refs, chunks[i]->index) = chunks[i];
    return 0;
}

static struct check_chunk *add_chunk(struct check_refs *refs, uint64_t index)
{
    struct check_chunk *chunk;

    if (make_room(refs) < 0)
        return NULL;
    chunk = calloc(1, sizeof(*chunk));
    if (chunk == NULL)
        return NULL;
    chunk->index = index;
    refs->is_sorted =
        refs->is_sorted && (refs->count == 0 || refs->chunks[refs->count - 1]->index < index);
    *slot_of(refs, index) = chunk;
    refs->chunks[refs->count++] = chunk;
    return chunk;
}

uint32_t check_refs_get(const struct check_refs *refs, uint64_t cluster)
{
    const struct check_chunk *chunk = find(refs, cluster);

    return chunk != NULL ? get_count(chunk, cluster) : 0;
}

int check_refs_add(struct check_refs *refs, uint64_t cluster, uint32_t times)
{
    struct check_chunk *chunk;
    uint32_t count;

    if (cluster >= refs->clusters)
        return 0;
    chunk = find(refs, cluster);
    if (chunk == NULL)
        chunk = add_chunk(refs, cluster >> CHUNK_BITS);
    if (chunk == NULL)
        return -ENOMEM;
    count = get_count(chunk, cluster);
    return set_count(chunk, cluster, count > UINT32_MAX - times ? UINT32_MAX : count + times);
}

uint32_t check_refs_take(struct check_refs *refs, uint64_t cluster)
{
    struct check_chunk *chunk = find(refs, cluster);
    uint32_t count = 0;

    if (chunk != NULL) {
        count = get_count(chunk, cluster);
        (void)set_count(chunk, cluster, 0); /* which takes no memory */
    }
    return count;
}

static int compare_chunks(const void *a, const void *b)
{
    uint64_t left = (*(struct check_chunk *const *)a)->index;
    uint64_t right = (*(struct check_chunk *const *)b)->index;

    return (left > right) - (left < right);
}

/* The position of the first chunk at or behind `index`. */
static size_t lower_bound(const struct check_refs *refs, uint64_t index)
{
    size_t low = 0, high = refs->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (refs->chunks[middle]->index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool check_refs_next(struct check_refs *refs, uint64_t *cluster, uint64_t stop)
{
    if (!refs->is_sorted && refs->count > 0) {
        qsort(refs->chunks, refs->count, sizeof(struct check_chunk *), compare_chunks);
        refs->is_sorted = true;
    }
    for (size_t i = lower_bound(refs, *cluster >> CHUNK_BITS); i < refs->count; i++) {
        const struct check_chunk *chunk = refs->chunks[i];
        uint64_t first = chunk->index << CHUNK_BITS;

        for (uint64_t at = max_u64(first, *cluster); at < first + CHUNK; at++) {
            if (at >= stop)
                return false;
            if (get_count(chunk, at) != 0) {
                *cluster = at;
                return true;
            }
        }
    }
    return false;
}

bool check_refs_touched(struct check_refs *refs, uint64_t first, uint64_t count)
{
    return check_refs_next(refs, &first, first + count);
}
