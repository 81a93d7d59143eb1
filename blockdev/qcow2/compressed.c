/*
 * compressed.c - compressed clusters: what their L2 entries say, and reading them.
 *
 * The entry of a compressed cluster (specification, "Compressed Clusters Descriptor") names a byte in
 * the file, at no particular alignment, and how many further 512-byte sectors the data reaches into;
 * so the length is known to a sector, and the last one may be cut off by the end of the file. The
 * field has room for twice a cluster: that bounds what is read, and three host clusters are the most
 * that one entry leads to. It holds one reference to each of them; several entries share a host
 * cluster, whose refcount is then above one without any snapshot.
 *
 * Reading: compressed bytes are never changed while their host cluster is in use (pack.c only appends),
 * and the reader's hold (free.c) keeps it in use. So data is read and decompressed without a lock.
 * Damaged data fails the read that meets it and nothing else: what it is worth is known to nobody.
 *
 * A few decompressed clusters are kept, so that a guest that reads a cluster in small pieces, or from
 * several queues at once, has it decompressed once. They are found by where the compressed bytes lie.
 * When a host cluster becomes free, what was found there is forgotten (refcount.c); no reader is in
 * between, because it would have a hold. Readers of one cluster wait for the first of them; readers
 * of different ones never do. If all entries are in use a reader makes do without.
 */
#include "checked.h"
#include "iov.h"
#include "qcow2/qcow2.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { UNPACKED_BYTES = 1 << 20, UNPACKED_MIN = 2 };

/* ---- entries ---- */

void qcow2_packed_decode(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *length)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t sectors = ((entry & ~(QCOW2_ENTRY_COPIED | QCOW2_L2_COMPRESSED)) >> x) + 1;

    *offset = entry & ((UINT64_C(1) << x) - 1);
    *length = sectors * QCOW2_PACKED_SECTOR - (*offset & (QCOW2_PACKED_SECTOR - 1));
}

uint64_t qcow2_packed_encode(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t limit = min_u64(UINT64_C(1) << x, QCOW2_MAX_HOST_OFFSET);
    uint64_t sectors = (offset + length - 1) / QCOW2_PACKED_SECTOR - offset / QCOW2_PACKED_SECTOR;

    return range_within(offset, length, limit) ? QCOW2_L2_COMPRESSED | sectors << x | offset : 0;
}

bool qcow2_packed_is_sound(const struct qcow2 *q, uint64_t entry)
{
    uint64_t offset, length;

    qcow2_packed_decode(q, entry, &offset, &length);
    /* The end of the file lies in the same cluster as its last byte, and so does that sector's. */
    if ((entry & QCOW2_ENTRY_COPIED) != 0 || !range_within(offset, length, q->file_end)) {
        return false;
    }
    for (uint64_t at = align_down(offset, q->cluster_size); at < offset + length;
         at += q->cluster_size) {
        if (qcow2_is_metadata(q, at)) {
            return false;
        }
    }
    return true;
}

uint64_t qcow2_cluster_references(const struct qcow2 *q, const struct qcow2_cluster *cluster,
                                  uint64_t *host_offset)
{
    uint64_t end = cluster->packed_offset + cluster->packed_length;

    if (!cluster->is_compressed) {
        *host_offset = cluster->host_offset;
        return cluster->host_offset != 0 && !qcow2_has_data_file(q);
    }
    *host_offset = align_down(cluster->packed_offset, q->cluster_size);
    return (align_up(end, q->cluster_size) - *host_offset) >> q->cluster_bits;
}

void qcow2_give_up(struct qcow2 *q, const struct qcow2_cluster *cluster)
{
    uint64_t host_offset, clusters = qcow2_cluster_references(q, cluster, &host_offset);

    if (clusters > 0) {
        qcow2_free_later(q, host_offset, clusters);
    }
}

/* ---- what was read lately ---- */

void qcow2_unpacked_init(struct qcow2 *q)
{
    pthread_mutex_init(&q->unpacked.lock, NULL);
    pthread_cond_init(&q->unpacked.loaded, NULL);
}

void qcow2_unpacked_free(struct qcow2 *q)
{
    for (unsigned i = 0; i < q->unpacked.count; i++) {
        free(q->unpacked.entries[i].data);
    }
    pthread_mutex_destroy(&q->unpacked.lock);
    pthread_cond_destroy(&q->unpacked.loaded);
}

void qcow2_unpacked_forget(struct qcow2 *q, uint64_t host_cluster)
{
    struct qcow2_unpacked_cache *cache = &q->unpacked;

    pthread_mutex_lock(&cache->lock);
    for (unsigned i = 0; i < cache->count; i++) {
        struct qcow2_unpacked *entry = &cache->entries[i];

        if (ranges_overlap(entry->offset, entry->length, host_cluster, q->cluster_size)) {
            entry->length = 0;
        }
    }
    pthread_mutex_unlock(&cache->lock);
}

static struct qcow2_unpacked *find(struct qcow2_unpacked_cache *cache, uint64_t offset,
                                   uint64_t length)
{
    for (unsigned i = 0; i < cache->count; i++) {
        if (cache->entries[i].offset == offset && cache->entries[i].length == length) {
            return &cache->entries[i];
        }
    }
    return NULL;
}

/* An entry to be filled: a new one or the one that was not used for longest; NULL when all are in
 * use. */
static struct qcow2_unpacked *claim(struct qcow2 *q)
{
    struct qcow2_unpacked_cache *cache = &q->unpacked;
    uint64_t limit = max_u64(
        UNPACKED_MIN, min_u64(QCOW2_UNPACKED_MAX, (uint64_t)UNPACKED_BYTES >> q->cluster_bits));
    struct qcow2_unpacked *oldest = NULL;

    if (cache->count < limit) {
        return &cache->entries[cache->count++];
    }
    for (unsigned i = 0; i < cache->count; i++) {
        struct qcow2_unpacked *entry = &cache->entries[i];

        if (entry->pins == 0 && (oldest == NULL || entry->used < oldest->used)) {
            oldest = entry;
        }
    }
    return oldest;
}

/* ---- reading ---- */

static int unpack(struct qcow2 *q, uint64_t guest_offset, uint64_t offset, uint64_t length,
                  uint8_t *out)
{
    uint8_t *packed = malloc(length);
    int r;

    if (packed == NULL) {
        return -ENOMEM;
    }
    r = file_pread(q->file, offset, packed, length);
    if (r == 0) {
        r = qcow2_codec_unpack(q->header.compression_type, packed, length, out, q->cluster_size);
        if (r == -EIO) {
            (void)blk_note_problem(q->blk, r,
                                   "the compressed cluster at guest offset 0x%" PRIx64
                                   " (0x%" PRIx64 " in the file) is damaged",
                                   align_down(guest_offset, q->cluster_size), offset);
        }
    }
    free(packed);
    return r;
}

/* The entry with the decompressed cluster, pinned; NULL with *result 0 when all are in use. */
static struct qcow2_unpacked *get(struct qcow2 *q, uint64_t guest_offset, uint64_t offset,
                                  uint64_t length, int *result)
{
    struct qcow2_unpacked_cache *cache = &q->unpacked;
    struct qcow2_unpacked *entry;
    int r = 0;

    *result = 0;
    while ((entry = find(cache, offset, length)) != NULL && entry->loading) {
        pthread_cond_wait(&cache->loaded, &cache->lock);
    }
    if (entry != NULL || (entry = claim(q)) == NULL) {
        if (entry != NULL) {
            entry->pins++;
            entry->used = ++cache->clock;
        }
        return entry;
    }
    *entry = (struct qcow2_unpacked){
        .offset = offset,
        .length = length,
        .pins = 1,
        .loading = true,
        .used = ++cache->clock,
        .data = entry->data,
    };
    pthread_mutex_unlock(&cache->lock);
    if (entry->data == NULL) {
        entry->data = malloc(q->cluster_size);
    }
    r = entry->data != NULL ? unpack(q, guest_offset, offset, length, entry->data) : -ENOMEM;
    pthread_mutex_lock(&cache->lock);
    entry->loading = false;
    pthread_cond_broadcast(&cache->loaded);
    if (r != 0) {
        entry->length = 0;
        entry->pins = 0;
        *result = r;
        return NULL;
    }
    return entry;
}

/* Without a place to keep it. */
static int read_once(struct qcow2 *q, uint64_t offset, const struct layer_extent *extent,
                     const struct iovec *iov, int count, uint64_t skip)
{
    uint8_t *data = malloc(q->cluster_size);
    int r = data != NULL ? unpack(q, offset, extent->packed_offset, extent->packed_length, data)
                         : -ENOMEM;

    if (r == 0) {
        (void)iov_from_buf(iov, count, skip, data + (offset & (q->cluster_size - 1)),
                           extent->length);
    }
    free(data);
    return r;
}

int qcow2_read(struct blk *blk, uint64_t offset, const struct layer_extent *extent,
               const struct iovec *iov, int count, uint64_t skip)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_unpacked *entry;
    int r;

    if (extent->is_encrypted) {
        return qcow2_crypto_read(q, extent, iov, count, skip);
    }
    pthread_mutex_lock(&q->unpacked.lock);
    entry = get(q, offset, extent->packed_offset, extent->packed_length, &r);
    pthread_mutex_unlock(&q->unpacked.lock);
    if (entry == NULL) {
        return r != 0 ? r : read_once(q, offset, extent, iov, count, skip);
    }
    (void)iov_from_buf(iov, count, skip, entry->data + (offset & (q->cluster_size - 1)),
                       extent->length);
    pthread_mutex_lock(&q->unpacked.lock);
    entry->pins--;
    pthread_mutex_unlock(&q->unpacked.lock);
    return 0;
}
