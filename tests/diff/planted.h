/*
 * planted.h - proof that the oracle can fail: bytes are changed behind the engine's back, and the
 * comparison must find each change. One TAP result a fault.
 */
#ifndef DIFF_PLANTED_H
#define DIFF_PLANTED_H

#include <stdint.h>

void planted_faults(uint64_t seed);

#endif
