/*
 * bitmap.c - persistent dirty bitmaps while an image is open: reads the directory, follows writes,
 * goes along with a change of the size. How they come to the disk: bitmap_store.c.
 *
 * The data of bitmaps counts only while the header's autoclear bit is set: who does not know them
 * clears it. If it is not set, all of them are forgotten, as in QEMU, and the extension goes from
 * the header before the first write.
 */
#include "qcow2/bitmap.h"

#include <inttypes.h>
#include <stdlib.h>

static int check_extension(const struct qcow2 *q, const struct qcow2_bitmaps_extension *e,
                           struct err *err)
{
    if (e->reserved != 0) {
        return err_set(err, -EINVAL, "bitmaps_ext: Reserved field is not zero");
    }
    if (e->count > BITMAP_MAX_COUNT) {
        return err_set(err, -EINVAL,
                       "bitmaps_ext: Image has %" PRIu32
                       " bitmaps, exceeding the QEMU supported maximum of %d",
                       e->count, BITMAP_MAX_COUNT);
    }
    if (e->count == 0) {
        return err_set(err, -EINVAL, "found bitmaps extension with zero bitmaps");
    }
    if (!is_aligned(e->directory_offset, q->cluster_size)) {
        return err_set(err, -EINVAL, "bitmaps_ext: invalid bitmap directory offset");
    }
    if (e->directory_size > BITMAP_MAX_DIRECTORY) {
        return err_set(err, -EINVAL,
                       "bitmaps_ext: bitmap directory size (%" PRIu64
                       ") exceeds the maximum supported size (%" PRIu64 ")",
                       e->directory_size, BITMAP_MAX_DIRECTORY);
    }
    if (e->directory_size == 0) {
        return err_set(err, -EINVAL, "Requested bitmap directory size is zero");
    }
    if (e->directory_offset == 0 ||
        !range_within(e->directory_offset, e->directory_size, q->file_end)) {
        return err_set(err, -EINVAL, "Bitmap directory lies beyond the end of the file");
    }
    return 0;
}

/* What a bitmap that may be used says must fit the device. */
static int check_sizes(struct qcow2 *q, struct qcow2_bitmaps *set, struct err *err)
{
    for (unsigned i = 0; i < set->count; i++) {
        struct bitmap *b = set->list[i];

        b->now.bits = bitmap_bits_for(b, q->blk->length);
        if (!b->now.is_inconsistent && b->now.table_size != bitmap_table_entries(q, b->now.bits)) {
            return err_set(err, -EINVAL, "Could not read bitmap '%s' from image: Invalid argument",
                           b->name);
        }
    }
    return 0;
}

void bitmap_update_recording(struct qcow2_bitmaps *set)
{
    set->is_recording = false;
    for (unsigned i = 0; i < set->count; i++) {
        set->is_recording = set->is_recording ||
                            (set->list[i]->now.is_enabled && !set->list[i]->now.is_inconsistent);
    }
}

static int read_directory(struct qcow2 *q, const struct qcow2_bitmaps_extension *e, struct err *err)
{
    struct qcow2_bitmaps *set = q->bitmaps;
    uint8_t *raw;
    int r = check_extension(q, e, err);

    if (r != 0) {
        return r;
    }
    raw = malloc(e->directory_size);
    r = raw == NULL ? -ENOMEM : file_pread(q->file, e->directory_offset, raw, e->directory_size);
    if (r != 0) {
        free(raw);
        return err_set_errno(err, r, "Failed to read bitmap directory");
    }
    r = bitmap_directory_parse(set, raw, e->directory_size, e->count, q->cluster_bits, err);
    free(raw);
    if (r == 0 && q->writable && !q->check_only &&
        (set->has_cut_name || bitmap_directory_bytes(set) != e->directory_size)) {
        r = err_set(err, -EINVAL, "Broken bitmap directory");
    }
    r = r == 0 ? check_sizes(q, set, err) : r;
    if (r == 0) {
        set->directory_offset = e->directory_offset;
        set->directory_size = e->directory_size;
        bitmap_update_recording(set);
    }
    return r;
}

static struct qcow2_bitmaps *make_set(void)
{
    struct qcow2_bitmaps *set = calloc(1, sizeof(*set));

    if (set != NULL) {
        pthread_mutex_init(&set->mark_lock, NULL);
    }
    return set;
}

int qcow2_bitmaps_open(struct qcow2 *q, const struct qcow2_bitmaps_extension *extension,
                       struct err *err)
{
    bool counts = (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) != 0;
    bool writes = q->writable && !q->check_only;
    int r = 0;

    if (q->header.version < 3 || (extension->at == 0 && !writes)) {
        return 0;
    }
    q->bitmaps = make_set();
    if (q->bitmaps == NULL) {
        return err_set_errno(err, -ENOMEM, "Bitmaps");
    }
    if (counts && extension->at != 0) {
        r = read_directory(q, extension, err);
        return r == 0 && writes ? bitmap_register_clusters(q, err) : r;
    }
    q->bitmaps->is_outdated = extension->at != 0;
    if (writes && (counts || extension->at != 0)) {
        r = qcow2_header_write_bitmaps(q, 0, 0, 0, err);
    }
    return r;
}

void qcow2_bitmaps_free(struct qcow2 *q)
{
    struct qcow2_bitmaps *set = q->bitmaps;

    if (set == NULL) {
        return;
    }
    for (unsigned i = 0; i < set->count; i++) {
        bitmap_free(set, set->list[i]);
    }
    free(set->list);
    pthread_mutex_destroy(&set->mark_lock);
    free(set);
    q->bitmaps = NULL;
}

bool qcow2_bitmaps_outdated(const struct qcow2 *q)
{
    return q->bitmaps != NULL && q->bitmaps->is_outdated;
}

int qcow2_bitmaps_detach(struct qcow2 *q, struct err *err)
{
    bool has_some = q->bitmaps != NULL && q->bitmaps->count > 0;

    return has_some ? qcow2_header_write_bitmaps(q, 0, 0, 0, err) : 0;
}

int qcow2_bitmaps_attach(struct qcow2 *q, struct err *err)
{
    const struct qcow2_bitmaps *set = q->bitmaps;
    bool has_some = set != NULL && set->count > 0;

    return has_some ? qcow2_header_write_bitmaps(q, set->count, set->directory_offset,
                                                 set->directory_size, err)
                    : 0;
}

/* ---- writes ---- */

/* The first write since bitmaps were clean on disk waits until they are not any more. */
static int start_recording(struct qcow2 *q)
{
    struct qcow2_bitmaps *set = q->bitmaps;
    int r = 0;

    pthread_mutex_lock(&set->mark_lock);
    if (!atomic_load_explicit(&set->is_marked, memory_order_relaxed)) {
        for (unsigned i = 0; i < set->count; i++) {
            struct bitmap *b = set->list[i];

            if (b->now.is_enabled && bitmap_is_usable(b)) {
                bitmap_bits_prepare(set, b, bitmap_bits_for(b, q->blk->length));
            }
        }
        r = bitmap_mark(q, false);
        if (r == 0) {
            atomic_store_explicit(&set->is_marked, true, memory_order_release);
        }
    }
    pthread_mutex_unlock(&set->mark_lock);
    return r;
}

int qcow2_bitmaps_track(struct blk *blk, uint64_t offset, uint64_t length)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_bitmaps *set = q->bitmaps;

    if (set == NULL || !set->is_recording || q->check_only) {
        return 0;
    }
    if (!atomic_load_explicit(&set->is_marked, memory_order_acquire)) {
        int r = start_recording(q);

        if (r != 0) {
            return blk_note_problem(blk, r, "could not mark the bitmaps as in use");
        }
    }
    for (unsigned i = 0; i < set->count; i++) {
        struct bitmap *b = set->list[i];

        if (b->now.is_marked && b->now.is_enabled) {
            bitmap_bits_set(set, b, offset >> b->granularity_bits,
                            (offset + length - 1) >> b->granularity_bits);
        }
    }
    return 0;
}

static bool any_is_marked(const struct qcow2_bitmaps *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (set->list[i]->now.is_marked) {
            return true;
        }
    }
    return false;
}

static const char *first_lost(const struct qcow2_bitmaps *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (atomic_load(&set->list[i]->is_lost)) {
            return set->list[i]->name;
        }
    }
    return NULL;
}

int qcow2_bitmaps_save(struct qcow2 *q, struct err *err)
{
    struct qcow2_bitmaps *set = q->bitmaps;
    const char *lost;
    int r;

    if (set == NULL || !any_is_marked(set)) {
        return 0;
    }
    lost = first_lost(set);
    r = bitmap_store(q, NULL, err);
    if (r == 0 && lost != NULL) {
        r = err_set(err, -ENOMEM, "Lost bitmap '%s': it needs too much memory", lost);
    }
    return r;
}

/* ---- size ---- */

int qcow2_bitmaps_begin_resize(struct qcow2 *q, uint64_t size, struct err *err)
{
    struct qcow2_bitmaps *set = q->bitmaps;
    int r;

    if (set == NULL || set->count == 0) {
        return 0;
    }
    for (unsigned i = 0; i < set->count; i++) {
        const struct bitmap *b = set->list[i];
        uint64_t entries = bitmap_table_entries(q, bitmap_bits_for(b, size));

        if (b->now.is_inconsistent) {
            return err_set(err, -EUCLEAN, "Bitmap '%s' is inconsistent and cannot be used",
                           b->name);
        }
        if (b->is_foreign) {
            return err_set(err, -ENOTSUP, "Bitmap '%s' has unknown extra data and cannot be used",
                           b->name);
        }
        if (entries == 0 || entries > BITMAP_MAX_BYTES >> q->cluster_bits) {
            return err_set(err, -EFBIG, "Bitmap '%s' does not allow this size", b->name);
        }
    }
    r = bitmap_mark(q, true);
    if (r != 0) {
        return err_set_errno(err, r, "Could not mark the bitmaps as in use");
    }
    return 0;
}

int qcow2_bitmaps_end_resize(struct qcow2 *q, struct err *err)
{
    struct qcow2_bitmaps *set = q->bitmaps;

    if (set == NULL || set->count == 0) {
        return 0;
    }
    for (unsigned i = 0; i < set->count; i++) {
        bitmap_bits_cut(set->list[i], bitmap_bits_for(set->list[i], q->blk->length));
    }
    return bitmap_store(q, NULL, err);
}
