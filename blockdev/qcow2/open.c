/*
 * open.c - opens and closes a qcow2 layer.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SLICE_BITS = 12 };

/* What reading allows but writing does not. */
static int check_writable(const struct qcow2 *q, struct err *err)
{
    const struct qcow2_header *h = &q->header;

    if (h->incompatible_features & QCOW2_INCOMPAT_CORRUPT) {
        return err_set(err, -EIO,
                       "Image is marked corrupt; cannot be opened read/write (repair it with "
                       "`check -r all`)");
    }
    if (h->incompatible_features & QCOW2_INCOMPAT_DIRTY) {
        return err_set(err, -EIO,
                       "Image was not closed properly and its refcounts may be wrong; repair it "
                       "with `check -r all`");
    }
    if (h->refcount_order != QCOW2_DEFAULT_REFCOUNT_ORDER) {
        return err_set(err, -ENOTSUP, "Writing with %u-bit refcounts is not supported",
                       q->refcount_bits);
    }
    if (h->nb_snapshots != 0) {
        return err_set(err, -ENOTSUP,
                       "Writing to an image with internal snapshots is not supported");
    }
    return 0;
}

static int collect_metadata(struct qcow2 *q)
{
    int r = 0;

    for (uint64_t i = 0; i < q->l1.count && r == 0; i++) {
        uint64_t offset = q->l1.entries[i] & QCOW2_OFFSET_MASK;

        r = offset != 0 ? qcow2_metadata_add(q, offset) : 0;
    }
    for (uint64_t i = 0; i < q->reftable.count && r == 0; i++) {
        uint64_t offset = q->reftable.entries[i] & QCOW2_OFFSET_MASK;

        r = offset != 0 ? qcow2_metadata_add(q, offset) : 0;
    }
    return r;
}

static int load_tables(struct qcow2 *q, struct err *err)
{
    const struct qcow2_header *h = &q->header;
    uint64_t size;
    int r = q->file->ops->size(q->file, &size);

    if (r != 0) {
        return err_set_errno(err, r, "Could not read the file's size");
    }
    q->file_size = size;
    q->file_end = align_up(size, q->cluster_size);
    q->never_written = q->file_end;
    r = qcow2_table_load(&q->l1, q->file, h->l1_table_offset, h->l1_size);
    if (r != 0) {
        return err_set_errno(err, r, "Could not read the L1 table");
    }
    if (!q->writable) {
        return 0;
    }
    r = qcow2_table_load(&q->reftable, q->file, h->refcount_table_offset,
                         (uint64_t)h->refcount_table_clusters << (q->cluster_bits - 3));
    if (r != 0) {
        return err_set_errno(err, r, "Could not read the refcount table");
    }
    r = collect_metadata(q);
    return r != 0 ? err_set_errno(err, r, "Could not keep the tables' places") : 0;
}

/* Whoever changes an image without knowing a feature must clear its autoclear bit first; we know
 * none (bitmaps and raw data would both be stale after a write). */
static int clear_autoclear(struct qcow2 *q, struct err *err)
{
    int r = 0;

    if (q->header.version >= 3 && q->header.autoclear_features != 0) {
        r = qcow2_header_write_features(q, q->header.incompatible_features, 0);
        r = r == 0 ? qcow2_sync(q) : r;
    }
    return r != 0 ? err_set_errno(err, r, "Could not write the header") : 0;
}

static int qcow2_open(struct blk *blk, const struct blk_open_options *options, struct err *err)
{
    struct qcow2_header_info info;
    struct qcow2 *q = calloc(1, sizeof(*q));
    int r;

    if (q == NULL) {
        return err_set_errno(err, -ENOMEM, "Could not read the header");
    }
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    blk->state = q;
    q->blk = blk;
    q->file = blk->file;
    q->writable = blk->writable;
    r = qcow2_header_read(q->file, &info, err);
    if (r != 0) {
        return r;
    }
    blk->backing_name = info.backing_name;
    blk->backing_format = info.backing_format;
    blk->length = info.header.size;
    q->header = info.header;
    q->cluster_bits = q->header.cluster_bits;
    q->cluster_size = UINT64_C(1) << q->cluster_bits;
    q->l2_bits = q->cluster_bits - 3;
    q->slice_bits = q->cluster_bits < MAX_SLICE_BITS ? q->cluster_bits : MAX_SLICE_BITS;
    q->refcount_bits = 1U << q->header.refcount_order;
    q->refblock_bits = q->cluster_bits + 3 - q->header.refcount_order;
    q->check_only = q->writable && options->for_check;
    if (q->writable && !q->check_only) {
        r = check_writable(q, err);
    }
    if (r == 0) {
        r = load_tables(q, err);
    }
    if (r == 0 && q->writable && !q->check_only) {
        r = clear_autoclear(q, err);
    }
    if (r == 0 && qcow2_cache_init(q, options->metadata_cache) != 0) {
        r = err_set_errno(err, -ENOMEM, "Could not make the metadata cache");
    }
    return r;
}

/* Two commits: what the first one releases is written by the second. */
static int write_back(struct qcow2 *q)
{
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_refuse_if_broken(q);
    r = r == 0 ? qcow2_commit(q, true) : r;
    if (r == 0 && (q->freed.count > 0 || q->cache.dirty_count > 0)) {
        r = qcow2_commit(q, true);
    }
    pthread_mutex_unlock(&q->lock);
    if (r == 0 && q->file_size > q->file_end) {
        r = q->file->ops->truncate(q->file, q->file_end);
    }
    return r;
}

static int qcow2_close(struct blk *blk, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    int r = 0;

    if (q == NULL) {
        return 0;
    }
    if (blk->writable && !q->check_only) {
        r = write_back(q);
        if (r != 0) {
            err_set_errno(err, r, "Could not write the metadata of '%s'", blk->path);
        }
    }
    qcow2_cache_free(q);
    qcow2_table_free(&q->l1);
    qcow2_table_free(&q->reftable);
    qcow2_runs_free(&q->freed);
    qcow2_runs_free(&q->draining);
    for (int i = 0; i < QCOW2_SPARE_BUFFERS; i++) {
        free(q->spare[i]);
    }
    free(q->metadata);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->changed);
    free(q);
    blk->state = NULL;
    return r;
}

static void qcow2_info(struct blk *blk, struct blk_info *info)
{
    const struct qcow2 *q = qcow2_of(blk);
    const struct qcow2_header *h = &q->header;

    info->cluster_size = (unsigned)q->cluster_size;
    info->is_dirty = (h->incompatible_features & QCOW2_INCOMPAT_DIRTY) != 0;
    info->is_corrupt = (h->incompatible_features & QCOW2_INCOMPAT_CORRUPT) != 0;
    info->compat = h->version;
    info->refcount_bits = q->refcount_bits;
    info->lazy_refcounts = (h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0;
    info->compression_type = h->compression_type == 0 ? "zlib" : "zstd";
}

const struct blk_format qcow2_format = {
    .name = "qcow2",
    .open = qcow2_open,
    .close = qcow2_close,
    .map = qcow2_map,
    .unhold = qcow2_unhold,
    .write = qcow2_write,
    .write_zeroes = qcow2_write_zeroes,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .resize = qcow2_resize,
    .info = qcow2_info,
    .check = qcow2_check,
    .set_backing = qcow2_set_backing,
    .make_empty = qcow2_make_empty,
};
