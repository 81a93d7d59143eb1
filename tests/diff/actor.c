#include "actor.h"

#include "checked.h"
#include "iov.h"
#include "range.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    GAP = 16, /* bytes between the pieces of a vector, which nobody may write */
    GAP_BYTE = 0xa5,
    WAIT_MS = 60000, /* a request that takes longer is lost */
};

/* A BLK_WRITE that goes through blk_pwrite_compressed(); no flag of the engine's. */
enum { FLAG_COMPRESSED = 128 };

static const char *op_name(unsigned op, unsigned flags)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "write-zeroes"};

    if (op == BLK_WRITE && (flags & FLAG_COMPRESSED)) {
        return "write-compressed";
    }
    if (op == BLK_WRITE_ZEROES && (flags & BLK_REQ_MAY_UNMAP)) {
        return "write-zeroes-unmap";
    }
    return names[op];
}

static void check_read(struct run *run, const struct blk_request *request)
{
    uint64_t offset = request->offset;

    for (int i = 0; i < request->iovcnt; i++) {
        const uint8_t *seen = request->iov[i].iov_base;
        int64_t at = model_compare(run->model, offset, seen, request->iov[i].iov_len);

        if (at >= 0) {
            run_fail_bytes(run, "read", offset, seen, at);
            return;
        }
        for (unsigned g = 0; g < GAP; g++) {
            if (seen[request->iov[i].iov_len + g] != GAP_BYTE) {
                run_fail(run, offset, "a read wrote outside its buffers");
                return;
            }
        }
        offset += request->iov[i].iov_len;
    }
}

static void request_done(struct blk_request *request, int result)
{
    struct slot *slot = request->opaque;
    struct run *run = slot->actor->run;

    if (!slot->busy) {
        run_fail(run, request->offset, "a request completed twice");
        return;
    }
    slot->busy = false;
    if (slot->must_fail) {
        if (result >= 0) {
            run_fail(run, request->offset, "%s beyond the device succeeded",
                     op_name(request->op, request->flags));
        }
    } else if (result < 0) {
        run_fail(run, request->offset, "%s of %llu bytes at %llu failed: %s",
                 op_name(request->op, request->flags), (unsigned long long)request->length,
                 (unsigned long long)request->offset, strerror(-result));
    } else if (request->op == BLK_READ) {
        check_read(run, request);
    }
}

/* One round of the event loop; false when nothing can be expected any more. */
static bool progress(struct actor *actor)
{
    struct pollfd poll_fd = {.fd = blk_queue_fd(actor->queue), .events = POLLIN};

    if (blk_queue_complete(actor->queue) > 0 || blk_queue_in_flight(actor->queue) == 0) {
        return true;
    }
    if (poll_fd.fd < 0 || poll(&poll_fd, 1, WAIT_MS) <= 0) {
        run_fail(actor->run, 0, "%u requests never completed", blk_queue_in_flight(actor->queue));
        return false;
    }
    return true;
}

static bool wait_all(struct actor *actor)
{
    while (blk_queue_in_flight(actor->queue) > 0) {
        if (!progress(actor)) {
            return false;
        }
    }
    for (unsigned i = 0; i < ACTOR_SLOTS; i++) {
        if (actor->slots[i].busy) {
            run_fail(actor->run, 0, "the queue is empty but a request has not completed");
            return false;
        }
    }
    return true;
}

/* Waits until nothing in flight stands against a request for the range. */
static bool wait_overlaps(struct actor *actor, struct range range, bool is_read)
{
    for (unsigned i = 0; i < ACTOR_SLOTS; i++) {
        const struct slot *slot = &actor->slots[i];
        const struct blk_request *request = &slot->request;

        while (slot->busy && request->op != BLK_FLUSH && !slot->must_fail &&
               !(is_read && request->op == BLK_READ) &&
               ranges_overlap(request->offset, request->length, range.offset, range.length)) {
            if (!progress(actor)) {
                return false;
            }
        }
    }
    return true;
}

static struct slot *free_slot(struct actor *actor)
{
    for (;;) {
        for (unsigned i = 0; i < ACTOR_SLOTS; i++) {
            if (!actor->slots[i].busy) {
                return &actor->slots[i];
            }
        }
        if (!progress(actor)) {
            return NULL;
        }
    }
}

/* Cuts `length` bytes into odd pieces, or one, with a guarded gap behind each. */
static int slot_split(struct slot *slot, struct rng *rng, uint64_t length, bool in_one)
{
    size_t need = length + (size_t)(ACTOR_IOV_MAX + 1) * GAP + 64;
    unsigned pieces =
        in_one || rng_one_in(rng, 2) ? 1 : (unsigned)rng_between(rng, 1, ACTOR_IOV_MAX);
    uint8_t *at;

    if (slot->capacity < need) {
        free(slot->memory);
        slot->memory = malloc(need);
        slot->capacity = slot->memory ? need : 0;
        if (!slot->memory) {
            return -ENOMEM;
        }
    }
    at = slot->memory + rng_below(rng, 64);
    for (unsigned i = 0; i < pieces; i++) {
        uint64_t part = i + 1 == pieces || length == 0 ? length : rng_below(rng, length + 1);

        slot->iov[i] = (struct iovec){.iov_base = at, .iov_len = part};
        memset(at + part, GAP_BYTE, GAP);
        at += part + GAP;
        length -= part;
    }
    return (int)pieces;
}

static enum blk_op pick_op(struct actor *actor, unsigned *flags)
{
    uint64_t dice = rng_below(&actor->rng, 100);

    *flags = 0;
    if (dice < actor->reads_percent) {
        return BLK_READ;
    }
    dice = rng_below(&actor->rng, 100);
    if (dice < 4) {
        return BLK_FLUSH;
    }
    if (dice < 20) {
        return BLK_DISCARD;
    }
    *flags = rng_one_in(&actor->rng, 32) ? BLK_REQ_FUA : 0;
    if (dice < 40) {
        *flags |= rng_one_in(&actor->rng, 2) ? BLK_REQ_MAY_UNMAP : 0;
        return BLK_WRITE_ZEROES;
    }
    return BLK_WRITE;
}

static void remember(struct actor *actor, enum blk_op op, unsigned flags, struct range range)
{
    actor->history[actor->history_count++ % ACTOR_HISTORY] = (struct op_record){
        .number = atomic_fetch_add(&actor->run->ops, 1),
        .offset = range.offset,
        .length = range.length,
        .op = (uint8_t)op,
        .flags = (uint8_t)flags,
    };
}

/* A discard whose result the model cannot know: carried out alone, then read back. */
static void settle(struct actor *actor, uint64_t from, uint64_t to)
{
    struct run *run = actor->run;
    int64_t at;
    int ret;

    if (!wait_all(actor)) {
        return;
    }
    ret = blk_pread(run->blk, from, actor->scratch, to - from);
    if (ret < 0) {
        run_fail(run, from, "reading back a discard failed: %s", strerror(-ret));
        return;
    }
    at = model_settle(run->model, from, actor->scratch, to - from);
    if (at >= 0) {
        run_fail_bytes(run, "discard exposed other data", from, actor->scratch, at);
    }
}

/* Noise, then one byte over and over, for each cluster: from hardly any compressed data to such that
 * does not get smaller. */
static void fill_compressible(struct actor *actor, uint8_t *bytes, uint64_t length)
{
    uint64_t unit = actor->run->unit;

    for (uint64_t at = 0; at < length; at += unit) {
        uint64_t n = min_u64(unit, length - at);
        uint64_t noise = rng_below(&actor->rng, rng_one_in(&actor->rng, 3) ? n + 1 : n / 16 + 1);

        rng_fill(&actor->rng, bytes + at, noise);
        memset(bytes + at + noise, (int)rng_below(&actor->rng, 256), n - noise);
    }
}

/* Brings the model up to date, fills the buffers of a write. True when [*from, *to) is unsettled.
 */
static bool apply(struct actor *actor, const struct blk_request *request, uint64_t *from,
                  uint64_t *to)
{
    struct model *model = actor->run->model;
    uint64_t offset = request->offset;

    switch (request->op) {
    case BLK_WRITE:
        for (int i = 0; i < request->iovcnt; i++) {
            if (request->flags & FLAG_COMPRESSED) {
                fill_compressible(actor, request->iov[i].iov_base, request->iov[i].iov_len);
            } else {
                rng_fill(&actor->rng, request->iov[i].iov_base, request->iov[i].iov_len);
            }
            memcpy(model->bytes + offset, request->iov[i].iov_base, request->iov[i].iov_len);
            offset += request->iov[i].iov_len;
        }
        return false;
    case BLK_WRITE_ZEROES:
        memset(model->bytes + offset, 0, request->length);
        return false;
    case BLK_DISCARD:
        return model_discard(model, offset, request->length, from, to);
    default:
        return false;
    }
}

/* The same request by the synchronous wrappers. */
static int call_wrapper(struct blk *blk, const struct blk_request *r)
{
    switch (r->op) {
    case BLK_READ:
        return r->iovcnt == 1 ? blk_pread(blk, r->offset, r->iov->iov_base, r->length)
                              : blk_preadv(blk, r->offset, r->iov, r->iovcnt);
    case BLK_WRITE:
        if (r->flags & FLAG_COMPRESSED) {
            return blk_pwrite_compressed(blk, r->offset, r->iov->iov_base, r->length);
        }
        return r->iovcnt == 1 ? blk_pwrite(blk, r->offset, r->iov->iov_base, r->length)
                              : blk_pwritev(blk, r->offset, r->iov, r->iovcnt);
    case BLK_WRITE_ZEROES:
        return blk_pwrite_zeroes(blk, r->offset, r->length, r->flags);
    case BLK_DISCARD:
        return blk_pdiscard(blk, r->offset, r->length);
    default:
        return blk_flush(blk);
    }
}

static void step_beyond(struct actor *actor, struct slot *slot)
{
    static const enum blk_op ops[] = {BLK_READ, BLK_WRITE_ZEROES, BLK_DISCARD};
    struct blk_request *request = &slot->request;
    uint64_t end = actor->run->model->length;

    request->op = ops[rng_below(&actor->rng, ARRAY_LEN(ops))];
    request->length = 16;
    request->iovcnt = 1;
    slot->iov[0] = (struct iovec){.iov_base = slot->memory, .iov_len = 16};
    request->offset = rng_one_in(&actor->rng, 2) ? end - rng_below(&actor->rng, 16)
                                                 : UINT64_MAX - rng_below(&actor->rng, 32);
    slot->must_fail = true;
    slot->busy = true;
    blk_submit(actor->queue, request);
}

/* Whether a write is to be a compressed one, whose range is then whole clusters. */
static bool pick_compressed(struct actor *actor, enum blk_op op, struct range *range)
{
    struct run *run = actor->run;
    struct range whole = range_whole_clusters(*range, run->unit, run->model->length);

    if (op != BLK_WRITE || whole.length == 0 || !blk_can_compress(run->blk) ||
        !rng_one_in(&actor->rng, 3)) {
        return false;
    }
    *range = whole;
    return true;
}

static const struct stripe *pick_stripe(struct actor *actor)
{
    uint64_t index = actor->window == 0 ? rng_below(&actor->rng, actor->stripe_count)
                                        : actor->window_at + rng_below(&actor->rng, actor->window);

    return &actor->stripes[index % actor->stripe_count];
}

static void step(struct actor *actor)
{
    struct run *run = actor->run;
    const struct stripe *stripe = pick_stripe(actor);
    struct range range = range_pick(&actor->rng, stripe->from, stripe->to, run->unit, run->longest,
                                    actor->last_offset);
    struct slot *slot;
    unsigned flags;
    enum blk_op op = pick_op(actor, &flags);
    uint64_t from = 0, to = 0;
    bool unsettled, is_compressed;
    int pieces;

    is_compressed = pick_compressed(actor, op, &range);
    flags = is_compressed ? FLAG_COMPRESSED : flags;
    if (!wait_overlaps(actor, range, op == BLK_READ) || !(slot = free_slot(actor))) {
        return;
    }
    pieces = slot_split(slot, &actor->rng, range.length, is_compressed);
    if (pieces < 0) {
        run_fail(run, 0, "out of memory");
        return;
    }
    slot->must_fail = false;
    slot->request = (struct blk_request){
        .op = op,
        .flags = flags,
        .offset = range.offset,
        .length = range.length,
        .iov = slot->iov,
        .iovcnt = pieces,
        .done = request_done,
        .opaque = slot,
    };
    if (rng_one_in(&actor->rng, 200)) {
        step_beyond(actor, slot);
        return;
    }
    remember(actor, op, flags, range);
    actor->last_offset = range.offset + range.length;
    unsettled = apply(actor, &slot->request, &from, &to);
    slot->busy = true;
    if (is_compressed || rng_one_in(&actor->rng, 10)) {
        request_done(&slot->request, call_wrapper(run->blk, &slot->request));
    } else {
        blk_submit(actor->queue, &slot->request);
    }
    if (unsettled) {
        settle(actor, from, to);
    }
    if (rng_one_in(&actor->rng, 8)) {
        blk_queue_complete(actor->queue);
    }
}

int actor_init(struct actor *actor, struct run *run, struct rng rng, const struct stripe *stripes,
               unsigned stripe_count)
{
    struct err err;
    int ret;

    *actor = (struct actor){
        .run = run,
        .rng = rng,
        .stripes = stripes,
        .stripe_count = stripe_count,
        .reads_percent = 35,
    };
    actor->history = calloc(ACTOR_HISTORY, sizeof(*actor->history));
    actor->scratch = malloc(run->longest);
    if (!actor->history || !actor->scratch) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < ACTOR_SLOTS; i++) {
        actor->slots[i].actor = actor;
        if (slot_split(&actor->slots[i], &actor->rng, 4096, false) < 0) {
            return -ENOMEM;
        }
    }
    ret = blk_queue_create(run->blk, &actor->queue, &err);
    if (ret < 0) {
        run_fail(run, 0, "blk_queue_create: %s", err.text);
    }
    return ret;
}

void actor_free(struct actor *actor)
{
    if (actor->queue && blk_queue_in_flight(actor->queue) == 0) {
        blk_queue_destroy(actor->queue);
    }
    for (unsigned i = 0; i < ACTOR_SLOTS; i++) {
        free(actor->slots[i].memory);
    }
    free(actor->history);
    free(actor->scratch);
}

void actor_run(struct actor *actor, uint64_t ops)
{
    for (uint64_t i = 0; i < ops && !atomic_load(&actor->run->failed); i++) {
        actor->window_at = (unsigned)(i * ACTOR_SWEEPS * actor->stripe_count / ops);
        step(actor);
    }
    wait_all(actor);
}

static bool is_near(const struct actor *actor, const struct op_record *r)
{
    uint64_t bad = align_down(actor->run->bad_offset, actor->run->unit);

    return r->op != BLK_FLUSH && ranges_overlap(r->offset, r->length, bad, actor->run->unit);
}

void actor_print_history(const struct actor *actor)
{
    enum { SHOWN = 24 };
    unsigned long first =
        actor->history_count > ACTOR_HISTORY ? actor->history_count - ACTOR_HISTORY : 0;
    unsigned long near = 0;

    for (unsigned long i = first; i < actor->history_count; i++) {
        near += is_near(actor, &actor->history[i % ACTOR_HISTORY]);
    }
    for (unsigned long i = first; i < actor->history_count; i++) {
        const struct op_record *r = &actor->history[i % ACTOR_HISTORY];

        if (is_near(actor, r) && near-- <= SHOWN) {
            printf("#   op %llu: %s %llu+%llu%s\n", (unsigned long long)r->number,
                   op_name(r->op, r->flags), (unsigned long long)r->offset,
                   (unsigned long long)r->length, r->flags & BLK_REQ_FUA ? " fua" : "");
        }
    }
}
