/*
 * snapshot_tree.c - what an operation on snapshots does to the references and the COPIED flags of whole
 * trees: an L1 table, the L2 tables it leads to, and the clusters that these lead to. A cluster has a
 * reference for each way from an L1 table to it (specification, "Snapshots").
 *
 * Tables are read from the disk, where all of them are up to date. One whose flags change moves; in place
 * (snapshot_in_place.c) the sectors with these flags are written, and no others: where a table holds nothing
 * the file may have a hole. An entry that makes no sense fails the operation.
 */
#include "bytes.h"
#include "qcow2/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t *entry_at(const struct qcow2 *q, uint8_t *table, unsigned index)
{
    return (uint64_t *)(void *)(table + ((size_t)index << q->l2_entry_bits));
}

static unsigned table_entries(const struct qcow2 *q)
{
    return 1U << q->l2_bits;
}

/* A table that was read whole, for who decodes slices. */
static struct qcow2_slice as_slice(uint64_t offset, uint8_t *table)
{
    return (struct qcow2_slice){.offset = offset, .suspect = true, .data = table};
}

size_t snapshot_tree_tables(const uint64_t *l1, uint64_t count)
{
    size_t tables = 0;

    for (uint64_t i = 0; i < count; i++) {
        tables += l1[i] != 0;
    }
    return tables;
}

static int read_table(struct qcow2 *q, uint64_t l1_entry, uint8_t *table)
{
    uint64_t offset = l1_entry & QCOW2_OFFSET_MASK;
    int r;

    pthread_mutex_unlock(&q->lock);
    r = file_pread(q->file, offset, table, q->cluster_size);
    pthread_mutex_lock(&q->lock);
    return r;
}

/* `change` for what the entries of the table at `offset` lead to. */
static int count_table(struct shadow *s, uint64_t offset, uint8_t *table,
                       int (*change)(struct shadow *s, uint64_t host_offset, uint64_t clusters))
{
    const struct qcow2_slice slice = as_slice(offset, table);
    int r = 0;

    for (unsigned i = 0; i < table_entries(s->q) && r == 0; i++) {
        struct qcow2_cluster cluster;
        uint64_t host_offset, clusters = 0;

        r = qcow2_l2_decode(s->q, &slice, i, &cluster);
        if (r == 0) {
            clusters = qcow2_cluster_references(s->q, &cluster, &host_offset);
        }
        r = clusters > 0 ? change(s, host_offset, clusters) : r;
    }
    return r == 0 ? qcow2_throttle(s->q) : r;
}

/* `change` for all that the tree leads to. */
static int count_tree(struct shadow *s, const uint64_t *l1, uint64_t count,
                      int (*change)(struct shadow *s, uint64_t host_offset, uint64_t clusters))
{
    uint8_t *table = malloc(s->q->cluster_size);
    int r = table != NULL ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < count && r == 0; i++) {
        if (l1[i] != 0) {
            r = read_table(s->q, l1[i], table);
            r = r == 0 ? count_table(s, l1[i] & QCOW2_OFFSET_MASK, table, change) : r;
            r = r == 0 ? change(s, l1[i] & QCOW2_OFFSET_MASK, 1) : r;
        }
    }
    free(table);
    return r;
}

int snapshot_tree_expect(struct shadow *s, const uint64_t *l1, uint64_t count)
{
    return count_tree(s, l1, count, shadow_expect);
}

int snapshot_tree_lower(struct shadow *s, const uint64_t *l1, uint64_t count)
{
    return count_tree(s, l1, count, shadow_lower);
}

int snapshot_tree_raise(struct shadow *s, const uint64_t *l1, uint64_t count)
{
    return count_tree(s, l1, count, shadow_raise);
}

/* True if there were any. */
static bool clear_flags(const struct qcow2 *q, uint8_t *table)
{
    bool changed = false;

    for (unsigned i = 0; i < table_entries(q); i++) {
        uint64_t entry = load_be64(entry_at(q, table, i));

        if (entry & QCOW2_ENTRY_COPIED) {
            store_be64(entry_at(q, table, i), entry & ~QCOW2_ENTRY_COPIED);
            changed = true;
        }
    }
    return changed;
}

/* Writes a table to a place of its own, and makes *l1_entry lead there. */
static int move_table(struct shadow *s, const uint8_t *table, uint64_t *l1_entry)
{
    uint64_t offset = shadow_take_table(s);

    *l1_entry = offset | QCOW2_ENTRY_COPIED;
    return shadow_write(s, QCOW2_WRITES_NEW, offset, table, s->q->cluster_size);
}

/* A table without any COPIED flag serves both trees; otherwise the new one gets a copy of its own. */
static int share_table(struct shadow *s, uint8_t *table, uint64_t old_entry, uint64_t *l1_entry)
{
    int r = read_table(s->q, old_entry, table);

    if (r == 0 && clear_flags(s->q, table)) {
        r = move_table(s, table, l1_entry);
    } else if (r == 0) {
        *l1_entry = old_entry & ~QCOW2_ENTRY_COPIED;
        r = shadow_raise(s, *l1_entry & QCOW2_OFFSET_MASK, 1);
    }
    r = r == 0 ? count_table(s, old_entry & QCOW2_OFFSET_MASK, table, shadow_raise) : r;
    return r == 0 ? shadow_gain(s, *l1_entry & QCOW2_OFFSET_MASK) : r;
}

int snapshot_tree_share(struct shadow *s, const uint64_t *l1, uint64_t count)
{
    uint8_t *table = malloc(s->q->cluster_size);
    int r = table != NULL ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < count && r == 0; i++) {
        r = l1[i] != 0 ? share_table(s, table, l1[i], &s->l1.entries[i]) : 0;
    }
    free(table);
    return r;
}

/* Writes the sectors that differ from what the table was. */
static int write_changes(struct shadow *s, uint64_t offset, const uint8_t *was,
                         const uint8_t *table)
{
    enum { SECTOR = 512 };
    struct qcow2 *q = s->q;
    int r = qcow2_check_overlap(q, QCOW2_WRITES_L2, offset, q->cluster_size);

    s->is_final = true;
    qcow2_cache_forget(q, offset, q->cluster_size);
    pthread_mutex_unlock(&q->lock);
    for (uint64_t at = 0, end; at < q->cluster_size && r == 0; at = end) {
        end = at + SECTOR;
        if (memcmp(was + at, table + at, SECTOR) == 0) {
            continue;
        }
        while (end < q->cluster_size && memcmp(was + end, table + end, SECTOR) != 0) {
            end += SECTOR;
        }
        r = file_pwrite(q->file, offset + at, table + at, end - at);
    }
    pthread_mutex_lock(&q->lock);
    return r;
}

int snapshot_tree_clear_flags(struct shadow *s, const uint64_t *l1, uint64_t count)
{
    size_t bytes = s->q->cluster_size;
    uint8_t *tables = calloc(2, bytes);
    int r = tables != NULL ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < count && r == 0; i++) {
        if (l1[i] == 0) {
            continue;
        }
        r = read_table(s->q, l1[i], tables);
        memcpy(tables + bytes, tables, bytes);
        if (r == 0 && clear_flags(s->q, tables + bytes)) {
            r = write_changes(s, l1[i] & QCOW2_OFFSET_MASK, tables, tables + bytes);
        }
    }
    free(tables);
    return r;
}

static int follow_entries(struct qcow2 *q, uint64_t offset, uint8_t *table, bool *changed)
{
    const struct qcow2_slice slice = as_slice(offset, table);
    int r = 0;

    for (unsigned i = 0; i < table_entries(q) && r == 0; i++) {
        struct qcow2_cluster cluster;
        uint64_t count;

        r = qcow2_l2_decode(q, &slice, i, &cluster);
        if (r != 0 || cluster.host_offset == 0) {
            continue;
        }
        r = qcow2_refcount_get(q, cluster.host_offset, &count);
        if (r == 0 && cluster.is_copied != (count == 1)) {
            store_be64(entry_at(q, table, i),
                       load_be64(entry_at(q, table, i)) ^ QCOW2_ENTRY_COPIED);
            *changed = true;
        }
    }
    return r;
}

/* What a shared table leads to is shared as well, so its flags are as they must be. */
static int follow_table(struct shadow *s, uint8_t *was, uint64_t old_entry, uint64_t *l1_entry)
{
    uint64_t offset = old_entry & QCOW2_OFFSET_MASK, count = 0;
    uint8_t *table = was + s->q->cluster_size;
    bool changed = false;
    int r = qcow2_refcount_get(s->q, offset, &count);

    *l1_entry = count == 1 ? offset | QCOW2_ENTRY_COPIED : offset;
    if (r == 0 && count == 1) {
        r = read_table(s->q, old_entry, was);
        memcpy(table, was, s->q->cluster_size);
        r = r == 0 ? follow_entries(s->q, offset, table, &changed) : r;
        if (r == 0 && changed && s->in_place) {
            r = write_changes(s, offset, was, table);
        } else if (r == 0 && changed) {
            r = move_table(s, table, l1_entry);
            r = r == 0 ? shadow_lower(s, offset, 1) : r;
        }
    }
    return r == 0 ? shadow_gain(s, *l1_entry & QCOW2_OFFSET_MASK) : r;
}

int snapshot_tree_follow(struct shadow *s, const uint64_t *l1, uint64_t count)
{
    uint8_t *tables = calloc(2, s->q->cluster_size);
    int r = tables != NULL ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < count && r == 0; i++) {
        r = l1[i] != 0 ? follow_table(s, tables, l1[i], &s->l1.entries[i]) : 0;
        r = r == 0 ? qcow2_throttle(s->q) : r;
    }
    free(tables);
    return r;
}

void snapshot_tree_forget(struct qcow2 *q, const uint64_t *l1, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (l1[i] != 0) {
            qcow2_metadata_remove(q, l1[i] & QCOW2_OFFSET_MASK);
            qcow2_cache_forget(q, l1[i] & QCOW2_OFFSET_MASK, q->cluster_size);
        }
    }
}
