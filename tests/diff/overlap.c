/*
 * overlap.c - see pass_overlapping() in pass.h.
 *
 * Time is a counter. Invariants:
 *  1. A stamp names its thread, its request and its own position; the request's record says when it
 *     ended (0: still in flight).
 *  2. A cell (512 bytes, the grain of all requests here) knows the latest start among the requests
 * that changed it for certain and have ended: `newest`.
 *  3. A read remembers `newest` of its cells before it is submitted. A value whose request ended
 *     before that moment's `newest` began was overwritten: stale. Anything later is allowed.
 *  4. Zeros have no stamp: a cell knows how many requests in flight may zero it and when the last
 * one of those that ended did.
 *  5. The copies that a read and a write of the same bytes make at the same time are copies of bytes:
 * nothing promises that a word comes whole. A torn word must be a mixture of stamps that may stand
 * there (3), one of them of a request in flight.
 */
#include "pass.h"

#include "blockdev.h"
#include "checked.h"
#include "range.h"
#include "run.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CELL = 512,
    WORDS = CELL / 8,
    SLOTS = 4,
    LONGEST = 256 * 1024,
    INITIAL_THREAD = 127, /* stamps of the initial content */
};

struct cell {
    atomic_uint_fast64_t newest;   /* start of the newest certain change that has ended */
    atomic_uint_fast64_t zero_end; /* end of the last change to zeros that has ended */
    atomic_uint_fast32_t zeroing;  /* changes to zeros in flight */
};

struct record {
    atomic_uint_fast64_t offset, length, end;
};

struct shared {
    struct run run;
    struct chain *chain;
    struct cell *cells;
    atomic_uint_fast64_t clock;
    struct record *records; /* `per_thread` for each thread */
    uint64_t per_thread;
    unsigned threads;
};

struct worker;

struct slot {
    struct blk_request request;
    struct iovec iov;
    uint64_t *words;
    uint64_t *newest; /* of the cells that a read covers, before it began */
    uint64_t began;   /* when the read did */
    struct worker *worker;
    struct record *record;
    uint64_t start;
    uint64_t certain_from, certain_to; /* the part that changes for certain */
    bool busy;
};

struct worker {
    struct shared *shared;
    struct blk_queue *queue;
    struct rng rng;
    unsigned index;
    uint64_t ops, used; /* records */
    struct slot slots[SLOTS];
    pthread_t thread;
};

static uint64_t stamp(unsigned thread, uint64_t request, uint64_t word)
{
    return UINT64_C(1) << 63 | (uint64_t)thread << 56 | request << 32 | word;
}

static void raise_to(atomic_uint_fast64_t *value, uint64_t to)
{
    uint64_t now = atomic_load(value);

    while (now < to && !atomic_compare_exchange_weak(value, &now, to)) {
    }
}

/* NULL when `value` may stand at `word` given the cell's `newest` before the read. */
static const char *judge(struct shared *shared, uint64_t word, uint64_t value, uint64_t newest)
{
    struct cell *cell = &shared->cells[word / WORDS];
    unsigned thread = value >> 56 & 127;
    uint64_t request = value >> 32 & 0xffffff, end;
    const struct record *record;

    if (value == 0) {
        return atomic_load(&cell->zeroing) > 0 || atomic_load(&cell->zero_end) > newest
                   ? NULL
                   : "zeros where none were written, or stale";
    }
    if (!(value >> 63) || (value & UINT32_MAX) != word) {
        return "bytes of another place";
    }
    if (thread == INITIAL_THREAD) {
        return newest == 0 ? NULL : "the initial content after it was overwritten";
    }
    if (thread >= shared->threads || request >= shared->per_thread) {
        return "bytes that were never written";
    }
    record = &shared->records[thread * shared->per_thread + request];
    end = atomic_load(&record->end);
    if (end != 0 && end < newest) {
        return "stale bytes";
    }
    return ranges_overlap(atomic_load(&record->offset), atomic_load(&record->length), word * 8, 8)
               ? NULL
               : "bytes out of place";
}

/* The bytes of `value` that are the same in `stamp`, as a mask. */
static unsigned same_bytes(uint64_t value, uint64_t stamp)
{
    unsigned mask = 0;

    for (unsigned i = 0; i < 8; i++) {
        mask |= (unsigned)((value >> 8 * i & 255) == (stamp >> 8 * i & 255)) << i;
    }
    return mask;
}

/* Invariant 5, of a word that a read saw which began at `began`. */
static bool is_torn(struct shared *shared, uint64_t word, uint64_t value, uint64_t newest,
                    uint64_t began)
{
    unsigned mask = judge(shared, word, 0, newest) ? 0 : same_bytes(value, 0);
    bool in_flight = atomic_load(&shared->cells[word / WORDS].zeroing) > 0 ||
                     atomic_load(&shared->cells[word / WORDS].zero_end) > began;

    if (newest == 0) {
        mask |= same_bytes(value, stamp(INITIAL_THREAD, 0, word));
    }
    for (uint64_t i = 0; i < shared->threads * shared->per_thread; i++) {
        uint64_t made = stamp((unsigned)(i / shared->per_thread), i % shared->per_thread, word);

        if (!judge(shared, word, made, newest)) {
            uint64_t end = atomic_load(&shared->records[i].end);

            mask |= same_bytes(value, made);
            in_flight = in_flight || end == 0 || end > began;
        }
    }
    return in_flight && mask == 255;
}

/* `began`: UINT64_MAX when nothing is in flight. */
static void check_words(struct shared *shared, uint64_t offset, const uint64_t *words,
                        uint64_t length, const uint64_t *newest, uint64_t began)
{
    for (uint64_t i = 0; i < length / 8; i++) {
        uint64_t word = offset / 8 + i;
        const char *wrong = judge(shared, word, words[i], newest[i / WORDS]);

        if (wrong && !is_torn(shared, word, words[i], newest[i / WORDS], began)) {
            run_fail(&shared->run, word * 8,
                     "%s at byte %llu (%016llx, between %016llx and %016llx)", wrong,
                     (unsigned long long)word * 8, (unsigned long long)words[i],
                     (unsigned long long)words[i > 0 ? i - 1 : i],
                     (unsigned long long)words[i + 1 < length / 8 ? i + 1 : i]);
            return;
        }
    }
}

static void end_change(struct shared *shared, const struct slot *slot)
{
    const struct blk_request *r = &slot->request;
    uint64_t end = atomic_fetch_add(&shared->clock, 1);

    if (slot->record) {
        atomic_store(&slot->record->end, end);
    }
    for (uint64_t c = r->offset / CELL; c < (r->offset + r->length) / CELL; c++) {
        struct cell *cell = &shared->cells[c];

        if (r->op != BLK_WRITE) {
            raise_to(&cell->zero_end, end);
            atomic_fetch_sub(&cell->zeroing, 1);
        }
        if (c * CELL >= slot->certain_from && c * CELL < slot->certain_to) {
            raise_to(&cell->newest, slot->start);
        }
    }
}

static void request_done(struct blk_request *request, int result)
{
    struct slot *slot = request->opaque;
    struct shared *shared = slot->worker->shared;

    slot->busy = false;
    if (result < 0) {
        run_fail(&shared->run, request->offset, "request %d failed: %s", (int)request->op,
                 strerror(-result));
        return;
    }
    if (request->op == BLK_READ) {
        check_words(shared, request->offset, slot->words, request->length, slot->newest,
                    slot->began);
    } else if (request->op != BLK_FLUSH) {
        end_change(shared, slot);
    }
}

static void begin_change(struct worker *worker, struct slot *slot)
{
    struct shared *shared = worker->shared;
    struct blk_request *r = &slot->request;

    slot->start = atomic_fetch_add(&shared->clock, 1);
    slot->record = NULL;
    slot->certain_from = r->offset;
    slot->certain_to = r->offset + r->length;
    if (r->op == BLK_WRITE) {
        slot->record = &shared->records[worker->index * shared->per_thread + worker->used];
        atomic_store(&slot->record->offset, r->offset);
        atomic_store(&slot->record->length, r->length);
        for (uint64_t i = 0; i < r->length / 8; i++) {
            slot->words[i] = stamp(worker->index, worker->used, r->offset / 8 + i);
        }
        worker->used++;
        return;
    }
    if (r->op == BLK_DISCARD) {
        const struct model *model = &shared->chain->model;

        slot->certain_from = align_up(r->offset, model->cluster);
        slot->certain_to = align_down(r->offset + r->length, model->cluster);
        if (!model->discard_on || !model->discard_is_zero) {
            slot->certain_to = slot->certain_from;
        }
    }
    for (uint64_t c = r->offset / CELL; c < (r->offset + r->length) / CELL; c++) {
        atomic_fetch_add(&shared->cells[c].zeroing, 1);
    }
}

static void begin_read(struct shared *shared, struct slot *slot)
{
    slot->began = atomic_load(&shared->clock);
    for (uint64_t i = 0; i < slot->request.length / CELL; i++) {
        slot->newest[i] = atomic_load(&shared->cells[slot->request.offset / CELL + i].newest);
    }
}

static bool progress(struct worker *worker)
{
    struct pollfd poll_fd = {.fd = blk_queue_fd(worker->queue), .events = POLLIN};

    if (blk_queue_complete(worker->queue) > 0 || blk_queue_in_flight(worker->queue) == 0) {
        return true;
    }
    if (poll_fd.fd < 0 || poll(&poll_fd, 1, 60000) <= 0) {
        run_fail(&worker->shared->run, 0, "requests never completed");
        return false;
    }
    return true;
}

static void step(struct worker *worker)
{
    static const enum blk_op ops[] = {BLK_READ,    BLK_READ,         BLK_READ,  BLK_WRITE,
                                      BLK_WRITE,   BLK_WRITE,        BLK_WRITE, BLK_WRITE_ZEROES,
                                      BLK_DISCARD, BLK_WRITE_ZEROES, BLK_FLUSH, BLK_DISCARD};
    struct shared *shared = worker->shared;
    struct slot *slot = &worker->slots[rng_below(&worker->rng, SLOTS)];
    uint64_t cells = shared->run.model->length / CELL;
    struct range range = range_pick(&worker->rng, 0, cells * CELL, shared->run.unit, LONGEST, 0);
    enum blk_op op = ops[rng_below(&worker->rng, ARRAY_LEN(ops))];
    struct range whole;
    bool is_compressed;

    while (slot->busy) {
        if (!progress(worker)) {
            return;
        }
    }
    range.offset = align_down(range.offset, CELL);
    range.length = min_u64(align_up(range.length, CELL), cells * CELL - range.offset);
    whole = range_whole_clusters(range, shared->run.unit, shared->run.model->length);
    is_compressed = op == BLK_WRITE && whole.length > 0 && blk_can_compress(shared->run.blk) &&
                    rng_one_in(&worker->rng, 3);
    range = is_compressed ? whole : range;
    slot->iov = (struct iovec){.iov_base = slot->words, .iov_len = range.length};
    slot->request = (struct blk_request){
        .op = op,
        .flags = 0,
        .offset = range.offset,
        .length = range.length,
        .iov = &slot->iov,
        .iovcnt = 1,
        .done = request_done,
        .opaque = slot,
    };
    if (slot->request.op == BLK_WRITE_ZEROES && rng_one_in(&worker->rng, 2)) {
        slot->request.flags = BLK_REQ_MAY_UNMAP;
    }
    if (slot->request.op == BLK_READ) {
        begin_read(shared, slot);
    } else if (slot->request.op != BLK_FLUSH) {
        begin_change(worker, slot);
    }
    slot->busy = true;
    if (is_compressed) {
        request_done(&slot->request, blk_pwrite_compressed(shared->run.blk, range.offset,
                                                           slot->words, range.length));
    } else {
        blk_submit(worker->queue, &slot->request);
    }
    if (rng_one_in(&worker->rng, 4)) {
        blk_queue_complete(worker->queue);
    }
}

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;
    struct shared *shared = worker->shared;

    for (uint64_t i = 0; i < worker->ops && !atomic_load(&shared->run.failed); i++) {
        step(worker);
    }
    while (blk_queue_in_flight(worker->queue) > 0 && progress(worker)) {
    }
    return NULL;
}

static int worker_init(struct worker *worker, struct shared *shared, unsigned index, struct rng rng)
{
    *worker =
        (struct worker){.shared = shared, .rng = rng, .index = index, .ops = shared->per_thread};
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *slot = &worker->slots[i];

        slot->worker = worker;
        slot->words = malloc(LONGEST);
        slot->newest = malloc(LONGEST / CELL * sizeof(*slot->newest));
        if (!slot->words || !slot->newest) {
            return -ENOMEM;
        }
    }
    return blk_queue_create(shared->run.blk, &worker->queue, NULL);
}

static void worker_free(struct worker *worker)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        free(worker->slots[i].words);
        free(worker->slots[i].newest);
    }
    if (worker->queue && blk_queue_in_flight(worker->queue) == 0) {
        blk_queue_destroy(worker->queue);
    }
}

/* Writes every word's initial stamp through the engine. */
static int write_initial(struct chain *chain, struct rng *rng, struct err *err)
{
    struct blk *blk;
    uint64_t words = chain->model.length / 8;
    int ret = chain_open(chain, rng, &blk, err);

    if (ret < 0) {
        return ret;
    }
    for (uint64_t i = 0; i < words; i++) {
        uint64_t value = stamp(INITIAL_THREAD, 0, i);

        memcpy(chain->model.bytes + 8 * i, &value, sizeof(value));
    }
    ret = blk_pwrite(blk, 0, chain->model.bytes, chain->model.length);
    if (ret < 0) {
        blk_close(blk, NULL);
        return err_set_errno(err, ret, "initial write");
    }
    return blk_close(blk, err);
}

/* After the last request: reads everything into the model and judges each word once more. */
static void check_final(struct shared *shared)
{
    struct model *model = shared->run.model;
    uint64_t cells = model->length / CELL;
    uint64_t *newest = malloc(cells * sizeof(*newest));
    int ret = newest ? blk_pread(shared->run.blk, 0, model->bytes, model->length) : -ENOMEM;

    if (ret < 0) {
        run_fail(&shared->run, 0, "final read: %s", strerror(-ret));
    } else {
        for (uint64_t i = 0; i < cells; i++) {
            newest[i] = atomic_load(&shared->cells[i].newest);
        }
        check_words(shared, 0, (const uint64_t *)(const void *)model->bytes, cells * CELL, newest,
                    UINT64_MAX);
    }
    free(newest);
}

static void run_threads(struct shared *shared, struct rng *rng)
{
    struct worker *workers = calloc(shared->threads, sizeof(*workers));
    unsigned ready = 0, started = 0;

    while (workers && ready < shared->threads &&
           worker_init(&workers[ready], shared, ready, rng_fork(rng_next(rng), ready)) == 0) {
        ready++;
    }
    while (workers && ready == shared->threads && started < ready &&
           pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]) == 0) {
        started++;
    }
    if (started < shared->threads) {
        run_fail(&shared->run, 0, "cannot set up the threads");
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    for (unsigned i = 0; workers && i < shared->threads; i++) {
        if (workers[i].shared) {
            worker_free(&workers[i]);
        }
    }
    free(workers);
}

static int overlap_on_top(struct chain *chain, struct rng *rng, unsigned threads, uint64_t ops,
                          struct err *err)
{
    struct shared shared = {
        .chain = chain, .threads = threads, .per_thread = ops / threads + 1, .clock = 1};
    int ret = chain_open(chain, rng, &shared.run.blk, err);

    if (ret < 0) {
        return ret;
    }
    shared.run.model = &chain->model;
    shared.run.unit = chain->model.cluster;
    shared.cells = calloc(chain->model.length / CELL, sizeof(*shared.cells));
    shared.records = calloc(shared.per_thread * threads, sizeof(*shared.records));
    if (shared.cells && shared.records) {
        run_threads(&shared, rng);
        if (!atomic_load(&shared.run.failed)) {
            check_final(&shared);
        }
    } else {
        run_fail(&shared.run, 0, "out of memory");
    }
    free(shared.cells);
    free(shared.records);
    ret = blk_close(shared.run.blk, err);
    return atomic_load(&shared.run.failed) ? err_set(err, -EIO, "%s", shared.run.message) : ret;
}

int pass_overlapping(const struct layout *layout, struct rng *rng, unsigned threads, uint64_t ops,
                     struct err *err)
{
    struct chain chain;
    int ret = chain_init(&chain, layout, err);

    for (unsigned i = 0; ret == 0 && i < layout->count; i++) {
        ret = chain_add_layer(&chain, err);
        if (ret == 0 && i == 0) {
            ret = write_initial(&chain, rng, err);
        }
        if (ret == 0 && i + 1 < layout->count) {
            ret = chain_seal_top(&chain, err);
        }
    }
    if (ret == 0) {
        ret = overlap_on_top(&chain, rng, threads, ops, err);
    }
    if (ret == 0) {
        ret = chain_check_seals(&chain, err);
    }
    if (ret == 0) {
        ret = chain_check(&chain, err);
    }
    if (ret == 0) {
        ret = chain_ask_qemu(&chain, err);
    }
    chain_free(&chain, false);
    return ret == -ENOENT ? 0 : ret;
}
