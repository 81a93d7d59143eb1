/*
 * refcount.c - reads and lowers refcounts. Raising them is alloc.c's: in an image that we write, a
 * cluster has one owner, so a refcount goes from 0 to 1 and back. 16 bits wide, big-endian.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>

int qcow2_refblock_get(struct qcow2 *q, uint64_t block, uint64_t *offset)
{
    uint64_t entry = block < q->reftable.count ? q->reftable.entries[block] : 0;

    if (entry != 0 &&
        ((entry & QCOW2_REFTABLE_RESERVED) != 0 || entry >= QCOW2_MAX_HOST_OFFSET ||
         !is_aligned(entry, q->cluster_size) ||
         !range_within(entry, q->cluster_size, q->file_end) || qcow2_is_fixed_metadata(q, entry))) {
        return qcow2_mark_corrupt(
            q, "refcount table entry %" PRIu64 " (0x%016" PRIx64 ") is invalid", block, entry);
    }
    *offset = entry;
    return 0;
}

int qcow2_refcount_slice(struct qcow2 *q, uint64_t host_offset, struct qcow2_slice **slice,
                         unsigned *index)
{
    uint64_t cluster = host_offset >> q->cluster_bits;
    uint64_t at = (cluster & ((UINT64_C(1) << q->refblock_bits) - 1)) * 2;
    uint64_t slice_bytes = UINT64_C(1) << q->slice_bits;
    uint64_t block_offset = 0;
    int r = qcow2_refblock_get(q, cluster >> q->refblock_bits, &block_offset);

    if (r != 0) {
        return r;
    }
    if (block_offset == 0) {
        return qcow2_mark_corrupt(q, "cluster 0x%" PRIx64 " is in use but has no refcount",
                                  host_offset);
    }
    *index = (unsigned)((at & (slice_bytes - 1)) / 2);
    return qcow2_cache_get(q, QCOW2_SLICE_REFCOUNT, block_offset + align_down(at, slice_bytes),
                           slice);
}

int qcow2_refcount_get(struct qcow2 *q, uint64_t host_offset, uint64_t *count)
{
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_refcount_slice(q, host_offset, &slice, &index);

    if (r == 0) {
        *count = load_be16(slice->data + (size_t)index * 2);
        qcow2_cache_put(slice);
    }
    return r;
}

static int release_one(struct qcow2 *q, uint64_t host_offset)
{
    struct qcow2_slice *slice;
    unsigned index;
    uint16_t count;
    int r = qcow2_refcount_slice(q, host_offset, &slice, &index);

    if (r != 0) {
        return r;
    }
    count = load_be16(slice->data + (size_t)index * 2);
    if (count == 0) {
        r = qcow2_mark_corrupt(q, "cluster 0x%" PRIx64 " is in use but its refcount is 0",
                               host_offset);
    } else {
        store_be16(slice->data + (size_t)index * 2, (uint16_t)(count - 1));
        qcow2_cache_mark_dirty(q, slice);
    }
    if (count == 1) {
        q->free_hint = min_u64(q->free_hint, host_offset >> q->cluster_bits);
        q->free_changes++;
    }
    qcow2_cache_put(slice);
    return r;
}

int qcow2_refcount_release(struct qcow2 *q, uint64_t host_offset, uint64_t clusters)
{
    int result = 0;

    for (uint64_t i = 0; i < clusters; i++) {
        int r = release_one(q, host_offset + i * q->cluster_size);

        result = result != 0 ? result : r;
    }
    return result;
}
