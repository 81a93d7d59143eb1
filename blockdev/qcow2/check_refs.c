#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BITS = 14, CHUNK = 1 << CHUNK_BITS };
/* 2^40 clusters: 512 TiB of 512-byte clusters, more than any file system holds in a file of data. */
#define MAX_CLUSTERS (UINT64_C(1) << 40)

int check_refs_init(struct check_refs *refs, uint64_t clusters)
{
    *refs = (struct check_refs){0};
    return check_refs_grow(refs, clusters);
}

int check_refs_grow(struct check_refs *refs, uint64_t clusters)
{
    uint64_t count = div_round_up(clusters, CHUNK);
    uint32_t **chunks;

    if (clusters > MAX_CLUSTERS)
        return -EFBIG;
    if (count > refs->chunk_count) {
        /* A fresh array: the pages of a huge one that stay untouched take no memory. */
        chunks = calloc(count, sizeof(*chunks));
        if (chunks == NULL)
            return -ENOMEM;
        if (refs->chunk_count > 0)
            memcpy(chunks, refs->chunks, refs->chunk_count * sizeof(*chunks));
        free(refs->chunks);
        refs->chunks = chunks;
        refs->chunk_count = count;
    }
    refs->clusters = max_u64(refs->clusters, clusters);
    return 0;
}

void check_refs_clear(struct check_refs *refs)
{
    for (uint64_t i = 0; i < refs->chunk_count; i++) {
        free(refs->chunks[i]);
        refs->chunks[i] = NULL;
    }
}

void check_refs_free(struct check_refs *refs)
{
    check_refs_clear(refs);
    free(refs->chunks);
    *refs = (struct check_refs){0};
}

uint32_t check_refs_get(const struct check_refs *refs, uint64_t cluster)
{
    const uint32_t *chunk = cluster < refs->clusters ? refs->chunks[cluster >> CHUNK_BITS] : NULL;

    return chunk != NULL ? chunk[cluster & (CHUNK - 1)] : 0;
}

int check_refs_add(struct check_refs *refs, uint64_t cluster)
{
    uint32_t **chunk;
    uint32_t *count;

    if (cluster >= refs->clusters)
        return 0;
    chunk = &refs->chunks[cluster >> CHUNK_BITS];
    if (*chunk == NULL)
        *chunk = calloc(CHUNK, sizeof(**chunk));
    if (*chunk == NULL)
        return -ENOMEM;
    count = &(*chunk)[cluster & (CHUNK - 1)];
    if (*count < UINT32_MAX)
        ++*count;
    return 0;
}

bool check_refs_touched(const struct check_refs *refs, uint64_t first, uint64_t count)
{
    uint64_t end = min_u64(first + count, refs->clusters);

    for (uint64_t at = first; at < end;) {
        uint64_t chunk_end = min_u64(((at >> CHUNK_BITS) + 1) << CHUNK_BITS, end);

        if (refs->chunks[at >> CHUNK_BITS] != NULL) {
            for (; at < chunk_end; at++) {
                if (refs->chunks[at >> CHUNK_BITS][at & (CHUNK - 1)] != 0)
                    return true;
            }
        }
        at = chunk_end;
    }
    return false;
}
