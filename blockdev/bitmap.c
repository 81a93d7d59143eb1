/*
 * bitmap.c - the public face of persistent dirty bitmaps, which formats may have or not.
 */
#include "block.h"

#include <errno.h>

bool blk_bitmap_get(struct blk *blk, unsigned index, struct blk_bitmap_info *info)
{
    return blk->format->bitmaps != NULL && blk->format->bitmaps->get(blk, index, info);
}

/* A format without bitmaps has none of any name. */
static int check_format(const struct blk *blk, const char *name, struct err *err)
{
    return blk->format->bitmaps != NULL
               ? 0
               : err_set(err, -ENOENT, "Dirty bitmap '%s' not found", name);
}

static int check_change(const struct blk *blk, const char *name, struct err *err)
{
    int r = check_format(blk, name, err);

    return r != 0 || blk->writable
               ? r
               : err_set(err, -EROFS, "Could not change '%s': it is open read-only", blk->path);
}

int blk_bitmap_add(struct blk *blk, const char *name, uint64_t granularity, bool enabled,
                   struct err *err)
{
    if (blk->format->bitmaps == NULL) {
        return err_set(err, -ENOTSUP,
                       "Can't store persistent bitmaps to %s: Operation not supported", blk->path);
    }
    if (!blk->writable) {
        return err_set(err, -EROFS, "Could not change '%s': it is open read-only", blk->path);
    }
    return blk->format->bitmaps->add(blk, name, granularity, enabled, err);
}

int blk_bitmap_remove(struct blk *blk, const char *name, struct err *err)
{
    int r = check_change(blk, name, err);

    return r != 0 ? r : blk->format->bitmaps->remove(blk, name, err);
}

int blk_bitmap_clear(struct blk *blk, const char *name, struct err *err)
{
    int r = check_change(blk, name, err);

    return r != 0 ? r : blk->format->bitmaps->clear(blk, name, err);
}

int blk_bitmap_enable(struct blk *blk, const char *name, bool enabled, struct err *err)
{
    int r = check_change(blk, name, err);

    return r != 0 ? r : blk->format->bitmaps->enable(blk, name, enabled, err);
}

int blk_bitmap_merge(struct blk *blk, const char *name, struct blk *source, const char *source_name,
                     struct err *err)
{
    int r = check_change(blk, name, err);

    if (r == 0 && source->format != blk->format) {
        r = check_format(source, source_name, err);
    }
    return r != 0 ? r : blk->format->bitmaps->merge(blk, name, source, source_name, err);
}

int blk_bitmap_dirty(struct blk *blk, const char *name,
                     int (*extent)(void *opaque, uint64_t offset, uint64_t length), void *opaque,
                     struct err *err)
{
    int r = check_format(blk, name, err);

    return r != 0 ? r : blk->format->bitmaps->dirty(blk, name, extent, opaque, err);
}
