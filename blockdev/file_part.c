/*
 * file_part.c - a part of a file.
 *
 * Whatever is asked of the layer, nothing of the file below is read, written or cut outside of the part:
 *
 * 1. A part of a given size is fixed. Reading past its end gives zeros, as at the end of a file; writing past
 *    it is -ENOSPC, with nothing written; it gets neither longer (-ENOSPC) nor shorter (-ENOTSUP).
 * 2. A part without one goes to the end of the file, and moves that, but never to before its own beginning.
 *    It is fixed all the same when it is a part of a fixed one.
 *
 * As in QEMU a file is as long as its sectors: a part may reach beyond the file's end, into its last
 * sector.
 */
#include "file_part.h"

#include "checked.h"
#include "iov.h"

#include <errno.h>
#include <stdlib.h>

enum { SECTOR_BYTES = 512, SLICE_ENTRIES = 64 };

struct part_file {
    struct file file;
    struct file *below;
    uint64_t offset;
    uint64_t length; /* of a fixed one */
};

static struct part_file *part_of(const struct file *file)
{
    return (struct part_file *)(uintptr_t)file;
}

/* How much of a range from `offset` on lies inside. */
static uint64_t length_inside(const struct part_file *in, uint64_t offset, uint64_t length)
{
    uint64_t end = in->file.is_fixed ? in->length : (uint64_t)INT64_MAX - in->offset;

    return offset < end ? min_u64(length, end - offset) : 0;
}

static int part_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    struct part_file *in = part_of(file);
    uint64_t total = iov_length(iov, count), inside = length_inside(in, offset, total);
    struct iovec slice[SLICE_ENTRIES];
    int r = 0;

    if (inside == total) {
        return file_preadv(in->below, in->offset + offset, iov, count);
    }
    if (!file->is_fixed) {
        return -EINVAL;
    }
    iov_fill(iov, count, inside, 0, total - inside);
    for (uint64_t done = 0, n; done < inside && r == 0; done += n) {
        int entries = iov_slice(slice, SLICE_ENTRIES, iov, count, done, inside - done);

        n = iov_length(slice, entries);
        r = file_preadv(in->below, in->offset + offset + done, slice, entries);
    }
    return r;
}

static int part_pwritev(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    struct part_file *in = part_of(file);
    uint64_t total = iov_length(iov, count);

    if (length_inside(in, offset, total) != total) {
        return file->is_fixed ? -ENOSPC : -EFBIG;
    }
    return file_pwritev(in->below, in->offset + offset, iov, count);
}

static int part_plain_fd(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    struct part_file *in = part_of(file);
    struct file *below = in->below;
    uint64_t total = iov_length(iov, count);

    return length_inside(in, offset, total) == total
               ? file_plain_fd(below, in->offset + offset, iov, count)
               : -1;
}

static int part_try_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    struct part_file *in = part_of(file);
    uint64_t total = iov_length(iov, count);

    return length_inside(in, offset, total) == total
               ? file_try_preadv(in->below, in->offset + offset, iov, count)
               : -EAGAIN;
}

static int part_sync(struct file *file)
{
    struct file *below = part_of(file)->below;

    return below->ops->sync(below);
}

static int size_in_sectors(struct file *file, uint64_t *bytes)
{
    int r = file->ops->size(file, bytes);

    if (r == 0) {
        *bytes = align_up(*bytes, SECTOR_BYTES);
    }
    return r;
}

static int part_size(struct file *file, uint64_t *bytes)
{
    struct part_file *in = part_of(file);
    int r = 0;

    *bytes = in->length;
    if (!file->is_fixed) {
        r = size_in_sectors(in->below, bytes);
        *bytes = *bytes > in->offset ? *bytes - in->offset : 0;
    }
    return r;
}

static int part_truncate(struct file *file, uint64_t bytes)
{
    struct part_file *in = part_of(file);
    struct file *below = in->below;

    if (file->is_fixed) {
        return bytes > in->length ? -ENOSPC : bytes < in->length ? -ENOTSUP : 0;
    }
    return length_inside(in, 0, bytes) == bytes ? below->ops->truncate(below, in->offset + bytes)
                                                : -EFBIG;
}

/* What lies outside of a fixed part reads as zeros. */
static int part_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    struct part_file *in = part_of(file);
    struct file *below = in->below;
    uint64_t inside = length_inside(in, offset, length);

    if (inside != length && !file->is_fixed) {
        return -EFBIG;
    }
    return inside == 0 ? 0 : below->ops->zero(below, in->offset + offset, inside, punch);
}

static int part_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    struct part_file *in = part_of(file);
    struct file *below = in->below;

    if (length_inside(in, offset, length) != length) {
        return file->is_fixed ? -ENOSPC : -EFBIG;
    }
    return below->ops->allocate(below, in->offset + offset, length);
}

static int part_extent(struct file *file, uint64_t offset, bool *is_data, uint64_t *end)
{
    struct part_file *in = part_of(file);
    struct file *below = in->below;
    int r;

    if (length_inside(in, offset, 1) == 0) {
        *is_data = false;
        *end = offset;
        return 0;
    }
    r = below->ops->extent(below, in->offset + offset, is_data, end);
    if (r == 0) {
        *end = offset + length_inside(in, offset, *end - in->offset - offset);
    }
    return r;
}

static void part_close(struct file *file)
{
    file_close(part_of(file)->below);
    free(part_of(file));
}

static const struct file_ops part_ops = {
    .preadv = part_preadv,
    .pwritev = part_pwritev,
    .plain_fd = part_plain_fd,
    .try_preadv = part_try_preadv,
    .sync = part_sync,
    .size = part_size,
    .truncate = part_truncate,
    .zero = part_zero,
    .allocate = part_allocate,
    .extent = part_extent,
    .close = part_close,
};

/* The words are QEMU's. */
static int check_part(const struct blk_part *part, uint64_t size, struct err *err)
{
    if (part->offset > size) {
        return err_set(err, -EINVAL,
                       "Offset (%llu) cannot be greater than size of the containing file (%llu)",
                       (unsigned long long)part->offset, (unsigned long long)size);
    }
    if (part->has_size && part->size > size - part->offset) {
        return err_set(err, -EINVAL,
                       "The sum of offset (%llu) and size (%llu) has to be smaller or equal to the "
                       " actual size of the containing file (%llu)",
                       (unsigned long long)part->offset, (unsigned long long)part->size,
                       (unsigned long long)size);
    }
    if (part->has_size && part->size % SECTOR_BYTES != 0) {
        return err_set(err, -EINVAL, "Specified size is not multiple of %d", SECTOR_BYTES);
    }
    return 0;
}

int file_part_wrap(struct file **file, const struct blk_part *part, struct err *err)
{
    struct file *below = *file;
    struct part_file *in;
    uint64_t size = 0;
    int r = size_in_sectors(below, &size);

    if (r != 0) {
        return err_set_errno(err, r, "Could not read the file's size");
    }
    r = check_part(part, size, err);
    if (r != 0) {
        return r;
    }
    in = calloc(1, sizeof(*in));
    if (in == NULL) {
        return err_set_errno(err, -ENOMEM, "Could not open '%s'", below->path);
    }
    in->below = below;
    in->offset = part->offset;
    in->length = part->has_size ? part->size : size - part->offset;
    in->file = (struct file){
        .ops = &part_ops,
        .path = below->path,
        .fd = below->fd,
        .fd_offset = below->fd_offset + part->offset,
        .writable = below->writable,
        .is_fixed = part->has_size || below->is_fixed,
        .alignment = below->alignment,
    };
    *file = &in->file;
    return 0;
}

int file_part_wrap_all(struct file **file, const struct blk_part *parts, unsigned count,
                       struct err *err)
{
    int r = 0;

    for (unsigned i = 0; i < count && r == 0; i++) {
        r = file_part_wrap(file, &parts[i], err);
    }
    return r;
}
