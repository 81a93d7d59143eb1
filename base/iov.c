#include "iov.h"

#include <string.h>

uint64_t iov_length(const struct iovec *iov, int count)
{
    uint64_t sum = 0;

    for (int i = 0; i < count; i++)
        sum += iov[i].iov_len;
    return sum;
}

/* The next piece of a vector at *offset, at most `want` bytes: advances *index and *offset to the
 * entry that holds it and returns its length, 0 at the end of the vector. */
static size_t next_piece(const struct iovec *iov, int count, int *index, uint64_t *offset,
                         uint64_t want, unsigned char **piece)
{
    while (*index < count && *offset >= iov[*index].iov_len) {
        *offset -= iov[*index].iov_len;
        (*index)++;
    }
    if (*index == count)
        return 0;
    *piece = (unsigned char *)iov[*index].iov_base + *offset;
    size_t room = iov[*index].iov_len - (size_t)*offset;
    return want < room ? (size_t)want : room;
}

#define FOR_EACH_PIECE(body)                                                                       \
    size_t done = 0;                                                                               \
    int index = 0;                                                                                 \
                                                                                                   \
    while (done < length) {                                                                        \
        unsigned char *piece = NULL;                                                               \
        size_t n = next_piece(iov, count, &index, &offset, length - done, &piece);                 \
                                                                                                   \
        if (n == 0)                                                                                \
            break;                                                                                 \
        body;                                                                                      \
        done += n;                                                                                 \
        offset += n;                                                                               \
    }                                                                                              \
    return done

size_t iov_to_buf(const struct iovec *iov, int count, uint64_t offset, void *buf, size_t length)
{
    FOR_EACH_PIECE(memcpy((unsigned char *)buf + done, piece, n));
}

size_t iov_from_buf(const struct iovec *iov, int count, uint64_t offset, const void *buf,
                    size_t length)
{
    FOR_EACH_PIECE(memcpy(piece, (const unsigned char *)buf + done, n));
}

size_t iov_fill(const struct iovec *iov, int count, uint64_t offset, int byte, size_t length)
{
    FOR_EACH_PIECE(memset(piece, byte, n));
}

int iov_slice(struct iovec *out, int out_max, const struct iovec *iov, int count, uint64_t offset,
              uint64_t length)
{
    int index = 0, used = 0;

    while (length > 0 && used < out_max) {
        unsigned char *piece = NULL;
        size_t n = next_piece(iov, count, &index, &offset, length, &piece);

        if (n == 0)
            break;
        out[used].iov_base = piece;
        out[used].iov_len = n;
        used++;
        offset += n;
        length -= n;
    }
    return used;
}
