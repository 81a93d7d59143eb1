/*
 * overwrite.c - where a write may go that changes data in place, and nothing else: for whoever has the kernel
 * write it. What is less simple is write.c's.
 */
#include "checked.h"
#include "qcow2/bitmap.h"
#include "qcow2/qcow2.h"

/* The place of [offset, offset + length), all of it in `slice` from entry `index` on, if it is in one piece,
 * ours alone and holds data everywhere. */
static bool find_place(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                       uint64_t offset, uint64_t length, uint64_t *host_offset)
{
    for (uint64_t at = 0, n; at < length; at += n) {
        uint64_t in_cluster = (offset + at) & (q->cluster_size - 1);
        unsigned first = (unsigned)(in_cluster >> q->subcluster_bits), last;
        struct qcow2_cluster cluster;
        uint32_t mask;

        n = min_u64(length - at, q->cluster_size - in_cluster);
        last = (unsigned)((in_cluster + n - 1) >> q->subcluster_bits);
        mask = qcow2_subcluster_mask(first, last - first + 1);
        if (qcow2_l2_decode(q, slice, index++, &cluster) != 0 || !qcow2_has_place(&cluster) ||
            !cluster.is_copied || (cluster.data & mask) != mask ||
            (at > 0 && cluster.host_offset + in_cluster != *host_offset + at)) {
            return false;
        }
        *host_offset = at > 0 ? *host_offset : cluster.host_offset + in_cluster;
    }
    return true;
}

static bool look_up(struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *host_offset)
{
    struct qcow2_slice *slice;
    uint64_t l2_offset;
    unsigned index;
    bool found;

    if (qcow2_refuse_if_broken(q) != 0 || qcow2_l1_get(q, offset, &l2_offset) != 0 ||
        l2_offset == 0 || qcow2_l2_try_get(q, offset, l2_offset, &slice, &index) != 0) {
        return false;
    }
    found = find_place(q, slice, index, offset, length, host_offset);
    qcow2_cache_put(slice);
    return found && (qcow2_has_data_file(q) ||
                     qcow2_check_overlap(q, QCOW2_WRITES_DATA, *host_offset, length) == 0);
}

bool qcow2_map_overwrite(struct blk *blk, uint64_t offset, uint64_t length,
                         struct layer_extent *extent)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t host_offset = 0;
    int hold = BLK_NOT_HELD;
    bool found;

    if (q->crypto != NULL || (q->bitmaps != NULL && q->bitmaps->is_recording) ||
        offset + length > qcow2_slice_end(q, offset)) {
        return false;
    }
    found = qcow2_lookaside_overwrite(q, offset, length, &host_offset, &hold);
    if (!found) {
        pthread_mutex_lock(&q->lock);
        found = look_up(q, offset, length, &host_offset);
        hold = found ? qcow2_hold(q) : BLK_NOT_HELD;
        pthread_mutex_unlock(&q->lock);
    }
    if (found) {
        *extent = (struct layer_extent){.kind = BLK_EXTENT_DATA,
                                        .length = length,
                                        .has_host_offset = true,
                                        .host_offset = host_offset,
                                        .file = qcow2_data_file(q),
                                        .hold = hold};
    }
    return found;
}
