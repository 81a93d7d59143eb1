/*
 * l2.c - L2 tables that are about to change. One that snapshots use too (no COPIED flag in the L1
 * table) is copied first.
 *
 * A new table is zeroed on disk, or lies where the file reads as zeros, before the L1 entry names
 * it even in memory: so an L1 entry that reaches the disk early leads to an empty table, never to
 * garbage.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

uint64_t qcow2_slice_end(const struct qcow2 *q, uint64_t guest_offset)
{
    uint64_t span = UINT64_C(1) << (q->cluster_bits + q->slice_bits - q->l2_entry_bits);

    return align_down(guest_offset, span) + span;
}

static int make_table(struct qcow2 *q, uint64_t l1_index)
{
    struct qcow2_allocation table;
    int r = qcow2_alloc(q, 1, QCOW2_NO_STREAM, &table);

    if (r == 0 && !table.is_fresh) {
        r = qcow2_zero_cluster(q, table.offset);
        if (r != 0) {
            qcow2_refcount_release(q, table.offset, 1);
        }
    }
    if (r != 0) {
        return r;
    }
    /* The lock was dropped: somebody else may have made the table for another cluster of it. */
    if (q->l1.entries[l1_index] != 0) {
        return qcow2_refcount_release(q, table.offset, 1);
    }
    r = qcow2_metadata_add(q, table.offset);
    if (r != 0) {
        qcow2_refcount_release(q, table.offset, 1);
        return r;
    }
    qcow2_table_set(&q->l1, l1_index, table.offset | QCOW2_ENTRY_COPIED);
    qcow2_entry_leads_to(q, table.offset, q->cluster_size, table.is_fresh, true);
    return 0;
}

/* Reads a whole table through the cache, and takes the COPIED flags out of it. */
static int read_shared_table(struct qcow2 *q, uint64_t l2_offset, uint8_t *raw)
{
    uint64_t slice_bytes = UINT64_C(1) << q->slice_bits;

    for (uint64_t at = 0; at < q->cluster_size; at += slice_bytes) {
        struct qcow2_slice *slice;
        int r = qcow2_cache_get(q, QCOW2_SLICE_L2, l2_offset + at, &slice);

        if (r != 0) {
            return r;
        }
        memcpy(raw + at, slice->data, slice_bytes);
        qcow2_cache_put(slice);
    }
    for (uint64_t at = 0; at < q->cluster_size; at += UINT64_C(1) << q->l2_entry_bits) {
        store_be64(raw + at, load_be64(raw + at) & ~QCOW2_ENTRY_COPIED);
    }
    return 0;
}

/* Gives the active L1 table a copy of its own of a table that snapshots use as well. What the entries
 * lead to has a reference for each L1 table that leads there, so nothing changes for it. The copy is on
 * disk before the L1 entry leads to it even in memory, and stable before that reaches the disk; the
 * old table's reference goes the way of every freed cluster. */
static int copy_table(struct qcow2 *q, uint64_t l1_index, uint64_t l2_offset)
{
    uint64_t entry = q->l1.entries[l1_index];
    uint8_t *raw = malloc(q->cluster_size);
    struct qcow2_allocation table;
    int r = raw != NULL ? qcow2_alloc(q, 1, QCOW2_NO_STREAM, &table) : -ENOMEM;

    if (r != 0) {
        free(raw);
        return r;
    }
    r = read_shared_table(q, l2_offset, raw);
    r = r == 0 ? qcow2_check_overlap(q, QCOW2_WRITES_NEW, table.offset, q->cluster_size) : r;
    if (r == 0) {
        pthread_mutex_unlock(&q->lock);
        r = file_pwrite(q->file, table.offset, raw, q->cluster_size);
        pthread_mutex_lock(&q->lock);
    }
    free(raw);
    /* The lock was dropped: somebody else may have made a copy for another cluster of it. */
    if (r == 0 && q->l1.entries[l1_index] == entry) {
        r = qcow2_metadata_add(q, table.offset);
        if (r == 0) {
            qcow2_table_set(&q->l1, l1_index, table.offset | QCOW2_ENTRY_COPIED);
            q->needs_barrier = true;
            qcow2_metadata_remove(q, l2_offset);
            qcow2_free_later(q, l2_offset, 1);
            return 0;
        }
    }
    qcow2_refcount_release(q, table.offset, 1);
    return r;
}

/* Makes a table without the COPIED flag ours alone. May drop the lock; 0 too when somebody else was
 * at it: look again. */
static int own_table(struct qcow2 *q, uint64_t l1_index, uint64_t l2_offset)
{
    uint64_t entry = q->l1.entries[l1_index], count = 0;
    int r = qcow2_refcount_get(q, l2_offset, &count);

    if (r != 0 || q->l1.entries[l1_index] != entry) {
        return r;
    }
    if (count == 0) {
        return qcow2_mark_corrupt(q, "L2 table at 0x%" PRIx64 " has refcount 0", l2_offset);
    }
    if (count > 1) {
        return copy_table(q, l1_index, l2_offset);
    }
    qcow2_table_set(&q->l1, l1_index, entry | QCOW2_ENTRY_COPIED);
    return 0;
}

int qcow2_l2_get_writable(struct qcow2 *q, uint64_t guest_offset, struct qcow2_slice **slice,
                          unsigned *index)
{
    uint64_t l1_index = guest_offset >> (q->cluster_bits + q->l2_bits);
    uint64_t l2_offset = 0;
    int r;

    for (;;) {
        r = qcow2_l1_get(q, guest_offset, &l2_offset);
        if (r != 0 || (q->l1.entries[l1_index] & QCOW2_ENTRY_COPIED) != 0) {
            break;
        }
        r = l2_offset == 0 ? make_table(q, l1_index) : own_table(q, l1_index, l2_offset);
        if (r != 0) {
            break;
        }
    }
    return r != 0 ? r : qcow2_l2_get(q, guest_offset, l2_offset, slice, index);
}
