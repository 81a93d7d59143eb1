/*
 * actor.h - one thread's worth of random requests through one queue context, each checked against
 * the model.
 *
 * An actor owns byte ranges of the device ("stripes"); alone it owns the whole. Every request lies
 * within one stripe, so actors that run side by side never touch each other's bytes, while stripes
 * end anywhere and so neighbours meet in clusters and in L2 tables. Up to ACTOR_SLOTS requests are
 * in flight at once; a request waits for those that it overlaps, so that the model always knows
 * what a read must return: reads are compared when they complete.
 *
 * Threads: an actor is used by one thread; `run` is shared and changed through atomics alone.
 */
#ifndef DIFF_ACTOR_H
#define DIFF_ACTOR_H

#include "rng.h"
#include "run.h"

enum { ACTOR_SWEEPS = 3, ACTOR_SLOTS = 6, ACTOR_IOV_MAX = 9, ACTOR_HISTORY = 16384 };

struct stripe {
    uint64_t from, to;
};

struct op_record {
    uint64_t number, offset, length;
    uint8_t op, flags;
};

struct actor;

struct slot {
    struct blk_request request;
    struct iovec iov[ACTOR_IOV_MAX];
    uint8_t *memory;
    size_t capacity;
    struct actor *actor;
    bool busy;
    bool must_fail;
};

struct actor {
    struct run *run;
    struct blk_queue *queue;
    struct rng rng;
    const struct stripe *stripes;
    unsigned stripe_count;
    /* 0: requests go to all stripes at any time; else to so many neighbours, which move over all of
     * them ACTOR_SWEEPS times during actor_run(), so that actors meet. */
    unsigned window;
    unsigned window_at;
    uint64_t reads_percent; /* share of reads among the requests */
    struct slot slots[ACTOR_SLOTS];
    struct op_record *history;
    unsigned long history_count;
    uint64_t last_offset;
    uint8_t *scratch;
};

/* The stripes are borrowed. Returns 0 or a negative errno value; actor_free() follows in any case.
 */
int actor_init(struct actor *actor, struct run *run, struct rng rng, const struct stripe *stripes,
               unsigned stripe_count);
void actor_free(struct actor *actor);
/* Carries out `ops` requests and waits for all of them; stops early once the run has failed. */
void actor_run(struct actor *actor, uint64_t ops);

/* Prints the requests of the actor that lie near the run's bad_offset. */
void actor_print_history(const struct actor *actor);

#endif
