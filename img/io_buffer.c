/*
 * io_buffer.c - the memory that requests read into and write from.
 *
 * It is aligned for O_DIRECT, unless minivmm-io was started with --misalign.
 */
#include "checked.h"
#include "io.h"
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 4096, MISALIGNED_BY = 16 };

static struct io_buffer *make(const struct io *io, uint64_t length, int entries,
                              unsigned char pattern)
{
    struct io_buffer *buffer = calloc(1, sizeof(*buffer));
    size_t skip = io->misalign ? MISALIGNED_BY : 0;

    if (buffer != NULL) {
        buffer->memory = aligned_alloc(ALIGNMENT, align_up(length + skip + 1, ALIGNMENT));
        buffer->iov = calloc((size_t)entries, sizeof(struct iovec));
    }
    if (buffer == NULL || buffer->memory == NULL || buffer->iov == NULL) {
        log_error("no memory for %" PRIu64 " bytes", length);
        io_buffer_free(buffer);
        return NULL;
    }
    buffer->data = (unsigned char *)buffer->memory + skip;
    buffer->length = length;
    buffer->count = entries;
    memset(buffer->data, pattern, length);
    return buffer;
}

struct io_buffer *io_buffer_new(const struct io *io, uint64_t length, unsigned char pattern)
{
    struct io_buffer *buffer = make(io, length, 1, pattern);

    if (buffer != NULL)
        buffer->iov[0] = (struct iovec){buffer->data, length};
    return buffer;
}

/* How long the buffer for these lengths is; negative after a message. */
static int add_lengths(char **lengths, int count, uint64_t *total)
{
    *total = 0;
    for (int i = 0; i < count; i++) {
        int64_t length;
        int rc = io_parse_number(lengths[i], &length);

        if (rc < 0)
            return rc;
        if (length > IO_MAX_BYTES) {
            printf("Argument '%s' exceeds maximum size %d\n", lengths[i], IO_MAX_BYTES);
            return -EINVAL;
        }
        if (*total > (uint64_t)(IO_MAX_BYTES - length)) {
            printf("The total number of bytes exceed the maximum size %d\n", IO_MAX_BYTES);
            return -EINVAL;
        }
        *total += (uint64_t)length;
    }
    return 0;
}

struct io_buffer *io_buffer_new_vector(const struct io *io, char **lengths, int count,
                                       unsigned char pattern)
{
    struct io_buffer *buffer;
    uint64_t total, at = 0;

    if (add_lengths(lengths, count, &total) < 0)
        return NULL;
    buffer = make(io, total, count, pattern);
    for (int i = 0; i < count && buffer != NULL; i++) {
        int64_t length = 0;

        (void)io_parse_number(lengths[i], &length); /* as above */
        buffer->iov[i] = (struct iovec){buffer->data + at, (size_t)length};
        at += (uint64_t)length;
    }
    return buffer;
}

int io_buffer_fill_from(struct io_buffer *buffer, const char *path)
{
    FILE *file = fopen(path, "re");
    size_t got = 0;
    int rc = 0;

    if (file == NULL) {
        rc = -errno;
        fprintf(stderr, "%s: %s\n", path, strerror(-rc));
        return rc;
    }
    errno = 0;
    got = fread(buffer->data, 1, buffer->length, file);
    if (ferror(file)) {
        rc = errno != 0 ? -errno : -EIO;
        fprintf(stderr, "%s: %s\n", path, strerror(-rc));
    } else if (got == 0 && buffer->length > 0) {
        rc = -EINVAL;
        fprintf(stderr, "%s: file is empty\n", path);
    }
    (void)fclose(file);
    for (uint64_t at = got; rc == 0 && at < buffer->length; at += got)
        memcpy(buffer->data + at, buffer->data, min_u64(got, buffer->length - at));
    return rc;
}

void io_buffer_free(struct io_buffer *buffer)
{
    if (buffer != NULL) {
        free(buffer->memory);
        free(buffer->iov);
        free(buffer);
    }
}
