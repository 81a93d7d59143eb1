/*
 * empty.c - gives all clusters of a layer back, so that it reads as its backing file.
 *
 * Each L1 entry is cleared in memory, and its L2 table and what that leads to are given up the way
 * every cluster is (free.c): the committer makes the cleared entries stable first. A crash on the
 * way leaves whole tables, each either there or gone, and at worst leaked clusters. In the end the
 * file is cut behind the last cluster in use.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

/* Looks at the entries of one slice, and with `give_up` gives up what they lead to. */
static int walk_slice(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset, bool give_up)
{
    unsigned entries = 1U << (q->slice_bits - 3), index;
    struct qcow2_slice *slice;
    int r = qcow2_l2_get(q, guest_offset, l2_offset, &slice, &index);

    if (r != 0) {
        return r;
    }
    for (unsigned i = 0; i < entries && r == 0; i++) {
        struct qcow2_cluster cluster;

        r = qcow2_l2_decode(q, slice, i, &cluster);
        if (r == 0 && cluster.kind == BLK_EXTENT_COMPRESSED) {
            r = blk_note_problem(q->blk, -ENOTSUP, "compressed clusters are not supported");
        } else if (r == 0 && give_up && cluster.host_offset != 0) {
            qcow2_free_later(q, cluster.host_offset, 1);
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
    qcow2_cache_forget(q, l2_offset, q->cluster_size);
    qcow2_metadata_remove(q, l2_offset);
    qcow2_free_later(q, l2_offset, 1);
    return qcow2_throttle(q);
}

/* The end of the last cluster with a refcount. */
static int find_end(struct qcow2 *q, uint64_t *end)
{
    uint64_t cluster = q->file_end >> q->cluster_bits, count = 0;
    int r = 0;

    while (cluster > 1 && count == 0 && r == 0) {
        uint64_t block_offset;

        r = qcow2_refblock_get(q, (cluster - 1) >> q->refblock_bits, &block_offset);
        if (r == 0 && block_offset != 0) {
            r = qcow2_refcount_get(q, (cluster - 1) << q->cluster_bits, &count);
        }
        cluster -= count == 0;
    }
    *end = cluster << q->cluster_bits;
    return r;
}

static int cut_file(struct qcow2 *q)
{
    uint64_t end;
    int r = find_end(q, &end);

    if (r == 0) {
        r = q->file->ops->truncate(q->file, end);
    }
    if (r == 0) {
        q->file_size = end;
        q->file_end = end;
        q->never_written = end;
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
    /* The first makes the cleared entries stable, the second the lowered refcounts. */
    r = r == 0 ? qcow2_commit(q, true) : r;
    r = r == 0 ? qcow2_commit(q, true) : r;
    r = r == 0 ? cut_file(q) : r;
    pthread_mutex_unlock(&q->lock);
    return r != 0 ? err_set_errno(err, r, "Could not empty '%s'", blk->path) : 0;
}
