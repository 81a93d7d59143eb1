#include "world.h"
#include "images.h"
#include "ops.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void world_complain(struct world *world, const char *fmt, ...)
{
    va_list args;

    pthread_mutex_lock(&world->lock);
    if (world->complaint[0] == '\0') {
        va_start(args, fmt);
        vsnprintf(world->complaint, sizeof(world->complaint), fmt, args);
        va_end(args);
    }
    pthread_mutex_unlock(&world->lock);
}

bool world_fault_is_over(struct world *world)
{
    struct disk *d = &world->disk;
    bool is_over;

    pthread_mutex_lock(&d->lock);
    is_over = d->fault_fired && d->operations + 1 - d->fault.at >= d->fault.count;
    pthread_mutex_unlock(&d->lock);
    return is_over;
}

/*
 * Without a fault everything succeeds. While one lasts, anything may fail. Behind one everything
 * succeeds again, unless the image says that writing has stopped; and after a failed sync nothing may
 * be claimed durable any more.
 */
void world_judge(struct world *world, const char *what, int result, bool was_over,
                 bool claims_durable)
{
    struct disk *d = &world->disk;
    struct err err = {""};
    bool has_fired, has_stopped = world->blk != NULL && blk_problem(world->blk, &err) &&
                                  strstr(err.text, "writing stopped") != NULL;
    unsigned fired;

    pthread_mutex_lock(&d->lock);
    fired = d->fired_ops;
    has_fired = d->fault_fired;
    pthread_mutex_unlock(&d->lock);
    if (result == 0) {
        if (was_over && claims_durable && (fired & DISK_SYNC)) {
            world_complain(world, "%s claims to be durable after a sync had failed", what);
        }
    } else if (!has_fired) {
        world_complain(world, "%s failed without a fault: %s (%s)", what, strerror(-result),
                       err.text);
    } else if (was_over && (fired & DISK_SYNC) == 0 && !has_stopped) {
        world_complain(world, "%s failed after the fault (of kind %u) was over: %s (%s)", what,
                       fired, strerror(-result), err.text);
    }
}

void world_forget_fault(struct world *world)
{
    if (world_fault_is_over(world)) {
        world->disk.fired_ops = 0;
    }
}

const struct blk_key crash_key = {.bytes = CRASH_KEY, .length = sizeof(CRASH_KEY) - 1};

int world_open(struct world *world)
{
    const struct blk_open_options options = {
        .path = world->workload->files[0],
        .format = "qcow2",
        .writable = true,
        .discard = true,
        .keys = &crash_key,
        .key_count = 1,
        .metadata_cache = world->workload->has_small_cache ? 1 : 0,
    };
    bool was_over = world_fault_is_over(world);
    struct err err = {""};
    int r;

    r = blk_open(&options, &world->blk, &err);
    if (r != 0) {
        world->blk = NULL;
        world_judge(world, err.text, r, was_over, false);
    }
    return r;
}

int world_close(struct world *world)
{
    uint64_t start = disk_tick(&world->disk);
    bool was_over = world_fault_is_over(world), was_broken;
    struct err err = {""};
    int r;

    if (world->blk == NULL) {
        return 0;
    }
    was_broken = blk_problem(world->blk, &err);
    r = blk_close(world->blk, &err);
    world->blk = NULL;
    if (r == 0) {
        model_flush(&world->model, start, disk_tick(&world->disk));
    }
    if (r == 0 || !was_broken) {
        world_judge(world, r != 0 ? err.text : "close", r, was_over, true);
    }
    return r;
}

bool world_run(struct world *world, const struct step *steps)
{
    /* Nobody but a repair opens what was spoiled, and that is the first step. */
    bool is_spoiled = world->workload->is_damaged && steps == world->workload->steps;
    int r = is_spoiled ? 0 : world_open(world);

    for (unsigned i = 0; r == 0 && i < MAX_STEPS && steps[i].run != NULL; i++) {
        for (unsigned n = 0; r == 0 && n < (steps[i].times != 0 ? steps[i].times : 1); n++) {
            r = steps[i].run(world, steps[i].arg);
            if (world->complaint[0] != '\0') {
                r = -ECANCELED;
            }
        }
    }
    if (r == 0 && world->blk != NULL) {
        world_compare(world);
    }
    return world_close(world) == 0 && r == 0;
}

/* What the device shows in the beginning is the model's first change. */
static bool read_start(struct world *world)
{
    uint32_t change = model_begin(&world->model, 1);
    uint8_t sector[SECTOR];
    uint64_t count;
    uint32_t value;

    if (world_open(world) != 0) {
        return false;
    }
    count = blk_length(world->blk) / SECTOR;
    for (uint64_t s = 0; s < count; s++) {
        if (blk_pread(world->blk, s * SECTOR, sector, SECTOR) != 0 ||
            !stamp_read(sector, s, &value)) {
            world_complain(world, "sector %llu cannot be read in the beginning",
                           (unsigned long long)s);
            break;
        }
        model_put(&world->model, change, s, 1, value);
    }
    model_put_size(&world->model, change, count);
    model_end(&world->model, change, 2, false, true);
    world_save_snapshots(world);
    return world_close(world) == 0;
}

bool world_prepare(struct world *world, const struct workload *workload, uint64_t seed)
{
    uint64_t now;

    *world = (struct world){.workload = workload, .rng = rng_fork(seed, 7)};
    pthread_mutex_init(&world->lock, NULL);
    disk_init(&world->disk);
    model_init(&world->model);
    disk_use(NULL);
    if (!images_make(workload, &world->disk)) {
        world_complain(world, "the images could not be made");
        return false;
    }
    disk_use(&world->disk);
    world->disk.clock = 2;
    world->disk.cannot_zero = workload->cannot_zero;
    if (read_start(world)) {
        world_run(world, workload->prepare);
    }
    disk_use(NULL);
    now = disk_tick(&world->disk);
    model_flush(&world->model, now, now);
    return world->complaint[0] == '\0';
}

static void copy_saved(struct world *to, const struct world *from)
{
    to->saved_count = from->saved_count;
    to->saved = calloc(from->saved_count + 1, sizeof(to->saved[0]));
    if (to->saved == NULL) {
        abort();
    }
    for (unsigned i = 0; i < from->saved_count; i++) {
        const struct saved_snapshot *saved = &from->saved[i];
        size_t bytes = (saved->sectors + 1) * sizeof(saved->values[0]);

        to->saved[i] = *saved;
        to->saved[i].values = malloc(bytes);
        if (to->saved[i].values == NULL) {
            abort();
        }
        memcpy(to->saved[i].values, saved->values, bytes);
    }
}

void world_copy(struct world *to, const struct world *from)
{
    *to = (struct world){.workload = from->workload, .rng = from->rng};
    pthread_mutex_init(&to->lock, NULL);
    disk_copy(&to->disk, &from->disk);
    to->disk.clock = from->disk.clock;
    to->disk.cannot_zero = from->disk.cannot_zero;
    model_copy(&to->model, &from->model);
    copy_saved(to, from);
}

void world_free(struct world *world)
{
    disk_free(&world->disk);
    model_free(&world->model);
    for (unsigned i = 0; i < world->saved_count; i++) {
        free(world->saved[i].values);
    }
    free(world->saved);
    pthread_mutex_destroy(&world->lock);
}
