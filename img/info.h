/*
 * info.h - what `info` says of a format alone, for others that say it too.
 */
#ifndef IMG_INFO_H
#define IMG_INFO_H

#include "blockdev.h"

/* "Format specific information:" and what follows, as qemu-img has it; nothing for raw images. */
void info_print_specific(struct blk *blk, const struct blk_info *info);

#endif
