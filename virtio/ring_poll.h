/*
 * ring_poll.h - how long a queue's thread goes on looking at an empty ring before it sleeps.
 *
 * A request that comes while the thread looks costs neither a doorbell nor a wake-up. Looking is worth its
 * processor time only if it often ends so, and whether it does is learned from what happens:
 *
 * 1. The window, for how long to look, doubles when a request came within it, or soon after it; it is halved,
 *    in the end to nothing, when the ring stayed empty for long.
 * 2. Each look that fails costs credit, each that succeeds earns some. Without credit there are no looks for a
 *    while, each time twice as long. That covers what rule 1 cannot see: a look that fails because it takes
 *    the processor away from the vCPU that would make the next request, which then comes soon after the
 *    thread sleeps.
 *
 * One look at most between two requests: a queue without requests costs nothing.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC. Threads: the queue's alone.
 */
#ifndef VIRTIO_RING_POLL_H
#define VIRTIO_RING_POLL_H

#include <stdbool.h>
#include <stdint.h>

struct ring_poll {
    uint64_t max;        /* of the window; 0: never look */
    uint64_t window;     /* 0: do not look */
    uint64_t deadline;   /* of the look that is under way */
    uint64_t idle_since; /* when the ring was found empty */
    bool is_asleep;      /* no request has come since */
    int credit;
    uint64_t rest, rest_until; /* for how long not to look next time; until when not to */
};

void ring_poll_init(struct ring_poll *poll, uint64_t max);

/* The ring is empty and nothing is under way: until when to look at it, or 0: not at all. */
uint64_t ring_poll_begin(struct ring_poll *poll, uint64_t now);
/* Ends the look that began: a request came by `now`, or none did. */
void ring_poll_end(struct ring_poll *poll, bool found, uint64_t now);
/* A request came, and is_asleep. */
void ring_poll_woken(struct ring_poll *poll, uint64_t now);

#endif
