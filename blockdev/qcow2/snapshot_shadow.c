/*
 * snapshot_shadow.c - how snapshots are taken, applied and deleted: beside what counts, and all at once.
 *
 * Each of the three changes refcounts all over the image and, with them, the COPIED flags of the active
 * tables, which must say exactly whether a refcount is one. Done in place, a crash half-way would leave
 * flags and refcounts that contradict each other. So nothing that counts is changed:
 *
 *   1. room is allocated: for a copy of each refcount block, for a refcount table that leads to these, for
 *      L1 tables, L2 tables whose flags change, and the snapshot table; a durable commit. All of it is
 *      counted by the old refcounts, and by their copies.
 *   2. the refcount blocks are copied, and from here on the refcounts in memory are those of the copies:
 *      references are added and taken away there, in any order.
 *   3. the new tables are written; a durable commit writes the copies' changed refcounts and syncs.
 *   4. one write of 48 bytes in the first sector: size, L1 table, refcount table, snapshot table; sync.
 *   5. what only the old state used (the old refcount blocks, tables and clusters without a reference)
 *      is given back the way every cluster is (free.c).
 *
 * Invariants:
 *   1. Up to stage 4 nothing on disk leads to what was written, and nothing that counts has changed; so an
 *      error drops the shadow, and a crash leaks what was allocated.
 *   2. From stage 4 on the new state counts, in which all refcounts and flags agree. A cluster whose last
 *      reference went has a refcount of one until stage 5 is through: it is leaked by a crash, and is
 *      neither reused nor holed while the old state could still be the one on disk.
 *   3. No cluster is allocated between 2 and the end: a refcount of 0 in the shadow may mean a cluster that
 *      the old state uses.
 *
 * The image belongs to the caller alone, so no request can see anything of this half done. Cost: what is
 * read and written is what a change in place would read and write; for a while the metadata takes its
 * room twice. Where a disk is too full for that: snapshot_in_place.c.
 */
#include "bytes.h"
#include "qcow2/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int snapshot_places_add(struct snapshot_places *places, uint64_t offset)
{
    if (places->count == places->room) {
        size_t room = places->room != 0 ? places->room * 2 : 64;
        uint64_t *grown = realloc(places->offsets, room * sizeof(grown[0]));

        if (grown == NULL) {
            return -ENOMEM;
        }
        places->offsets = grown;
        places->room = room;
    }
    places->offsets[places->count++] = offset;
    return 0;
}

static int note_run(struct shadow *s, uint64_t offset, uint64_t clusters)
{
    struct qcow2_runs *runs = &s->runs;
    struct qcow2_run *grown = realloc(runs->runs, (runs->count + 1) * sizeof(grown[0]));

    if (grown == NULL) {
        return -ENOMEM;
    }
    runs->runs = grown;
    runs->runs[runs->count++] = (struct qcow2_run){.offset = offset, .clusters = clusters};
    return 0;
}

static int gain(struct shadow *s, uint64_t cluster, int (*add)(struct qcow2 *q, uint64_t cluster))
{
    int r = snapshot_places_add(&s->gained, cluster);

    if (r == 0) {
        r = add(s->q, cluster);
        s->gained.count -= r != 0;
    }
    return r;
}

int shadow_gain(struct shadow *s, uint64_t cluster)
{
    return gain(s, cluster, qcow2_metadata_add);
}

int shadow_gain_range(struct shadow *s, uint64_t offset, uint64_t bytes)
{
    int r = 0;

    for (uint64_t at = offset; at < offset + bytes && r == 0; at += s->q->cluster_size) {
        r = shadow_gain(s, at);
    }
    return r;
}

int shadow_reserve(struct shadow *s, uint64_t bytes, uint64_t *offset)
{
    uint64_t clusters = div_round_up(bytes, s->q->cluster_size);
    int r = clusters > 0 ? qcow2_alloc_run(s->q, clusters, offset) : 0;

    if (r == 0 && clusters > 0) {
        r = note_run(s, *offset, clusters);
        if (r != 0) {
            qcow2_refcount_release(s->q, *offset, clusters);
        }
    }
    return r;
}

/* Single clusters, up to `want` of them. */
static int reserve_places(struct shadow *s, struct snapshot_places *places, size_t want)
{
    struct qcow2 *q = s->q;

    while (places->count < want) {
        struct qcow2_allocation got;
        int r = qcow2_alloc(q, want - places->count, QCOW2_NO_STREAM, &got);

        for (uint64_t i = 0; r == 0 && i < got.clusters; i++) {
            uint64_t offset = got.offset + i * q->cluster_size;

            r = snapshot_places_add(places, offset);
            if (r != 0) {
                qcow2_refcount_release(q, offset, got.clusters - i);
            }
        }
        r = r == 0 ? qcow2_throttle(q) : r;
        if (r != 0) {
            return r;
        }
    }
    return 0;
}

static size_t count_blocks(const struct qcow2 *q)
{
    size_t count = 0;

    for (uint64_t i = 0; i < q->reftable.count; i++) {
        count += q->reftable.entries[i] != 0;
    }
    return count;
}

static uint64_t reftable_clusters(const struct qcow2_table *table, const struct qcow2 *q)
{
    return (table->count * QCOW2_ENTRY_SIZE) >> q->cluster_bits;
}

/* Room for the refcount structures as they will be when all room is allocated, this one included: goes
 * on until allocating it changes nothing any more. */
static int reserve_refcounts(struct shadow *s)
{
    struct qcow2 *q = s->q;
    uint64_t count = 0;
    int r = 0;

    while (r == 0 && (s->blocks.count < count_blocks(q) || count != q->reftable.count)) {
        if (count != q->reftable.count) {
            count = q->reftable.count;
            r = shadow_reserve(s, count * QCOW2_ENTRY_SIZE, &s->reftable.offset);
        }
        r = r == 0 ? reserve_places(s, &s->blocks, count_blocks(q)) : r;
    }
    return r;
}

/* Copies the refcount blocks and makes the table that leads to the copies. Nothing is dirty. */
static int copy_refcounts(struct shadow *s)
{
    struct qcow2 *q = s->q;
    uint64_t count = q->reftable.count, block_offset;
    uint8_t *raw = malloc(q->cluster_size);
    int r = 0;

    s->reftable.count = count;
    s->reftable.entries = calloc(count, sizeof(s->reftable.entries[0]));
    s->reftable.dirty = calloc(div_round_up(count, QCOW2_TABLE_SECTOR_ENTRIES), 1);
    if (raw == NULL || s->reftable.entries == NULL || s->reftable.dirty == NULL) {
        r = -ENOMEM;
    }
    for (uint64_t i = 0; i < count && r == 0; i++) {
        r = qcow2_refblock_get(q, i, &block_offset);
        if (r != 0 || block_offset == 0) {
            continue;
        }
        s->reftable.entries[i] = s->blocks.offsets[s->blocks_used++];
        r = qcow2_check_overlap(q, QCOW2_WRITES_NEW, s->reftable.entries[i], q->cluster_size);
        pthread_mutex_unlock(&q->lock);
        r = r == 0 ? file_pread(q->file, block_offset, raw, q->cluster_size) : r;
        r = r == 0 ? file_pwrite(q->file, s->reftable.entries[i], raw, q->cluster_size) : r;
        pthread_mutex_lock(&q->lock);
        r = r == 0 ? gain(s, s->reftable.entries[i], qcow2_metadata_add_refblock) : r;
    }
    free(raw);
    return r;
}

static int write_reftable(struct shadow *s)
{
    uint64_t bytes = s->reftable.count * QCOW2_ENTRY_SIZE;
    uint64_t *raw = malloc(bytes);
    int r;

    if (raw == NULL) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < s->reftable.count; i++) {
        store_be64(&raw[i], s->reftable.entries[i]);
    }
    r = shadow_write(s, QCOW2_WRITES_NEW, s->reftable.offset, raw, bytes);
    free(raw);
    return r;
}

static void swap_reftables(struct shadow *s)
{
    struct qcow2_table table = s->q->reftable;

    s->q->reftable = s->reftable;
    s->reftable = table;
    s->is_begun = !s->is_begun;
}

int shadow_begin(struct shadow *s, size_t tables)
{
    struct qcow2 *q = s->q;
    int r = reserve_places(s, &s->tables, tables);

    r = r == 0 ? reserve_refcounts(s) : r;
    r = r == 0 ? qcow2_commit(q, true) : r;
    r = r == 0 ? copy_refcounts(s) : r;
    r = r == 0 ? write_reftable(s) : r;
    if (r == 0) {
        s->header.refcount_table_offset = s->reftable.offset;
        s->header.refcount_table_clusters = (uint32_t)reftable_clusters(&s->reftable, q);
        swap_reftables(s);
    }
    return r;
}

/* One reference more or less for each cluster of a run. */
static int count_references(struct shadow *s, uint64_t host_offset, uint64_t clusters, int by)
{
    struct qcow2 *q = s->q;
    uint64_t limit = qcow2_refcount_limit(q->refcount_bits);
    int r = 0;

    for (uint64_t i = 0; i < clusters && r == 0; i++) {
        uint64_t offset = host_offset + i * q->cluster_size, count;
        struct qcow2_slice *slice;
        unsigned index;

        if (s->is_undoing && s->left == 0) {
            return -ECANCELED;
        }
        r = qcow2_refcount_slice(q, offset, &slice, &index);
        if (r != 0) {
            break;
        }
        count = qcow2_refcount_load(q, slice, index);
        if (count == 0 && !(by > 0 && s->may_revive)) {
            r = qcow2_mark_corrupt(q, "cluster 0x%" PRIx64 " is in use but its refcount is 0",
                                   offset);
        } else if (by > 0 && count == limit) {
            r = -ERANGE;
        } else if (by < 0 && count == 1) {
            r = snapshot_places_add(&s->emptied, offset);
        }
        if (r == 0) {
            qcow2_refcount_store(q, slice, index, by > 0 ? count + 1 : count - 1);
            s->references++;
            s->left -= s->is_undoing;
        }
        qcow2_cache_put(slice);
    }
    return r;
}

int shadow_raise(struct shadow *s, uint64_t host_offset, uint64_t clusters)
{
    return count_references(s, host_offset, clusters, 1);
}

int shadow_expect(struct shadow *s, uint64_t host_offset, uint64_t clusters)
{
    int r = 0;

    for (uint64_t i = 0; i < clusters && r == 0; i++) {
        uint64_t offset = host_offset + i * s->q->cluster_size, count = 0;

        r = qcow2_refcount_get(s->q, offset, &count);
        if (r == 0 && count == 0) {
            r = qcow2_mark_corrupt(s->q, "cluster 0x%" PRIx64 " is in use but its refcount is 0",
                                   offset);
        }
    }
    return r;
}

int shadow_lower(struct shadow *s, uint64_t host_offset, uint64_t clusters)
{
    return count_references(s, host_offset, clusters, -1);
}

uint64_t shadow_take_table(struct shadow *s)
{
    return s->tables.offsets[s->tables_used++];
}

int shadow_write(struct shadow *s, enum qcow2_writes what, uint64_t offset, const void *raw,
                 uint64_t bytes)
{
    struct qcow2 *q = s->q;
    /* Where there is no room nothing is written that nobody reads. */
    uint64_t tail = s->in_place ? 0 : align_up(bytes, q->cluster_size) - bytes;
    uint8_t *zeroes = calloc(1, q->cluster_size);
    struct iovec iov[] = {{.iov_base = (void *)(uintptr_t)raw, .iov_len = bytes},
                          {.iov_base = zeroes, .iov_len = tail}};
    int r;

    if (zeroes == NULL) {
        return -ENOMEM;
    }
    r = qcow2_check_overlap(q, what, offset, bytes);
    pthread_mutex_unlock(&q->lock);
    r = r == 0 ? file_pwritev(q->file, offset, iov, tail > 0 ? 2 : 1) : r;
    pthread_mutex_lock(&q->lock);
    free(zeroes);
    return r;
}

int shadow_write_l1(struct shadow *s, const struct qcow2_table *l1)
{
    uint64_t bytes = l1->count * QCOW2_ENTRY_SIZE;
    uint64_t *raw = malloc(max_u64(bytes, 1));
    int r = raw == NULL ? -ENOMEM : 0;

    for (uint64_t i = 0; i < l1->count && r == 0; i++) {
        store_be64(&raw[i], l1->entries[i]);
    }
    r = r == 0 && bytes > 0 ? shadow_write(s, QCOW2_WRITES_NEW, l1->offset, raw, bytes) : r;
    free(raw);
    return r;
}

/* Clusters without a reference get one back, for the way through free.c. Those whose refcount went up
 * again leave the list. */
static int keep_emptied(struct shadow *s)
{
    size_t kept = 0;

    for (size_t i = 0; i < s->emptied.count; i++) {
        uint64_t offset = s->emptied.offsets[i];
        struct qcow2_slice *slice;
        unsigned index;
        int r = qcow2_refcount_slice(s->q, offset, &slice, &index);

        if (r != 0) {
            return r;
        }
        if (qcow2_refcount_load(s->q, slice, index) == 0) {
            qcow2_refcount_store(s->q, slice, index, 1);
            s->emptied.offsets[kept++] = offset;
        }
        qcow2_cache_put(slice);
    }
    s->emptied.count = kept;
    return 0;
}

int shadow_settle(struct shadow *s)
{
    int r = keep_emptied(s);

    s->is_kept = r == 0;
    s->is_final = s->is_final || r != 0; /* some are, some are not */
    return r == 0 ? qcow2_commit(s->q, true) : r;
}

int shadow_publish(struct shadow *s)
{
    struct qcow2 *q = s->q;
    int r = shadow_settle(s);

    if (r != 0) {
        return r;
    }
    pthread_mutex_unlock(&q->lock);
    r = qcow2_header_write_tables(q, &s->header);
    /* When it fails, which state the header on disk names is not known. */
    r = r != 0 ? qcow2_break(q, r) : qcow2_sync(q);
    pthread_mutex_lock(&q->lock);
    return r;
}

/* The refcount blocks of a table that counts no more. */
static void drop_blocks(struct qcow2 *q, const struct qcow2_table *table, bool free_them)
{
    for (uint64_t i = 0; i < table->count && table->entries != NULL; i++) {
        uint64_t offset = table->entries[i];

        if (offset == 0) {
            continue;
        }
        qcow2_cache_forget(q, offset, q->cluster_size);
        if (free_them) {
            qcow2_metadata_remove(q, offset);
            qcow2_free_later(q, offset, 1);
        }
    }
}

/* Nothing led there yet. What was written is given back to the file system, which may be full. */
static void release(struct qcow2 *q, uint64_t offset, uint64_t clusters)
{
    if (qcow2_check_overlap(q, QCOW2_WRITES_DATA, offset, clusters * q->cluster_size) != 0) {
        return;
    }
    pthread_mutex_unlock(&q->lock);
    q->file->ops->zero(q->file, offset, clusters * q->cluster_size, true);
    pthread_mutex_lock(&q->lock);
    qcow2_refcount_release(q, offset, clusters);
}

/* Places that were reserved and not used. */
static void release_places(struct qcow2 *q, const struct snapshot_places *places, size_t from)
{
    for (size_t i = from; i < places->count; i++) {
        release(q, places->offsets[i], 1);
    }
}

/* The refcount table may have had to be reserved more than once: only the last place is used. */
static void release_runs(struct qcow2 *q, struct shadow *s, bool is_done)
{
    for (size_t i = 0; i < s->runs.count; i++) {
        const struct qcow2_run *run = &s->runs.runs[i];

        if (!is_done || !qcow2_is_metadata(q, run->offset)) {
            release(q, run->offset, run->clusters);
        }
    }
}

static void end_done(struct shadow *s)
{
    struct qcow2 *q = s->q;

    if (!s->in_place) {
        drop_blocks(q, &s->reftable, true);
        qcow2_free_later(q, s->reftable.offset, reftable_clusters(&s->reftable, q));
    }
    for (size_t i = 0; i < s->emptied.count; i++) {
        qcow2_free_later(q, s->emptied.offsets[i], 1);
    }
    release_places(q, &s->blocks, s->blocks_used);
    release_places(q, &s->tables, s->tables_used);
    release_runs(q, s, true);
    q->free_changes++;
}

static void end_undone(struct shadow *s)
{
    struct qcow2 *q = s->q;

    if (s->is_begun) {
        swap_reftables(s);
    }
    if (s->in_place) {
        snapshot_undo_in_place(s);
    }
    drop_blocks(q, &s->reftable, false);
    for (size_t i = 0; i < s->gained.count; i++) {
        qcow2_metadata_remove(q, s->gained.offsets[i]);
    }
    /* What a header of unknown state may lead to is leaked. */
    if (qcow2_refuse_if_broken(q) == 0) {
        release_places(q, &s->blocks, 0);
        release_places(q, &s->tables, 0);
        release_runs(q, s, false);
    }
}

void shadow_end(struct shadow *s, bool is_done)
{
    if (is_done) {
        end_done(s);
    } else {
        end_undone(s);
    }
    qcow2_table_free(&s->reftable);
    qcow2_table_free(&s->l1);
    free(s->blocks.offsets);
    free(s->tables.offsets);
    free(s->emptied.offsets);
    free(s->gained.offsets);
    qcow2_runs_free(&s->runs);
}
