/*
 * map.c - from a guest offset to what this layer holds there.
 *
 * Nothing in a table is trusted. Tables that a writable image may write to again are checked on the
 * way into the cache (qcow2_l2_check_slice); a slice with a bad entry is marked, and then each
 * entry is checked when it is used, so that one bad entry costs one cluster and not a whole table.
 * A bad entry is -EIO and marks the image corrupt; it never leads to I/O.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>

/* A cluster of this layer's file that may hold guest data: aligned, inside the file, not metadata.
 */
static bool is_data_cluster(const struct qcow2 *q, uint64_t offset)
{
    return is_aligned(offset, q->cluster_size) &&
           range_within(offset, q->cluster_size, q->file_end) && !qcow2_is_metadata(q, offset);
}

bool qcow2_l2_entry_is_sound(const struct qcow2 *q, uint64_t entry)
{
    uint64_t reserved = QCOW2_L2_RESERVED | (q->header.version < 3 ? QCOW2_L2_ZERO : 0);
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_L2_COMPRESSED) {
        return true; /* never followed */
    }
    return (entry & reserved) == 0 && (offset == 0 || is_data_cluster(q, offset));
}

bool qcow2_l2_check_slice(const struct qcow2 *q, const struct qcow2_slice *slice)
{
    for (size_t i = 0; i < (size_t)1 << q->slice_bits; i += QCOW2_ENTRY_SIZE) {
        uint64_t entry = load_be64(slice->data + i);

        if (entry != 0 && !qcow2_l2_entry_is_sound(q, entry)) {
            return false;
        }
    }
    return true;
}

int qcow2_l2_decode(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                    struct qcow2_cluster *cluster)
{
    uint64_t entry = load_be64(slice->data + (size_t)index * QCOW2_ENTRY_SIZE);

    if (slice->suspect && !qcow2_l2_entry_is_sound(q, entry)) {
        return qcow2_mark_corrupt(q,
                                  "L2 entry 0x%016" PRIx64 " (table at 0x%" PRIx64 ") is invalid",
                                  entry, slice->offset + index * (uint64_t)QCOW2_ENTRY_SIZE);
    }
    cluster->host_offset = entry & QCOW2_OFFSET_MASK;
    cluster->is_copied = (entry & QCOW2_ENTRY_COPIED) != 0;
    if (entry & QCOW2_L2_COMPRESSED) {
        cluster->kind = BLK_EXTENT_COMPRESSED;
        cluster->host_offset = 0;
    } else if (entry & QCOW2_L2_ZERO) {
        cluster->kind = BLK_EXTENT_ZERO;
    } else if (cluster->host_offset != 0) {
        cluster->kind = BLK_EXTENT_DATA;
    } else {
        cluster->kind = BLK_EXTENT_UNALLOCATED;
    }
    return 0;
}

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

int qcow2_l2_get(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset,
                 struct qcow2_slice **slice, unsigned *index)
{
    uint64_t in_table = (guest_offset >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1);
    uint64_t at = in_table * QCOW2_ENTRY_SIZE;
    uint64_t slice_bytes = UINT64_C(1) << q->slice_bits;

    *index = (unsigned)((at & (slice_bytes - 1)) / QCOW2_ENTRY_SIZE);
    return qcow2_cache_get(q, QCOW2_SLICE_L2, l2_offset + align_down(at, slice_bytes), slice);
}

/* The length of the unallocated range at `offset` that is known without any L2 table. */
static uint64_t hole_length(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t index = offset >> shift;
    uint64_t end;

    do {
        index++;
        end = index << shift;
    } while (end < offset + length && (index >= q->l1.count || q->l1.entries[index] == 0));
    return min_u64(length, end - offset);
}

static bool continues(const struct qcow2 *q, const struct qcow2_cluster *first, uint64_t n,
                      const struct qcow2_cluster *next)
{
    return next->kind == first->kind && (first->host_offset == 0) == (next->host_offset == 0) &&
           (first->host_offset == 0 ||
            next->host_offset == first->host_offset + n * q->cluster_size);
}

static int map_in_slice(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                        uint64_t offset, uint64_t length, struct layer_extent *extent)
{
    uint64_t in_cluster = offset & (q->cluster_size - 1);
    unsigned entries = 1U << (q->slice_bits - 3);
    struct qcow2_cluster first, next;
    uint64_t n = 1;
    int r = qcow2_l2_decode(q, slice, index, &first);

    if (r != 0) {
        return r;
    }
    while (n * q->cluster_size - in_cluster < length && index + n < entries) {
        /* An invalid entry ends the range: it is reported to whoever asks for it. */
        if (slice->suspect &&
            !qcow2_l2_entry_is_sound(q, load_be64(slice->data + (index + n) * QCOW2_ENTRY_SIZE))) {
            break;
        }
        r = qcow2_l2_decode(q, slice, index + (unsigned)n, &next);
        if (r != 0 || !continues(q, &first, n, &next)) {
            break;
        }
        n++;
    }
    extent->kind = first.kind;
    extent->length = min_u64(length, n * q->cluster_size - in_cluster);
    extent->has_host_offset = first.host_offset != 0;
    extent->host_offset = first.host_offset != 0 ? first.host_offset + in_cluster : 0;
    return 0;
}

int qcow2_map(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
              struct layer_extent *extent)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_slice *slice;
    uint64_t l2_offset = 0;
    unsigned index;
    int r;

    *extent = (struct layer_extent){.kind = BLK_EXTENT_UNALLOCATED, .hold = BLK_NOT_HELD};
    pthread_mutex_lock(&q->lock);
    r = qcow2_l1_get(q, offset, &l2_offset);
    if (r == 0 && l2_offset == 0) {
        extent->length = hole_length(q, offset, length);
    } else if (r == 0) {
        r = qcow2_l2_get(q, offset, l2_offset, &slice, &index);
        if (r == 0) {
            r = map_in_slice(q, slice, index, offset, length, extent);
            qcow2_cache_put(slice);
        }
    }
    if (r == 0 && extent->kind == BLK_EXTENT_DATA && (flags & LAYER_MAP_HOLD) && q->writable) {
        extent->hold = qcow2_hold(q);
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}
