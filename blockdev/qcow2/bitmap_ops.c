/*
 * bitmap_ops.c - what people do with persistent bitmaps: the functions blk_bitmap_* for qcow2. Each
 * change is made in memory and then stored (bitmap_store.c); it is durable when the function
 * returns, or has not happened. The image is the caller's alone. Words are QEMU's.
 */
#include "qcow2/bitmap.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int find_bitmap(struct blk *blk, const char *name, struct bitmap **out, struct err *err)
{
    *out = bitmap_find(qcow2_of(blk)->bitmaps, name);
    return *out != NULL ? 0 : err_set(err, -ENOENT, "Dirty bitmap '%s' not found", name);
}

static int find_usable(struct blk *blk, const char *name, struct bitmap **out, struct err *err)
{
    int r = find_bitmap(blk, name, out, err);

    if (r == 0 && ((*out)->now.is_inconsistent || atomic_load(&(*out)->is_lost))) {
        return err_set(err, -EUCLEAN, "Bitmap '%s' is inconsistent and cannot be used", name);
    }
    if (r == 0 && (*out)->is_foreign) {
        return err_set(err, -ENOTSUP, "Bitmap '%s' has unknown extra data and cannot be used",
                       name);
    }
    return r;
}

/* What stops every change. */
static int check_change(struct blk *blk, struct err *err)
{
    int r = qcow2_refuse_if_broken(qcow2_of(blk));

    return r != 0 ? err_set_errno(err, r, "Could not change '%s'", blk->path) : 0;
}

static int store(struct qcow2 *q, const struct bitmap *removed, struct err *err)
{
    int r = bitmap_store(q, removed, err);

    bitmap_update_recording(q->bitmaps);
    return r;
}

static bool get(struct blk *blk, unsigned index, struct blk_bitmap_info *info)
{
    const struct qcow2_bitmaps *set = qcow2_of(blk)->bitmaps;
    const struct bitmap *b;

    if (set == NULL || index >= set->count) {
        return false;
    }
    b = set->list[index];
    *info = (struct blk_bitmap_info){
        .name = b->name,
        .granularity = UINT64_C(1) << b->granularity_bits,
        .is_in_use = (b->now.flags & BITMAP_IN_USE) != 0,
        .is_enabled = b->now.is_enabled,
        .is_inconsistent = b->now.is_inconsistent,
    };
    return true;
}

/* ---- add and remove ---- */

static uint64_t default_granularity(const struct qcow2 *q)
{
    enum { LEAST = 4 << 10, MOST = 64 << 10 };

    return min_u64(MOST, max_u64(LEAST, q->cluster_size));
}

static int check_new(struct qcow2 *q, const char *name, uint64_t granularity, struct err *err)
{
    const struct bitmap probe = {.granularity_bits = (unsigned)__builtin_ctzll(granularity)};
    const char *path = q->blk->path, *why = NULL;
    uint64_t bits = bitmap_bits_for(&probe, q->blk->length);

    if (q->header.version < 3) {
        why = "Cannot store dirty bitmaps in qcow2 v2 files";
    } else if (strlen(name) > BITMAP_MAX_NAME) {
        why = "Name length exceeds maximum (1023 characters)";
    } else if (bits == 0) {
        why = "The image is empty";
    } else if (bitmap_table_entries(q, bits) > BITMAP_MAX_BYTES >> q->cluster_bits) {
        why = "Too much space will be occupied by the bitmap. Use larger granularity";
    } else if (q->bitmaps->count >= BITMAP_MAX_COUNT) {
        why = "Maximum number of persistent bitmaps is already reached";
    } else if (bitmap_directory_bytes(q->bitmaps) + BITMAP_ENTRY_BYTES + align_up(strlen(name), 8) >
               BITMAP_MAX_DIRECTORY) {
        why = "Not enough space in the bitmap directory";
    }
    return why == NULL ? 0
                       : err_set(err, -EINVAL, "Can't make bitmap '%s' persistent in '%s': %s",
                                 name, path, why);
}

static int append_new(struct qcow2 *q, const char *name, uint64_t granularity, bool enabled)
{
    struct bitmap *b = calloc(1, sizeof(*b));

    if (b == NULL) {
        return -ENOMEM;
    }
    b->granularity_bits = (unsigned)__builtin_ctzll(granularity);
    b->now.is_enabled = enabled;
    b->now.bits = bitmap_bits_for(b, q->blk->length);
    b->name = strdup(name);
    if (b->name == NULL || bitmap_list_append(q->bitmaps, b) != 0) {
        bitmap_free(q->bitmaps, b);
        return -ENOMEM;
    }
    return 0;
}

static int add(struct blk *blk, const char *name, uint64_t granularity, bool enabled,
               struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    int r;

    granularity = granularity != 0 ? granularity : default_granularity(q);
    if (name[0] == '\0') {
        return err_set(err, -EINVAL, "Bitmap name cannot be empty");
    }
    if (!is_power_of_2(granularity) || granularity < UINT64_C(1) << BITMAP_MIN_GRANULARITY_BITS ||
        granularity > UINT64_C(1) << BITMAP_MAX_GRANULARITY_BITS) {
        return err_set(err, -EINVAL, "Granularity must be power of 2 and at least 512");
    }
    if (bitmap_find(q->bitmaps, name) != NULL) {
        return err_set(err, -EEXIST, "Bitmap already exists: %s", name);
    }
    r = check_change(blk, err);
    r = r == 0 ? check_new(q, name, granularity, err) : r;
    if (r == 0 && append_new(q, name, granularity, enabled) != 0) {
        return err_set_errno(err, -ENOMEM, "Could not add bitmap '%s'", name);
    }
    if (r == 0) {
        r = store(q, NULL, err);
        if (r != 0) {
            q->bitmaps->count--;
            bitmap_free(q->bitmaps, q->bitmaps->list[q->bitmaps->count]);
        }
        bitmap_update_recording(q->bitmaps);
    }
    return r;
}

static int remove_bitmap(struct blk *blk, const char *name, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_bitmaps *set = q->bitmaps;
    struct bitmap *b;
    int r = find_bitmap(blk, name, &b, err);
    unsigned index = 0;

    r = r == 0 ? check_change(blk, err) : r;
    if (r != 0) {
        return r;
    }
    while (set->list[index] != b) {
        index++;
    }
    set->count--;
    for (unsigned i = index; i < set->count; i++) {
        set->list[i] = set->list[i + 1];
    }
    r = store(q, b, err);
    if (r == 0) {
        bitmap_free(set, b);
    } else {
        for (unsigned i = set->count++; i > index; i--) {
            set->list[i] = set->list[i - 1];
        }
        set->list[index] = b;
        bitmap_update_recording(set);
    }
    return r;
}

/* ---- content and state ---- */

/* The bits in memory, put aside in case a change of them fails. */
static struct bitmap pages_take(struct bitmap *b)
{
    struct bitmap aside = {.pages = b->pages, .page_count = b->page_count};

    b->pages = NULL;
    b->page_count = 0;
    return aside;
}

static void pages_settle(struct qcow2_bitmaps *set, struct bitmap *b, struct bitmap *aside,
                         bool is_done)
{
    if (is_done) {
        bitmap_bits_drop(set, aside);
    } else {
        bitmap_bits_drop(set, b);
        b->pages = aside->pages;
        b->page_count = aside->page_count;
        atomic_store(&b->is_lost, false);
    }
}

static int clear(struct blk *blk, const char *name, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct bitmap aside;
    struct bitmap *b;
    int r = find_usable(blk, name, &b, err);

    r = r == 0 ? check_change(blk, err) : r;
    if (r != 0) {
        return r;
    }
    aside = pages_take(b);
    b->now.is_cleared = true;
    r = store(q, NULL, err);
    b->now.is_cleared = false;
    pages_settle(q->bitmaps, b, &aside, r == 0);
    return r;
}

static int enable(struct blk *blk, const char *name, bool enabled, struct err *err)
{
    struct bitmap *b;
    int r = find_usable(blk, name, &b, err);

    r = r == 0 ? check_change(blk, err) : r;
    if (r != 0 || b->now.is_enabled == enabled) {
        return r;
    }
    b->now.is_enabled = enabled;
    r = store(qcow2_of(blk), NULL, err);
    if (r != 0) {
        b->now.is_enabled = !enabled;
        bitmap_update_recording(qcow2_of(blk)->bitmaps);
    }
    return r;
}

/* Clean bits of this bitmap's granularity into set bits of that one's. */
struct merge {
    struct qcow2_bitmaps *set;
    struct bitmap *target;
    unsigned source_bits;
    uint64_t length; /* of the device */
};

static int merge_run(void *opaque, uint64_t first, uint64_t bits)
{
    const struct merge *m = opaque;
    uint64_t start = first << m->source_bits;
    uint64_t end = min_u64((first + bits) << m->source_bits, m->length);

    bitmap_bits_set(m->set, m->target, start >> m->target->granularity_bits,
                    (end - 1) >> m->target->granularity_bits);
    return 0;
}

static int merge(struct blk *blk, const char *name, struct blk *source_blk, const char *source_name,
                 struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct bitmap *target, *source, aside;
    int r = find_usable(blk, name, &target, err);

    r = r == 0 ? find_usable(source_blk, source_name, &source, err) : r;
    r = r == 0 ? check_change(blk, err) : r;
    if (r != 0 || source == target) {
        return r;
    }
    if (blk->length != source_blk->length) {
        return err_set(err, -EINVAL,
                       "Bitmaps are of different sizes (destination size is %" PRIu64
                       ", source size is %" PRIu64 ") and can't be merged",
                       blk->length, source_blk->length);
    }
    aside = pages_take(target);
    bitmap_bits_prepare(q->bitmaps, target, target->now.bits);
    bitmap_bits_copy(q->bitmaps, target, &aside);
    r = bitmap_each_run(qcow2_of(source_blk), source, merge_run,
                        &(struct merge){.set = q->bitmaps,
                                        .target = target,
                                        .source_bits = source->granularity_bits,
                                        .length = blk->length});
    if (r == 0 && atomic_load(&target->is_lost)) {
        r = -ENOMEM;
    }
    r = r != 0 ? err_set_errno(err, r, "Could not merge bitmap '%s'", source_name)
               : store(q, NULL, err);
    pages_settle(q->bitmaps, target, &aside, r == 0);
    return r;
}

struct report {
    const struct bitmap *bitmap;
    uint64_t length;
    int (*extent)(void *opaque, uint64_t offset, uint64_t length);
    void *opaque;
};

static int report_run(void *opaque, uint64_t first, uint64_t bits)
{
    const struct report *report = opaque;
    uint64_t start = first << report->bitmap->granularity_bits;
    uint64_t end = min_u64((first + bits) << report->bitmap->granularity_bits, report->length);

    return report->extent(report->opaque, start, end - start);
}

static int dirty(struct blk *blk, const char *name,
                 int (*extent)(void *opaque, uint64_t offset, uint64_t length), void *opaque,
                 struct err *err)
{
    struct bitmap *b;
    int r = find_usable(blk, name, &b, err);

    if (r != 0) {
        return r;
    }
    r = bitmap_each_run(
        qcow2_of(blk), b, report_run,
        &(struct report){.bitmap = b, .length = blk->length, .extent = extent, .opaque = opaque});
    return r < 0 ? err_set_errno(err, r, "Could not read bitmap '%s'", name) : r;
}

const struct blk_bitmap_ops qcow2_bitmap_ops = {
    .get = get,
    .add = add,
    .remove = remove_bitmap,
    .clear = clear,
    .enable = enable,
    .merge = merge,
    .dirty = dirty,
};
