/*
 * file_disk.c - see file_disk.h. The disk has a size, which only truncate changes; behind it everything reads
 * as zeros, as behind the end of a file, and nothing can be written.
 */
#include "file_disk.h"

#include "checked.h"
#include "iov.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SLICE_ENTRIES = 64 };

struct disk_file {
    struct file file;
    struct blk *disk;
};

static struct blk *disk_of(const struct file *file)
{
    return ((const struct disk_file *)file)->disk;
}

static uint64_t length_inside(const struct file *file, uint64_t offset, uint64_t length)
{
    uint64_t size = blk_length(disk_of(file));

    return offset < size ? min_u64(length, size - offset) : 0;
}

static int disk_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    uint64_t total = iov_length(iov, count), inside = length_inside(file, offset, total);
    struct iovec slice[SLICE_ENTRIES];
    int r = 0;

    if (inside == total) {
        return total == 0 ? 0 : blk_preadv(disk_of(file), offset, iov, count);
    }
    iov_fill(iov, count, inside, 0, total - inside);
    for (uint64_t done = 0, n; done < inside && r == 0; done += n) {
        int entries = iov_slice(slice, SLICE_ENTRIES, iov, count, done, inside - done);

        n = iov_length(slice, entries);
        r = blk_preadv(disk_of(file), offset + done, slice, entries);
    }
    return r;
}

static int disk_pwritev(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    uint64_t total = iov_length(iov, count);

    if (length_inside(file, offset, total) != total) {
        return -ENOSPC;
    }
    return total == 0 ? 0 : blk_pwritev(disk_of(file), offset, iov, count);
}

static int disk_sync(struct file *file)
{
    return blk_flush(disk_of(file));
}

static int disk_size(struct file *file, uint64_t *bytes)
{
    *bytes = blk_length(disk_of(file));
    return 0;
}

static int disk_truncate(struct file *file, uint64_t bytes)
{
    return blk_resize(disk_of(file), bytes, NULL);
}

static int disk_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    uint64_t inside = length_inside(file, offset, length);

    return inside == 0
               ? 0
               : blk_pwrite_zeroes(disk_of(file), offset, inside, punch ? BLK_REQ_MAY_UNMAP : 0);
}

static int disk_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    if (length_inside(file, offset, length) != length) {
        return -ENOSPC;
    }
    return blk_preallocate(disk_of(file), offset, length, BLK_PREALLOC_FALLOC, NULL);
}

static int disk_extent(struct file *file, uint64_t offset, bool *is_data, uint64_t *end)
{
    uint64_t inside = length_inside(file, offset, UINT64_MAX);
    struct blk_extent extent;
    int r;

    *is_data = false;
    *end = offset;
    if (inside == 0) {
        return 0;
    }
    r = blk_map(disk_of(file), offset, inside, 0, &extent);
    if (r == 0) {
        *is_data = extent.kind == BLK_EXTENT_COMPRESSED ||
                   (extent.kind == BLK_EXTENT_DATA && !extent.is_hole);
        *end = offset + extent.length;
    }
    return r;
}

static void disk_close(struct file *file)
{
    free(file->path);
    free(file);
}

static const struct file_ops disk_ops = {
    .preadv = disk_preadv,
    .pwritev = disk_pwritev,
    .sync = disk_sync,
    .size = disk_size,
    .truncate = disk_truncate,
    .zero = disk_zero,
    .allocate = disk_allocate,
    .extent = disk_extent,
    .close = disk_close,
};

int file_disk_open(struct blk *disk, struct file **out)
{
    struct disk_file *file = calloc(1, sizeof(*file));
    char *path = strdup(blk_path(disk));

    if (file == NULL || path == NULL) {
        free(file);
        free(path);
        return -ENOMEM;
    }
    file->disk = disk;
    file->file = (struct file){
        .ops = &disk_ops,
        .path = path,
        .fd = -1,
        .writable = blk_writable(disk),
        .alignment = 1,
    };
    *out = &file->file;
    return 0;
}
