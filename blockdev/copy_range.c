/*
 * copy_range.c - copies between images without the bytes passing through this process.
 */
#include "block.h"
#include "checked.h"

#include <errno.h>
#include <unistd.h>

/* Not the kernel's way: of different file systems, of a kind that has none, or too new for it. */
static bool is_impossible(int error)
{
    return error == EXDEV || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL ||
           error == EBADF;
}

static int copy_in_file(int from, uint64_t from_offset, int to, uint64_t to_offset, uint64_t length)
{
    off_t in = (off_t)from_offset, out = (off_t)to_offset;

    while (length > 0) {
        ssize_t n = copy_file_range(from, &in, to, &out, (size_t)length, 0);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return is_impossible(errno) ? -ENOTSUP : -errno;
        }
        if (n == 0) {
            return -ENOTSUP; /* the file is shorter: what reads it finds zeros */
        }
        length -= (uint64_t)n;
    }
    return 0;
}

/* The descriptor that has a range as it is, from file->fd_offset + offset on; -1: there is more to it. */
static int plain_fd(struct file *file, uint64_t offset, uint64_t length)
{
    const struct iovec range = {.iov_len = length};

    return file != NULL && file_plain_fd(file, offset, &range, 1) >= 0 ? file->fd : -1;
}

int blk_copy_range(struct blk *from, uint64_t from_offset, struct blk *to, uint64_t to_offset,
                   uint64_t length)
{
    struct layer_extent extent;
    struct blk *layer;
    unsigned depth;
    int r, from_fd, to_fd;

    if (!range_within(from_offset, length, from->length) ||
        !range_within(to_offset, length, to->length) || !to->writable) {
        return -EINVAL;
    }
    if (to->format != &raw_format || to->is_probed) {
        return -ENOTSUP;
    }
    to_fd = plain_fd(to->file, to_offset, length);
    for (uint64_t done = 0; done < length; done += extent.length) {
        r = chain_map(from, from_offset + done, length - done, LAYER_MAP_HOLD, &layer, &depth,
                      &extent);
        if (r != 0) {
            return r;
        }
        from_fd = -1;
        if (extent.kind == BLK_EXTENT_DATA && !extent.is_encrypted) {
            from_fd = plain_fd(extent.file, extent.host_offset, extent.length);
        }
        r = from_fd >= 0 && to_fd >= 0
                ? copy_in_file(from_fd, extent.file->fd_offset + extent.host_offset, to_fd,
                               to->file->fd_offset + to_offset + done, extent.length)
                : -ENOTSUP;
        chain_unhold(layer, extent.hold);
        if (r != 0) {
            return r;
        }
    }
    return 0;
}
