/*
 * halt.h - how a running machine comes to a halt for a while: a disk wants it to, because it keeps a
 * request that failed; the user says when it may go on. The main thread does both.
 *
 * Threads: halt_post() from any thread; the rest is the main thread's.
 */
#ifndef VMM_HALT_H
#define VMM_HALT_H

#include <stdatomic.h>

enum {
    HALT_WANTED = 1, /* a disk has come to a halt */
    HALT_OVER = 2,   /* the machine shall go on, if it was halted */
};

struct halt {
    atomic_uint posted; /* HALT_ bits */
    int fd;             /* eventfd */
};

/* 0 or a negative errno value. */
int halt_init(struct halt *halt);
void halt_destroy(struct halt *halt);

void halt_post(struct halt *halt, unsigned what);
/* Readable when something was posted. */
int halt_fd(const struct halt *halt);
/* What was posted since the last call: HALT_ bits. */
unsigned halt_take(struct halt *halt);

#endif
