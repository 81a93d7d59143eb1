/*
 * open.c - opens and closes a qcow2 layer.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What reading allows but writing does not. */
static int check_writable(const struct qcow2 *q, struct err *err)
{
    const struct qcow2_header *h = &q->header;

    if (h->incompatible_features & QCOW2_INCOMPAT_CORRUPT) {
        return err_set(err, -EIO,
                       "Image is marked corrupt; cannot be opened read/write (repair it with "
                       "`check -r all`)");
    }
    if (h->nb_snapshots != 0 && qcow2_has_data_file(q)) {
        return err_set(err, -ENOTSUP,
                       "Internal snapshots and an external data file exclude each other");
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

        if (offset != 0 && qcow2_is_metadata(q, offset)) {
            qcow2_note_corruption(q, "refcount block at 0x%" PRIx64 " lies over other metadata",
                                  offset);
        }
        r = offset != 0 ? qcow2_metadata_add_refblock(q, offset) : 0;
    }
    return r;
}

static int load_tables(struct qcow2 *q, bool for_check, struct err *err)
{
    const struct qcow2_header *h = &q->header;
    uint64_t size;
    int r = q->file->ops->size(q->file, &size);

    if (r != 0) {
        return err_set_errno(err, r, "Could not read the file's size");
    }
    r = for_check ? 0 : qcow2_header_check_snapshots(h, size, err);
    if (r != 0) {
        return r;
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

/* Whoever changes an image without knowing a feature must clear its autoclear bit first. */
static int clear_autoclear(struct qcow2 *q, struct err *err)
{
    uint64_t known = q->header.autoclear_features &
                     (QCOW2_AUTOCLEAR_BITMAPS |
                      (qcow2_has_data_file(q) ? QCOW2_AUTOCLEAR_RAW_DATA : UINT64_C(0)));
    int r = 0;

    if (q->header.version >= 3 && q->header.autoclear_features != known) {
        r = qcow2_header_write_features(q, q->header.incompatible_features, known);
        r = r == 0 ? qcow2_sync(q) : r;
    }
    return r != 0 ? err_set_errno(err, r, "Could not write the header") : 0;
}

/* Reads the header; before that, repairs an image that is to be written and whose refcounts may be
 * wrong. */
static int read_header(struct blk *blk, const struct blk_open_options *options,
                       struct qcow2_header_info *info, struct err *err)
{
    const uint64_t states = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
    struct blk_check_result result;
    char note[512];
    int r = qcow2_header_read(blk->file, options->for_check, info, err);

    if (r != 0 || !blk->writable || options->for_check ||
        (info->header.incompatible_features & states) != QCOW2_INCOMPAT_DIRTY) {
        return r;
    }
    qcow2_header_free(info);
    r = qcow2_repair_dirty(blk, &info->header, &result, err);
    if (r == 0 && options->warn != NULL) {
        snprintf(note, sizeof(note),
                 "'%s' was not closed properly: %" PRIu64 " wrong refcounts and %" PRIu64
                 " leaked clusters were repaired",
                 blk->path, result.corruptions_fixed, result.leaks_fixed);
        options->warn(note);
    }
    return r != 0 ? r : qcow2_header_read(blk->file, false, info, err);
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
    qcow2_unpacked_init(q);
    blk->state = q;
    q->blk = blk;
    q->file = blk->file;
    q->writable = blk->writable;
    r = read_header(blk, options, &info, err);
    if (r != 0) {
        return r;
    }
    blk->backing_name = info.backing_name;
    blk->backing_format = info.backing_format;
    blk->data_name = info.data_name;
    blk->has_data_file = (info.header.incompatible_features & QCOW2_INCOMPAT_DATA_FILE) != 0;
    blk->length = info.header.size;
    q->header = info.header;
    q->cluster_bits = q->header.cluster_bits;
    q->cluster_size = UINT64_C(1) << q->cluster_bits;
    q->l2_entry_bits = qcow2_header_l2_entry_bits(&q->header);
    q->l2_bits = q->cluster_bits - q->l2_entry_bits;
    q->has_subclusters = (q->header.incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) != 0;
    q->subclusters = q->has_subclusters ? QCOW2_SUBCLUSTERS : 1;
    q->subcluster_bits = q->cluster_bits - (q->has_subclusters ? QCOW2_SUBCLUSTERS_BITS : 0);
    q->subcluster_size = UINT64_C(1) << q->subcluster_bits;
    q->slice_bits = q->cluster_bits < QCOW2_MAX_SLICE_BITS ? q->cluster_bits : QCOW2_MAX_SLICE_BITS;
    q->refcount_bits = 1U << q->header.refcount_order;
    q->refblock_bits = q->cluster_bits + 3 - q->header.refcount_order;
    q->check_only = q->writable && options->for_check;
    q->is_lazy = q->writable && q->header.version >= 3 &&
                 (q->header.compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0;
    if ((q->header.autoclear_features & QCOW2_AUTOCLEAR_RAW_DATA) && !qcow2_has_data_file(q) &&
        !options->no_data_file) {
        return err_set(err, -EINVAL, "data-file-raw requires a data file");
    }
    if (q->writable && !q->check_only) {
        r = check_writable(q, err);
    }
    /* Before anything is written: a wrong key changes nothing. */
    if (r == 0 && q->header.crypt_method == QCOW2_CRYPT_LUKS) {
        r = qcow2_crypto_open(q, options, err);
    }
    if (r == 0) {
        r = load_tables(q, options->for_check, err);
    }
    if (r == 0 && q->writable && !q->check_only) {
        r = clear_autoclear(q, err);
    }
    if (r == 0 && q->writable && !q->check_only) {
        r = qcow2_snapshots_open(q, err);
    }
    if (r == 0) {
        r = qcow2_bitmaps_open(q, &info.bitmaps, err);
    }
    if (r == 0 && qcow2_cache_init(q, options->metadata_cache) != 0) {
        r = err_set_errno(err, -ENOMEM, "Could not make the metadata cache");
    }
    qcow2_mapping_init(q);
    if (r == 0 && q->writable && !q->check_only &&
        (qcow2_holds_init(q) != 0 || (!q->is_corrupt && qcow2_lookaside_init(q) != 0))) {
        r = err_set_errno(err, -ENOMEM, "Could not make the table of clusters");
    }
    return r;
}

/* Whether `r` says that the disk is full, and nothing worse has happened. */
static bool is_full(const struct qcow2 *q, int r)
{
    return (r == -ENOSPC || r == -EDQUOT) && qcow2_refuse_if_broken(q) == 0;
}

static int write_back(struct qcow2 *q)
{
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_refuse_if_broken(q);
    r = r == 0 ? qcow2_settle(q) : r;
    pthread_mutex_unlock(&q->lock);
    if ((r == 0 || is_full(q, r)) && q->file_size > q->file_end) {
        int cut = q->file->ops->truncate(q->file, q->file_end);

        r = r == 0 ? cut : r;
    }
    return r;
}

static int qcow2_close(struct blk *blk, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_header header;
    bool was_full = false;
    struct err problem;
    int r = 0, saved;

    if (q == NULL) {
        return 0;
    }
    if (blk->writable && !q->check_only) {
        saved = qcow2_bitmaps_save(q, err);
        r = write_back(q);
        if (r != 0 && q->is_corrupt && blk_problem(blk, &problem)) {
            err_set(err, r, "%s", problem.text);
        } else if (r != 0) {
            err_set_errno(err, r, "Could not write the metadata of '%s'", blk->path);
        } else if (saved != 0) {
            r = err_prefix(err, saved, "'%s'", blk->path);
        }
        was_full = is_full(q, r);
    }
    header = q->header;
    qcow2_bitmaps_free(q);
    qcow2_crypto_free(q);
    qcow2_snapshots_free(q);
    qcow2_cache_free(q);
    qcow2_mapping_close(q);
    qcow2_lookaside_free(q);
    qcow2_holds_free(q);
    qcow2_unpacked_free(q);
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
    if (was_full) {
        qcow2_repair_full(blk, &header);
    }
    return r;
}

/* Refcounts do not matter: without them a crash leaks clusters, or, where they lag behind on purpose, the
 * dirty bit says so. Nor does what stands in a redo log. */
static bool qcow2_unsettled(struct blk *blk)
{
    struct qcow2 *q = blk->state;
    bool unsettled;

    pthread_mutex_lock(&q->lock);
    unsettled = q->redo.memory != NULL
                    ? q->redo.is_incomplete || q->redo.is_committing_rest
                    : q->committing || q->cache.dirty_l2_count > 0 || q->l1.any_dirty;
    pthread_mutex_unlock(&q->lock);
    return unsettled;
}

static void qcow2_count(struct blk *blk, struct blk_counters *counters)
{
    struct qcow2 *q = qcow2_of(blk);

    pthread_mutex_lock(&q->lock);
    counters->allocations += q->counters.allocations;
    counters->cache_hits += q->counters.cache_hits + qcow2_quick_count(q);
    counters->cache_misses += q->counters.cache_misses;
    pthread_mutex_unlock(&q->lock);
}

static void qcow2_info(struct blk *blk, struct blk_info *info)
{
    struct qcow2 *q = qcow2_of(blk);
    const struct qcow2_header *h = &q->header;

    pthread_mutex_lock(&q->lock);
    info->cluster_size = (unsigned)q->cluster_size;
    info->is_dirty = (h->incompatible_features & QCOW2_INCOMPAT_DIRTY) != 0;
    info->is_corrupt = (h->incompatible_features & QCOW2_INCOMPAT_CORRUPT) != 0;
    info->is_encrypted = q->crypto != NULL;
    info->compat = h->version;
    info->extended_l2 = q->has_subclusters;
    info->refcount_bits = q->refcount_bits;
    info->lazy_refcounts = (h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0;
    info->data_file_raw = (h->autoclear_features & QCOW2_AUTOCLEAR_RAW_DATA) != 0;
    info->bitmaps_outdated = qcow2_bitmaps_outdated(q);
    info->compression_type = h->compression_type == 0 ? "zlib" : "zstd";
    pthread_mutex_unlock(&q->lock);
}

const struct blk_format qcow2_format = {
    .name = "qcow2",
    .open = qcow2_open,
    .close = qcow2_close,
    .map = qcow2_map,
    .unhold = qcow2_unhold,
    .read = qcow2_read,
    .write = qcow2_write,
    .map_overwrite = qcow2_map_overwrite,
    .write_zeroes = qcow2_write_zeroes,
    .discard = qcow2_discard,
    .compress = qcow2_compress,
    .write_packed = qcow2_write_packed,
    .flush = qcow2_flush,
    .to_file = qcow2_to_file,
    .resize = qcow2_resize,
    .preallocate = qcow2_preallocate,
    .vm_state = qcow2_vm_state,
    .info = qcow2_info,
    .unsettled = qcow2_unsettled,
    .redo_log_size = qcow2_redo_log_size,
    .redo_log = qcow2_redo_log,
    .count = qcow2_count,
    .encryption = qcow2_encryption,
    .check = qcow2_check,
    .set_backing = qcow2_set_backing,
    .make_empty = qcow2_make_empty,
    .amend = qcow2_amend,
    .track = qcow2_bitmaps_track,
    .bitmaps = &qcow2_bitmap_ops,
    .snapshots = &qcow2_snapshot_ops,
};
