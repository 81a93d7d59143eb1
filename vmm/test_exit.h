/*
 * test_exit.h - the exit port of bare-metal test guests: a write of v ends the machine with status
 * v & 0x7f. `device` of its ops is the struct life. Threads: any vCPU thread.
 */
#ifndef VMM_TEST_EXIT_H
#define VMM_TEST_EXIT_H

#include "bus.h"

/* Accesses of 1, 2 and 4 bytes from the first port on. */
enum { TEST_EXIT_SIZE = 4 };

extern const struct bus_ops test_exit_bus_ops;

#endif
