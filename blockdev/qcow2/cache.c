/*
 * cache.c - slices of L2 tables and refcount blocks in memory.
 *
 * A slice is found by its offset in the file. To read one, the lock is dropped: a placeholder
 * marked `loading` stands in the cache meanwhile, so that nobody reads it twice, and above all so
 * that nobody can read, change, write back and drop it while an older copy is on its way in.
 *
 * Replacement is the clock: a slice that was used since the hand last passed gets another turn.
 * Dirty and pinned slices are passed over; the writers see to it that the committer runs before
 * most of the cache is dirty (qcow2_throttle), and where it comes to the worst the cache grows for
 * a while instead of failing.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_CACHE_BYTES = 8 << 20,
    MIN_SLICES = 64,
    MAX_BUCKETS = 1 << 20,
    SLAB_SLICES = 16, /* aligned memory costs another alignment each time */
};

/* The offset of a slice that holds nothing. */
static const uint64_t NOWHERE = UINT64_MAX;

int qcow2_cache_init(struct qcow2 *q, uint64_t bytes)
{
    struct qcow2_cache *cache = &q->cache;
    uint64_t limit = (bytes != 0 ? bytes : DEFAULT_CACHE_BYTES) >> q->slice_bits;

    cache->limit = (unsigned)min_u64(max_u64(limit, MIN_SLICES), INT32_MAX);
    cache->bucket_mask = MIN_SLICES - 1;
    cache->buckets = calloc(MIN_SLICES, sizeof(struct qcow2_slice *));
    return cache->buckets != NULL ? 0 : -ENOMEM;
}

void qcow2_cache_free(struct qcow2 *q)
{
    for (unsigned i = 0; i < q->cache.count; i++) {
        free(q->cache.slices[i]);
    }
    for (unsigned i = 0; i < q->cache.slab_count; i++) {
        free(q->cache.slabs[i]);
    }
    free(q->cache.slabs);
    free(q->cache.slices);
    free(q->cache.buckets);
    q->cache = (struct qcow2_cache){0};
}

static struct qcow2_slice **bucket_of(struct qcow2 *q, uint64_t offset)
{
    uint64_t hash = (offset >> q->slice_bits) * UINT64_C(0x9e3779b97f4a7c15);

    return &q->cache.buckets[(hash >> 32) & q->cache.bucket_mask];
}

static struct qcow2_slice *find(struct qcow2 *q, uint64_t offset)
{
    struct qcow2_slice *s = *bucket_of(q, offset);

    while (s != NULL && s->offset != offset) {
        s = s->next_in_bucket;
    }
    return s;
}

static void link_slice(struct qcow2 *q, struct qcow2_slice *slice)
{
    struct qcow2_slice **bucket = bucket_of(q, slice->offset);

    slice->next_in_bucket = *bucket;
    *bucket = slice;
}

static void unlink_slice(struct qcow2 *q, struct qcow2_slice *slice)
{
    struct qcow2_slice **link;

    if (slice->offset == NOWHERE) {
        return;
    }
    for (link = bucket_of(q, slice->offset); *link != slice; link = &(*link)->next_in_bucket) {
    }
    *link = slice->next_in_bucket;
    slice->offset = NOWHERE;
}

/* As many buckets as slices: most layers of a long chain have few. Without memory they stay as they are. */
static void add_buckets(struct qcow2 *q, unsigned count)
{
    struct qcow2_cache *cache = &q->cache;
    struct qcow2_slice **buckets =
        count <= MAX_BUCKETS ? calloc(count, sizeof(struct qcow2_slice *)) : NULL;

    if (buckets == NULL) {
        return;
    }
    free(cache->buckets);
    cache->buckets = buckets;
    cache->bucket_mask = count - 1;
    for (unsigned i = 0; i < cache->count; i++) {
        if (cache->slices[i]->offset != NOWHERE) {
            link_slice(q, cache->slices[i]);
        }
    }
}

static struct qcow2_slice *add_slice(struct qcow2 *q)
{
    struct qcow2_cache *cache = &q->cache;
    struct qcow2_slice *slice;

    if (cache->count == cache->room) {
        unsigned room = cache->room != 0 ? cache->room * 2 : MIN_SLICES;
        struct qcow2_slice **slices = realloc(cache->slices, room * sizeof(struct qcow2_slice *));

        if (slices == NULL) {
            return NULL;
        }
        cache->slices = slices;
        cache->room = room;
        add_buckets(q, room);
    }
    slice = calloc(1, sizeof(*slice));
    if (slice == NULL) {
        return NULL;
    }
    slice->offset = NOWHERE;
    cache->slices[cache->count++] = slice;
    return slice;
}

/* A slice that holds nothing: a new one, or the one that the clock gives up. */
static struct qcow2_slice *claim(struct qcow2 *q)
{
    struct qcow2_cache *cache = &q->cache;

    for (unsigned turns = 0; cache->count >= cache->limit && turns < 2 * cache->count; turns++) {
        struct qcow2_slice *slice = cache->slices[cache->hand];

        cache->hand = (cache->hand + 1) % cache->count;
        if (slice->pins > 0 || slice->dirty) {
            continue;
        }
        if (slice->used && slice->offset != NOWHERE) {
            slice->used = false;
            continue;
        }
        unlink_slice(q, slice);
        return slice;
    }
    return add_slice(q);
}

/* Memory of its own for a slice, which keeps it; NULL: there is none. */
static uint8_t *take_from_slab(struct qcow2 *q)
{
    struct qcow2_cache *cache = &q->cache;
    size_t bytes = (size_t)1 << q->slice_bits;

    if (cache->slab_left == 0) {
        uint8_t **slabs = realloc(cache->slabs, (cache->slab_count + 1) * sizeof(cache->slabs[0]));

        if (slabs == NULL) {
            return NULL;
        }
        cache->slabs = slabs;
        slabs[cache->slab_count] = aligned_alloc(bytes, SLAB_SLICES * bytes);
        if (slabs[cache->slab_count] == NULL) {
            return NULL;
        }
        cache->slab_count++;
        cache->slab_left = SLAB_SLICES;
    }
    cache->slab_left--;
    return cache->slabs[cache->slab_count - 1] + cache->slab_left * bytes;
}

/* Where the slice's bytes will be. */
static int place(struct qcow2 *q, struct qcow2_slice *slice)
{
    qcow2_mapping_open(q);
    slice->is_mapped = q->mapping.start != NULL && slice->kind == QCOW2_SLICE_L2 &&
                       range_within(slice->offset, UINT64_C(1) << q->slice_bits, q->mapping.length);
    if (slice->is_mapped) {
        slice->data = q->mapping.start + slice->offset;
        return 0;
    }
    if (slice->own == NULL) {
        slice->own = take_from_slab(q);
    }
    slice->data = slice->own;
    return slice->own != NULL ? 0 : -ENOMEM;
}

/* What is mapped is read all the same: for the wait, and for errors. */
static int load(struct qcow2 *q, struct qcow2_slice *slice, bool may_wait)
{
    uint8_t unused[1 << QCOW2_MAX_SLICE_BITS];
    struct iovec iov = {
        .iov_base = slice->is_mapped ? unused : slice->data,
        .iov_len = (size_t)1 << q->slice_bits,
    };

    return may_wait ? file_preadv(q->file, slice->offset, &iov, 1)
                    : file_try_preadv(q->file, slice->offset, &iov, 1);
}

static int get(struct qcow2 *q, enum qcow2_slice_kind kind, uint64_t offset, bool may_wait,
               struct qcow2_slice **out)
{
    struct qcow2_slice *slice;
    int r;

    while ((slice = find(q, offset)) != NULL && slice->loading) {
        if (!may_wait) {
            return -EAGAIN;
        }
        pthread_cond_wait(&q->changed, &q->lock);
    }
    if (slice != NULL) {
        if (slice->kind != kind) {
            return qcow2_mark_corrupt(q, "an L2 table and a refcount block share a cluster");
        }
        slice->pins++;
        slice->used = true;
        q->counters.cache_hits++;
        *out = slice;
        return 0;
    }
    q->counters.cache_misses++;
    slice = claim(q);
    if (slice == NULL) {
        return -ENOMEM;
    }
    slice->offset = offset;
    slice->kind = kind;
    slice->guest_start = QCOW2_NO_GUEST;
    slice->pins = 1;
    slice->used = true;
    slice->loading = true;
    link_slice(q, slice);

    r = place(q, slice);
    if (r == 0) {
        pthread_mutex_unlock(&q->lock);
        r = load(q, slice, may_wait);
        pthread_mutex_lock(&q->lock);
    }

    slice->loading = false;
    pthread_cond_broadcast(&q->changed);
    if (r != 0) {
        slice->pins = 0;
        unlink_slice(q, slice);
        return r;
    }
    slice->suspect =
        kind == QCOW2_SLICE_L2 && (slice->is_mapped || !qcow2_l2_check_slice(q, slice));
    *out = slice;
    return 0;
}

int qcow2_cache_get(struct qcow2 *q, enum qcow2_slice_kind kind, uint64_t offset,
                    struct qcow2_slice **out)
{
    return get(q, kind, offset, true, out);
}

int qcow2_cache_try_get(struct qcow2 *q, enum qcow2_slice_kind kind, uint64_t offset,
                        struct qcow2_slice **out)
{
    return get(q, kind, offset, false, out);
}

void qcow2_cache_put(struct qcow2_slice *slice)
{
    slice->pins--;
}

void qcow2_cache_mark_dirty(struct qcow2 *q, struct qcow2_slice *slice)
{
    if (!slice->dirty) {
        slice->dirty = true;
        q->cache.dirty_count++;
        q->cache.dirty_l2_count += slice->kind == QCOW2_SLICE_L2;
    }
}

void qcow2_cache_mark_clean(struct qcow2 *q, struct qcow2_slice *slice)
{
    if (slice->dirty) {
        slice->dirty = false;
        q->cache.dirty_count--;
        q->cache.dirty_l2_count -= slice->kind == QCOW2_SLICE_L2;
    }
}

void qcow2_cache_forget(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    qcow2_lookaside_clear(q);
    for (uint64_t at = offset; at < offset + length; at += UINT64_C(1) << q->slice_bits) {
        struct qcow2_slice *slice = find(q, at);

        if (slice != NULL) {
            qcow2_cache_mark_clean(q, slice);
            unlink_slice(q, slice);
        }
    }
}
