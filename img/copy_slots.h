/*
 * copy_slots.h - what the two sides of a copy share: a ring of slots, each a window of the target.
 *
 * Readers (copy_read.c) fill slots, the writer (copy.c) empties them in order. A slot is planned (what of
 * the sources it is), then filled by the same reader, then ready; 0 <= planned - emptied <= slot_count.
 * `lock` covers the counters, `is_ready` and `failed`; all else in a slot belongs to its reader until it is
 * ready, and to the writer from then on. `plan_lock`, which is taken first, covers where the next slot
 * begins: readers plan one after the other.
 */
#ifndef IMG_COPY_SLOTS_H
#define IMG_COPY_SLOTS_H

#include "compressor.h"
#include "copy.h"
#include "pace.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    COPY_WINDOW = 256 << 10, /* where clusters are not larger */
    COPY_SLOTS = 16,         /* at most */
    COPY_READERS = 8,        /* at most */
    COPY_SECTOR = 512,
    COPY_WORDS = COPY_WINDOW / COPY_SECTOR / 64,
};

struct copy_slot {
    enum { SLOT_DATA, SLOT_ZERO, SLOT_SKIP, SLOT_COPY, SLOT_END } kind;
    bool is_ready;
    uint64_t offset; /* in the target */
    uint64_t length;
    struct blk *source;
    uint64_t source_offset;
    uint64_t failed_at; /* in the target: what could not be written begins there */
    int status;         /* < 0: it could not be read, and `problem` says why */
    struct err problem;
    unsigned char *data;
    uint64_t used[COPY_WORDS]; /* a bit a block: to be written */
    struct compress_work work;
    bool is_compressing;
};

struct copier {
    const struct copy_job *job;
    uint64_t total;
    uint64_t block;  /* the target's cluster: written whole or not at all; 4 KiB for a raw target */
    uint64_t window; /* a power of two, and whole blocks */
    struct copy_slot slots[COPY_SLOTS];
    unsigned slot_count;
    struct compressor *compressor; /* NULL: nothing is compressed */
    struct pace pace;              /* the writer's */
    atomic_bool can_offload;

    pthread_mutex_t lock;
    pthread_cond_t is_empty, is_ready; /* for readers; for the writer */
    uint64_t planned, emptied;
    bool failed; /* the writer gave up */

    pthread_mutex_t plan_lock;
    unsigned source;          /* the next slot is of this one, */
    uint64_t start, position; /* which begins at `start` in the target, at this byte of it */
    bool is_planned;          /* there is no next one */
    pthread_t readers[COPY_READERS];
    unsigned reader_count; /* the first reader starts the others */
};

/* ---- copy_read.c ---- */
int copy_start_reading(struct copier *c, struct err *err);
/* Once the last slot was ready, or the writer has failed. */
void copy_stop_reading(struct copier *c);

#endif
