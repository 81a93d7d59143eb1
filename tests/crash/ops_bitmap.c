/*
 * ops_bitmap.c - random changes of a bitmap beside the tracker (ops.h), and an image's only bitmap, for
 * which the header's extension comes and goes.
 */
#include "ops.h"

#include <string.h>

static bool find(struct blk *blk, const char *name, struct blk_bitmap_info *info)
{
    for (unsigned i = 0; blk_bitmap_get(blk, i, info); i++) {
        if (strcmp(info->name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* 0, an error, or NOTHING_TO_DO. */
enum { NOTHING_TO_DO = 1 };

static int judge(struct world *world, int result, bool was_over, const struct err *err)
{
    if (result != NOTHING_TO_DO) {
        world_judge(world, result != 0 ? err->text : "bitmap", result, was_over, true);
    }
    return 0;
}

static int change_other(struct world *world, struct err *err)
{
    struct blk_bitmap_info other, tracker;
    uint64_t granularity = UINT64_C(512) << rng_below(&world->rng, 8);

    if (!find(world->blk, "other", &other)) {
        return blk_bitmap_add(world->blk, "other", granularity, rng_one_in(&world->rng, 2), err);
    }
    if (other.is_inconsistent || rng_one_in(&world->rng, 4)) {
        return blk_bitmap_remove(world->blk, "other", err);
    }
    switch (rng_below(&world->rng, 3)) {
    case 0:
        return blk_bitmap_clear(world->blk, "other", err);
    case 1:
        return blk_bitmap_enable(world->blk, "other", !other.is_enabled, err);
    default:
        return find(world->blk, "tracker", &tracker) && !tracker.is_inconsistent
                   ? blk_bitmap_merge(world->blk, "other", world->blk, "tracker", err)
                   : NOTHING_TO_DO;
    }
}

int op_bitmap_any(struct world *world, uint64_t arg)
{
    bool was_over = world_fault_is_over(world);
    struct blk_bitmap_info tracker;
    struct err err = {""};
    int r;

    (void)arg;
    if ((!find(world->blk, "tracker", &tracker) || tracker.is_inconsistent) &&
        !world->disk.fault_fired) {
        world_complain(world, "the bitmap \"tracker\" is lost without a fault");
    }
    r = change_other(world, &err);
    return judge(world, r, was_over, &err);
}

int op_bitmap_only(struct world *world, uint64_t add)
{
    bool was_over = world_fault_is_over(world);
    struct blk_bitmap_info info;
    struct err err = {""};
    int r = NOTHING_TO_DO;

    if (find(world->blk, "first", &info) != (add != 0)) {
        r = add != 0 ? blk_bitmap_add(world->blk, "first", 0, true, &err)
                     : blk_bitmap_remove(world->blk, "first", &err);
    }
    return judge(world, r, was_over, &err);
}
