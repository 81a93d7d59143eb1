#include "checked.h"
#include "ops.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 256 /* of a request, in sectors */, MAX_THREADS = 4 };

/* A BLK_WRITE that goes through blk_pwrite_compressed(); no flag of the engine's. */
enum { FLAG_COMPRESSED = 128 };

/* Who makes requests: a thread, or the one there is. */
struct actor {
    struct world *world;
    struct blk_queue *queue;
    struct rng rng;
    uint64_t requests;
    bool is_alone;
    uint8_t *buffer; /* of LONGEST sectors */
};

static bool actor_init(struct actor *actor, struct world *world, bool is_alone)
{
    struct err err;

    *actor = (struct actor){.world = world, .rng = {rng_next(&world->rng)}, .is_alone = is_alone};
    actor->buffer = malloc(LONGEST * SECTOR);
    return actor->buffer != NULL && blk_queue_create(world->blk, &actor->queue, &err) == 0;
}

static void actor_free(struct actor *actor)
{
    blk_queue_destroy(actor->queue);
    free(actor->buffer);
}

static void note_done(struct blk_request *request, int result)
{
    *(int *)request->opaque = result;
}

static int run_request(struct actor *actor, enum blk_op op, unsigned flags, uint64_t sector,
                       uint64_t count)
{
    struct iovec iov = {.iov_base = actor->buffer, .iov_len = count * SECTOR};
    int result = 0;
    struct blk_request request = {
        .op = op,
        .flags = flags,
        .offset = sector * SECTOR,
        .length = count * SECTOR,
        .iov = &iov,
        .iovcnt = 1,
        .done = note_done,
        .opaque = &result,
    };

    blk_submit(actor->queue, &request);
    while (blk_queue_in_flight(actor->queue) > 0) {
        blk_queue_complete(actor->queue);
    }
    return result;
}

/* Whole clusters; what is cut off by the end of the device or of the buffer is written plain. */
static int write_compressed(struct actor *actor, uint64_t sector, uint64_t count)
{
    struct blk *blk = actor->world->blk;
    int r = blk_pwrite_compressed(blk, sector * SECTOR, actor->buffer, count * SECTOR);

    return r != -EINVAL ? r : run_request(actor, BLK_WRITE, 0, sector, count);
}

static void choose_range(struct actor *actor, char letter, uint64_t *sector, uint64_t *count)
{
    struct blk *blk = actor->world->blk;
    uint64_t sectors = blk_length(blk) / SECTOR, cluster = blk_cluster_size(blk) / SECTOR;
    bool is_near = letter == 'o' || rng_one_in(&actor->rng, 3);

    *sector = rng_below(&actor->rng, is_near ? max_u64(sectors / 8, 1) : sectors);
    *count = rng_between(&actor->rng, 1, 20);
    if (letter == 'W' || letter == 'c' || rng_one_in(&actor->rng, 4)) {
        *sector = align_down(*sector, cluster);
        *count = cluster * rng_between(&actor->rng, 1, 3);
    }
    *count = min_u64(*count, min_u64(sectors - *sector, LONGEST));
}

/* Compares what was read, between `start` and `end`, with what may be seen. */
static void compare_read(struct world *world, const uint8_t *bytes, uint64_t sector, uint64_t count,
                         uint64_t time)
{
    for (uint64_t i = 0; i < count; i++) {
        struct allowed allowed;
        uint32_t value;
        char text[64];

        model_allowed(&world->model, sector + i, MODEL_LIVE, time, &allowed);
        if (!stamp_read(bytes + i * SECTOR, sector + i, &value) || !allowed_has(&allowed, value)) {
            stamp_describe(bytes + i * SECTOR, sector + i, text, sizeof(text));
            world_complain(world, "sector %llu reads as %s, not as value %u",
                           (unsigned long long)sector + i, text, allowed.values[0]);
            return;
        }
    }
}

void world_compare(struct world *world)
{
    uint8_t bytes[64 * SECTOR];
    uint64_t sectors = blk_length(world->blk) / SECTOR;

    for (uint64_t s = 0; s < sectors; s += 64) {
        uint64_t n = min_u64(64, sectors - s);
        bool was_over = world_fault_is_over(world);
        int r = blk_pread(world->blk, s * SECTOR, bytes, n * SECTOR);

        if (r == 0) {
            compare_read(world, bytes, s, n, disk_tick(&world->disk));
        } else {
            world_judge(world, "read", r, was_over, false);
        }
    }
}

static void read_request(struct actor *actor, uint64_t sector, uint64_t count)
{
    bool was_over = world_fault_is_over(actor->world);
    int r = run_request(actor, BLK_READ, 0, sector, count);

    world_judge(actor->world, "read", r, was_over, false);
    if (r == 0 && actor->is_alone) {
        compare_read(actor->world, actor->buffer, sector, count, disk_tick(&actor->world->disk));
    }
}

static void flush_request(struct actor *actor)
{
    uint64_t start = disk_tick(&actor->world->disk);
    bool was_over = world_fault_is_over(actor->world);
    int r = run_request(actor, BLK_FLUSH, 0, 0, 0);

    world_judge(actor->world, "flush", r, was_over, true);
    if (r == 0) {
        model_flush(&actor->world->model, start, disk_tick(&actor->world->disk));
    }
}

/* What it does is of no use after a power cut, and may do no harm then. */
static void to_file_request(struct actor *actor)
{
    bool was_over = world_fault_is_over(actor->world);
    int r = run_request(actor, BLK_FLUSH, BLK_REQ_TO_FILE, 0, 0);

    world_judge(actor->world, "flush to the file", r, was_over, false);
    if (r == 0 && actor->is_alone && blk_unsettled(actor->world->blk)) {
        world_complain(actor->world, "something is in memory alone after a flush to the file");
    }
}

/* A discard may do nothing. Where it was seen to do something it counts as zeros. */
static void discard_request(struct actor *actor, uint64_t sector, uint64_t count)
{
    struct model *model = &actor->world->model;
    uint64_t start = disk_tick(&actor->world->disk);
    uint32_t weak = model_begin(model, start), strong;
    bool was_over = world_fault_is_over(actor->world);
    int r;

    model_put(model, weak, sector, count, VALUE_ZERO);
    r = run_request(actor, BLK_DISCARD, 0, sector, count);
    world_judge(actor->world, "discard", r, was_over, false);
    model_end(model, weak, disk_tick(&actor->world->disk), true, false);
    if (r != 0 || !actor->is_alone || run_request(actor, BLK_READ, 0, sector, count) != 0) {
        return;
    }
    strong = model_begin(model, start);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t value;

        if (stamp_read(actor->buffer + i * SECTOR, sector + i, &value) && value == VALUE_ZERO) {
            model_put(model, strong, sector + i, 1, VALUE_ZERO);
        }
    }
    model_end(model, strong, disk_tick(&actor->world->disk), false, false);
}

static void change_request(struct actor *actor, const char *what, enum blk_op op, unsigned flags,
                           uint64_t sector, uint64_t count)
{
    struct model *model = &actor->world->model;
    uint32_t value = op == BLK_WRITE ? model_new_value(model) : VALUE_ZERO;
    uint32_t change = model_begin(model, disk_tick(&actor->world->disk));
    bool was_over = world_fault_is_over(actor->world);
    int r;

    if (op == BLK_WRITE) {
        stamp_fill(actor->buffer, sector, count, value);
    }
    model_put(model, change, sector, count, value);
    r = flags & FLAG_COMPRESSED ? write_compressed(actor, sector, count)
                                : run_request(actor, op, flags, sector, count);
    world_judge(actor->world, what, r, was_over, (flags & BLK_REQ_FUA) != 0);
    model_end(model, change, disk_tick(&actor->world->disk), r != 0,
              r == 0 && (flags & BLK_REQ_FUA) != 0);
}

static void request(struct actor *actor, char letter, uint64_t sector, uint64_t count)
{
    switch (letter) {
    case 'r':
        read_request(actor, sector, count);
        break;
    case 'f':
        flush_request(actor);
        break;
    case 't':
        to_file_request(actor);
        break;
    case 'd':
        discard_request(actor, sector, count);
        break;
    case 'z':
    case 'u':
        change_request(actor, "write-zeroes", BLK_WRITE_ZEROES,
                       letter == 'u' ? BLK_REQ_MAY_UNMAP : 0, sector, count);
        break;
    case 'c':
        change_request(actor, "compressed write", BLK_WRITE, FLAG_COMPRESSED, sector, count);
        break;
    default:
        change_request(actor, "write", BLK_WRITE, letter == 'F' ? BLK_REQ_FUA : 0, sector, count);
        break;
    }
}

static char choose_letter(struct actor *actor)
{
    const char *mix = actor->world->workload->mix;

    return mix[rng_below(&actor->rng, strlen(mix))];
}

static void mixed_request(struct actor *actor)
{
    char letter = choose_letter(actor);
    uint64_t sector, count;

    choose_range(actor, letter, &sector, &count);
    request(actor, letter, sector, count);
}

int op_scatter(struct world *world, uint64_t arg)
{
    uint64_t cluster = blk_cluster_size(world->blk) / SECTOR, step = arg / SECTOR;
    uint64_t sectors = blk_length(world->blk) / SECTOR;
    struct actor actor;

    if (!actor_init(&actor, world, true)) {
        return -ENOMEM;
    }
    for (uint64_t s = rng_below(&actor.rng, step / cluster) * cluster; s < sectors; s += step) {
        request(&actor, choose_letter(&actor), s, min_u64(cluster, sectors - s));
    }
    actor_free(&actor);
    return 0;
}

int op_mix(struct world *world, uint64_t arg)
{
    struct actor actor;

    (void)arg;
    if (!actor_init(&actor, world, true)) {
        return -ENOMEM;
    }
    mixed_request(&actor);
    actor_free(&actor);
    return 0;
}

int op_flush(struct world *world, uint64_t arg)
{
    struct actor actor;

    (void)arg;
    if (!actor_init(&actor, world, true)) {
        return -ENOMEM;
    }
    flush_request(&actor);
    actor_free(&actor);
    return 0;
}

int op_fill(struct world *world, uint64_t arg)
{
    uint64_t sectors = blk_length(world->blk) / SECTOR * arg / 100;
    struct actor actor;

    if (!actor_init(&actor, world, true)) {
        return -ENOMEM;
    }
    for (uint64_t s = 0; s < sectors; s += LONGEST) {
        change_request(&actor, "write", BLK_WRITE, 0, s, min_u64(LONGEST, sectors - s));
    }
    actor_free(&actor);
    return 0;
}

int op_zero_all(struct world *world, uint64_t arg)
{
    struct actor actor;

    (void)arg;
    if (!actor_init(&actor, world, true)) {
        return -ENOMEM;
    }
    change_request(&actor, "write-zeroes", BLK_WRITE_ZEROES, 0, 0, blk_length(world->blk) / SECTOR);
    actor_free(&actor);
    return 0;
}

int op_discard_front(struct world *world, uint64_t arg)
{
    uint64_t sectors = blk_length(world->blk) / SECTOR * arg / 100;
    struct actor actor;

    if (!actor_init(&actor, world, true)) {
        return -ENOMEM;
    }
    for (uint64_t s = 0; s < sectors; s += LONGEST) {
        discard_request(&actor, s, min_u64(LONGEST, sectors - s));
    }
    flush_request(&actor);
    flush_request(&actor);
    actor_free(&actor);
    return 0;
}

static void *flush_once(void *opaque)
{
    op_flush(opaque, 0);
    return NULL;
}

/* Not inside a write of the committer, for which the flush would wait. */
static void flush_in_a_thread(void *opaque)
{
    struct world *world = opaque;
    struct qcow2 *q = qcow2_of(world->blk);
    pthread_t thread;
    bool is_committing;

    if (q == NULL) {
        return; /* closed: what a full disk has left is being put right */
    }
    pthread_mutex_lock(&q->lock);
    is_committing = q->committing;
    pthread_mutex_unlock(&q->lock);
    if (is_committing || !rng_one_in(&world->rng, 2)) {
        return;
    }
    if (pthread_create(&thread, NULL, flush_once, world) != 0) {
        abort();
    }
    pthread_join(thread, NULL);
}

int op_flush_midway(struct world *world, uint64_t arg)
{
    (void)arg;
    world->disk.opaque = world;
    world->disk.midway = flush_in_a_thread;
    return 0;
}

static void *act(void *opaque)
{
    struct actor *actor = opaque;

    for (uint64_t i = 0; i < actor->requests && actor->world->complaint[0] == '\0'; i++) {
        mixed_request(actor);
    }
    return NULL;
}

int op_threads(struct world *world, uint64_t arg)
{
    struct actor actors[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    unsigned count = world->workload->threads;

    world->disk.dawdles = true;
    for (unsigned i = 0; i < count; i++) {
        if (!actor_init(&actors[i], world, false)) {
            abort();
        }
        actors[i].requests = arg / count;
    }
    for (unsigned i = 0; i < count; i++) {
        if (pthread_create(&threads[i], NULL, act, &actors[i]) != 0) {
            abort();
        }
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        actor_free(&actors[i]);
    }
    world->disk.dawdles = false;
    return 0;
}
