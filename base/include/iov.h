/*
 * iov.h - scatter/gather helpers. A vector is described by (iov, count); offsets are in bytes from
 * its start. Nothing here allocates.
 */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Bytes that the vector covers. */
uint64_t iov_length(const struct iovec *iov, int count);

/* Copies at most `length` bytes between the vector, from byte `offset` on, and a flat buffer;
 * returns the bytes copied, fewer than `length` only where the vector ends. */
size_t iov_to_buf(const struct iovec *iov, int count, uint64_t offset, void *buf, size_t length);
size_t iov_from_buf(const struct iovec *iov, int count, uint64_t offset, const void *buf,
                    size_t length);
/* Fills with `byte`; the same result. */
size_t iov_fill(const struct iovec *iov, int count, uint64_t offset, int byte, size_t length);

/* Describes bytes [offset, offset + length) of a vector in `out`, which has room for `out_max`
 * entries (`count` always suffices). Returns the entries used; the part described is shorter than
 * `length` only where the vector or the room ends. */
int iov_slice(struct iovec *out, int out_max, const struct iovec *iov, int count, uint64_t offset,
              uint64_t length);

#endif
