/*
 * planted.h - the suite finds what it is there to find: a log from which a barrier is missing.
 */
#ifndef CRASH_PLANTED_H
#define CRASH_PLANTED_H

#include "suite.h"

/* Speaks TAP. */
void planted_barriers(const struct settings *settings);

#endif
