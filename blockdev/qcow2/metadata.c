/*
 * metadata.c - which host clusters hold metadata, and what happens when an image turns out to be
 * corrupt.
 *
 * The header, the L1 table and the refcount table are three ranges. L2 tables and refcount blocks
 * of a writable layer stand in a hash set, filled when the image is opened, so that no entry of a
 * hostile table can make a guest's write land on them.
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

bool qcow2_is_fixed_metadata(const struct qcow2 *q, uint64_t cluster)
{
    return cluster < q->cluster_size || in_table(q, &q->l1, cluster) ||
           in_table(q, &q->reftable, cluster);
}

/* The slot of `cluster`, or the free one where it would go. Cluster 0 is never a member. */
static uint64_t *slot_of(const struct qcow2 *q, uint64_t cluster)
{
    uint64_t hash = (cluster >> q->cluster_bits) * UINT64_C(0x9e3779b97f4a7c15);
    uint64_t i = (hash >> 20) & (q->metadata_room - 1);

    while (q->metadata[i] != 0 && q->metadata[i] != cluster) {
        i = (i + 1) & (q->metadata_room - 1);
    }
    return &q->metadata[i];
}

bool qcow2_is_metadata(const struct qcow2 *q, uint64_t cluster)
{
    return qcow2_is_fixed_metadata(q, cluster) ||
           (q->metadata_room != 0 && *slot_of(q, cluster) == cluster);
}

static int grow_set(struct qcow2 *q)
{
    uint64_t old_room = q->metadata_room, *old = q->metadata;
    uint64_t room = old_room != 0 ? old_room * 2 : 64;
    uint64_t *set = calloc(room, sizeof(set[0]));

    if (set == NULL) {
        return -ENOMEM;
    }
    q->metadata = set;
    q->metadata_room = room;
    for (uint64_t i = 0; i < old_room; i++) {
        if (old[i] != 0) {
            *slot_of(q, old[i]) = old[i];
        }
    }
    free(old);
    return 0;
}

int qcow2_metadata_add(struct qcow2 *q, uint64_t cluster)
{
    uint64_t *slot;

    if (q->metadata_count * 2 >= q->metadata_room) {
        int r = grow_set(q);

        if (r != 0) {
            return r;
        }
    }
    slot = slot_of(q, cluster);
    if (*slot == 0) {
        *slot = cluster;
        q->metadata_count++;
    }
    return 0;
}

/* Open addressing: what follows in the same cluster of slots moves up into the gap. */
void qcow2_metadata_remove(struct qcow2 *q, uint64_t cluster)
{
    uint64_t *slot;

    if (q->metadata_room == 0 || *(slot = slot_of(q, cluster)) != cluster) {
        return;
    }
    *slot = 0;
    q->metadata_count--;
    for (uint64_t i = (uint64_t)(slot - q->metadata);;) {
        uint64_t moved;

        i = (i + 1) & (q->metadata_room - 1);
        moved = q->metadata[i];
        if (moved == 0) {
            return;
        }
        q->metadata[i] = 0;
        *slot_of(q, moved) = moved;
    }
}

static int set_corrupt_bit(struct qcow2 *q)
{
    uint8_t features[8];

    store_be64(features, q->header.incompatible_features | QCOW2_INCOMPAT_CORRUPT);
    return file_pwrite(q->file, 72, features, sizeof(features));
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
        /* Best effort: the image refuses writes from here on, whether or not the bit got there. */
        if (q->header.version >= 3 && set_corrupt_bit(q) == 0) {
            q->header.incompatible_features |= QCOW2_INCOMPAT_CORRUPT;
        }
    }
}
