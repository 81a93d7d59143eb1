/*
 * check_amend.c - what amend.c needs of a check: that an image is sound, and refcounts of another width.
 *
 * The new refcounts are those that a rebuild makes, of all references; it is one write that makes the
 * header name them, and their width with them (check_rebuild.c).
 */
#include "block.h"
#include "checked.h"
#include "qcow2/check.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>

/* Whether `bits` are enough for every cluster. */
static int check_width(struct check *c, unsigned bits, struct err *err)
{
    uint64_t limit = qcow2_refcount_limit(bits);

    for (uint64_t at = 0; check_refs_next(&c->refs, &at, c->file_clusters); at++) {
        uint32_t count = check_refs_get(&c->refs, at);

        if (count > limit) {
            return err_set(err, -EINVAL,
                           "Cannot decrease refcount entry width to %u bits: Cluster at offset "
                           "%#" PRIx64 " has a refcount of %" PRIu32,
                           bits, at << c->cluster_bits, count);
        }
    }
    return 0;
}

/* As a check that repairs nothing. Leaks do no harm. */
static int check_soundness(struct check *c, struct err *err)
{
    struct blk_check_result *r = c->result;
    struct err problem = {.text = ""};
    int rc = check_load_snapshots(c, &problem);

    rc = rc == 0 ? check_walk_image(c) : rc;
    rc = rc == 0 ? check_count_refblocks(c) : rc;
    rc = rc == 0 ? check_compare(c, 0) : rc;
    if (rc != 0 && problem.text[0] != '\0') {
        return err_set(err, rc, "%s", problem.text);
    }
    if (rc != 0) {
        return err_set_errno(err, rc, "%s: Could not check the image", c->path);
    }
    if (r->corruptions > 0 || r->check_errors > 0 || c->snapshot_faults > 0 || c->needs_rebuild) {
        return err_set(err, -EIO, "The image has errors: repair it with `check -r all` first");
    }
    return 0;
}

static int change(struct check *c, unsigned bits, struct err *err)
{
    int r = check_width(c, bits, err);

    if (r != 0) {
        return r;
    }
    c->refcount_bits = bits;
    c->refblock_entries = c->cluster_size * 8 / bits;
    c->header.refcount_order = (uint32_t)__builtin_ctz(bits);
    r = check_rebuild(c);
    return r != 0 ? err_set_errno(err, r, "Failed to write refblock") : 0;
}

int qcow2_change_refcount_bits(struct blk *blk, const struct qcow2_header *header, unsigned bits,
                               bool is_downgrade, struct err *err)
{
    struct blk_check_result result = {0};
    struct check c = {.file = blk->file, .path = blk->path, .result = &result};
    int r = check_begin(&c, header);

    r = r != 0 ? err_set_errno(err, r, "%s: Could not check the image", blk->path)
               : check_soundness(&c, err);
    if (r == 0 && is_downgrade && c.zero_flags > 0) {
        r = err_set(err, -ENOTSUP,
                    "Cannot downgrade an image that has zero clusters in internal snapshots or "
                    "behind its end");
    }
    if (r == 0 && bits != c.refcount_bits) {
        r = change(&c, bits, err);
    }
    check_end(&c);
    return r;
}
