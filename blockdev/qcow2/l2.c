/*
 * l2.c - L2 tables that are about to change.
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

uint64_t qcow2_slice_end(const struct qcow2 *q, uint64_t guest_offset)
{
    uint64_t span = UINT64_C(1) << (q->cluster_bits + q->slice_bits - 3);

    return align_down(guest_offset, span) + span;
}

static int make_table(struct qcow2 *q, uint64_t l1_index)
{
    struct qcow2_allocation table;
    int r = qcow2_alloc(q, 1, &table);

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
    q->needs_barrier = true;
    return 0;
}

/* A table without the COPIED flag may be shared with a snapshot; the images that we write have
 * none, so it must be ours all the same. */
static int own_table(struct qcow2 *q, uint64_t l1_index, uint64_t l2_offset)
{
    uint64_t count = 0;
    int r = qcow2_refcount_get(q, l2_offset, &count);

    if (r == 0 && count != 1) {
        r = qcow2_mark_corrupt(q, "L2 table at 0x%" PRIx64 " has refcount %" PRIu64, l2_offset,
                               count);
    }
    if (r == 0) {
        qcow2_table_set(&q->l1, l1_index, q->l1.entries[l1_index] | QCOW2_ENTRY_COPIED);
    }
    return r;
}

int qcow2_l2_get_writable(struct qcow2 *q, uint64_t guest_offset, struct qcow2_slice **slice,
                          unsigned *index)
{
    uint64_t l1_index = guest_offset >> (q->cluster_bits + q->l2_bits);
    uint64_t l2_offset = 0;
    int r = qcow2_l1_get(q, guest_offset, &l2_offset);

    if (r == 0 && l2_offset == 0) {
        r = make_table(q, l1_index);
        if (r == 0) {
            r = qcow2_l1_get(q, guest_offset, &l2_offset);
        }
    }
    if (r == 0 && (q->l1.entries[l1_index] & QCOW2_ENTRY_COPIED) == 0) {
        r = own_table(q, l1_index, l2_offset);
    }
    return r != 0 ? r : qcow2_l2_get(q, guest_offset, l2_offset, slice, index);
}

void qcow2_l2_set(struct qcow2 *q, struct qcow2_slice *slice, unsigned index, uint64_t entry)
{
    store_be64(slice->data + (size_t)index * QCOW2_ENTRY_SIZE, entry);
    qcow2_cache_mark_dirty(q, slice);
}
