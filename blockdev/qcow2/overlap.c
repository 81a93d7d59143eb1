/*
 * overlap.c - the last look before a write.
 *
 * Tables are checked when they are read (entry.c, map.c, refcount.c) and places when they are allocated
 * (alloc.c). What both rely on may be a lie: a refcount of 0 for a cluster that is in use lets the
 * allocator hand out for a table what an entry read long ago calls guest data. So each write is
 * held against what is known to be metadata right before it goes out, in the locked section that decides
 * on it:
 *
 *   guest data, holes   no metadata at all
 *   a slice             a cluster that is known as that kind of table, and no fixed area
 *   a fixed table       no other fixed area, and no cluster of the set
 *   new metadata        no metadata at all: tables of every kind that are written whole before
 *                       anything leads there
 *   bitmaps, snapshots  clusters that are known to be tables, and no fixed area
 *   encryption header   no other fixed area, and no cluster of the set
 *
 * Known are: the header, the L1 table, the refcount table (metadata.c: fixed areas); L2 tables, refcount
 * blocks, and what bitmaps, snapshots and encryption keep in the file (the hash set). That is what QEMU
 * checks by default ("overlap-check=cached"), but for two things: sizes of tables of snapshots are not
 * all it knows of them here, and bitmaps' tables and bits count as well.
 *
 * It costs two comparisons and one look into a hash table for a cluster.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <inttypes.h>

static const char *const names[] = {
    [QCOW2_WRITES_DATA] = "guest data",
    [QCOW2_WRITES_L2] = "an L2 table",
    [QCOW2_WRITES_REFBLOCK] = "a refcount block",
    [QCOW2_WRITES_L1] = "the L1 table",
    [QCOW2_WRITES_REFTABLE] = "the refcount table",
    [QCOW2_WRITES_NEW] = "new metadata",
    [QCOW2_WRITES_EXTRA] = "a bitmap or the snapshot table",
    [QCOW2_WRITES_LUKS] = "the encryption header",
};

static bool may_write(const struct qcow2 *q, enum qcow2_writes what, uint64_t cluster)
{
    enum qcow2_metadata_kind kind = qcow2_metadata_kind_of(q, cluster);

    switch (what) {
    case QCOW2_WRITES_DATA:
    case QCOW2_WRITES_NEW:
        return kind == QCOW2_NO_METADATA;
    case QCOW2_WRITES_L2:
    case QCOW2_WRITES_EXTRA:
        return kind == QCOW2_TABLE;
    case QCOW2_WRITES_REFBLOCK:
        return kind == QCOW2_REFCOUNT_BLOCK;
    case QCOW2_WRITES_L1:
        return kind == QCOW2_L1_TABLE;
    case QCOW2_WRITES_REFTABLE:
        return kind == QCOW2_REFCOUNT_TABLE;
    case QCOW2_WRITES_LUKS:
        return kind == QCOW2_LUKS;
    }
    return false;
}

int qcow2_check_overlap(struct qcow2 *q, enum qcow2_writes what, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;

    for (uint64_t at = align_down(offset, q->cluster_size); at < end; at += q->cluster_size) {
        if (!may_write(q, what, at)) {
            return qcow2_mark_corrupt(q, "%s would be written over metadata at 0x%" PRIx64,
                                      names[what], at);
        }
    }
    return 0;
}
