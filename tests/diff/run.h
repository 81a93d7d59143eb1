/*
 * run.h - one pass of requests over one open image: what its threads share.
 * Threads: the fields that change do so through atomics; `message` is written once, by the thread
 * that sets `failed`, and read after the threads were joined.
 */
#ifndef DIFF_RUN_H
#define DIFF_RUN_H

#include "blockdev.h"
#include "model.h"

#include <stdatomic.h>

struct run {
    struct blk *blk;
    struct model *model;
    unsigned unit;    /* what "a cluster" is to the choice of ranges, for raw too */
    uint64_t longest; /* no request is longer */
    atomic_bool failed;
    char message[512];        /* why, written by the one that set `failed` */
    uint64_t bad_offset;      /* where, for the history */
    atomic_uint_fast64_t ops; /* numbers the requests of all actors */
};

/* Reads the whole device and compares it with the model; a difference fails the run. */
void run_compare_all(struct run *run);
/* Marks the run as failed; the first message is kept. */
void run_fail(struct run *run, uint64_t offset, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for a byte that differs: `seen` was read at `offset`, seen[at] is wrong. */
void run_fail_bytes(struct run *run, const char *what, uint64_t offset, const uint8_t *seen,
                    int64_t at);

#endif
