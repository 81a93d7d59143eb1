/*
 * sync.c - one request, carried out in the calling thread: what the queues and the synchronous
 * wrappers share. Bounds, permissions and iovec lengths are checked here, once, for every format.
 */
#include "block.h"
#include "checked.h"
#include "iov.h"

#include <errno.h>

static int check_request(const struct blk *blk, enum blk_op op, uint64_t offset, uint64_t length,
                         const struct iovec *iov, int count)
{
    if (!range_within(offset, length, blk->length)) {
        return -EINVAL;
    }
    if ((op == BLK_READ || op == BLK_WRITE) && (count < 0 || iov_length(iov, count) != length)) {
        return -EINVAL;
    }
    return op == BLK_READ || blk->writable ? 0 : -EROFS;
}

static int change(struct blk *blk, enum blk_op op, unsigned flags, uint64_t offset, uint64_t length,
                  const struct iovec *iov, int count)
{
    if (blk->format->track != NULL && (op != BLK_DISCARD || blk->can_discard)) {
        int r = blk->format->track(blk, offset, length);

        if (r != 0) {
            return r;
        }
    }
    switch (op) {
    case BLK_WRITE:
        return blk->format->write(blk, offset, iov, count, length);
    case BLK_WRITE_ZEROES:
        return blk->format->write_zeroes(blk, offset, length, flags);
    case BLK_DISCARD:
        return blk->can_discard ? blk->format->discard(blk, offset, length) : 0;
    default:
        return -EINVAL;
    }
}

int blk_run(struct blk *blk, enum blk_op op, unsigned flags, uint64_t offset, uint64_t length,
            const struct iovec *iov, int count)
{
    int r;

    if (op == BLK_FLUSH && (flags & BLK_REQ_TO_FILE) != 0 && blk->shown != NULL) {
        return blk_run(blk->shown, op, flags, 0, 0, NULL, 0);
    }
    if (op == BLK_FLUSH && (flags & BLK_REQ_TO_FILE) != 0) {
        return blk->writable && blk->format->to_file != NULL ? blk->format->to_file(blk) : 0;
    }
    if (op == BLK_FLUSH) {
        return blk->writable ? blk->format->flush(blk) : 0;
    }
    r = check_request(blk, op, offset, length, iov, count);
    if (r != 0 || length == 0) {
        return r;
    }
    if (op == BLK_READ) {
        return chain_readv(blk, offset, iov, count, length);
    }
    r = change(blk, op, flags, offset, length, iov, count);
    return r == 0 && (flags & BLK_REQ_FUA) ? blk->format->flush(blk) : r;
}

int blk_try_read(struct blk *blk, uint64_t offset, uint64_t length, const struct iovec *iov,
                 int count)
{
    int r = check_request(blk, BLK_READ, offset, length, iov, count);

    return r != 0 || length == 0 ? r : chain_try_readv(blk, offset, iov, count, length);
}

bool blk_map_overwrite(struct blk *blk, uint64_t offset, uint64_t length, const struct iovec *iov,
                       int count, struct layer_extent *extent)
{
    return length > 0 && blk->format->map_overwrite != NULL &&
           check_request(blk, BLK_WRITE, offset, length, iov, count) == 0 &&
           blk->format->map_overwrite(blk, offset, length, extent);
}

int blk_preadv(struct blk *blk, uint64_t offset, const struct iovec *iov, int count)
{
    return blk_run(blk, BLK_READ, 0, offset, iov_length(iov, count), iov, count);
}

int blk_pwritev(struct blk *blk, uint64_t offset, const struct iovec *iov, int count)
{
    return blk_run(blk, BLK_WRITE, 0, offset, iov_length(iov, count), iov, count);
}

int blk_pread(struct blk *blk, uint64_t offset, void *buf, size_t length)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};

    return blk_run(blk, BLK_READ, 0, offset, length, &iov, 1);
}

int blk_pwrite(struct blk *blk, uint64_t offset, const void *buf, size_t length)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = length};

    return blk_run(blk, BLK_WRITE, 0, offset, length, &iov, 1);
}

int blk_pwrite_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags)
{
    return blk_run(blk, BLK_WRITE_ZEROES, flags, offset, length, NULL, 0);
}

int blk_pdiscard(struct blk *blk, uint64_t offset, uint64_t length)
{
    return blk_run(blk, BLK_DISCARD, 0, offset, length, NULL, 0);
}

int blk_flush(struct blk *blk)
{
    return blk_run(blk, BLK_FLUSH, 0, 0, 0, NULL, 0);
}
