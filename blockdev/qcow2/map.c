/*
 * map.c - from a guest offset to what this layer holds there. What an L2 entry says: entry.c.
 *
 * An L1 entry is trusted as little as an L2 entry: a bad one is -EIO and marks the image corrupt.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

enum { MAX_HOLE_TABLES = 256, HOLE_CLUSTERS = 2, STAT_BLOCK = 512 };

int qcow2_l1_get(struct qcow2 *q, uint64_t guest_offset, uint64_t *l2_offset)
{
    uint64_t index = guest_offset >> (q->cluster_bits + q->l2_bits);
    uint64_t entry = index < q->l1.count ? q->l1.entries[index] : 0;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (entry != 0 &&
        ((entry & QCOW2_L1_RESERVED) != 0 || offset == 0 || !is_aligned(offset, q->cluster_size) ||
         !range_within(offset, q->cluster_size, q->file_end) ||
         qcow2_is_fixed_metadata(q, offset))) {
        return qcow2_mark_corrupt(q, "L1 entry %" PRIu64 " (0x%016" PRIx64 ") is invalid", index,
                                  entry);
    }
    *l2_offset = offset;
    return 0;
}

/* An external data file fixes where in the guest a table stands: so nothing can share one. */
static int note_guest_start(struct qcow2 *q, struct qcow2_slice *slice, uint64_t guest_offset,
                            unsigned index)
{
    uint64_t start =
        align_down(guest_offset, q->cluster_size) - ((uint64_t)index << q->cluster_bits);

    if (slice->guest_start == QCOW2_NO_GUEST) {
        slice->guest_start = start;
    }
    if (slice->guest_start == start) {
        return 0;
    }
    qcow2_cache_put(slice);
    return qcow2_mark_corrupt(q, "L2 table at 0x%" PRIx64 " is used twice", slice->offset);
}

static int l2_get(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset, bool may_wait,
                  struct qcow2_slice **slice, unsigned *index)
{
    uint64_t in_table = (guest_offset >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1);
    uint64_t at = in_table << q->l2_entry_bits;
    uint64_t slice_bytes = UINT64_C(1) << q->slice_bits;
    uint64_t slice_offset = l2_offset + align_down(at, slice_bytes);
    int r;

    *index = (unsigned)((at & (slice_bytes - 1)) >> q->l2_entry_bits);
    r = may_wait ? qcow2_cache_get(q, QCOW2_SLICE_L2, slice_offset, slice)
                 : qcow2_cache_try_get(q, QCOW2_SLICE_L2, slice_offset, slice);
    return r == 0 && qcow2_has_data_file(q) ? note_guest_start(q, *slice, guest_offset, *index) : r;
}

int qcow2_l2_get(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset,
                 struct qcow2_slice **slice, unsigned *index)
{
    return l2_get(q, guest_offset, l2_offset, true, slice, index);
}

int qcow2_l2_try_get(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset,
                     struct qcow2_slice **slice, unsigned *index)
{
    return l2_get(q, guest_offset, l2_offset, false, slice, index);
}

/* The length of the unallocated range at `offset` that is known without any L2 table. Not too far:
 * who goes on in smaller steps would have it found out each time. */
static uint64_t hole_length(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t index = offset >> shift;
    uint64_t end;

    do {
        index++;
        end = index << shift;
    } while (end < offset + length && index - (offset >> shift) < MAX_HOLE_TABLES &&
             (index >= q->l1.count || q->l1.entries[index] == 0));
    return min_u64(length, end - offset);
}

/* Whether `next`, `n` clusters behind `first`, goes on with what subcluster `sub` of that one is. */
static bool continues(const struct qcow2 *q, const struct qcow2_cluster *first, unsigned sub,
                      uint64_t n, const struct qcow2_cluster *next)
{
    return qcow2_subcluster_kind(next, 0) == qcow2_subcluster_kind(first, sub) &&
           qcow2_has_place(first) == qcow2_has_place(next) &&
           (!qcow2_has_place(first) ||
            next->host_offset == first->host_offset + n * q->cluster_size);
}

static int map_in_slice(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                        uint64_t offset, uint64_t length, unsigned flags,
                        struct layer_extent *extent)
{
    uint64_t in_cluster = offset & (q->cluster_size - 1), end;
    unsigned entries = qcow2_l2_entries_per_slice(q);
    unsigned sub = (unsigned)(in_cluster >> q->subcluster_bits), n = 1;
    struct qcow2_cluster first, next;
    int r = qcow2_l2_decode(q, slice, index, &first);

    if (r != 0) {
        return r;
    }
    if (first.is_compressed && (flags & LAYER_MAP_HOLD)) {
        /* To be read: each compressed cluster lies somewhere else. */
        entries = index + 1;
        extent->packed_offset = first.packed_offset;
        extent->packed_length = first.packed_length;
    }
    /* From the start of the first cluster on. */
    end = (uint64_t)(sub + qcow2_subcluster_kind_run(q, &first, sub)) << q->subcluster_bits;
    while (end == n * q->cluster_size && end - in_cluster < length && index + n < entries) {
        /* An invalid entry ends the range: it is reported to whoever asks for it. */
        if (slice->suspect && !qcow2_l2_entry_is_sound(q, slice, index + n)) {
            break;
        }
        r = qcow2_l2_decode(q, slice, index + n, &next);
        if (r != 0 || !continues(q, &first, sub, n, &next)) {
            break;
        }
        end += (uint64_t)qcow2_subcluster_kind_run(q, &next, 0) << q->subcluster_bits;
        n++;
    }
    if (flags & LAYER_MAP_HOLD) {
        qcow2_lookaside_put(q, offset, &first);
    }
    extent->kind = qcow2_subcluster_kind(&first, sub);
    extent->length = min_u64(length, end - in_cluster);
    extent->has_host_offset = qcow2_has_place(&first);
    extent->host_offset = qcow2_has_place(&first) ? first.host_offset + in_cluster : 0;
    extent->file = qcow2_data_file(q);
    extent->is_encrypted = qcow2_has_place(&first) && q->crypto != NULL;
    return 0;
}

/* Whether places were kept that have not been written: the file takes much less space than it is long.
 * Nobody pays for looking at holes of a file that has none, and what the file system merely calls one
 * (space that was reserved) is left alone. */
static bool has_holes(const struct qcow2 *q, struct file *file)
{
    struct stat st;
    uint64_t size, used, slack;

    if (file->fd < 0 || fstat(file->fd, &st) != 0 || st.st_size <= 0 ||
        file->ops->size(file, &size) != 0) {
        return false;
    }
    used = (uint64_t)st.st_blocks * STAT_BLOCK;
    slack = max_u64(size / 10, HOLE_CLUSTERS * (uint64_t)q->cluster_size);
    return size > slack && used < size - slack;
}

/* Cuts a data extent where its file turns from data to hole, or back. */
static void look_for_hole(const struct qcow2 *q, struct layer_extent *extent)
{
    struct file *file = q->blk->file;
    bool is_data;
    uint64_t end;

    if (extent->file != file || extent->is_encrypted || !has_holes(q, file) ||
        file->ops->extent(file, extent->host_offset, &is_data, &end) != 0 ||
        end <= extent->host_offset) {
        return;
    }
    extent->length = min_u64(extent->length, end - extent->host_offset);
    extent->is_hole = !is_data;
}

static const struct qcow2_cluster no_cluster;

int qcow2_map(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
              struct layer_extent *extent)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_slice *slice;
    uint64_t l2_offset = 0;
    unsigned index;
    int r;

    if ((flags & LAYER_MAP_PRECISE) == 0 &&
        qcow2_lookaside_map(q, offset, length, (flags & LAYER_MAP_HOLD) != 0, extent)) {
        return 0;
    }
    *extent = (struct layer_extent){.kind = BLK_EXTENT_UNALLOCATED, .hold = BLK_NOT_HELD};
    pthread_mutex_lock(&q->lock);
    r = qcow2_l1_get(q, offset, &l2_offset);
    if (r == 0 && l2_offset == 0) {
        if (flags & LAYER_MAP_HOLD) {
            qcow2_lookaside_put(q, offset, &no_cluster);
        }
        extent->length = hole_length(q, offset, length);
    } else if (r == 0) {
        r = l2_get(q, offset, l2_offset, (flags & LAYER_MAP_NO_WAIT) == 0, &slice, &index);
        if (r == 0) {
            r = map_in_slice(q, slice, index, offset, length, flags, extent);
            qcow2_cache_put(slice);
        }
    }
    if (r == 0 && (extent->kind == BLK_EXTENT_DATA || extent->kind == BLK_EXTENT_COMPRESSED) &&
        (flags & LAYER_MAP_HOLD) && q->writable) {
        extent->hold = qcow2_hold(q);
    }
    pthread_mutex_unlock(&q->lock);
    if (r == 0 && extent->kind == BLK_EXTENT_DATA && (flags & LAYER_MAP_PRECISE)) {
        look_for_hole(q, extent);
    }
    return r;
}
