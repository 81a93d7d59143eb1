/*
 * short_io.h - system calls that transfer less than they were asked for, and such that a signal
 * interrupts, below the POSIX layer, which has to go on by itself.
 */
#ifndef CRASH_SHORT_IO_H
#define CRASH_SHORT_IO_H

#include "suite.h"

/* Workloads on files of the host, with every second transfer cut short. Speaks TAP. */
void short_io_tests(const struct settings *settings);

#endif
