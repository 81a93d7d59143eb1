/*
 * warm.c - see pass_warm() in pass.h.
 *
 * The device is far too large to be looked at whole: requests, and the model, touch an island in the
 * area of each L2 table. Islands are cut among the threads at random places, and all threads move
 * over them together: they work in all tables, and meet in clusters.
 */
#include "pass.h"

#include "actor.h"
#include "checked.h"
#include "tap.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { ISLAND = 64 * 1024, BESIDE = 16 * 1024, WINDOW = 2, THREADS_MAX = 64 };

struct worker {
    struct actor actor;
    struct stripe *stripes;
    uint64_t ops;
    pthread_t thread;
};

/* How much of the device one L2 table maps, but an island at least. */
static uint64_t area_of(const struct model *model)
{
    uint64_t entries = model->cluster / 8;

    return max_u64(entries * model->cluster, ISLAND);
}

static uint64_t islands_of(const struct model *model)
{
    return model->length / area_of(model);
}

/* Not at the same place in each area, so that they lie in different slices of their tables. */
static uint64_t island_at(const struct model *model, uint64_t index)
{
    uint64_t area = area_of(model);
    uint64_t room = area - ISLAND;

    return index * area + (room ? index * 7919 * 4096 % room : 0);
}

/* A sector in each island, written before the threads begin: every table exists. */
static int warm_up(struct chain *chain, struct rng *rng, struct err *err)
{
    struct model *model = &chain->model;
    struct blk *blk;
    int ret = chain_open(chain, rng, &blk, err);

    if (ret < 0) {
        return ret;
    }
    for (uint64_t i = 0; ret == 0 && i < islands_of(model); i++) {
        uint64_t offset = island_at(model, i) + 512 * rng_below(rng, ISLAND / 512);

        rng_fill(rng, model->bytes + offset, 512);
        ret = blk_pwrite(blk, offset, model->bytes + offset, 512);
    }
    if (ret < 0) {
        blk_close(blk, NULL);
        return err_set_errno(err, ret, "warming up");
    }
    return blk_close(blk, err);
}

/* The islands, and what lies beside them. */
static void compare_islands(struct run *run)
{
    const struct model *model = run->model;
    uint8_t *buf = malloc(ISLAND + 2 * BESIDE);

    if (!buf) {
        run_fail(run, 0, "out of memory");
        return;
    }
    for (uint64_t i = 0; i < islands_of(model) && !atomic_load(&run->failed); i++) {
        uint64_t at = island_at(model, i);
        uint64_t from = at - min_u64(at, BESIDE);
        uint64_t length = min_u64(ISLAND + 2 * BESIDE, model->length - from);
        int ret = blk_pread(run->blk, from, buf, length);
        int64_t bad = ret < 0 ? -1 : model_compare(model, from, buf, length);

        if (ret < 0) {
            run_fail(run, from, "read: %s", strerror(-ret));
        } else if (bad >= 0) {
            run_fail_bytes(run, "in the end", from, buf, bad);
        }
    }
    free(buf);
}

/* Each thread's part of each island. */
static void deal(const struct model *model, struct rng *rng, struct worker *workers,
                 unsigned threads)
{
    for (uint64_t i = 0; i < islands_of(model); i++) {
        uint64_t from = island_at(model, i), at = from;
        unsigned first = (unsigned)rng_below(rng, threads);

        for (unsigned t = 0; t < threads; t++) {
            uint64_t end = from + ISLAND * (t + UINT64_C(1)) / threads;

            if (t + 1 < threads) {
                end -= rng_below(rng, (end - at) / 2);
            }
            workers[(first + t) % threads].stripes[i] = (struct stripe){.from = at, .to = end};
            at = end;
        }
    }
}

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;

    actor_run(&worker->actor, worker->ops);
    return NULL;
}

static void run_threads(struct run *run, struct rng *rng, unsigned threads, uint64_t ops)
{
    static struct worker workers[THREADS_MAX];
    unsigned islands = (unsigned)islands_of(run->model), ready = 0, started = 0;

    memset(workers, 0, sizeof(workers));
    for (; ready < threads; ready++) {
        workers[ready].ops = ops / threads;
        workers[ready].stripes = calloc(islands, sizeof(struct stripe));
        if (!workers[ready].stripes) {
            run_fail(run, 0, "out of memory");
            break;
        }
    }
    if (ready == threads) {
        deal(run->model, rng, workers, threads);
    }
    for (unsigned i = 0; i < threads && !atomic_load(&run->failed); i++) {
        if (actor_init(&workers[i].actor, run, rng_fork(rng_next(rng), i), workers[i].stripes,
                       islands) < 0) {
            run_fail(run, 0, "cannot set up a queue");
        }
        workers[i].actor.window = WINDOW;
    }
    for (; started < threads && !atomic_load(&run->failed); started++) {
        if (pthread_create(&workers[started].thread, NULL, worker_main, &workers[started])) {
            run_fail(run, 0, "cannot start a thread");
            break;
        }
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    for (unsigned i = 0; i < threads; i++) {
        if (atomic_load(&run->failed)) {
            tap_note("queue %u, near the failure:", i);
            actor_print_history(&workers[i].actor);
        }
        actor_free(&workers[i].actor);
        free(workers[i].stripes);
    }
}

/* One opening: `threads` queues, or, for none, a look at everything. */
static int open_and_run(struct chain *chain, struct rng *rng, unsigned threads, uint64_t ops,
                        struct err *err)
{
    struct run run = {
        .model = &chain->model, .unit = chain->model.cluster, .longest = UINT64_C(1) << 20};
    int ret = chain_open(chain, rng, &run.blk, err);

    if (ret < 0) {
        return ret;
    }
    if (threads > 0) {
        run_threads(&run, rng, threads, ops);
    } else {
        compare_islands(&run);
    }
    ret = blk_close(run.blk, err);
    return atomic_load(&run.failed) ? err_set(err, -EIO, "%s", run.message) : ret;
}

int pass_warm(const struct layout *layout, struct rng *rng, unsigned threads, uint64_t ops,
              struct err *err)
{
    struct chain chain;
    int ret = chain_init(&chain, layout, err);

    for (unsigned i = 0; ret == 0 && i < layout->count; i++) {
        ret = chain_add_layer(&chain, err);
        if (ret == 0) {
            ret = warm_up(&chain, rng, err);
        }
    }
    if (ret == 0) {
        ret = open_and_run(&chain, rng, threads, ops, err);
    }
    if (ret == 0) {
        ret = open_and_run(&chain, rng, 0, 0, err);
    }
    if (ret == 0) {
        ret = chain_check(&chain, err);
    }
    if (ret == 0) {
        ret = chain_ask_qemu_check(&chain, err);
    }
    chain_free(&chain, false);
    return ret == -ENOENT ? 0 : ret;
}
