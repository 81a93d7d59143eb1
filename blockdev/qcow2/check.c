/*
 * check.c - blk_check() for qcow2.
 *
 * The references that the image's tables hold are counted cluster by cluster (check_walk.c,
 * check_extra.c, check_refcounts.c), compared with the refcounts on disk, and the COPIED flags with
 * those (check_copied.c). Everything is read from the file: the layer's own tables and caches are
 * not involved, and when anything was written the layer is opened afresh.
 *
 * Repair, in this order:
 *   1. Refcounts. One by one when each wrong one has a place and is not zero; else, and when the
 *      refcount structures themselves are damaged, all of them anew (check_rebuild.c).
 *   2. The snapshot table (check_snapshots.c).
 *   3. COPIED flags, which follow the refcounts.
 *   4. Only when nothing is left: sync, then the dirty and corrupt bits go.
 * Cut short anywhere, the image is at worst as damaged as before, with its dirty bit still set.
 */
#include "qcow2/check.h"

#include "block.h"
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void __attribute__((format(printf, 2, 0)))
say(const struct check *c, const char *fmt, va_list args)
{
    char line[256];

    if (c->report == NULL || c->quiet)
        return;
    (void)vsnprintf(line, sizeof(line), fmt, args);
    c->report(c->opaque, line);
}

void check_say(const struct check *c, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say(c, fmt, args);
    va_end(args);
}

void check_corruption(struct check *c, const char *fmt, ...)
{
    va_list args;

    c->result->corruptions++;
    va_start(args, fmt);
    say(c, fmt, args);
    va_end(args);
}

void check_corruptions(struct check *c, uint64_t times, const char *fmt, ...)
{
    va_list args;

    c->result->corruptions += times;
    va_start(args, fmt);
    say(c, fmt, args);
    va_end(args);
}

int check_begin(struct check *c, const struct qcow2_header *header)
{
    int rc = c->file->ops->size(c->file, &c->file_bytes);

    if (rc < 0)
        return rc;
    c->header = *header;
    c->has_data_file = (header->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) != 0;
    c->block_index = UINT64_MAX;
    c->cluster_bits = header->cluster_bits;
    c->cluster_size = UINT64_C(1) << c->cluster_bits;
    c->refcount_bits = 1U << header->refcount_order;
    c->l2_entry_bits = qcow2_header_l2_entry_bits(header);
    c->refblock_entries = c->cluster_size * 8 / c->refcount_bits;
    c->file_clusters = div_round_up(c->file_bytes, c->cluster_size);
    c->result->total_clusters = div_round_up(header->size, c->cluster_size);
    c->block = malloc(c->cluster_size);
    if (c->block == NULL)
        return -ENOMEM;
    check_refs_init(&c->refs, c->file_clusters);
    check_refs_init(&c->active_tables, c->file_clusters);
    check_refs_init(&c->other_tables, c->file_clusters);
    check_refs_init(&c->bitmap_tables, c->file_clusters);
    return rc < 0 ? rc : check_load_reftable(c);
}

void check_end(struct check *c)
{
    check_refs_free(&c->refs);
    check_refs_free(&c->active_tables);
    check_refs_free(&c->other_tables);
    check_refs_free(&c->bitmap_tables);
    free(c->snapshots);
    free(c->reftable);
    free(c->block);
}

/* -EIO when single refcounts cannot be put right and no more than that was asked for. */
static int refuse_rebuild(struct check *c, struct err *err)
{
    check_say(c, "ERROR need to rebuild refcount structures");
    return err_set(err, -EIO,
                   "%s: the refcount structures are damaged; `check -r all` rebuilds them",
                   c->path);
}

/*
 * The first comparison sees what is wrong and whether it can be put right one by one, the second
 * repairs. What the first one found and the second one does not is not counted as damage any more.
 */
static int check_refcounts(struct check *c, struct err *err)
{
    struct blk_check_result *r = c->result;
    uint64_t elsewhere, found_corruptions, found_leaks;
    int rc = check_walk_image(c);
    bool is_counted;

    elsewhere = r->corruptions;
    if (rc == 0)
        rc = check_count_refblocks(c);
    /* What a table that was left out refers to looks like a leak, and is none. */
    is_counted = r->check_errors == 0;
    if (rc == 0 && !c->needs_rebuild)
        elsewhere = r->corruptions;
    if (rc == 0)
        rc = check_compare(c, 0);
    if (rc < 0 || c->fix == 0 || !is_counted || (r->corruptions == 0 && r->leaks == 0))
        return rc;
    found_corruptions = r->corruptions;
    found_leaks = r->leaks;
    r->corruptions = elsewhere;
    r->leaks = 0;
    if (!c->needs_rebuild)
        return check_compare(c, c->fix);
    if ((c->fix & BLK_FIX_ERRORS) == 0)
        return refuse_rebuild(c, err);
    check_say(c, "Rebuilding refcount structure");
    rc = check_rebuild(c); /* counts everything anew */
    if (rc == 0)
        rc = check_compare(c, 0);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not rebuild the refcount structures", c->path);
    r->corruptions_fixed += found_corruptions - min_u64(found_corruptions, r->corruptions);
    r->leaks_fixed += found_leaks - min_u64(found_leaks, r->leaks);
    return 0;
}

static int clear_bits(struct check *c)
{
    const uint64_t bits = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
    unsigned char raw[8];
    int rc;

    if (c->header.version < 3 || (c->header.incompatible_features & bits) == 0)
        return 0;
    c->header.incompatible_features &= ~bits;
    store_be64(raw, c->header.incompatible_features);
    rc = c->file->ops->sync(c->file);
    if (rc == 0)
        rc = file_pwrite(c->file, QCOW2_AT_INCOMPATIBLE, raw, sizeof(raw));
    c->wrote = true;
    return rc;
}

static int run(struct check *c, const struct qcow2_header *header, struct err *err)
{
    struct blk_check_result *r = c->result;
    struct err problem = {.text = ""};
    int rc = check_begin(c, header);

    if (rc == 0)
        rc = check_load_snapshots(c, &problem);
    if (rc == 0)
        rc = check_refcounts(c, &problem);
    if (rc == 0)
        rc = check_fix_snapshots(c);
    if (rc == 0)
        rc = check_copied_flags(c);
    r->corruptions += c->snapshot_faults;
    if (rc == 0 && c->fix != 0 && r->corruptions == 0 && r->check_errors == 0)
        rc = clear_bits(c);
    if (rc == 0 && c->wrote)
        rc = c->file->ops->sync(c->file);
    check_end(c);
    if (rc < 0 && problem.text[0] == '\0')
        return err_set_errno(err, rc, "%s: Could not check the image", c->path);
    return rc < 0 ? err_set(err, rc, "%s", problem.text) : 0;
}

static int repair(struct check *c, const struct qcow2_header *header, struct err *err)
{
    struct blk_check_result left = {0};
    struct check again = {.file = c->file, .path = c->path, .result = &left};
    int rc = run(c, header, err);

    if (rc == 0 && c->result->corruptions > 0) {
        /* One repair may have done away with what another finding complained of. */
        rc = run(&again, &c->header, err);
        c->result->corruptions = left.corruptions;
        c->result->leaks = left.leaks;
        c->result->check_errors = left.check_errors;
    }
    return rc;
}

int qcow2_repair_dirty(struct blk *blk, const struct qcow2_header *header,
                       struct blk_check_result *result, struct err *err)
{
    struct check c = {
        .file = blk->file,
        .path = blk->path,
        .fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS,
        .result = result,
    };
    int rc;

    *result = (struct blk_check_result){0};
    rc = repair(&c, header, err);
    if (rc == 0 && (result->corruptions > 0 || result->check_errors > 0))
        rc = err_set(err, -EIO,
                     "Image was not closed properly, and more than its refcounts is wrong: look at "
                     "it with `check`");
    return rc;
}

void qcow2_repair_full(struct blk *blk, const struct qcow2_header *header)
{
    bool is_dirty = (header->incompatible_features & QCOW2_INCOMPAT_DIRTY) != 0;
    struct blk_check_result result = {0};
    struct check c = {
        .file = blk->file,
        .path = blk->path,
        .fix = is_dirty ? BLK_FIX_LEAKS | BLK_FIX_ERRORS : BLK_FIX_LEAKS,
        .result = &result,
    };

    /* What the file shows now is what counts from here on. */
    if (c.file->ops->sync(c.file) == 0) {
        (void)run(&c, header, NULL);
    }
}

/* What is on disk is to be looked at. */
static int settle(struct qcow2 *q)
{
    int rc;

    if (q->check_only)
        return 0;
    pthread_mutex_lock(&q->lock);
    rc = qcow2_settle(q);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

int qcow2_reopen(struct blk *blk, bool for_check, struct err *err)
{
    const struct blk_open_options options = {.path = blk->path,
                                             .writable = true,
                                             .discard = blk->can_discard,
                                             .for_check = for_check,
                                             .metadata_only = !for_check,
                                             .no_data_file = blk->data_file == NULL};
    int rc;

    free(blk->backing_name);
    free(blk->backing_format);
    free(blk->data_name);
    blk->backing_name = NULL;
    blk->backing_format = NULL;
    blk->data_name = NULL;
    rc = blk->format->open(blk, &options, err);
    return rc < 0 ? err_prefix(err, rc, "Could not open '%s'", blk->path) : 0;
}

int qcow2_check(struct blk *blk, unsigned fix, void (*report)(void *opaque, const char *line),
                void *opaque, struct blk_check_result *result, struct err *err)
{
    struct qcow2_header header = qcow2_of(blk)->header;
    struct check c = {
        .file = blk->file,
        .path = blk->path,
        .fix = fix,
        .result = result,
        .report = report,
        .opaque = opaque,
    };
    int rc, reopened;

    *result = (struct blk_check_result){0};
    if (fix == 0) {
        rc = blk->writable ? settle(qcow2_of(blk)) : 0;
        if (rc < 0)
            return err_set_errno(err, rc, "%s: Could not flush the image", blk->path);
        return run(&c, &header, err);
    }
    if (!blk->writable)
        return err_set(err, -EROFS, "%s: the image is open read-only", blk->path);
    rc = blk->format->close(blk, err);
    if (rc == 0)
        rc = repair(&c, &header, err);
    reopened = qcow2_reopen(blk, true, rc == 0 ? err : NULL);
    return rc < 0 ? rc : reopened;
}
