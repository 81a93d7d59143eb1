/*
 * grow.c - new refcount blocks, and a larger refcount table.
 *
 * Both describe themselves: a new block lies in the range whose refcounts it holds, and the
 * clusters of a new table are counted in new blocks right in front of it. One thread at a time does
 * either
 * (`growing`); the others wait, and look again.
 *
 * A block is zeroed (or known to read as zeros) and its own refcount is set in the cache before the
 * table's entry is set in memory; that the one is stable before the other reaches the disk is the
 * committer's business.
 *
 * A long run (an L1 table) for which there is no room in what is counted is laid out like a larger
 * table, but in the cache: at the beginning of a range that has no block yet, first the blocks that
 * count it, then the run.
 *
 * A larger table is written at once, as the committer would not know which of two tables to write
 * to: after a commit, so that the old one is complete on disk, and in the committer's role, so that
 * nobody writes to it meanwhile. New blocks and table, sync, the header's offset and size in one
 * write, sync, and only then are the old table's clusters given back.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Waits for whoever grows; true if there was somebody. */
static bool wait_for_growth(struct qcow2 *q)
{
    bool waited = false;

    while (q->growing) {
        pthread_cond_wait(&q->changed, &q->lock);
        waited = true;
    }
    return waited;
}

static void end_growth(struct qcow2 *q)
{
    q->growing = false;
    pthread_cond_broadcast(&q->changed);
}

/* Puts the refcount of the new block at `offset` into its own, new slice. */
static int count_refblock(struct qcow2 *q, uint64_t offset)
{
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_refblock_slice(q, offset, offset >> q->cluster_bits, &slice, &index);

    if (r == 0) {
        qcow2_refcount_store(q, slice, index, 1);
        qcow2_cache_put(slice);
    }
    return r;
}

/* What the range of a missing block holds below file_end is free by the format's rules, but a block
 * is better put where nothing ever was. */
static uint64_t place_refblock(const struct qcow2 *q, uint64_t block)
{
    uint64_t first = block << q->refblock_bits;
    uint64_t last = first + (UINT64_C(1) << q->refblock_bits) - 1;
    uint64_t end = q->file_end >> q->cluster_bits;

    uint64_t place = end > first && end <= last ? end : first;

    while (qcow2_redo_log_wants(q, place << q->cluster_bits)) {
        place++;
    }
    return place << q->cluster_bits;
}

static int reserve(struct qcow2 *q, uint64_t end)
{
    if (end > q->file_size) {
        int r = q->file->ops->truncate(q->file, end);

        if (r != 0) {
            return r;
        }
        q->file_size = end;
    }
    q->file_end = max_u64(q->file_end, end);
    q->never_written = max_u64(q->never_written, end);
    return 0;
}

static int make_refblock(struct qcow2 *q, uint64_t block, uint64_t offset)
{
    bool is_fresh = offset >= q->never_written;
    int r = qcow2_check_overlap(q, QCOW2_WRITES_NEW, offset, q->cluster_size);

    r = r == 0 ? reserve(q, offset + q->cluster_size) : r;
    if (r == 0 && !is_fresh) {
        r = qcow2_zero_cluster(q, offset);
    }
    if (r == 0) {
        r = qcow2_metadata_add_refblock(q, offset);
    }
    if (r == 0) {
        r = count_refblock(q, offset);
        if (r != 0) {
            qcow2_metadata_remove(q, offset);
        }
    }
    if (r == 0) {
        qcow2_table_set(&q->reftable, block, offset);
    }
    return r;
}

int qcow2_add_refblock(struct qcow2 *q, uint64_t block)
{
    uint64_t place;
    int r;

    if (wait_for_growth(q)) {
        return 0;
    }
    place = place_refblock(q, block);
    if (place >> (q->cluster_bits + q->refblock_bits) != block) {
        return -EINVAL; /* a redo log that wants each cluster of the range */
    }
    q->growing = true;
    r = make_refblock(q, block, place);
    end_growth(q);
    return r;
}

/* Where a larger table goes: `blocks` refcount blocks from cluster `start` on, then the table. */
struct layout {
    uint64_t start, blocks, table_clusters;
};

static int plan_table(const struct qcow2 *q, uint64_t block, struct layout *plan)
{
    uint64_t per_cluster = q->cluster_size / QCOW2_ENTRY_SIZE;
    uint64_t end;

    plan->start = max_u64(q->reftable.count << q->refblock_bits, q->file_end >> q->cluster_bits);
    plan->blocks = 1;
    plan->table_clusters = div_round_up(q->reftable.count * 3 / 2, per_cluster);
    for (;;) {
        uint64_t first = plan->start >> q->refblock_bits, last, entries;

        end = plan->start + plan->blocks + plan->table_clusters;
        last = (end - 1) >> q->refblock_bits;
        entries = max_u64(last, block) + 1;
        if (entries > QCOW2_MAX_REFCOUNT_TABLE_BYTES / QCOW2_ENTRY_SIZE) {
            return -EFBIG;
        }
        if (last - first + 1 == plan->blocks && entries <= plan->table_clusters * per_cluster) {
            return 0;
        }
        plan->blocks = last - first + 1;
        plan->table_clusters = max_u64(plan->table_clusters, div_round_up(entries, per_cluster));
    }
}

/* Fills the new table's entries and the image of the new blocks and table, as they go to disk. */
static void fill_table(const struct qcow2 *q, const struct layout *plan, uint64_t *entries,
                       uint8_t *raw)
{
    uint64_t count = (plan->table_clusters * q->cluster_size) / QCOW2_ENTRY_SIZE;
    uint64_t first = plan->start >> q->refblock_bits;
    uint64_t base = first << q->refblock_bits;
    uint8_t *table = raw + plan->blocks * q->cluster_size;

    memcpy(entries, q->reftable.entries, q->reftable.count * sizeof(entries[0]));
    for (uint64_t b = 0; b < plan->blocks; b++) {
        entries[first + b] = (plan->start + b) << q->cluster_bits;
    }
    for (uint64_t c = plan->start; c < plan->start + plan->blocks + plan->table_clusters; c++) {
        qcow2_refcount_encode(raw, q->refcount_bits, c - base, 1);
    }
    for (uint64_t i = 0; i < count; i++) {
        store_be64(table + i * QCOW2_ENTRY_SIZE, entries[i]);
    }
}

/* Without the lock. */
static int write_table(struct qcow2 *q, const struct layout *plan, const uint8_t *raw)
{
    uint64_t offset = plan->start << q->cluster_bits;
    uint64_t bytes = (plan->blocks + plan->table_clusters) * q->cluster_size;
    int r = file_pwrite(q->file, offset, raw, bytes);

    return r != 0 ? r : qcow2_sync(q);
}

/* Without the lock. When it fails, which of the two tables the header on disk names is not known.
 */
static int publish_table(struct qcow2 *q, const struct layout *plan)
{
    int r = qcow2_header_write_reftable(q, (plan->start + plan->blocks) << q->cluster_bits,
                                        (uint32_t)plan->table_clusters);

    return r != 0 ? qcow2_break(q, r) : qcow2_sync(q);
}

static void forget_blocks(struct qcow2 *q, const struct layout *plan)
{
    for (uint64_t b = 0; b < plan->blocks; b++) {
        qcow2_metadata_remove(q, (plan->start + b) << q->cluster_bits);
    }
}

static int switch_table(struct qcow2 *q, const struct layout *plan, struct qcow2_table *table,
                        uint8_t *raw)
{
    uint64_t start = plan->start << q->cluster_bits;
    uint64_t end = (plan->start + plan->blocks + plan->table_clusters) << q->cluster_bits;
    struct qcow2_table old = q->reftable;
    int r = qcow2_check_overlap(q, QCOW2_WRITES_NEW, start, end - start);

    if (r != 0) {
        return r;
    }
    fill_table(q, plan, table->entries, raw);
    table->offset = (plan->start + plan->blocks) << q->cluster_bits;
    r = reserve(q, end);
    for (uint64_t b = 0; b < plan->blocks && r == 0; b++) {
        r = qcow2_metadata_add_refblock(q, (plan->start + b) << q->cluster_bits);
    }
    pthread_mutex_unlock(&q->lock);
    r = r == 0 ? write_table(q, plan, raw) : r;
    r = r == 0 ? publish_table(q, plan) : r;
    pthread_mutex_lock(&q->lock);
    if (r != 0) {
        forget_blocks(q, plan);
        return r;
    }
    q->reftable = *table;
    qcow2_lookaside_clear(q);
    *table = old;
    q->free_changes++;
    return 0;
}

static int grow(struct qcow2 *q, uint64_t block)
{
    struct qcow2_table table = {0};
    struct layout plan;
    uint64_t bytes;
    uint8_t *raw;
    int r = qcow2_commit(q, true);

    if (r == 0) {
        r = plan_table(q, block, &plan);
    }
    if (r != 0) {
        return r;
    }
    bytes = plan.table_clusters * q->cluster_size;
    table.count = bytes / QCOW2_ENTRY_SIZE;
    table.entries = calloc(table.count, sizeof(table.entries[0]));
    table.dirty = calloc(div_round_up(table.count, QCOW2_TABLE_SECTOR_ENTRIES), 1);
    raw = calloc(plan.blocks + plan.table_clusters, q->cluster_size);
    if (table.entries != NULL && table.dirty != NULL && raw != NULL) {
        qcow2_commit_begin(q);
        r = switch_table(q, &plan, &table, raw);
        qcow2_commit_end(q);
    } else {
        r = -ENOMEM;
    }
    free(raw);
    if (r == 0) {
        /* The header that names the new table is stable. */
        r = qcow2_refcount_release(q, table.offset,
                                   div_round_up(table.count * QCOW2_ENTRY_SIZE, q->cluster_size));
    }
    qcow2_table_free(&table);
    return r;
}

int qcow2_grow_reftable(struct qcow2 *q, uint64_t block)
{
    int r;

    if (wait_for_growth(q)) {
        return 0;
    }
    q->growing = true;
    r = grow(q, block);
    end_growth(q);
    return r;
}

/* The refcounts of [first, first + count) become 1. */
static int count_clusters(struct qcow2 *q, uint64_t first, uint64_t count)
{
    for (uint64_t c = first; c < first + count; c++) {
        struct qcow2_slice *slice;
        unsigned index;
        int r = qcow2_refcount_slice(q, c << q->cluster_bits, &slice, &index);

        if (r != 0) {
            return r;
        }
        qcow2_refcount_store(q, slice, index, 1);
        qcow2_cache_put(slice);
    }
    return 0;
}

/* Where [blocks][run] goes: behind everything, in ranges that have no block yet. */
static int plan_run(struct qcow2 *q, uint64_t clusters, uint64_t *start, uint64_t *blocks)
{
    uint64_t per_block = UINT64_C(1) << q->refblock_bits;

    /* Each block counts itself and per_block - 1 clusters more. */
    *blocks = div_round_up(clusters, per_block - 1);
    for (;;) {
        uint64_t first = div_round_up(q->file_end >> q->cluster_bits, per_block);
        int r;

        while (first < q->reftable.count && q->reftable.entries[first] != 0) {
            first++;
        }
        *start = first * per_block;
        if (first + *blocks <= q->reftable.count) {
            return 0;
        }
        /* It may put its own blocks where we wanted to go: look again. */
        r = qcow2_grow_reftable(q, first + *blocks);
        if (r != 0) {
            return r;
        }
    }
}

/* The new blocks' own refcounts, in those blocks, before the table names any of them. */
static int count_new_blocks(struct qcow2 *q, uint64_t start, uint64_t blocks)
{
    uint64_t first = start >> q->refblock_bits;
    int r = 0;

    for (uint64_t c = start; c < start + blocks && r == 0; c++) {
        uint64_t block = start + (c >> q->refblock_bits) - first;
        struct qcow2_slice *slice;
        unsigned index;

        r = qcow2_refblock_slice(q, block << q->cluster_bits, c, &slice, &index);
        if (r == 0) {
            qcow2_refcount_store(q, slice, index, 1);
            qcow2_cache_put(slice);
        }
    }
    if (r != 0) {
        qcow2_cache_forget(q, start << q->cluster_bits, blocks << q->cluster_bits);
    }
    return r;
}

static int alloc_long_run(struct qcow2 *q, uint64_t clusters, uint64_t *offset)
{
    uint64_t start, blocks, i;
    int r = plan_run(q, clusters, &start, &blocks);

    if (r == 0) {
        r = qcow2_check_overlap(q, QCOW2_WRITES_NEW, start << q->cluster_bits,
                                (blocks + clusters) << q->cluster_bits);
    }
    if (r == 0) {
        r = reserve(q, (start + blocks + clusters) << q->cluster_bits);
    }
    for (i = 0; i < blocks && r == 0; i++) {
        r = qcow2_zero_cluster(q, (start + i) << q->cluster_bits);
        r = r == 0 ? qcow2_metadata_add_refblock(q, (start + i) << q->cluster_bits) : r;
    }
    r = r == 0 ? count_new_blocks(q, start, blocks) : r;
    if (r != 0) {
        return r;
    }
    for (i = 0; i < blocks; i++) {
        qcow2_table_set(&q->reftable, (start >> q->refblock_bits) + i,
                        (start + i) << q->cluster_bits);
    }
    r = count_clusters(q, start + blocks, clusters);
    if (r == 0) {
        *offset = (start + blocks) << q->cluster_bits;
    }
    return r;
}

/* Shorter runs are held until the end, so that each attempt looks behind them: behind the last cluster in use
 * there is room more often than not. What does not fit into a slice is never found so. */
int qcow2_alloc_run(struct qcow2 *q, uint64_t clusters, uint64_t *offset)
{
    enum { MAX_SHORT = 32 };
    struct qcow2_allocation got = {0}, too_short[MAX_SHORT];
    bool is_found = false;
    unsigned count = 0;
    int r = 0;

    do {
        r = qcow2_alloc(q, clusters, QCOW2_NO_STREAM, &got);
        is_found = r == 0 && got.clusters == clusters;
        if (r == 0 && !is_found) {
            too_short[count++] = got;
        }
    } while (r == 0 && !is_found && count < MAX_SHORT && clusters <= qcow2_refcounts_per_slice(q));
    while (count > 0) {
        int released;

        count--;
        released = qcow2_refcount_release(q, too_short[count].offset, too_short[count].clusters);
        r = r == 0 ? released : r;
    }
    if (r == 0 && !is_found) {
        return alloc_long_run(q, clusters, offset);
    }
    /* Of a failure a run that was too short may be left there, and is given back. */
    *offset = r == 0 ? got.offset : 0;
    return r;
}
