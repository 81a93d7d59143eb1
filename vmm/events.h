/*
 * events.h - what the main thread waits for while the machine runs: its end, signals, the timeout.
 *
 * Threads: the main thread. events_block_signals() comes before any other thread starts, so that none
 * of them is interrupted by a signal that is meant for the main thread.
 */
#ifndef VMM_EVENTS_H
#define VMM_EVENTS_H

#include "err.h"
#include "life.h"

#include <signal.h>
#include <stdint.h>

struct console;
struct halt;
struct machine;

/* The signals that end a machine (HUP, INT, QUIT, TERM), CONT, and USR1. */
sigset_t events_signals(void);

/* Blocks those until they are read from events; ignores the ones that would hurt: PIPE, TTIN, TTOU. */
void events_block_signals(void);

/* The CLOCK_MONOTONIC time, in nanoseconds, at which a timeout that begins now is over; 0 for none. */
uint64_t events_deadline(unsigned seconds);

struct events {
    int signal_fd, timer_fd;
};

/* `deadline` as events_deadline() says. */
int events_open(struct events *events, uint64_t deadline, struct err *err);
void events_close(struct events *events);

/* Returns once something was posted to `life`, by itself if a signal or the timeout comes first. Until
 * then pauses and resumes the machine as `halt` says. SIGCONT goes to the console and resumes the
 * machine; SIGUSR1 has it write its statistics. */
void events_wait(const struct events *events, struct life *life, struct halt *halt,
                 struct machine *machine, struct console *console);

#endif
