/*
 * snapshot.c - the public face of internal snapshots, which formats may have or not.
 */
#include "block.h"

#include <errno.h>
#include <string.h>

int blk_snapshot_get(struct blk *blk, unsigned index, struct blk_snapshot_info *info,
                     struct err *err)
{
    return blk->format->snapshots != NULL ? blk->format->snapshots->get(blk, index, info, err) : 0;
}

int blk_snapshot_find(struct blk *blk, const char *id, const char *name, unsigned *index,
                      struct err *err)
{
    struct blk_snapshot_info info;

    for (unsigned i = 0;; i++) {
        int r = blk_snapshot_get(blk, i, &info, err);

        if (r < 0) {
            return r;
        }
        if (r == 0) {
            return err_set(err, -ENOENT, "'%s' has no snapshot '%s'", blk->path,
                           name != NULL ? name
                           : id != NULL ? id
                                        : "");
        }
        if ((id == NULL || strcmp(info.id, id) == 0) &&
            (name == NULL || strcmp(info.name, name) == 0)) {
            *index = i;
            return 0;
        }
    }
}

static int check_format(const struct blk *blk, struct err *err)
{
    return blk->format->snapshots != NULL
               ? 0
               : err_set(err, -ENOTSUP, "'%s': the format %s has no snapshots", blk->path,
                         blk->format->name);
}

static int check_change(const struct blk *blk, struct err *err)
{
    int r = check_format(blk, err);

    return r != 0 || blk->writable
               ? r
               : err_set(err, -EROFS, "Could not change '%s': it is open read-only", blk->path);
}

int blk_snapshot_create(struct blk *blk, const struct blk_snapshot_info *info, struct err *err)
{
    int r = check_change(blk, err);

    return r != 0 ? r : blk->format->snapshots->create(blk, info, err);
}

int blk_snapshot_apply(struct blk *blk, unsigned index, struct err *err)
{
    int r = check_change(blk, err);

    return r != 0 ? r : blk->format->snapshots->apply(blk, index, err);
}

int blk_snapshot_delete(struct blk *blk, unsigned index, struct err *err)
{
    int r = check_change(blk, err);

    return r != 0 ? r : blk->format->snapshots->delete (blk, index, err);
}

int blk_snapshot_show(struct blk *blk, unsigned index, struct err *err)
{
    int r = check_format(blk, err);

    if (r == 0 && blk->writable) {
        return err_set(err, -EINVAL, "'%s' is open for writing", blk->path);
    }
    return r != 0 ? r : blk->format->snapshots->show(blk, index, err);
}
