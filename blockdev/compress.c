/*
 * compress.c - the public face of compressed writes, which formats may have or not.
 */
#include "block.h"
#include "checked.h"

#include <errno.h>
#include <stdlib.h>

bool blk_can_compress(const struct blk *blk)
{
    struct blk_info info = {0};

    blk->format->info((struct blk *)(uintptr_t)blk, &info);
    return blk->format->compress != NULL && !info.is_encrypted && !blk->has_data_file;
}

static int check_clusters(const struct blk *blk, uint64_t offset, uint64_t length,
                          uint64_t cluster_size)
{
    bool is_whole = is_aligned(offset, cluster_size) &&
                    (is_aligned(length, cluster_size) || offset + length == blk->length);

    if (!range_within(offset, length, blk->length) || !is_whole) {
        return -EINVAL;
    }
    return blk->writable ? 0 : -EROFS;
}

int blk_compress(struct blk *blk, const void *buf, size_t length, void *packed,
                 size_t *packed_length)
{
    if (!blk_can_compress(blk)) {
        return -ENOTSUP;
    }
    return length == 0 || length > blk_cluster_size(blk)
               ? -EINVAL
               : blk->format->compress(blk, buf, length, packed, packed_length);
}

int blk_pwrite_packed(struct blk *blk, uint64_t offset, const void *buf, size_t length,
                      const void *packed, size_t packed_length)
{
    uint64_t cluster_size = blk_cluster_size(blk);
    int r;

    if (!blk_can_compress(blk)) {
        return -ENOTSUP;
    }
    r = check_clusters(blk, offset, length, cluster_size);
    if (r != 0 || length == 0) {
        return r;
    }
    if (length > cluster_size || packed_length >= cluster_size) {
        return -EINVAL;
    }
    if (packed_length == 0) {
        return blk_pwrite(blk, offset, buf, length);
    }
    r = blk->format->track != NULL ? blk->format->track(blk, offset, length) : 0;
    return r != 0 ? r : blk->format->write_packed(blk, offset, packed, packed_length);
}

int blk_pwrite_compressed(struct blk *blk, uint64_t offset, const void *buf, size_t length)
{
    uint64_t cluster_size = blk_cluster_size(blk);
    uint8_t *packed;
    int r;

    if (!blk_can_compress(blk)) {
        return -ENOTSUP;
    }
    r = check_clusters(blk, offset, length, cluster_size);
    if (r != 0) {
        return r;
    }
    packed = malloc(cluster_size);
    if (packed == NULL) {
        return -ENOMEM;
    }
    for (uint64_t at = 0; at < length && r == 0; at += cluster_size) {
        const uint8_t *cluster = (const uint8_t *)buf + at;
        size_t n = min_u64(cluster_size, length - at), packed_length;

        r = blk_compress(blk, cluster, n, packed, &packed_length);
        r = r == 0 ? blk_pwrite_packed(blk, offset + at, cluster, n, packed, packed_length) : r;
    }
    free(packed);
    return r;
}
