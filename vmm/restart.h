/*
 * restart.h - --on-reboot restart: one process for each life of the machine.
 */
#ifndef VMM_RESTART_H
#define VMM_RESTART_H

#include <stdbool.h>

/* Calls `life` in a child process, again and again for as long as it says *rebooted; returns the exit
 * status of the last. Signals that end a machine are passed on to the child. Before any thread runs;
 * events_block_signals() was called. */
int restart_loop(int (*life)(void *opaque, bool *rebooted), void *opaque);

#endif
