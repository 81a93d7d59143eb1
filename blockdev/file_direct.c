/*
 * file_direct.c - O_DIRECT, for what is aligned; the page cache for the edges.
 *
 * Two descriptors of one file: `direct` for the part of a transfer that covers whole blocks, and
 * the buffered file below for what is left at either end. The kernel keeps the two coherent: a
 * direct read first writes back what the page cache holds dirty, a direct write drops the pages
 * that it covers, before and after. A block is never touched through both ways at once by transfers
 * that do not overlap, because a page holds exactly one block here (BLOCK is the page size).
 * Writing an edge through the page cache needs no read-modify-write of our own and, unlike a padded
 * block, never makes the file longer than what was asked for.
 *
 * Memory that is not aligned is copied through a bounce buffer of at most BOUNCE_BYTES at a time.
 */
#include "file_direct.h"
#include "checked.h"
#include "iov.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BLOCK = 4096,           /* a multiple of every logical block size in use */
    MEMORY_ALIGNMENT = 512, /* enough nearly everywhere; where not, the page cache takes over */
    BOUNCE_BYTES = 1 << 20,
    SLICE_ENTRIES = 64,
};

struct direct_file {
    struct file file;
    struct file *buffered;
    int direct;
};

static struct direct_file *direct_of(const struct file *file)
{
    return (struct direct_file *)(uintptr_t)file;
}

static bool memory_is_aligned(const struct iovec *iov, int count)
{
    for (int i = 0; i < count; i++) {
        if (!is_aligned((uintptr_t)iov[i].iov_base, MEMORY_ALIGNMENT) ||
            !is_aligned(iov[i].iov_len, MEMORY_ALIGNMENT)) {
            return false;
        }
    }
    return true;
}

/* A transfer through the page cache of part of a vector. */
static int transfer_edge(struct direct_file *direct, bool is_write, uint64_t offset,
                         const struct iovec *iov, int count, uint64_t skip, uint64_t length)
{
    struct iovec slice[SLICE_ENTRIES];
    int r = 0;

    while (length > 0 && r == 0) {
        int entries = iov_slice(slice, SLICE_ENTRIES, iov, count, skip, length);
        uint64_t n = iov_length(slice, entries);

        r = is_write ? file_pwritev(direct->buffered, offset, slice, entries)
                     : file_preadv(direct->buffered, offset, slice, entries);
        offset += n;
        skip += n;
        length -= n;
    }
    return r;
}

/* One aligned piece through the bounce buffer. A read may end early at the end of the file; what is
 * missing then comes through the page cache, which knows about ends inside a block. */
static int transfer_bounced(struct direct_file *direct, bool is_write, uint64_t offset,
                            const struct iovec *iov, int count, uint64_t skip, uint64_t length)
{
    uint8_t *buffer;
    int r = 0;

    if (posix_memalign((void **)&buffer, BLOCK, min_u64(length, BOUNCE_BYTES)) != 0) {
        return -ENOMEM;
    }
    while (length > 0 && r == 0) {
        struct iovec piece = {.iov_base = buffer, .iov_len = min_u64(length, BOUNCE_BYTES)};

        if (is_write) {
            iov_to_buf(iov, count, skip, buffer, piece.iov_len);
            r = file_fd_pwritev(direct->direct, offset, &piece, 1);
        } else {
            r = file_fd_preadv(direct->direct, offset, &piece, 1);
            if (r == -EINVAL) {
                r = file_preadv(direct->buffered, offset, &piece, 1);
            }
            iov_from_buf(iov, count, skip, buffer, piece.iov_len);
        }
        offset += piece.iov_len;
        skip += piece.iov_len;
        length -= piece.iov_len;
    }
    free(buffer);
    return r;
}

static int transfer(struct file *file, bool is_write, uint64_t offset, const struct iovec *iov,
                    int count)
{
    struct direct_file *direct = direct_of(file);
    uint64_t total = iov_length(iov, count), end, head, middle;
    int r;

    if (!range_within(offset, total, INT64_MAX - BLOCK)) {
        return -EINVAL;
    }
    if (total > 0 && is_aligned(offset, BLOCK) && is_aligned(total, BLOCK) &&
        memory_is_aligned(iov, count)) {
        r = is_write ? file_fd_pwritev(direct->direct, offset, iov, count)
                     : file_fd_preadv(direct->direct, offset, iov, count);
        /* -EINVAL: a transfer was continued at an offset inside a block, the end of the file; or
         * the device wants memory aligned more strictly. */
        return r != -EINVAL ? r : transfer_edge(direct, is_write, offset, iov, count, 0, total);
    }
    end = offset + total;
    head = min_u64(total, align_up(offset, BLOCK) - offset);
    middle = offset + head < align_down(end, BLOCK) ? align_down(end, BLOCK) - offset - head : 0;

    r = transfer_edge(direct, is_write, offset, iov, count, 0, head);
    if (r == 0 && middle > 0) {
        r = transfer_bounced(direct, is_write, offset + head, iov, count, head, middle);
    }
    if (r == 0) {
        r = transfer_edge(direct, is_write, offset + head + middle, iov, count, head + middle,
                          total - head - middle);
    }
    return r;
}

static int direct_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    return transfer(file, false, offset, iov, count);
}

static int direct_pwritev(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    return transfer(file, true, offset, iov, count);
}

static int direct_plain_fd(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    uint64_t total = iov_length(iov, count);

    return count <= IOV_MAX && range_within(offset, total, INT64_MAX) &&
                   is_aligned(offset, BLOCK) && is_aligned(total, BLOCK) &&
                   memory_is_aligned(iov, count)
               ? direct_of(file)->direct
               : -1;
}

/* There is no cache to find anything in. */
static int direct_try_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    (void)file;
    (void)offset;
    (void)iov;
    (void)count;
    return -EAGAIN;
}

static int direct_sync(struct file *file)
{
    struct file *buffered = direct_of(file)->buffered;

    return buffered->ops->sync(buffered);
}

static int direct_size(struct file *file, uint64_t *bytes)
{
    struct file *buffered = direct_of(file)->buffered;

    return buffered->ops->size(buffered, bytes);
}

static int direct_truncate(struct file *file, uint64_t bytes)
{
    struct file *buffered = direct_of(file)->buffered;

    return buffered->ops->truncate(buffered, bytes);
}

static int direct_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    struct file *buffered = direct_of(file)->buffered;

    return buffered->ops->zero(buffered, offset, length, punch);
}

static int direct_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    struct file *buffered = direct_of(file)->buffered;

    return buffered->ops->allocate(buffered, offset, length);
}

static int direct_extent(struct file *file, uint64_t offset, bool *is_data, uint64_t *end)
{
    struct file *buffered = direct_of(file)->buffered;

    return buffered->ops->extent(buffered, offset, is_data, end);
}

static void direct_close(struct file *file)
{
    struct direct_file *direct = direct_of(file);

    close(direct->direct);
    file_close(direct->buffered);
    free(direct);
}

static const struct file_ops direct_ops = {
    .preadv = direct_preadv,
    .pwritev = direct_pwritev,
    .plain_fd = direct_plain_fd,
    .try_preadv = direct_try_preadv,
    .sync = direct_sync,
    .size = direct_size,
    .truncate = direct_truncate,
    .zero = direct_zero,
    .allocate = direct_allocate,
    .extent = direct_extent,
    .close = direct_close,
};

int file_direct_wrap(struct file **file, struct err *err)
{
    struct file *buffered = *file;
    struct direct_file *direct;
    char link[64];

    direct = calloc(1, sizeof(*direct));
    if (direct == NULL) {
        return err_set_errno(err, -ENOMEM, "Could not open '%s'", buffered->path);
    }
    /* Through the descriptor, so that both are the same file whatever happened to the name. */
    snprintf(link, sizeof(link), "/proc/self/fd/%d", buffered->fd);
    direct->direct =
        open(link, O_CLOEXEC | O_NONBLOCK | O_DIRECT | (buffered->writable ? O_RDWR : O_RDONLY));
    if (direct->direct < 0) {
        int r = -errno;

        free(direct);
        return err_set_errno(err, r, "Could not open '%s' with O_DIRECT", buffered->path);
    }
    direct->buffered = buffered;
    direct->file = (struct file){
        .ops = &direct_ops,
        .path = buffered->path,
        .fd = direct->direct, /* whose locks last as long as what the kernel writes to it */
        .writable = buffered->writable,
        .alignment = BLOCK,
    };
    *file = &direct->file;
    return 0;
}
