/*
 * stats.h - what the disks have done, as JSON: one line with a counter each of requests, errors, bytes
 * and allocations, and how long requests took (docs/man/minivmm.1 lists the keys).
 *
 * Threads: the main thread.
 */
#ifndef VMM_STATS_H
#define VMM_STATS_H

#include "err.h"

struct disks;

/* Makes ready for stats_write() in a sandbox. Opens the file that stats_write() fills, created or emptied; `path` NULL: there is none. *fd is -1 then,
 * and to be closed otherwise. */
int stats_open(const char *path, int *fd, struct err *err);

/* Puts the numbers of this moment into the file, in place of what is there; to standard error where
 * there is no file. Says so when it cannot. */
void stats_write(int fd, struct disks *disks);

#endif
