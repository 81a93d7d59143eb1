/*
 * refcount.c - reads, raises and lowers refcounts. From 0 to 1 is alloc.c's business.
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

int qcow2_refblock_slice(struct qcow2 *q, uint64_t block_offset, uint64_t cluster,
                         struct qcow2_slice **slice, unsigned *index)
{
    uint64_t in_block = cluster & ((UINT64_C(1) << q->refblock_bits) - 1);
    uint64_t per_slice = qcow2_refcounts_per_slice(q);

    *index = (unsigned)(in_block % per_slice);
    return qcow2_cache_get(q, QCOW2_SLICE_REFCOUNT,
                           block_offset + ((in_block / per_slice) << q->slice_bits), slice);
}

int qcow2_refcount_slice(struct qcow2 *q, uint64_t host_offset, struct qcow2_slice **slice,
                         unsigned *index)
{
    uint64_t cluster = host_offset >> q->cluster_bits, block_offset = 0;
    int r = qcow2_refblock_get(q, cluster >> q->refblock_bits, &block_offset);

    if (r != 0) {
        return r;
    }
    if (block_offset == 0) {
        return qcow2_mark_corrupt(q, "cluster 0x%" PRIx64 " is in use but has no refcount",
                                  host_offset);
    }
    return qcow2_refblock_slice(q, block_offset, cluster, slice, index);
}

uint64_t qcow2_refcount_load(const struct qcow2 *q, const struct qcow2_slice *slice, unsigned index)
{
    return qcow2_refcount_decode(slice->data, q->refcount_bits, index);
}

void qcow2_refcount_store(struct qcow2 *q, struct qcow2_slice *slice, unsigned index,
                          uint64_t value)
{
    qcow2_refcount_encode(slice->data, q->refcount_bits, index, value);
    qcow2_cache_mark_dirty(q, slice);
}

int qcow2_refcount_get(struct qcow2 *q, uint64_t host_offset, uint64_t *count)
{
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_refcount_slice(q, host_offset, &slice, &index);

    if (r == 0) {
        *count = qcow2_refcount_load(q, slice, index);
        qcow2_cache_put(slice);
    }
    return r;
}

static int release_one(struct qcow2 *q, uint64_t host_offset)
{
    struct qcow2_slice *slice;
    unsigned index;
    uint64_t count;
    int r = qcow2_refcount_slice(q, host_offset, &slice, &index);

    if (r != 0) {
        return r;
    }
    count = qcow2_refcount_load(q, slice, index);
    if (count == 0) {
        r = qcow2_mark_corrupt(q, "cluster 0x%" PRIx64 " is in use but its refcount is 0",
                               host_offset);
    } else if (count == 1 && qcow2_is_metadata(q, align_down(host_offset, q->cluster_size))) {
        r = qcow2_mark_corrupt(q, "metadata at 0x%" PRIx64 " has too few references", host_offset);
    } else {
        qcow2_refcount_store(q, slice, index, count - 1);
    }
    if (r == 0 && count == 1) {
        q->free_hint = min_u64(q->free_hint, host_offset >> q->cluster_bits);
        q->free_changes++;
        qcow2_unpacked_forget(q, align_down(host_offset, q->cluster_size));
        qcow2_pack_forget(q, align_down(host_offset, q->cluster_size), 1);
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

static int raise_one(struct qcow2 *q, uint64_t host_offset)
{
    struct qcow2_slice *slice;
    unsigned index;
    uint64_t count;
    int r = qcow2_refcount_slice(q, host_offset, &slice, &index);

    if (r != 0) {
        return r;
    }
    count = qcow2_refcount_load(q, slice, index);
    if (count == 0) {
        r = qcow2_mark_corrupt(q, "cluster 0x%" PRIx64 " is in use but its refcount is 0",
                               host_offset);
    } else if (count == qcow2_refcount_limit(q->refcount_bits)) {
        r = -ERANGE;
    } else {
        qcow2_refcount_store(q, slice, index, count + 1);
    }
    qcow2_cache_put(slice);
    return r;
}

int qcow2_refcount_raise(struct qcow2 *q, uint64_t host_offset, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++) {
        int r = raise_one(q, host_offset + i * q->cluster_size);

        if (r != 0) {
            qcow2_refcount_release(q, host_offset, i);
            return r;
        }
    }
    return 0;
}
