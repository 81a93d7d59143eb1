/*
 * signals.h - which signals a worker thread leaves to the main thread.
 */
#ifndef BASE_SIGNALS_H
#define BASE_SIGNALS_H

#include <signal.h>

/* Every signal but those that a thread raises itself, by a fault or an abort: blocked, the kernel would
 * end the process without running the handler that restores the user's terminal. */
static inline void signals_fill_worker_mask(sigset_t *set)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};

    sigfillset(set);
    for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        sigdelset(set, own[i]);
}

#endif
