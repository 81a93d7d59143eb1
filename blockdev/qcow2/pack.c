/*
 * pack.c - writes compressed clusters.
 *
 * Compressed data is packed byte by byte: it goes on where the data of the last cluster ended
 * (packed_end), in the same host cluster, and over its end if the next one can be had. Each cluster's
 * data takes a reference of its own to each host cluster that it touches. Where refcounts are too
 * narrow for one more, and after the image was opened, data begins in a new host cluster.
 *
 * Order of writes, relying on the committer (commit.c): a cluster's data is written before its L2 entry
 * is put into memory, and the references are taken before that; so both are stable (stage 3) before
 * the entry reaches the disk. Data that is appended shares a sector with data that is in use, and
 * does not change what that holds; disks write whole sectors. A crash leaves references that nobody
 * uses, and nothing worse. The old entry's references go through free.c like every freed cluster.
 *
 * Bytes are handed out once: packed_end only moves forward, and what a failed write leaves is not
 * used again. Nobody appends to a host cluster on its way to being free: packed_end leaves it as
 * soon as one of its references is freed (qcow2_pack_forget), and is looked at without dropping the
 * lock before the reference that it needs is taken. From there on that reference keeps the cluster.
 *
 * The guest range is in flight (inflight.c) from before the look-up until the entry is there, as for
 * every other change of a mapping; compression itself needs no lock.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <stdlib.h>
#include <string.h>

void qcow2_pack_forget(struct qcow2 *q, uint64_t host_offset, uint64_t clusters)
{
    if (q->packed_end >= host_offset &&
        q->packed_end < host_offset + (clusters << q->cluster_bits)) {
        q->packed_end = 0;
    }
}

static uint64_t room_behind(const struct qcow2 *q, uint64_t at)
{
    return align_up(at, q->cluster_size) - at;
}

/* Takes a reference to the host cluster in which data may go on at `at`, unless it no longer does.
 * May drop the lock before. */
static int join(struct qcow2 *q, uint64_t at, bool *joined)
{
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_refcount_slice(q, at, &slice, &index);

    *joined = false;
    if (r != 0) {
        return r;
    }
    if (q->packed_end == at) {
        /* The slice is pinned: the lock is not dropped. */
        r = qcow2_refcount_raise(q, align_down(at, q->cluster_size), 1);
        *joined = r == 0;
        if (r == -ERANGE) {
            q->packed_end = 0;
            r = 0;
        }
    }
    qcow2_cache_put(slice);
    return r;
}

/* Finds a place for `length` bytes, less than a cluster, with a reference to each host cluster. May
 * drop the lock. */
static int reserve(struct qcow2 *q, uint64_t length, uint64_t *offset)
{
    struct qcow2_allocation got;
    bool joined = false;
    uint64_t at, end;
    int r;

    while ((at = q->packed_end) != 0 && length <= room_behind(q, at)) {
        r = join(q, at, &joined);
        if (r != 0) {
            return r;
        }
        if (joined) {
            *offset = at;
            q->packed_end = is_aligned(at + length, q->cluster_size) ? 0 : at + length;
            return 0;
        }
    }
    r = qcow2_alloc(q, 1, QCOW2_NO_STREAM, &got);
    if (r != 0) {
        return r;
    }
    at = q->packed_end;
    if (at != 0 && at + room_behind(q, at) == got.offset && length > room_behind(q, at)) {
        r = join(q, at, &joined);
        if (r != 0) {
            qcow2_refcount_release(q, got.offset, 1);
            return r;
        }
    }
    *offset = joined ? at : got.offset;
    end = *offset + length;
    /* The old place, if it was not joined, had too little room, and nothing free behind it. */
    q->packed_end = is_aligned(end, q->cluster_size) ? 0 : end;
    return 0;
}

/* Writes the data and makes the entry, whose slice is pinned and whose range is in flight. */
static int replace(struct qcow2 *q, struct qcow2_slice *slice, unsigned index,
                   uint64_t guest_offset, const void *packed, uint64_t length)
{
    struct qcow2_cluster old, new = {.is_compressed = true, .packed_length = length};
    uint64_t first, clusters;
    int r = qcow2_l2_decode(q, slice, index, &old);

    r = r == 0 ? reserve(q, length, &new.packed_offset) : r;
    if (r != 0) {
        return r;
    }
    r = qcow2_packed_encode(q, new.packed_offset, length) == 0 ? -EFBIG : 0;
    r = r == 0 ? qcow2_check_overlap(q, QCOW2_WRITES_DATA, new.packed_offset, length) : r;
    if (r == 0) {
        pthread_mutex_unlock(&q->lock);
        r = file_pwrite(q->file, new.packed_offset, packed, length);
        pthread_mutex_lock(&q->lock);
    }
    if (r == 0) {
        qcow2_l2_set(q, slice, index, guest_offset, &new);
        qcow2_give_up(q, &old);
        q->needs_barrier = true;
    } else {
        clusters = qcow2_cluster_references(q, &new, &first);
        qcow2_refcount_release(q, first, clusters);
    }
    return r;
}

int qcow2_write_packed(struct blk *blk, uint64_t offset, const void *packed, size_t length)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_inflight range;
    struct qcow2_slice *slice;
    unsigned index;
    int r;

    if (q->crypto != NULL) {
        return -ENOTSUP;
    }
    pthread_mutex_lock(&q->lock);
    do {
        r = qcow2_refuse_if_broken(q);
        r = r == 0 ? qcow2_throttle(q) : r;
    } while (r == 0 && qcow2_inflight_wait(q, offset, offset + q->cluster_size));
    if (r == 0) {
        qcow2_inflight_add(q, &range, offset, offset + q->cluster_size);
        r = qcow2_l2_get_writable(q, offset, &slice, &index);
        if (r == 0) {
            r = replace(q, slice, index, offset, packed, length);
            qcow2_cache_put(slice);
        }
        qcow2_inflight_remove(q, &range);
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_compress(struct blk *blk, const void *buf, size_t length, void *packed,
                   size_t *packed_length)
{
    struct qcow2 *q = qcow2_of(blk);
    uint8_t *whole;
    int r;

    /* Compressed clusters are not encrypted, so they would show what they hold. */
    if (q->crypto != NULL) {
        return -ENOTSUP;
    }
    if (length == q->cluster_size) {
        return qcow2_codec_pack(q->header.compression_type, buf, length, packed, packed_length);
    }
    whole = calloc(1, q->cluster_size);
    if (whole == NULL) {
        return -ENOMEM;
    }
    memcpy(whole, buf, length);
    r = qcow2_codec_pack(q->header.compression_type, whole, q->cluster_size, packed, packed_length);
    free(whole);
    return r;
}
