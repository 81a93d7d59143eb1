/*
 * amend.c - changes what an image is: its version, the width of its refcounts, feature bits, the name of
 * its data file, its size, its keys. Nobody else uses the image meanwhile.
 *
 * All that can be refused is refused before anything changes. What then happens, each step complete and
 * stable before the next one begins, so that a crash leaves an image as one of them left it:
 *
 *   1. version 3          the header anew (header_update.c): every version 2 image is a sound version 3 one
 *   2. key slots          key_slots.c
 *   3. feature bits, the data file's name    one write of the header each
 *   4. the size           resize.c
 *   5. zero flags, which version 2 does not know, become what it does know (zero.c)
 *   6. refcounts          a whole new set behind the end of the file, then one write of the header says
 *                         where it is and how wide (check_rebuild.c). The layer is closed meanwhile, so
 *                         that nothing of the old set stays in memory. All references are counted for it,
 *                         and so an image with errors is found, and refused
 *   7. version 2          the header anew. What has no place in it is gone by then
 */
#include "checked.h"
#include "qcow2/key_slots.h"
#include "qcow2/qcow2.h"
#include "qcow2/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { V2_REFCOUNT_BITS = 16 };

static unsigned wanted_version(const struct qcow2 *q, const struct blk_amend_options *o)
{
    return o->compat != 0 ? o->compat : q->header.version;
}

static bool wants_downgrade(const struct qcow2 *q, const struct blk_amend_options *o)
{
    return wanted_version(q, o) < q->header.version;
}

/* ---- what is refused ---- */

/* What version 2 cannot say. The texts are QEMU's, but for bitmaps: those it loses. */
static int check_downgrade(const struct qcow2 *q, const struct blk_amend_options *o,
                           struct err *err)
{
    uint64_t features = q->header.incompatible_features & ~QCOW2_INCOMPAT_DIRTY;
    uint64_t size = o->size != 0 ? o->size : q->blk->length;
    struct blk_bitmap_info bitmap;

    if (qcow2_has_data_file(q)) {
        return err_set(err, -ENOTSUP, "Cannot downgrade an image with a data file");
    }
    if ((o->refcount_bits != 0 ? o->refcount_bits : q->refcount_bits) != V2_REFCOUNT_BITS) {
        return err_set(err, -ENOTSUP, "compat=0.10 requires refcount_bits=16");
    }
    for (unsigned i = 0; q->snapshots != NULL && i < q->snapshots->count; i++) {
        const struct blk_snapshot_info *info = &q->snapshots->list[i].info;

        if (info->vm_state_size > UINT32_MAX || info->disk_size != size) {
            return err_set(err, -ENOTSUP, "Internal snapshots prevent downgrade of image");
        }
    }
    if (features != 0) {
        return err_set(err, -ENOTSUP,
                       "Cannot downgrade an image with incompatible features 0x%" PRIx64 " set",
                       features);
    }
    return blk_bitmap_get(q->blk, 0, &bitmap)
               ? err_set(err, -ENOTSUP, "Cannot downgrade an image with bitmaps: remove them first")
               : 0;
}

static int check_request(const struct qcow2 *q, const struct blk_amend_options *o, struct err *err)
{
    if (o->set_data_file && !qcow2_has_data_file(q)) {
        return err_set(err, -EINVAL,
                       "data-file can only be set for images that use an external data file");
    }
    if (o->set_data_file_raw && o->data_file_raw && !qcow2_data_is_raw(q)) {
        return err_set(err, -EINVAL, "data-file-raw cannot be set on existing images");
    }
    if (o->refcount_bits != 0 && (o->refcount_bits > 64 || !is_power_of_2(o->refcount_bits))) {
        return err_set(err, -EINVAL,
                       "Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (wanted_version(q, o) < 3 && o->refcount_bits != 0 && o->refcount_bits != V2_REFCOUNT_BITS) {
        return err_set(
            err, -EINVAL,
            "Refcount widths other than 16 bits require compatibility level 1.1 or above "
            "(use compat=1.1 or greater)");
    }
    if (wanted_version(q, o) < 3 && o->set_lazy_refcounts && o->lazy_refcounts) {
        return err_set(err, -EINVAL,
                       "Lazy refcounts only supported with compatibility level 1.1 and above (use "
                       "compat=1.1 or greater)");
    }
    return wants_downgrade(q, o) ? check_downgrade(q, o, err) : 0;
}

/* ---- the header ---- */

static int settle(struct qcow2 *q)
{
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_settle(q);
    pthread_mutex_unlock(&q->lock);
    return r == 0 ? qcow2_sync(q) : r;
}

static int set_version(struct qcow2 *q, unsigned version, struct err *err)
{
    int r = settle(q);

    return r != 0 ? err_set_errno(err, r, "Could not flush '%s'", q->blk->path)
                  : qcow2_header_rewrite_version(q, version, err);
}

/* Lazy refcounts begin with the next open: until then refcounts are kept exact, which is allowed. */
static int set_features(struct qcow2 *q, const struct blk_amend_options *o)
{
    uint64_t compatible = q->header.compatible_features;
    uint64_t autoclear = q->header.autoclear_features;
    int r;

    if (o->set_lazy_refcounts) {
        compatible &= ~QCOW2_COMPAT_LAZY_REFCOUNTS;
        compatible |= o->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : UINT64_C(0);
    }
    if (o->set_data_file_raw && !o->data_file_raw) {
        autoclear &= ~QCOW2_AUTOCLEAR_RAW_DATA;
    }
    if (compatible == q->header.compatible_features && autoclear == q->header.autoclear_features) {
        return 0;
    }
    r = settle(q); /* the dirty bit goes before lazy refcounts do */
    if (r != 0) {
        return r;
    }
    q->is_lazy = q->is_lazy && (compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0;
    q->header.compatible_features = compatible;
    r = qcow2_header_write_features(q, q->header.incompatible_features, autoclear);
    return r != 0 ? qcow2_break(q, r) : qcow2_sync(q);
}

/* The open file stays the one that was opened. */
static int set_data_file(struct qcow2 *q, const char *name, struct err *err)
{
    char *copy = name[0] != '\0' ? strdup(name) : NULL;
    int r = name[0] != '\0' && copy == NULL ? -ENOMEM : settle(q), attached;

    r = r == 0 ? qcow2_bitmaps_detach(q, err) : r;
    if (r != 0) {
        free(copy);
        return err_set_errno(err, r, "Could not change '%s'", q->blk->path);
    }
    r = qcow2_header_rewrite_extension(q, QCOW2_EXT_DATA_FILE, copy, (uint32_t)strlen(name));
    attached = qcow2_bitmaps_attach(q, r == 0 ? err : NULL);
    if (r == 0) {
        free(q->blk->data_name);
        q->blk->data_name = copy;
        return attached;
    }
    free(copy);
    return r == -EFBIG ? err_set(err, r, "'%s': the data file's name does not fit into the header",
                                 q->blk->path)
                       : err_set_errno(err, r, "Could not write the header of '%s'", q->blk->path);
}

/* ---- refcounts, and a look at everything ---- */

/* With the layer closed; it is open again afterwards, without its key. */
static int rewrite_refcounts(struct blk *blk, unsigned bits, bool is_downgrade, struct err *err)
{
    struct qcow2_header_info info;
    int r = blk->format->close(blk, err), reopened;

    if (r == 0) {
        r = qcow2_header_read(blk->file, false, &info, err);
        if (r == 0) {
            r = qcow2_change_refcount_bits(blk, &info.header, bits, is_downgrade, err);
            qcow2_header_free(&info);
        }
    }
    reopened = qcow2_reopen(blk, false, r == 0 ? err : NULL);
    return r != 0 ? r : reopened;
}

/* Steps 3 to 7. */
static int change_image(struct blk *blk, const struct blk_amend_options *o, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    bool is_downgrade = wants_downgrade(q, o);
    unsigned bits = o->refcount_bits != 0 ? o->refcount_bits : q->refcount_bits;
    int r = set_features(q, o);

    r = r != 0 ? err_set_errno(err, r, "Could not change '%s'", blk->path) : 0;
    if (r == 0 && o->set_data_file) {
        r = set_data_file(q, o->data_file, err);
    }
    if (r == 0 && o->size != 0) {
        r = blk_resize(blk, o->size, err);
    }
    if (r == 0 && is_downgrade) {
        r = qcow2_unflag_zeroes(q);
        r = r != 0 ? err_set_errno(err, r, "Failed to turn zero into data clusters") : 0;
    }
    if (r == 0 && (is_downgrade || bits != q->refcount_bits)) {
        r = rewrite_refcounts(blk, bits, is_downgrade, err);
    }
    return r == 0 && is_downgrade ? set_version(qcow2_of(blk), 2, err) : r;
}

int qcow2_amend(struct blk *blk, const struct blk_amend_options *o, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_key_plan keys = {0};
    int r = qcow2_refuse_if_broken(q);

    if (r != 0) {
        return err_set_errno(err, r, "Could not change '%s'", blk->path);
    }
    r = check_request(q, o, err);
    if (r == 0 && o->keys != NULL) {
        r = qcow2_key_slots_plan(q, o->keys, &keys, err);
    }
    if (r == 0 && wanted_version(q, o) > q->header.version) {
        r = set_version(q, 3, err);
    }
    if (r == 0 && o->keys != NULL) {
        r = qcow2_key_slots_carry_out(q, &keys, err);
    }
    qcow2_key_slots_free(&keys);
    return r == 0 ? change_image(blk, o, err) : r;
}
