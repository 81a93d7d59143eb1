/*
 * file_disk.h - the disk that an open image shows, as a file: for a raw image that lies on another image.
 */
#ifndef BLOCKDEV_FILE_DISK_H
#define BLOCKDEV_FILE_DISK_H

#include "blockdev.h"
#include "file.h"

/* A file without a descriptor. It borrows `disk`, which stays open as long. -ENOMEM: there is no memory. */
int file_disk_open(struct blk *disk, struct file **out);

#endif
