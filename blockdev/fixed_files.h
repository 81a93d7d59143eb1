/*
 * fixed_files.h - the files of a chain registered with a ring, for reads.
 */
#ifndef BLOCKDEV_FIXED_FILES_H
#define BLOCKDEV_FIXED_FILES_H

#include "block.h"
#include "ring.h"

/* Before ring_enable(). Opens each file that the kernel can read from anew, without its locks, and not for longer than
 * this takes. An error names the file. */
int fixed_files_register(const struct blk *top, struct ring *ring, struct err *err);

#endif
