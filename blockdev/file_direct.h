/*
 * file_direct.h - O_DIRECT over a posix file, and the transfers that both layers share.
 */
#ifndef BLOCKDEV_FILE_DIRECT_H
#define BLOCKDEV_FILE_DIRECT_H

#include "file.h"

/* Puts an O_DIRECT layer over *file, an open posix file; the layer owns it from then on. On failure
 * *file is as it was. */
int file_direct_wrap(struct file **file, struct err *err);

/* Complete transfers on a descriptor, as file.h promises them. */
int file_fd_preadv(int fd, uint64_t offset, const struct iovec *iov, int count);
int file_fd_pwritev(int fd, uint64_t offset, const struct iovec *iov, int count);

#endif
