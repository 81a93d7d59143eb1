/*
 * rng.h - a small seeded generator (splitmix64), so that a printed seed repeats a run exactly.
 * Threads: one generator, one thread.
 */
#ifndef DIFF_RNG_H
#define DIFF_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t z = (rng->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* In [0, limit); limit is not 0. */
static inline uint64_t rng_below(struct rng *rng, uint64_t limit)
{
    return rng_next(rng) % limit;
}

/* In [low, high], both included. */
static inline uint64_t rng_between(struct rng *rng, uint64_t low, uint64_t high)
{
    return low + rng_below(rng, high - low + 1);
}

/* True once in `n` times. */
static inline bool rng_one_in(struct rng *rng, unsigned n)
{
    return rng_below(rng, n) == 0;
}

static inline void rng_fill(struct rng *rng, uint8_t *bytes, size_t length)
{
    while (length >= sizeof(uint64_t)) {
        uint64_t v = rng_next(rng);

        memcpy(bytes, &v, sizeof(v));
        bytes += sizeof(v);
        length -= sizeof(v);
    }
    while (length > 0) {
        *bytes++ = (uint8_t)rng_next(rng);
        length--;
    }
}

/* A generator of its own for part `index` of a run. */
static inline struct rng rng_fork(uint64_t seed, uint64_t index)
{
    struct rng rng = {.state = seed * UINT64_C(0x2545f4914f6cdd1d) + index};

    rng_next(&rng);
    return rng;
}

#endif
