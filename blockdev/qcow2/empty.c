/*
 * empty.c - gives all clusters of a layer back, so that it reads as its backing file; or those behind
 * an offset, for a device that has become smaller.
 *
 * Each L1 entry is cleared in memory, and its L2 table and what that leads to are given up the way
 * every cluster is (free.c): the committer makes the cleared entries stable first. A crash on the
 * way leaves whole tables, each either there or gone, and at worst leaked clusters. In the end refcount
 * blocks that count nothing but themselves go too, and the file is cut behind the last cluster in use.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>

/* Looks at the entries of one slice, and with `give_up` gives up what they lead to. */
static int walk_slice(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset, bool give_up)
{
    unsigned entries = qcow2_l2_entries_per_slice(q), index;
    struct qcow2_slice *slice;
    int r = qcow2_l2_get(q, guest_offset, l2_offset, &slice, &index);

    if (r != 0) {
        return r;
    }
    for (unsigned i = 0; i < entries && r == 0; i++) {
        struct qcow2_cluster cluster;

        r = qcow2_l2_decode(q, slice, i, &cluster);
        if (r == 0 && give_up) {
            qcow2_give_up(q, &cluster);
        }
    }
    qcow2_cache_put(slice);
    return r;
}

static int walk_table(struct qcow2 *q, uint64_t l1_index, bool give_up)
{
    uint64_t start = l1_index << (q->cluster_bits + q->l2_bits);
    uint64_t end = start + (q->cluster_size << q->l2_bits), l2_offset = 0;
    int r = qcow2_l1_get(q, start, &l2_offset);

    if (r != 0 || l2_offset == 0) {
        return r;
    }
    for (uint64_t at = start; at < end && r == 0; at = qcow2_slice_end(q, at)) {
        r = walk_slice(q, at, l2_offset, give_up);
    }
    if (r != 0 || !give_up) {
        return r;
    }
    qcow2_table_set(&q->l1, l1_index, 0);
    q->redo.is_incomplete = true;
    qcow2_cache_forget(q, l2_offset, q->cluster_size);
    qcow2_metadata_remove(q, l2_offset);
    qcow2_free_later(q, l2_offset, 1);
    return qcow2_throttle(q);
}

/* Clears the entries of [start, end), which share a table. */
static int clear_entries(struct qcow2 *q, uint64_t start, uint64_t end)
{
    static const struct qcow2_cluster nothing;
    uint64_t l2_offset = 0;
    int r = qcow2_l1_get(q, start, &l2_offset);

    for (uint64_t at = start, next; r == 0 && l2_offset != 0 && at < end; at = next) {
        struct qcow2_cluster old;
        struct qcow2_slice *slice;
        unsigned index;

        next = min_u64(end, qcow2_slice_end(q, at));
        r = qcow2_l2_get_writable(q, at, &slice, &index);
        if (r != 0) {
            break;
        }
        for (uint64_t i = 0; i < (next - at) >> q->cluster_bits && r == 0; i++) {
            r = qcow2_l2_decode(q, slice, index + (unsigned)i, &old);
            if (r == 0) {
                qcow2_l2_set(q, slice, index + (unsigned)i, at + (i << q->cluster_bits), &nothing);
                qcow2_give_up(q, &old);
            }
        }
        qcow2_cache_put(slice);
        r = r == 0 ? qcow2_throttle(q) : r;
    }
    return r;
}

int qcow2_drop_tail(struct qcow2 *q, uint64_t from)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t first = div_round_up(from, UINT64_C(1) << shift);
    int r = clear_entries(q, from, first << shift);

    for (uint64_t i = first; i < q->l1.count && r == 0; i++) {
        r = walk_table(q, i, true);
    }
    return r;
}

/* The end of the last cluster that holds metadata, whatever its refcount says. */
static uint64_t metadata_end(const struct qcow2 *q)
{
    uint64_t end = max_u64(q->l1.offset + q->l1.count * QCOW2_ENTRY_SIZE,
                           q->reftable.offset + q->reftable.count * QCOW2_ENTRY_SIZE);

    end = max_u64(end, q->header.luks_offset + q->header.luks_length);
    for (uint64_t i = 0; i < q->metadata_room; i++) {
        if (q->metadata[i].cluster != 0) {
            end = max_u64(end, q->metadata[i].cluster + q->cluster_size);
        }
    }
    return min_u64(align_up(end, q->cluster_size), q->file_end);
}

/* The end of the last cluster with a refcount, or with metadata. Ranges without a refcount block are
 * passed over as a whole: a sparse file may be huge. */
static int find_end(struct qcow2 *q, uint64_t *end)
{
    uint64_t lowest = metadata_end(q) >> q->cluster_bits, count = 0;
    uint64_t covered = max_u64(lowest, q->reftable.count << q->refblock_bits);
    uint64_t cluster = min_u64(q->file_end >> q->cluster_bits, covered);
    int r = 0;

    while (cluster > lowest && r == 0) {
        uint64_t block = (cluster - 1) >> q->refblock_bits, block_offset;

        r = qcow2_refblock_get(q, block, &block_offset);
        if (r == 0 && block_offset == 0) {
            cluster = max_u64(lowest, block << q->refblock_bits);
            continue;
        }
        r = r == 0 ? qcow2_refcount_get(q, (cluster - 1) << q->cluster_bits, &count) : r;
        if (count != 0) {
            break;
        }
        cluster--;
    }
    *end = cluster << q->cluster_bits;
    return r;
}

/* Whether a refcount block counts itself and nothing else. One that lies elsewhere, or is two things at
 * once, stays. */
static int is_block_empty(struct qcow2 *q, uint64_t block, uint64_t offset, bool *is_empty)
{
    uint64_t first = block << q->refblock_bits, own = offset >> q->cluster_bits;
    uint64_t count = UINT64_C(1) << q->refblock_bits, step = qcow2_refcounts_per_slice(q);
    int r = 0;

    *is_empty = own >= first && own - first < count &&
                qcow2_metadata_kind_of(q, offset) == QCOW2_REFCOUNT_BLOCK;
    for (uint64_t at = first; at < first + count && *is_empty && r == 0; at += step) {
        struct qcow2_slice *slice;
        unsigned index;

        r = qcow2_refblock_slice(q, offset, at, &slice, &index);
        for (unsigned i = 0; r == 0 && i < step && *is_empty; i++) {
            *is_empty = qcow2_refcount_load(q, slice, i) == (at + i == own);
        }
        if (r == 0) {
            qcow2_cache_put(slice);
        }
    }
    return r;
}

/* A refcount block that is no longer in the table. */
struct gone {
    uint64_t offset, block;
};

/* Takes empty blocks out of the table from *block on, as many as the arrays hold. */
static int unlink_blocks(struct qcow2 *q, uint64_t *block, struct gone *gone, unsigned room,
                         unsigned *count)
{
    int r = 0;

    for (; *block < q->reftable.count && *count < room && r == 0; ++*block) {
        uint64_t offset = 0;
        bool is_empty = false;

        r = qcow2_refblock_get(q, *block, &offset);
        if (r == 0 && offset != 0) {
            r = is_block_empty(q, *block, offset, &is_empty);
        }
        if (r == 0 && is_empty) {
            qcow2_table_set(&q->reftable, *block, 0);
            qcow2_cache_forget(q, offset, q->cluster_size);
            qcow2_metadata_remove(q, offset);
            gone[(*count)++] = (struct gone){.offset = offset, .block = *block};
        }
    }
    return r;
}

/*
 * Drops refcount blocks that count nothing but themselves. What they say is stable, so with or without
 * one in the table on disk its range is free; but until the table says so nothing else may come to lie
 * where the block is: when the commit fails they are put back.
 */
static int drop_empty_blocks(struct qcow2 *q)
{
    enum { BATCH = 256 };
    struct gone gone[BATCH];
    bool was_lazy = q->is_lazy;
    uint64_t block = 0;
    int r;

    q->is_lazy = false;
    r = was_lazy ? qcow2_commit(q, true) : 0;
    while (block < q->reftable.count && r == 0) {
        unsigned count = 0;

        r = unlink_blocks(q, &block, gone, BATCH, &count);
        r = r == 0 && count > 0 ? qcow2_commit(q, true) : r;
        for (unsigned i = 0; i < count && r != 0; i++) {
            if (qcow2_metadata_add_refblock(q, gone[i].offset) == 0) {
                qcow2_table_set(&q->reftable, gone[i].block, gone[i].offset);
            }
        }
    }
    q->is_lazy = was_lazy;
    return r;
}

int qcow2_give_space_back(struct qcow2 *q)
{
    uint64_t end;
    /* The first makes the cleared entries stable, the second the lowered refcounts. */
    int r = qcow2_commit(q, true);

    r = r == 0 ? qcow2_commit(q, true) : r;
    r = r == 0 ? drop_empty_blocks(q) : r;
    r = r == 0 ? find_end(q, &end) : r;

    if (r == 0) {
        r = q->file->ops->truncate(q->file, end);
        if (r == -ENOTSUP) {
            return 0; /* a part of another file keeps its size, and what is free in it */
        }
    }
    if (r == 0) {
        q->file_size = end;
        q->file_end = end;
        q->never_written = end;
        q->stable_size = min_u64(q->stable_size, end);
    }
    return r;
}

int qcow2_make_empty(struct blk *blk, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_refuse_if_broken(q);
    /* What cannot be given up is refused before anything is. */
    for (uint64_t i = 0; i < q->l1.count && r == 0; i++) {
        r = walk_table(q, i, false);
    }
    for (uint64_t i = 0; i < q->l1.count && r == 0; i++) {
        r = walk_table(q, i, true);
    }
    r = r == 0 ? qcow2_give_space_back(q) : r;
    pthread_mutex_unlock(&q->lock);
    if (r == 0 && qcow2_has_data_file(q)) {
        r = qcow2_data_zero(q, 0, blk->length, true);
    }
    return r != 0 ? err_set_errno(err, r, "Could not empty '%s'", blk->path) : 0;
}
