/*
 * file_zero.c - zeros as data, for where a file system cannot make them otherwise, or is not to.
 */
#include "checked.h"
#include "file.h"

enum { CHUNK = 256 << 10 };

int file_write_zeroes(struct file *file, uint64_t offset, uint64_t length)
{
    static const uint8_t zeroes[CHUNK];
    int r = 0;

    while (length > 0 && r == 0) {
        size_t n = (size_t)min_u64(length, sizeof(zeroes));

        r = file_pwrite(file, offset, zeroes, n);
        offset += n;
        length -= n;
    }
    return r;
}

int file_remake(struct file *file, uint64_t length)
{
    uint64_t before;
    int r = file->ops->size(file, &before);

    /* ext4 takes a cut for the replacing of a file's content, and writes a new one out before close() returns. */
    if (r == 0 && before != 0)
        r = file->ops->truncate(file, 0);
    return r == 0 ? file->ops->truncate(file, length) : r;
}

int file_preallocate(struct file *file, uint64_t offset, uint64_t length, bool by_writing,
                     struct err *err)
{
    int r = 0;

    if (by_writing) {
        r = file_write_zeroes(file, offset, length);
    } else if (length > 0) {
        r = file->ops->allocate(file, offset, length);
    }
    return r == 0 ? 0
                  : err_set_errno(err, r, "Could not %s",
                                  by_writing ? "write zeros for preallocation"
                                             : "preallocate new data");
}
