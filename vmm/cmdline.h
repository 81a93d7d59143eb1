/*
 * cmdline.h - the kernel command line of a user who gave none (documented in docs/man/minivmm.1).
 */
#ifndef VMM_CMDLINE_H
#define VMM_CMDLINE_H

#include <stdbool.h>

enum { CMDLINE_DEFAULT_SIZE = 128 };

/* The console on COM1, a panic restarts at once (which ends the machine), and the root file system on
 * the first disk, if there is one: /dev/vda1 when that is partitioned, else /dev/vda. `out` has room
 * for CMDLINE_DEFAULT_SIZE bytes; returns it. */
char *cmdline_default(bool has_disk, bool partitioned, char *out);

#endif
