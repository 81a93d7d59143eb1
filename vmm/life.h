/*
 * life.h - how a machine ends. Devices, vCPUs and signal handling post the first event; the main
 * thread waits for it. The first event wins: a panic followed by a reboot stays a panic.
 *
 * Threads: life_post() from any thread and from signal handlers; life_fd() becomes readable for the
 * main thread.
 */
#ifndef VMM_LIFE_H
#define VMM_LIFE_H

#include <stdatomic.h>

/* Events and the exit status that each leads to (docs/man/minivmm.1). */
enum life_event {
    LIFE_RUNNING,
    LIFE_POWEROFF,     /* 0 */
    LIFE_FAILED,       /* 2: the VMM, KVM or an image failed while running */
    LIFE_REBOOT,       /* 10 */
    LIFE_PANIC,        /* 11 */
    LIFE_TRIPLE_FAULT, /* 12 */
    LIFE_TEST_EXIT,    /* a bare-metal test guest wrote its result: status in `detail` */
    LIFE_TIMEOUT,      /* 124 */
    LIFE_SIGNAL,       /* 128 + detail */
};

struct life {
    atomic_uint state; /* enum life_event, and the detail (0 .. 127) from bit 8 on */
    int fd;            /* eventfd */
};

/* 0 or a negative errno value. */
int life_init(struct life *life);
void life_destroy(struct life *life);
/* Whoever posts LIFE_FAILED has logged why. `detail`: 0 .. 127, higher bits are cut off. */
void life_post(struct life *life, enum life_event event, int detail);
enum life_event life_event(const struct life *life);
/* The signal number or the test guest's status. */
int life_detail(const struct life *life);
int life_fd(const struct life *life);
/* The process's exit status for what happened; LIFE_RUNNING counts as a failure (2). */
int life_exit_status(const struct life *life);

#endif
