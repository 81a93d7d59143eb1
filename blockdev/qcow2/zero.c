/*
 * zero.c - discards and write-zeroes: ranges that read as zeros afterwards.
 *
 * Whole clusters change their L2 entry alone, and with extended L2 entries whole subclusters too:
 *
 *   version 3, there is a backing file   the zero flag, no cluster: hides what is below
 *   no backing file                      unallocated
 *   version 2 with a backing file        cannot be said (there is no zero flag): a discard leaves
 * the data alone, write-zeroes writes zeros write-zeroes that keeps its space    the zero flag
 * beside the cluster's offset (version 3)
 *
 * Of a cluster of which a part becomes zeros the zero bits of that part are set. It keeps its host
 * cluster while any subcluster has data there, and then too where space is to be kept. A compressed
 * cluster has no subclusters: a part of it is written as zeros, a discard of a part ignored.
 *
 * What read as zeros before is skipped. The edges of a discard are ignored, those of write-zeroes
 * are written as zeros. A changed range is in flight meanwhile (inflight.c) and its clusters go
 * through free.c, so neither can meet an allocating write or an I/O that is still on its way.
 */
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

/* `old` with the subclusters of the mask as zeros: all of them, if it is compressed. What it led to is
 * given up unless its host cluster stays. */
static struct qcow2_cluster make_zero(const struct qcow2 *q, const struct qcow2_cluster *old,
                                      uint64_t guest_offset, uint32_t mask, enum how how)
{
    uint32_t all = qcow2_subcluster_mask(0, q->subclusters);
    bool may_keep = (how == HOW_KEEP || how == HOW_HIDE) && has_zero_flag(q) && old->is_copied;
    struct qcow2_cluster new = {.data = old->data & ~mask, .zero = old->zero | mask};

    if (qcow2_data_is_raw(q)) {
        /* Its file holds the zeros. */
        return (struct qcow2_cluster){.host_offset = guest_offset,
                                      .is_copied = true,
                                      .data = old->data | mask,
                                      .zero = old->zero & ~mask};
    }
    if (new.data != 0 || (may_keep && old->host_offset != 0)) {
        new.host_offset = old->host_offset;
        new.is_copied = old->is_copied;
    } else if (mask == all && q->blk->backing_name == NULL && how != HOW_HIDE) {
        new.zero = 0;
    }
    return new;
}

static bool is_same(const struct qcow2_cluster *a, const struct qcow2_cluster *b)
{
    return !a->is_compressed && !b->is_compressed && a->host_offset == b->host_offset &&
           a->data == b->data && a->zero == b->zero;
}

/* Changes the entries of [*start, end), which share a slice and are in flight; *start moves on, but not
 * over a compressed cluster of which a part alone is meant. */
static int change_entries(struct qcow2 *q, uint64_t *start, uint64_t end, enum how how)
{
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_l2_get_writable(q, *start, &slice, &index);

    if (r != 0) {
        return r;
    }
    for (uint64_t next; *start < end; *start = next, index++) {
        uint64_t in_cluster = *start & (q->cluster_size - 1);
        struct qcow2_cluster old, new;
        uint32_t mask;

        next = min_u64(end, *start - in_cluster + q->cluster_size);
        mask = qcow2_subcluster_mask((unsigned)(in_cluster >> q->subcluster_bits),
                                     (unsigned)((next - *start) >> q->subcluster_bits));
        r = qcow2_l2_decode(q, slice, index, &old);
        if (r != 0 || (old.is_compressed && mask != qcow2_subcluster_mask(0, q->subclusters))) {
            break;
        }
        new = make_zero(q, &old, *start - in_cluster, mask, how);
        if (is_same(&old, &new)) {
            continue;
        }
        qcow2_l2_set(q, slice, index, *start, &new);
        if (new.host_offset == 0) {
            qcow2_give_up(q, &old);
        }
    }
    qcow2_cache_put(slice);
    return r;
}

/*
 * An external data file: its clusters have one place for good, so there is nothing to be given back
 * later. What is discarded is holed at once, while the range is in flight: until the entries say so,
 * and after a crash, it reads as zeros or as before. A raw data file holds all zeros itself.
 */
static int zero_data_file(struct qcow2 *q, uint64_t start, uint64_t end, enum how how)
{
    bool frees = how == HOW_DISCARD || how == HOW_FREE, must = qcow2_data_is_raw(q);
    int r = 0;

    /* Encrypted, holes do not read as zeros. */
    if ((frees && q->crypto == NULL) || must) {
        pthread_mutex_unlock(&q->lock);
        r = qcow2_data_zero(q, start, end - start, frees);
        pthread_mutex_lock(&q->lock);
        q->needs_barrier = true;
    }
    return must ? r : 0;
}

/* One step of at most a slice; *start moves on, see change_entries(). Without the lock. */
static int zero_step(struct qcow2 *q, uint64_t *start, uint64_t end, enum how how)
{
    uint64_t step_end = min_u64(end, qcow2_slice_end(q, *start));
    uint64_t owned_start = align_down(*start, q->cluster_size);
    uint64_t owned_end = align_up(step_end, q->cluster_size);
    struct qcow2_inflight range;
    int r;

    pthread_mutex_lock(&q->lock);
    do {
        r = qcow2_refuse_if_broken(q);
        r = r == 0 ? qcow2_throttle(q) : r;
    } while (r == 0 && qcow2_inflight_wait(q, owned_start, owned_end));
    if (r == 0) {
        qcow2_inflight_add(q, &range, owned_start, owned_end);
        if (qcow2_has_data_file(q)) {
            r = zero_data_file(q, *start, step_end, how);
        }
        r = r == 0 ? change_entries(q, start, step_end, how) : r;
        qcow2_inflight_remove(q, &range);
    }
    pthread_mutex_unlock(&q->lock);
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
    struct layer_extent own, extent;
    bool must_be_own = how == HOW_HIDE, frees_space = how == HOW_DISCARD || how == HOW_FREE;
    struct blk *layer;
    unsigned depth;
    int r = qcow2_map(q->blk, offset, length, 0, &own);

    extent = own;
    if (r == 0 && own.kind == BLK_EXTENT_UNALLOCATED && !must_be_own) {
        r = chain_map(q->blk->backing, offset, own.length, 0, &layer, &depth, &extent);
    }
    if (r != 0) {
        return r;
    }
    *examined = extent.length;
    *skipped = 0;
    if ((extent.kind == BLK_EXTENT_ZERO ||
         (extent.kind == BLK_EXTENT_UNALLOCATED && !must_be_own)) &&
        !(frees_space && own.has_host_offset) && !qcow2_data_is_raw(q)) {
        *skipped = extent.length;
    }
    return 0;
}

/* An edge of write-zeroes, outside whole subclusters. */
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

/* [start, end): whole subclusters, but that the last may end behind the device. */
static int zero_subclusters(struct qcow2 *q, uint64_t start, uint64_t end, enum how how)
{
    uint64_t length = q->blk->length;
    int r = 0;

    while (start < end && r == 0) {
        uint64_t part = min_u64(end, length) - start, skipped, examined, n, at = start;

        r = skip_zeroes(q, start, part, how, &skipped, &examined);
        if (r != 0) {
            break;
        }
        /* Layers below may have smaller clusters: a subcluster is skipped whole or not at all. */
        n = examined == part ? end - start : align_down(examined, q->subcluster_size);
        if (skipped > 0 && n > 0) {
            start += n;
            continue;
        }
        n = max_u64(n, q->subcluster_size);
        n = start + n < length ? n : end - start;
        r = zero_step(q, &start, start + n, how);
        if (r == 0 && start == at) {
            /* Part of a compressed cluster, which has no subclusters. */
            n = min_u64(n, align_down(at, q->cluster_size) + q->cluster_size - at);
            r = how == HOW_DISCARD ? 0 : write_real_zeroes(q, at, min_u64(n, length - at));
            start += n;
        }
    }
    return r;
}

/* Whole subclusters inside the range; the device's last cluster counts as whole. */
static void inner_range(const struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *start,
                        uint64_t *end)
{
    bool is_to_the_end = offset + length == q->blk->length;

    *start = align_up(offset, q->subcluster_size);
    /* The rest of the last cluster goes along, but not alone: then the range is an edge. */
    *end = is_to_the_end && *start < offset + length
               ? align_up(offset + length, q->cluster_size)
               : align_down(offset + length, q->subcluster_size);
}

int qcow2_discard(struct blk *blk, uint64_t offset, uint64_t length)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t start, end;

    if (!has_zero_flag(q) && blk->backing_name != NULL) {
        return 0;
    }
    inner_range(q, offset, length, &start, &end);
    return start < end ? zero_subclusters(q, start, end, HOW_DISCARD) : 0;
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
    inner_range(q, offset, length, &start, &end);
    if (start >= end) {
        return zero_edge(q, offset, length, edge_how);
    }
    r = zero_edge(q, offset, start - offset, edge_how);
    r = r == 0 ? zero_subclusters(q, start, end, how) : r;
    if (r == 0 && offset + length > end) {
        r = zero_edge(q, end, offset + length - end, edge_how);
    }
    return r;
}

int qcow2_unflag_zeroes(struct qcow2 *q)
{
    uint64_t length = q->blk->length, next;
    int r = 0;

    for (uint64_t at = 0; at < length && r == 0; at = next) {
        struct layer_extent own;
        uint64_t start = at;

        r = qcow2_map(q->blk, at, length - at, 0, &own);
        next = at + own.length;
        if (r != 0 || own.kind != BLK_EXTENT_ZERO) {
            continue;
        }
        if (q->blk->backing_name != NULL) {
            r = write_real_zeroes(q, at, own.length);
            continue;
        }
        while (start < next && r == 0) {
            r = zero_step(q, &start, align_up(next, q->cluster_size), HOW_FREE);
        }
    }
    return r;
}
