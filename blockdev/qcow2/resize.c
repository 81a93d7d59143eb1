/*
 * resize.c - makes a device larger or smaller.
 *
 * What is gained must read as zeros, but a larger backing file may hold something there, and so may
 * the part of the old last cluster behind the old end. So first a larger L1 table is put in place,
 * then the gained range is hidden where anything shows through, and all of it is made stable; the
 * header's new size comes last. A crash before that leaves the old size, behind which nobody looks.
 *
 * A new L1 table: its clusters are counted and it is written and synced; the header's entry count
 * and offset change in one write, synced; only then is the old table given back.
 *
 * A smaller device begins with the header: from its sync on nobody looks behind the new end, so that
 * what lies there can be given up in any order (empty.c). A crash leaves the old size and everything,
 * or the new size and perhaps clusters behind it, which the next growth hides and the next shrinking
 * gives up. Nothing that waits to be written has to be there first, so that a growth can be taken back in a
 * file system that is full. The L1 table keeps its length, as QEMU's does.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Writes the new table and makes the header name it. Without the lock: nobody else is there. */
static int publish_l1(struct qcow2 *q, const struct qcow2_table *table)
{
    size_t bytes = align_up(table->count * QCOW2_ENTRY_SIZE, q->cluster_size);
    uint8_t *raw = calloc(1, bytes);
    int r;

    if (raw == NULL) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < table->count; i++) {
        store_be64(raw + i * QCOW2_ENTRY_SIZE, table->entries[i]);
    }
    r = file_pwrite(q->file, table->offset, raw, bytes);
    free(raw);
    r = r == 0 ? qcow2_sync(q) : r;
    if (r != 0) {
        return r;
    }
    r = qcow2_header_write_l1(q, table->offset, (uint32_t)table->count);
    return r != 0 ? qcow2_break(q, r) : qcow2_sync(q);
}

int qcow2_grow_l1(struct qcow2 *q, uint64_t count)
{
    struct qcow2_table table = {.count = count}, old = q->l1;
    uint64_t clusters = div_round_up(count * QCOW2_ENTRY_SIZE, q->cluster_size);
    uint64_t old_clusters = div_round_up(old.count * QCOW2_ENTRY_SIZE, q->cluster_size);
    int r;

    table.entries = calloc(count, sizeof(table.entries[0]));
    table.dirty = calloc(div_round_up(count, QCOW2_TABLE_SECTOR_ENTRIES), 1);
    if (table.entries == NULL || table.dirty == NULL) {
        qcow2_table_free(&table);
        return -ENOMEM;
    }
    pthread_mutex_lock(&q->lock);
    r = qcow2_alloc_run(q, clusters, &table.offset);
    /* The commit makes the old table and the new clusters' refcounts stable. */
    r = r == 0 ? qcow2_commit(q, true) : r;
    r = r == 0 ? qcow2_check_overlap(q, QCOW2_WRITES_NEW, table.offset, clusters << q->cluster_bits)
               : r;
    pthread_mutex_unlock(&q->lock);
    if (r == 0) {
        memcpy(table.entries, old.entries, old.count * sizeof(table.entries[0]));
        r = publish_l1(q, &table);
    }
    pthread_mutex_lock(&q->lock);
    if (r != 0) {
        if (table.offset != 0 && q->sync_failed == 0) {
            qcow2_refcount_release(q, table.offset, clusters);
        }
        pthread_mutex_unlock(&q->lock);
        qcow2_table_free(&table);
        return r;
    }
    q->l1 = table;
    qcow2_lookaside_clear(q);
    if (old_clusters > 0) {
        qcow2_free_later(q, old.offset, old_clusters);
    }
    pthread_mutex_unlock(&q->lock);
    qcow2_table_free(&old);
    return 0;
}

/* Makes [from, to) read as zeros, where it does not yet. The device already ends at `to`. */
static int hide_gained_range(struct qcow2 *q, uint64_t from, uint64_t to)
{
    while (from < to) {
        struct layer_extent extent;
        struct blk *layer;
        unsigned depth;
        int r = chain_map(q->blk, from, to - from, 0, &layer, &depth, &extent);

        if (r == 0 && (extent.kind == BLK_EXTENT_DATA || extent.kind == BLK_EXTENT_COMPRESSED ||
                       qcow2_data_is_raw(q))) {
            r = qcow2_write_zeroes(q->blk, from, extent.length, 0);
        }
        if (r != 0) {
            return r;
        }
        from += extent.length;
    }
    return 0;
}

/* Before the header says so; its end behind a device's end means nothing. */
static int grow_data_file(struct qcow2 *q, uint64_t size)
{
    struct file *data = q->blk->data_file;
    uint64_t old_size = 0;
    int r = data != NULL ? data->ops->size(data, &old_size) : 0;

    return r == 0 && data != NULL && old_size < size ? data->ops->truncate(data, size) : r;
}

static int grow(struct qcow2 *q, uint64_t size, const char **doing)
{
    struct blk *blk = q->blk;
    uint64_t old_size = blk->length;
    uint64_t l2_coverage = q->cluster_size << q->l2_bits;
    uint64_t l1_count = div_round_up(size, l2_coverage);
    int r = 0;

    if (l1_count > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE) {
        return -EFBIG;
    }
    if (l1_count > q->l1.count) {
        r = qcow2_grow_l1(q, l1_count);
    }
    if (r != 0) {
        *doing = "Failed to grow the L1 table";
        return r;
    }
    blk->length = size;
    r = grow_data_file(q, size);
    r = r == 0 ? hide_gained_range(q, old_size, size) : r;
    r = r == 0 ? qcow2_flush(blk) : r;
    if (r == 0) {
        r = qcow2_header_write_size(q, size);
        /* Which size the header on disk has is not known when it fails. */
        r = r != 0 ? qcow2_break(q, r) : qcow2_sync(q);
    }
    if (r != 0) {
        blk->length = old_size;
    }
    return r;
}

static int shrink(struct qcow2 *q, uint64_t size)
{
    int r = qcow2_header_write_size(q, size);

    r = r != 0 ? qcow2_break(q, r) : qcow2_sync(q);
    if (r != 0) {
        return r;
    }
    q->blk->length = size;
    /* Nothing may come back when it grows again, in a raw data file above all. */
    if (qcow2_has_data_file(q)) {
        r = q->blk->data_file->ops->truncate(q->blk->data_file, size);
    }
    if (r != 0) {
        return r;
    }
    pthread_mutex_lock(&q->lock);
    r = qcow2_drop_tail(q, align_up(size, q->cluster_size));
    r = r == 0 ? qcow2_give_space_back(q) : r;
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_resize(struct blk *blk, uint64_t size, struct err *err)
{
    const char *doing = NULL;
    int r;

    if (size > INT64_MAX) {
        return err_set(err, -EFBIG, "Could not resize '%s': %" PRIu64 " bytes are too many",
                       blk->path, size);
    }
    if (size > blk->length && blk->backing_name != NULL && blk->backing == NULL) {
        return err_set(err, -EINVAL, "Could not resize '%s' without its backing file", blk->path);
    }
    if (qcow2_of(blk)->header.version < 3 && qcow2_of(blk)->header.nb_snapshots > 0) {
        /* Their entries need not say for which size they are. */
        return err_set(err, -ENOTSUP, "Can't resize a v2 image which has snapshots");
    }
    r = qcow2_refuse_if_broken(qcow2_of(blk));
    if (r != 0) {
        return err_set_errno(err, r, "Could not resize '%s'", blk->path);
    }
    if (size == blk->length) {
        return 0;
    }
    r = qcow2_bitmaps_begin_resize(qcow2_of(blk), size, err);
    if (r != 0) {
        return r;
    }
    r = size < blk->length ? shrink(qcow2_of(blk), size) : grow(qcow2_of(blk), size, &doing);
    if (r != 0) {
        qcow2_bitmaps_end_resize(qcow2_of(blk), NULL);
        if (doing != NULL) {
            return err_set_errno(err, r, "%s", doing);
        }
        return err_set_errno(err, r, "Could not resize '%s'", blk->path);
    }
    return qcow2_bitmaps_end_resize(qcow2_of(blk), err);
}
