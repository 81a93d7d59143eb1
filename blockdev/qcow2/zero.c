/*
 * zero.c - discards and write-zeroes: ranges that read as zeros afterwards.
 *
 * Whole clusters change their L2 entry alone:
 *
 *   version 3, there is a backing file   the zero flag, no cluster: hides what is below
 *   no backing file                      unallocated
 *   version 2 with a backing file        cannot be said (there is no zero flag): a discard leaves
 * the data alone, write-zeroes writes zeros write-zeroes that keeps its space    the zero flag
 * beside the cluster's offset (version 3)
 *
 * What read as zeros before is skipped. The edges of a discard are ignored, those of write-zeroes
 * are written as zeros. A changed range is in flight meanwhile (inflight.c) and its clusters go
 * through free.c, so neither can meet an allocating write or an I/O that is still on its way.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>

enum how {
    HOW_DISCARD, /* best effort */
    HOW_FREE,    /* zeros, and space is given back */
    HOW_KEEP,    /* zeros, and space stays */
    HOW_HIDE,    /* the same, and said by this layer itself: what lies below is about to change */
};

static bool has_zero_flag(const struct qcow2 *q)
{
    return q->header.version >= 3;
}

/* The entry that makes a cluster read as zeros, and whether the old host cluster is given up. */
static uint64_t zero_entry(const struct qcow2 *q, const struct qcow2_cluster *old, enum how how,
                           bool *gives_up)
{
    if ((how == HOW_KEEP || how == HOW_HIDE) && has_zero_flag(q) && old->host_offset != 0 &&
        old->is_copied) {
        *gives_up = false;
        return old->host_offset | QCOW2_ENTRY_COPIED | QCOW2_L2_ZERO;
    }
    *gives_up = old->host_offset != 0;
    return q->blk->backing_name != NULL || how == HOW_HIDE ? QCOW2_L2_ZERO : 0;
}

/* Changes the entries of [start, end), which share a slice and are in flight. */
static int change_entries(struct qcow2 *q, uint64_t start, uint64_t end, enum how how)
{
    uint64_t clusters = (end - start) >> q->cluster_bits;
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_l2_get_writable(q, start, &slice, &index);

    if (r != 0) {
        return r;
    }
    for (uint64_t i = 0; i < clusters && r == 0; i++) {
        struct qcow2_cluster old;
        bool gives_up;
        uint64_t entry;

        r = qcow2_l2_decode(q, slice, index + (unsigned)i, &old);
        if (r == 0 && old.kind == BLK_EXTENT_COMPRESSED) {
            if (how == HOW_DISCARD) {
                continue;
            }
            r = blk_note_problem(q->blk, -ENOTSUP, "compressed clusters are not supported");
        }
        if (r == 0) {
            entry = zero_entry(q, &old, how, &gives_up);
            qcow2_l2_set(q, slice, index + (unsigned)i, entry);
            if (gives_up) {
                qcow2_free_later(q, old.host_offset, 1);
            }
        }
    }
    qcow2_cache_put(slice);
    return r;
}

/* One step of at most a slice; *start moves on. Without the lock. */
static int zero_step(struct qcow2 *q, uint64_t *start, uint64_t end, enum how how)
{
    uint64_t step_end = min_u64(end, qcow2_slice_end(q, *start));
    struct qcow2_inflight range;
    int r;

    pthread_mutex_lock(&q->lock);
    do {
        r = qcow2_refuse_if_broken(q);
        r = r == 0 ? qcow2_throttle(q) : r;
    } while (r == 0 && qcow2_inflight_wait(q, *start, step_end));
    if (r == 0) {
        qcow2_inflight_add(q, &range, *start, step_end);
        r = change_entries(q, *start, step_end, how);
        qcow2_inflight_remove(q, &range);
    }
    pthread_mutex_unlock(&q->lock);
    *start = step_end;
    return r;
}

/* Writes zeros as a guest would. */
static int write_real_zeroes(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    enum { PAGE = 64 << 10, PAGES = 32 };
    static const uint8_t zeroes[PAGE];
    struct iovec iov[PAGES];
    int r = 0;

    while (length > 0 && r == 0) {
        uint64_t n = 0;
        int count = 0;

        while (count < PAGES && n < length) {
            iov[count].iov_base = (void *)(uintptr_t)zeroes;
            iov[count].iov_len = min_u64(PAGE, length - n);
            n += iov[count].iov_len;
            count++;
        }
        r = qcow2_write(q->blk, offset, iov, count, n);
        offset += n;
        length -= n;
    }
    return r;
}

/* How much from `offset` on already is as it should be: 0, or the length (at most `length`). */
static int skip_zeroes(struct qcow2 *q, uint64_t offset, uint64_t length, enum how how,
                       uint64_t *skipped, uint64_t *examined)
{
    struct layer_extent extent;
    struct blk *layer;
    unsigned depth;
    int r = chain_map(q->blk, offset, length, 0, &layer, &depth, &extent);
    bool holds_space = depth == 0 && extent.has_host_offset;
    bool is_zero;

    if (r != 0) {
        return r;
    }
    if (how == HOW_HIDE) {
        is_zero = extent.kind == BLK_EXTENT_ZERO && depth == 0;
    } else {
        is_zero = extent.kind == BLK_EXTENT_UNALLOCATED ||
                  (extent.kind == BLK_EXTENT_ZERO && (how == HOW_KEEP || !holds_space));
    }
    *examined = extent.length;
    *skipped = is_zero ? extent.length : 0;
    return 0;
}

/* An edge of write-zeroes: less than a cluster. */
static int zero_edge(struct qcow2 *q, uint64_t offset, uint64_t length, enum how how)
{
    while (length > 0) {
        uint64_t skipped, examined;
        int r = skip_zeroes(q, offset, length, how, &skipped, &examined);

        if (r == 0 && skipped == 0) {
            r = write_real_zeroes(q, offset, examined);
        }
        if (r != 0) {
            return r;
        }
        offset += examined;
        length -= examined;
    }
    return 0;
}

/* [start, end): whole clusters, but that the last may end behind the device. */
static int zero_clusters(struct qcow2 *q, uint64_t start, uint64_t end, enum how how)
{
    uint64_t length = q->blk->length;
    int r = 0;

    while (start < end && r == 0) {
        uint64_t part = min_u64(end, length) - start, skipped, examined, n;

        r = skip_zeroes(q, start, part, how, &skipped, &examined);
        if (r != 0) {
            break;
        }
        /* Layers below may have smaller clusters: a cluster is skipped whole or not at all. */
        n = examined == part ? end - start : align_down(examined, q->cluster_size);
        if (skipped > 0 && n > 0) {
            start += n;
        } else {
            r = zero_step(q, &start, start + max_u64(n, q->cluster_size), how);
        }
    }
    return r;
}

/* Whole clusters inside the range; the device's last cluster counts as whole. */
static void inner_clusters(const struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *start,
                           uint64_t *end)
{
    *start = align_up(offset, q->cluster_size);
    *end = offset + length == q->blk->length ? align_up(offset + length, q->cluster_size)
                                             : align_down(offset + length, q->cluster_size);
}

int qcow2_discard(struct blk *blk, uint64_t offset, uint64_t length)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t start, end;

    if (!has_zero_flag(q) && blk->backing_name != NULL) {
        return 0;
    }
    inner_clusters(q, offset, length, &start, &end);
    return start < end ? zero_clusters(q, start, end, HOW_DISCARD) : 0;
}

int qcow2_write_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags)
{
    struct qcow2 *q = qcow2_of(blk);
    enum how how = (flags & BLK_REQ_MAY_UNMAP) && blk->can_discard ? HOW_FREE : HOW_KEEP;
    enum how edge_how = HOW_KEEP;
    uint64_t start, end;
    int r;

    if (flags & BLK_REQ_HIDE) {
        how = edge_how = HOW_HIDE;
    }
    if (!has_zero_flag(q) && (blk->backing_name != NULL || how != HOW_FREE)) {
        return zero_edge(q, offset, length, edge_how);
    }
    inner_clusters(q, offset, length, &start, &end);
    if (start >= end) {
        return zero_edge(q, offset, length, edge_how);
    }
    r = zero_edge(q, offset, start - offset, edge_how);
    r = r == 0 ? zero_clusters(q, start, end, how) : r;
    if (r == 0 && offset + length > end) {
        r = zero_edge(q, end, offset + length - end, edge_how);
    }
    return r;
}
