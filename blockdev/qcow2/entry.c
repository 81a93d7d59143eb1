/*
 * entry.c - what an L2 entry says.
 *
 * A cluster has subclusters: one, which the entry's own bits tell of, or, with extended L2 entries, 32,
 * which the bitmap behind it tells of (specification, "Extended L2 Entries"). Decoded, both look
 * alike: a mask of the subclusters whose data lies in the host cluster, and one of those that read as
 * zeros. What stands in neither shows the layer below, also where a host cluster is kept for it.
 *
 * Nothing in a table is trusted. Tables that a writable image may write to again are checked on the
 * way into the cache (qcow2_l2_check_slice); a slice with a bad entry is marked, and then each
 * entry is checked when it is used, so that one bad entry costs one cluster and not a whole table. Tables
 * that are mapped (mapping.c) may change at any time: their entries are always checked.
 * A bad entry is -EIO and marks the image corrupt; it never leads to I/O.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <endian.h>
#include <inttypes.h>

/* An entry as it stands on disk, in host order; `bitmap` 0 in standard entries. Loaded once and then
 * looked at: what is mapped may change meanwhile. */
struct raw {
    uint64_t entry, bitmap;
};

static struct raw load(const struct qcow2 *q, const struct qcow2_slice *slice, unsigned index)
{
    const uint64_t *at = (const void *)(slice->data + ((size_t)index << q->l2_entry_bits));

    return (struct raw){
        .entry = be64toh(__atomic_load_n(at, __ATOMIC_RELAXED)),
        .bitmap = q->has_subclusters ? be64toh(__atomic_load_n(at + 1, __ATOMIC_RELAXED)) : 0,
    };
}

/* A cluster of this layer's file that may hold guest data: aligned, inside the file, not metadata.
 */
static bool is_data_cluster(const struct qcow2 *q, uint64_t offset)
{
    return is_aligned(offset, q->cluster_size) &&
           range_within(offset, q->cluster_size, q->file_end) && !qcow2_is_metadata(q, offset);
}

/* Whether the masks are ones that a bitmap may have. */
static bool is_sound_bitmap(uint64_t bitmap, bool has_host_cluster)
{
    uint32_t data = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);

    return (data & zero) == 0 && (data == 0 || has_host_cluster);
}

/* Specification, "External data file bit": no compressed clusters, and each is where the guest has
 * it. */
static bool is_sound_with_data_file(const struct qcow2 *q, const struct qcow2_slice *slice,
                                    unsigned index, struct raw raw)
{
    uint64_t reserved = QCOW2_L2_COMPRESSED | QCOW2_L2_RESERVED;
    uint64_t offset = raw.entry & QCOW2_OFFSET_MASK;
    bool is_zero = !q->has_subclusters && (raw.entry & QCOW2_L2_ZERO) != 0;
    bool may_be_at_0 = (raw.entry & QCOW2_ENTRY_COPIED) != 0 && !is_zero;

    return (raw.entry & reserved) == 0 && is_sound_bitmap(raw.bitmap, offset != 0 || may_be_at_0) &&
           ((offset == 0 && !may_be_at_0) ||
            offset == slice->guest_start + ((uint64_t)index << q->cluster_bits));
}

static bool is_sound(const struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                     struct raw raw)
{
    /* With subclusters the zero flag means nothing; QEMU ignores it too. */
    uint64_t reserved = QCOW2_L2_RESERVED | (q->header.version < 3 ? QCOW2_L2_ZERO : 0);
    uint64_t offset = raw.entry & QCOW2_OFFSET_MASK;

    if (qcow2_has_data_file(q)) {
        return is_sound_with_data_file(q, slice, index, raw);
    }
    if (raw.entry & QCOW2_L2_COMPRESSED) {
        return raw.bitmap == 0 && qcow2_packed_is_sound(q, raw.entry);
    }
    return (raw.entry & reserved) == 0 && is_sound_bitmap(raw.bitmap, offset != 0) &&
           (offset == 0 || is_data_cluster(q, offset));
}

bool qcow2_l2_entry_is_sound(const struct qcow2 *q, const struct qcow2_slice *slice, unsigned index)
{
    return is_sound(q, slice, index, load(q, slice, index));
}

bool qcow2_l2_check_slice(const struct qcow2 *q, const struct qcow2_slice *slice)
{
    if (qcow2_has_data_file(q)) {
        return false; /* where in the guest the entries stand is not known yet */
    }
    for (unsigned i = 0; i < qcow2_l2_entries_per_slice(q); i++) {
        struct raw raw = load(q, slice, i);

        if ((raw.entry | raw.bitmap) != 0 && !is_sound(q, slice, i, raw)) {
            return false;
        }
    }
    return true;
}

static void decode_masks(const struct qcow2 *q, struct raw raw, struct qcow2_cluster *cluster)
{
    if (q->has_subclusters) {
        cluster->data = (uint32_t)raw.bitmap;
        cluster->zero = (uint32_t)(raw.bitmap >> 32);
    } else if (raw.entry & QCOW2_L2_ZERO) {
        cluster->zero = 1;
    } else {
        cluster->data = cluster->host_offset != 0 || (qcow2_has_data_file(q) && cluster->is_copied);
    }
}

int qcow2_l2_decode(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                    struct qcow2_cluster *cluster)
{
    struct raw raw = load(q, slice, index);

    if (slice->is_mapped) {
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load(&q->mapping.lost)) {
            return -EIO;
        }
    }
    if (slice->suspect && !is_sound(q, slice, index, raw)) {
        return qcow2_mark_corrupt(
            q, "L2 entry 0x%016" PRIx64 "%s%.*" PRIx64 " (table at 0x%" PRIx64 ") is invalid",
            raw.entry, q->has_subclusters ? ":" : "", q->has_subclusters ? 16 : 0, raw.bitmap,
            slice->offset + ((uint64_t)index << q->l2_entry_bits));
    }
    *cluster = (struct qcow2_cluster){.is_copied = (raw.entry & QCOW2_ENTRY_COPIED) != 0};
    if (raw.entry & QCOW2_L2_COMPRESSED) {
        cluster->is_compressed = true;
        qcow2_packed_decode(q, raw.entry, &cluster->packed_offset, &cluster->packed_length);
    } else {
        cluster->host_offset = raw.entry & QCOW2_OFFSET_MASK;
        decode_masks(q, raw, cluster);
    }
    return 0;
}

void qcow2_l2_set(struct qcow2 *q, struct qcow2_slice *slice, unsigned index, uint64_t guest_offset,
                  const struct qcow2_cluster *cluster)
{
    uint8_t *at = slice->data + ((size_t)index << q->l2_entry_bits);
    uint64_t entry = cluster->host_offset | (cluster->is_copied ? QCOW2_ENTRY_COPIED : 0);

    if (cluster->is_compressed) {
        entry = qcow2_packed_encode(q, cluster->packed_offset, cluster->packed_length);
    } else if (!q->has_subclusters && cluster->zero != 0) {
        entry |= QCOW2_L2_ZERO;
    }
    store_be64(at, entry);
    if (q->has_subclusters) {
        store_be64(at + QCOW2_ENTRY_SIZE, (uint64_t)cluster->zero << 32 | cluster->data);
    }
    qcow2_cache_mark_dirty(q, slice);
    qcow2_redo_log_add(q, guest_offset, cluster);
    /* Last: who goes by it must not be done before this is written down. */
    qcow2_lookaside_put(q, guest_offset, cluster);
}

enum blk_extent_kind qcow2_subcluster_kind(const struct qcow2_cluster *cluster, unsigned n)
{
    if (cluster->is_compressed) {
        return BLK_EXTENT_COMPRESSED;
    }
    if (cluster->data >> n & 1) {
        return BLK_EXTENT_DATA;
    }
    return cluster->zero >> n & 1 ? BLK_EXTENT_ZERO : BLK_EXTENT_UNALLOCATED;
}

unsigned qcow2_subcluster_run(const struct qcow2 *q, uint32_t mask, unsigned first)
{
    uint64_t rest = mask >> first;
    unsigned left = q->subclusters - first;
    unsigned run = (unsigned)__builtin_ctzll(~rest);

    return run < left ? run : left;
}

unsigned qcow2_subcluster_kind_run(const struct qcow2 *q, const struct qcow2_cluster *cluster,
                                   unsigned first)
{
    switch (qcow2_subcluster_kind(cluster, first)) {
    case BLK_EXTENT_DATA:
        return qcow2_subcluster_run(q, cluster->data, first);
    case BLK_EXTENT_ZERO:
        return qcow2_subcluster_run(q, cluster->zero, first);
    case BLK_EXTENT_UNALLOCATED:
        return qcow2_subcluster_run(q, ~(cluster->data | cluster->zero), first);
    case BLK_EXTENT_COMPRESSED:
        break;
    }
    return q->subclusters - first;
}
