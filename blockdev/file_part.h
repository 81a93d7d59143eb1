/*
 * file_part.h - a part of a file as a file of its own, for an image inside another file (an archive, a disk).
 */
#ifndef BLOCKDEV_FILE_PART_H
#define BLOCKDEV_FILE_PART_H

#include "blockdev.h"
#include "file.h"

/* Puts a layer over *file, any open file, that shows `part` of it alone; the layer owns it from then on. Parts
 * may be taken of parts. -EINVAL, with QEMU's text and *file as it was: the part is not inside of the
 * file. */
int file_part_wrap(struct file **file, const struct blk_part *part, struct err *err);
/* The same for each of them, the first one being a part of *file. */
int file_part_wrap_all(struct file **file, const struct blk_part *parts, unsigned count,
                       struct err *err);

#endif
