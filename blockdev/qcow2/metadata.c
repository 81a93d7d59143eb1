/*
 * metadata.c - which host clusters hold metadata, and what happens when an image turns out to be
 * corrupt.
 *
 * The header, the L1 table, the refcount table and the encryption header are ranges. L2 tables, refcount blocks, what
 * belongs to snapshots and what belongs to bitmaps stand in a hash set (writable layers), filled when
 * the image is opened, so that no entry of a hostile table can make a guest's write land on them
 * (overlap.c). An
 * L2 table may be used by several L1 tables: each use is counted, and the last one to go takes it out.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static bool in_table(const struct qcow2 *q, const struct qcow2_table *table, uint64_t cluster)
{
    return ranges_overlap(cluster, q->cluster_size, table->offset, table->count * QCOW2_ENTRY_SIZE);
}

static bool in_encryption_header(const struct qcow2 *q, uint64_t cluster)
{
    return ranges_overlap(cluster, q->cluster_size, q->header.luks_offset, q->header.luks_length);
}

bool qcow2_is_fixed_metadata(const struct qcow2 *q, uint64_t cluster)
{
    return cluster < q->cluster_size || in_table(q, &q->l1, cluster) ||
           in_table(q, &q->reftable, cluster) || in_encryption_header(q, cluster);
}

/* The slot of `cluster`, or the free one where it would go. Cluster 0 is never a member. */
static struct qcow2_metadata_slot *slot_of(const struct qcow2 *q, uint64_t cluster)
{
    uint64_t hash = (cluster >> q->cluster_bits) * UINT64_C(0x9e3779b97f4a7c15);
    uint64_t i = (hash >> 20) & (q->metadata_room - 1);

    while (q->metadata[i].cluster != 0 && q->metadata[i].cluster != cluster) {
        i = (i + 1) & (q->metadata_room - 1);
    }
    return &q->metadata[i];
}

bool qcow2_is_metadata(const struct qcow2 *q, uint64_t cluster)
{
    return qcow2_is_fixed_metadata(q, cluster) ||
           (q->metadata_room != 0 && slot_of(q, cluster)->cluster == cluster);
}

enum qcow2_metadata_kind qcow2_metadata_kind_of(const struct qcow2 *q, uint64_t cluster)
{
    const struct qcow2_metadata_slot *slot = q->metadata_room != 0 ? slot_of(q, cluster) : NULL;
    bool is_member = slot != NULL && cluster != 0 && slot->cluster == cluster; /* 0: a free slot */
    bool in_l1 = in_table(q, &q->l1, cluster), in_reftable = in_table(q, &q->reftable, cluster);
    bool in_luks = in_encryption_header(q, cluster);

    if (cluster < q->cluster_size || in_l1 + in_reftable + in_luks + is_member > 1) {
        return QCOW2_FIXED_METADATA;
    }
    return in_luks             ? QCOW2_LUKS
           : in_l1             ? QCOW2_L1_TABLE
           : in_reftable       ? QCOW2_REFCOUNT_TABLE
           : !is_member        ? QCOW2_NO_METADATA
           : slot->is_refblock ? QCOW2_REFCOUNT_BLOCK
                               : QCOW2_TABLE;
}

static int grow_set(struct qcow2 *q)
{
    uint64_t old_room = q->metadata_room;
    uint64_t room = old_room != 0 ? old_room * 2 : 64;
    struct qcow2_metadata_slot *old = q->metadata, *set = calloc(room, sizeof(set[0]));

    if (set == NULL) {
        return -ENOMEM;
    }
    q->metadata = set;
    q->metadata_room = room;
    for (uint64_t i = 0; i < old_room; i++) {
        if (old[i].cluster != 0) {
            *slot_of(q, old[i].cluster) = old[i];
        }
    }
    free(old);
    return 0;
}

static int add(struct qcow2 *q, uint64_t cluster, bool is_refblock)
{
    struct qcow2_metadata_slot *slot;

    if (q->metadata_count * 2 >= q->metadata_room) {
        int r = grow_set(q);

        if (r != 0) {
            return r;
        }
    }
    slot = slot_of(q, cluster);
    if (slot->cluster == 0) {
        *slot = (struct qcow2_metadata_slot){.cluster = cluster, .is_refblock = is_refblock};
        q->metadata_count++;
    }
    slot->uses++;
    qcow2_lookaside_forget_host(q, cluster);
    return 0;
}

int qcow2_metadata_add(struct qcow2 *q, uint64_t cluster)
{
    return add(q, cluster, false);
}

int qcow2_metadata_add_refblock(struct qcow2 *q, uint64_t cluster)
{
    return add(q, cluster, true);
}

/* Open addressing: what follows in the same cluster of slots moves up into the gap. */
static void empty_slot(struct qcow2 *q, struct qcow2_metadata_slot *slot)
{
    slot->cluster = 0;
    q->metadata_count--;
    for (uint64_t i = (uint64_t)(slot - q->metadata);;) {
        struct qcow2_metadata_slot moved;

        i = (i + 1) & (q->metadata_room - 1);
        moved = q->metadata[i];
        if (moved.cluster == 0) {
            return;
        }
        q->metadata[i].cluster = 0;
        *slot_of(q, moved.cluster) = moved;
    }
}

void qcow2_metadata_remove(struct qcow2 *q, uint64_t cluster)
{
    struct qcow2_metadata_slot *slot;

    if (q->metadata_room == 0 || (slot = slot_of(q, cluster))->cluster != cluster) {
        return;
    }
    slot->uses--;
    if (slot->uses == 0) {
        empty_slot(q, slot);
    }
}

static int set_corrupt_bit(struct qcow2 *q)
{
    uint8_t features[8];

    store_be64(features, q->header.incompatible_features | QCOW2_INCOMPAT_CORRUPT);
    return file_pwrite(q->file, QCOW2_AT_INCOMPATIBLE, features, sizeof(features));
}

void qcow2_note_corruption(struct qcow2 *q, const char *fmt, ...)
{
    char text[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    blk_note_problem(q->blk, -EIO, "image is corrupt: %s", text);
    if (q->writable && !q->check_only && !q->is_corrupt) {
        q->is_corrupt = true;
        qcow2_lookaside_close(q);
        /* Best effort: the image refuses writes from here on, whether or not the bit got there. */
        if (q->header.version >= 3 && set_corrupt_bit(q) == 0) {
            q->header.incompatible_features |= QCOW2_INCOMPAT_CORRUPT;
        }
    }
}
