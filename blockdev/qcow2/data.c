/*
 * data.c - guest data between memory and the host file: the image, or its external data file;
 * encrypted if the image is.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

int qcow2_data_pwritev(struct qcow2 *q, uint64_t host_offset, const struct iovec *iov, int count)
{
    struct file *file = qcow2_data_file(q);

    if (file == NULL) {
        return -ENOMEDIUM;
    }
    return q->crypto != NULL ? qcow2_crypto_pwritev(q, file, host_offset, iov, count)
                             : file_pwritev(file, host_offset, iov, count);
}

static int write_zeroes(struct file *file, uint64_t offset, uint64_t length)
{
    enum { CHUNK = 64 << 10 };
    static const uint8_t zeroes[CHUNK];
    int r = 0;

    while (length > 0 && r == 0) {
        size_t n = (size_t)min_u64(length, CHUNK);

        r = file_pwrite(file, offset, zeroes, n);
        offset += n;
        length -= n;
    }
    return r;
}

static bool is_hole(struct file *file, uint64_t offset, uint64_t length)
{
    bool is_data = true;
    uint64_t end = 0;

    return file->ops->extent(file, offset, &is_data, &end) == 0 && !is_data &&
           end - offset >= length;
}

int qcow2_data_zero(struct qcow2 *q, uint64_t offset, uint64_t length, bool punch)
{
    struct file *file = qcow2_data_file(q);
    uint64_t size = 0;
    int r;

    if (file == NULL) {
        return -ENOMEDIUM;
    }
    r = file->ops->size(file, &size);
    /* What lies behind the file's end reads as zeros already. */
    size = min_u64(size, q->blk->length);
    if (r != 0 || offset >= size) {
        return r;
    }
    length = min_u64(length, size - offset);
    if (is_hole(file, offset, length)) {
        return 0;
    }
    r = file->ops->zero(file, offset, length, punch);
    return r == -ENOTSUP ? write_zeroes(file, offset, length) : r;
}
