/*
 * ops_snapshot.c - snapshots are taken, applied and deleted. What each one holds is read when it is taken
 * and kept in the world; verify.c looks at all that an image has.
 */
#include "checked.h"
#include "ops.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the device holds now, sector by sector. */
static uint32_t *read_values(struct world *world, uint64_t sectors)
{
    uint32_t *values = calloc(sectors + 1, sizeof(values[0]));
    uint8_t bytes[SECTOR];

    for (uint64_t s = 0; s < sectors; s++) {
        if (blk_pread(world->blk, s * SECTOR, bytes, SECTOR) != 0 ||
            !stamp_read(bytes, s, &values[s])) {
            values[s] = VALUE_ANY;
        }
    }
    return values;
}

struct saved_snapshot *world_find_saved(const struct world *world, const char *name)
{
    for (unsigned i = 0; i < world->saved_count; i++) {
        if (strcmp(world->saved[i].name, name) == 0) {
            return &world->saved[i];
        }
    }
    return NULL;
}

static struct saved_snapshot *add_saved(struct world *world)
{
    unsigned n = world->saved_count++;
    struct saved_snapshot *saved;

    world->saved = realloc(world->saved, world->saved_count * sizeof(world->saved[0]));
    if (world->saved == NULL) {
        abort();
    }
    saved = &world->saved[n];
    *saved = (struct saved_snapshot){.created = DISK_NEVER, .deleted = DISK_NEVER};
    (void)snprintf(saved->name, sizeof(saved->name), "s%u", n);
    saved->sectors = blk_length(world->blk) / SECTOR;
    saved->values = read_values(world, saved->sectors);
    return saved;
}

void world_save_snapshots(struct world *world)
{
    struct blk_snapshot_info info;

    for (unsigned i = 0; blk_snapshot_get(world->blk, i, &info, NULL) > 0; i++) {
        struct saved_snapshot *saved = add_saved(world);

        (void)snprintf(saved->name, sizeof(saved->name), "%s", info.name);
        saved->created = 0;
    }
}

/* Refcounts that are too narrow are no fault of anybody's. */
static bool judge(struct world *world, const char *what, int r, const struct err *err,
                  bool was_over, uint64_t start)
{
    if (r == 0) {
        model_flush(&world->model, start, disk_tick(&world->disk));
    }
    if (r != -ERANGE) {
        world_judge(world, r != 0 ? err->text : what, r, was_over, true);
    }
    return r == 0;
}

/* A disk with little room, where new tables that wait in memory have theirs; and one with plenty again. */
static void set_room(struct world *world, uint64_t arg)
{
    if (arg != 0) {
        (void)op_flush(world, 0);
    }
    world->disk.is_full = arg != 0;
    world->disk.free_pages = arg - 1;
}

int op_snapshot_create(struct world *world, uint64_t arg)
{
    struct saved_snapshot *saved = add_saved(world);
    const struct blk_snapshot_info info = {.name = saved->name};
    bool was_over = world_fault_is_over(world);
    uint64_t start = disk_tick(&world->disk);
    struct err err = {""};
    int r;

    set_room(world, arg);
    r = blk_snapshot_create(world->blk, &info, &err);
    set_room(world, 0);
    if (judge(world, "taking a snapshot", r, &err, was_over, start)) {
        saved->created = disk_tick(&world->disk);
    }
    return 0;
}

/* One of the image's snapshots; NULL: it has none, or cannot say. */
static struct saved_snapshot *choose(struct world *world, unsigned *index)
{
    struct blk_snapshot_info info;
    unsigned count = 0;

    while (blk_snapshot_get(world->blk, count, &info, NULL) > 0) {
        count++;
    }
    if (count == 0) {
        return NULL;
    }
    *index = (unsigned)rng_below(&world->rng, count);
    (void)blk_snapshot_get(world->blk, *index, &info, NULL);
    return world_find_saved(world, info.name);
}

int op_snapshot_apply(struct world *world, uint64_t arg)
{
    bool was_over = world_fault_is_over(world);
    struct err err = {""};
    unsigned index = 0;
    struct saved_snapshot *saved = choose(world, &index);
    uint64_t start = disk_tick(&world->disk);
    uint32_t change;
    int r;

    if (saved == NULL) {
        return 0;
    }
    change = model_begin(&world->model, start);
    for (uint64_t s = 0; s < saved->sectors; s++) {
        model_put(&world->model, change, s, 1, saved->values[s]);
    }
    model_put_size(&world->model, change, saved->sectors);
    set_room(world, arg);
    r = blk_snapshot_apply(world->blk, index, &err);
    set_room(world, 0);
    (void)judge(world, "applying a snapshot", r, &err, was_over, start);
    model_end(&world->model, change, disk_tick(&world->disk), r != 0, r == 0);
    return 0;
}

int op_snapshot_delete(struct world *world, uint64_t arg)
{
    bool was_over = world_fault_is_over(world);
    struct err err = {""};
    unsigned index = 0;
    struct saved_snapshot *saved = choose(world, &index);
    uint64_t start = disk_tick(&world->disk);
    int r;

    if (saved == NULL) {
        return 0;
    }
    saved->deleted = start;
    set_room(world, arg);
    r = blk_snapshot_delete(world->blk, index, &err);
    set_room(world, 0);
    (void)judge(world, "deleting a snapshot", r, &err, was_over, start);
    return 0;
}
