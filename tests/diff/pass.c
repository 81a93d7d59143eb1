#include "pass.h"

#include "actor.h"
#include "checked.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void run_start(struct run *run, struct chain *chain, struct blk *blk)
{
    *run = (struct run){.blk = blk, .model = &chain->model};
    run->unit = chain->model.cluster ? chain->model.cluster : 4096;
    run->longest = min_u64(chain->model.length, UINT64_C(4) << 20);
}

/* Cuts the device at random places, mostly inside clusters, and deals the parts to the threads. */
static struct stripe *deal_stripes(struct rng *rng, const struct run *run, unsigned threads,
                                   unsigned *each)
{
    uint64_t length = run->model->length, at = 0;
    uint64_t parts = max_u64(threads, min_u64(length / run->unit, 4096) / threads * threads);
    struct stripe *stripes = calloc(parts, sizeof(*stripes));

    if (!stripes) {
        return NULL;
    }
    *each = (unsigned)(parts / threads);
    for (uint64_t i = 0; i < parts; i++) {
        uint64_t end = i + 1 == parts ? length : length * (i + 1) / parts;
        /* Part i goes to thread i % threads, so that neighbours differ. */
        struct stripe *stripe = &stripes[i % threads * *each + i / threads];

        if (i + 1 < parts) {
            end -= rng_below(rng, max_u64(1, (end - at) / 2));
        }
        *stripe = (struct stripe){.from = at, .to = end};
        at = end;
    }
    return stripes;
}

struct worker {
    struct actor actor;
    uint64_t ops;
    pthread_t thread;
};

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;

    actor_run(&worker->actor, worker->ops);
    return NULL;
}

/* The requests, and then a look at the whole device. */
static void run_workers(struct run *run, struct rng *rng, unsigned threads, uint64_t ops)
{
    struct worker *workers = calloc(threads, sizeof(*workers));
    unsigned each = 0, started = 0;
    struct stripe *stripes = deal_stripes(rng, run, threads, &each);

    if (!workers || !stripes) {
        run_fail(run, 0, "out of memory");
        free(workers);
        free(stripes);
        return;
    }
    for (unsigned i = 0; i < threads; i++) {
        workers[i].ops = ops / threads;
        if (actor_init(&workers[i].actor, run, rng_fork(rng_next(rng), i),
                       stripes + (size_t)i * each, each) < 0) {
            run_fail(run, 0, "cannot set up a queue");
        }
    }
    if (threads == 1 && !atomic_load(&run->failed)) {
        worker_main(&workers[0]);
    } else if (!atomic_load(&run->failed)) {
        for (; started < threads; started++) {
            if (pthread_create(&workers[started].thread, NULL, worker_main, &workers[started])) {
                run_fail(run, 0, "cannot start a thread");
                break;
            }
        }
        for (unsigned i = 0; i < started; i++) {
            pthread_join(workers[i].thread, NULL);
        }
    }
    if (!atomic_load(&run->failed)) {
        run_compare_all(run);
    }
    for (unsigned i = 0; i < threads; i++) {
        if (atomic_load(&run->failed)) {
            tap_note("queue %u, near the failure:", i);
            actor_print_history(&workers[i].actor);
        }
        actor_free(&workers[i].actor);
    }
    free(workers);
    free(stripes);
}

static void check_extent_bytes(struct run *run, const struct chain *chain,
                               const struct blk_extent *extent, uint64_t offset, uint8_t *buf)
{
    unsigned layer = chain->count - 1 - extent->depth;
    const char *data = chain->data_paths[layer];
    int fd = open(data[0] != '\0' ? data : chain->paths[layer], O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : pread(fd, buf, extent->length, (off_t)extent->host_offset);
    int64_t at = got < 0 ? -1 : model_compare(run->model, offset, buf, (uint64_t)got);

    if (fd >= 0) {
        close(fd);
    }
    if (got < 0) {
        run_fail(run, offset, "blk_map leads to bytes that cannot be read");
    } else if (at >= 0) {
        run_fail_bytes(run, "bytes where blk_map points", offset, buf, at);
    }
}

/* Bytes that are not to be found as they are in a file with a name. */
static bool has_no_file(const struct layer *layer)
{
    return layer->luks != NULL || layer->ephemeral != BLK_EPHEMERAL_OFF;
}

/* Every extent that blk_map() names must hold what the device reads as. */
static void check_map(struct run *run, const struct chain *chain)
{
    const uint64_t chunk = UINT64_C(1) << 20;
    uint8_t *buf = calloc(1, chunk), *zeros = calloc(1, chunk);
    uint64_t offset = 0;

    while (buf && zeros && offset < run->model->length && !atomic_load(&run->failed)) {
        uint64_t length = min_u64(chunk, run->model->length - offset);
        struct blk_extent extent = {0};
        int ret = blk_map(run->blk, offset, length, 0, &extent);

        if (ret < 0 || extent.length == 0 || extent.length > length ||
            extent.depth >= chain->count) {
            run_fail(run, offset, "blk_map at %llu: result %d, length %llu, depth %u",
                     (unsigned long long)offset, ret, (unsigned long long)extent.length,
                     extent.depth);
            break;
        }
        if (extent.kind == BLK_EXTENT_DATA && extent.has_host_offset &&
            !has_no_file(&chain->layout->layers[chain->count - 1 - extent.depth])) {
            check_extent_bytes(run, chain, &extent, offset, buf);
        }
        if ((extent.is_hole ||
             (extent.kind != BLK_EXTENT_DATA && extent.kind != BLK_EXTENT_COMPRESSED)) &&
            model_compare(run->model, offset, zeros, extent.length) >= 0) {
            run_fail(run, offset, "blk_map says %llu+%llu is zero or unallocated; it holds data",
                     (unsigned long long)offset, (unsigned long long)extent.length);
        }
        offset += extent.length;
    }
    free(buf);
    free(zeros);
}

/* Closes the image and turns what the run found into a result. */
static int run_finish(struct run *run, struct err *err)
{
    int ret = blk_close(run->blk, err);

    if (atomic_load(&run->failed)) {
        return err_set(err, -EIO, "%s", run->message);
    }
    return ret < 0 ? err_prefix(err, ret, "close") : 0;
}

int pass_requests(struct chain *chain, struct rng *rng, unsigned threads, uint64_t ops,
                  struct err *err)
{
    struct blk *blk;
    struct run run;
    int ret = chain_open(chain, rng, &blk, err);

    if (ret < 0) {
        return err_prefix(err, ret, "open");
    }
    run_start(&run, chain, blk);
    if (blk_length(blk) != chain->model.length) {
        run_fail(&run, 0, "the device has %llu bytes instead of %llu",
                 (unsigned long long)blk_length(blk), (unsigned long long)chain->model.length);
    } else {
        run_workers(&run, rng, threads, ops);
    }
    if (!atomic_load(&run.failed)) {
        check_map(&run, chain);
    }
    return run_finish(&run, err);
}

int pass_compare(struct chain *chain, struct rng *rng, struct err *err)
{
    struct blk *blk;
    struct run run;
    int ret = chain_open(chain, rng, &blk, err);

    if (ret < 0) {
        return err_prefix(err, ret, "open");
    }
    run_start(&run, chain, blk);
    run_compare_all(&run);
    return run_finish(&run, err);
}

/* The snapshot there is gives way to one of what the device shows now. */
static int take_snapshot(struct chain *chain, struct blk *blk, struct err *err)
{
    const struct blk_snapshot_info info = {.name = "oracle"};
    int ret = chain->snapshot.bytes != NULL ? blk_snapshot_delete(blk, 0, err) : 0;

    model_free(&chain->snapshot);
    ret = ret == 0 ? blk_snapshot_create(blk, &info, err) : ret;
    if (ret == 0 && model_init(&chain->snapshot, chain->model.length) < 0) {
        return err_set_errno(err, -ENOMEM, "snapshot");
    }
    if (ret == 0) {
        memcpy(chain->snapshot.bytes, chain->model.bytes, chain->model.length);
    }
    return ret;
}

static int apply_snapshot(struct chain *chain, struct blk *blk, struct err *err)
{
    int ret = blk_snapshot_apply(blk, 0, err);

    if (ret == 0 && model_resize(&chain->model, chain->snapshot.length) < 0) {
        return err_set_errno(err, -ENOMEM, "snapshot");
    }
    if (ret == 0) {
        memcpy(chain->model.bytes, chain->snapshot.bytes, chain->snapshot.length);
    }
    return ret;
}

int pass_snapshot(struct chain *chain, struct rng *rng, struct err *err)
{
    bool takes = chain->snapshot_passes++ % 2 == 0;
    struct blk *blk;
    struct run run;
    int ret = chain_open(chain, rng, &blk, err);

    if (ret < 0) {
        return err_prefix(err, ret, "open");
    }
    ret = takes ? take_snapshot(chain, blk, err) : apply_snapshot(chain, blk, err);
    if (ret < 0) {
        (void)blk_close(blk, NULL);
        return err_prefix(err, ret, takes ? "take a snapshot" : "apply a snapshot");
    }
    run_start(&run, chain, blk);
    run_compare_all(&run);
    return run_finish(&run, err);
}

int pass_grow(struct chain *chain, struct rng *rng, struct err *err)
{
    uint64_t size = chain->model.length + 512 * rng_between(rng, 1, 2048);
    struct blk *blk;
    struct run run;
    int ret = chain_open(chain, rng, &blk, err);

    if (ret < 0) {
        return err_prefix(err, ret, "open");
    }
    ret = blk_resize(blk, size, err);
    if (ret < 0 || model_resize(&chain->model, size) < 0) {
        blk_close(blk, NULL);
        return err_prefix(err, ret, "resize");
    }
    run_start(&run, chain, blk);
    run_compare_all(&run);
    check_map(&run, chain);
    return run_finish(&run, err);
}
