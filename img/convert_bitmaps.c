#include "convert_bitmaps.h"

#include "log.h"

bool convert_bitmaps_can_have(struct blk *blk)
{
    struct blk_info info;

    return blk_get_info(blk, &info, NULL) == 0 && info.compat >= 3;
}

bool convert_bitmaps_check(struct blk *source, bool skip_broken)
{
    struct blk_bitmap_info bitmap;

    for (unsigned i = 0; !skip_broken && blk_bitmap_get(source, i, &bitmap); i++) {
        if (!bitmap.is_inconsistent)
            continue;
        log_error("Cannot copy inconsistent bitmap '%s'", bitmap.name);
        fprintf(stderr, "Try --skip-broken-bitmaps, or use '%s bitmap --remove' to delete it\n",
                log_program_name());
        return false;
    }
    return true;
}

static int copy_bitmap(struct blk *source, const struct blk_bitmap_info *bitmap, struct blk *target,
                       struct err *err)
{
    const char *name = bitmap->name, *verb = "create";
    struct err problem;
    int rc = blk_bitmap_add(target, name, bitmap->granularity, false, &problem);

    if (rc == 0) {
        verb = "populate";
        rc = blk_bitmap_merge(target, name, source, name, &problem);
    }
    if (rc == 0 && bitmap->is_enabled) {
        verb = "enable";
        rc = blk_bitmap_enable(target, name, true, &problem);
    }
    return rc == 0 ? 0 : err_set(err, rc, "Failed to %s bitmap %s: %s", verb, name, problem.text);
}

int convert_bitmaps_copy(struct blk *source, struct blk *target, bool skip_broken, struct err *err)
{
    struct blk_bitmap_info bitmap;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && blk_bitmap_get(source, i, &bitmap); i++) {
        if (bitmap.is_inconsistent && skip_broken)
            log_warn("Skipping inconsistent bitmap '%s'", bitmap.name);
        else
            rc = copy_bitmap(source, &bitmap, target, err);
    }
    return rc;
}
