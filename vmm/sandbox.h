/*
 * sandbox.h - what the process may still ask of the kernel once a guest runs in it.
 *
 * Threads: sandbox_enter() from the main thread, after everything is open and before the first vCPU
 * runs; it covers every thread, those that start later included. There is no way back.
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

#include "err.h"

/* No new privileges, and no system call but those listed in sandbox.c; any other ends the process with
 * SIGSYS and one line that names it. A build with a sanitizer, whose runtime needs more, does nothing.
 * A negative errno value when the kernel cannot do it. */
int sandbox_enter(struct err *err);

#endif
