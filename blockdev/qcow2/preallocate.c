/*
 * preallocate.c - clusters for a range that nothing has been written to.
 *
 * What the range reads as stays as it is: new clusters read as zeros, and stand where the layer holds
 * nothing, or zeros. With standard entries they hide the layer below, so the range must read as zeros
 * anyway, as what a device gains does. With extended entries they are there for later, and no subcluster
 * is in use yet: QEMU leaves them the same way.
 *
 * The order of writes is that of an allocating write (write.c): a cluster reads as zeros on disk before
 * an entry in memory leads to it, and the committer does the rest. In an external data file every cluster has its
 * place already; what it held there, behind the device's old end, goes first.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

/* What is wanted, and what to say of a failure. */
struct request {
    enum blk_prealloc mode;
    const char *failure;
};

static const char *data_failure(enum blk_prealloc mode)
{
    switch (mode) {
    case BLK_PREALLOC_FALLOC:
        return "Failed to resize underlying file: Could not preallocate new data";
    case BLK_PREALLOC_FULL:
        return "Failed to resize underlying file: Could not write zeros for preallocation";
    default:
        return "Allocating clusters failed";
    }
}

/* Makes clusters read as zeros, with space kept as `mode` says. Without the lock. */
static int prepare(struct qcow2 *q, const struct qcow2_allocation *got, enum blk_prealloc mode)
{
    uint64_t length = got->clusters * q->cluster_size;
    int r = 0;

    if (mode == BLK_PREALLOC_FULL) {
        return file_write_zeroes(q->file, got->offset, length);
    }
    if (!got->is_fresh) {
        r = q->file->ops->zero(q->file, got->offset, length, false);
        r = r == -ENOTSUP ? file_write_zeroes(q->file, got->offset, length) : r;
    }
    if (r == 0 && mode == BLK_PREALLOC_FALLOC) {
        r = q->file->ops->allocate(q->file, got->offset, length);
    }
    return r;
}

/* The same for the whole range of an external data file. Without the lock. */
static int prepare_data_file(struct qcow2 *q, uint64_t start, uint64_t end, enum blk_prealloc mode,
                             struct err *err)
{
    struct file *data = qcow2_data_file(q);
    int r;

    end = min_u64(end, q->blk->length);
    if (start >= end) {
        return 0;
    }
    r = data != NULL ? 0 : -ENOMEDIUM;
    if (r == 0 && mode != BLK_PREALLOC_FULL) {
        r = qcow2_data_zero(q, start, end - start, mode == BLK_PREALLOC_METADATA);
    }
    if (r != 0) {
        return err_set_errno(err, r, "Could not clear the data file");
    }
    return mode == BLK_PREALLOC_METADATA
               ? 0
               : file_preallocate(data, start, end - start, mode == BLK_PREALLOC_FULL, err);
}

/* New clusters that read as zeros. */
static int allocate_run(struct qcow2 *q, uint64_t count, struct request *request,
                        struct qcow2_allocation *got)
{
    int r = qcow2_alloc(q, count, QCOW2_NO_STREAM, got);

    if (r != 0) {
        return r;
    }
    r = qcow2_check_overlap(q, QCOW2_WRITES_DATA, got->offset, got->clusters * q->cluster_size);
    pthread_mutex_unlock(&q->lock);
    r = r == 0 ? prepare(q, got, request->mode) : r;
    pthread_mutex_lock(&q->lock);
    if (r != 0) {
        request->failure = data_failure(request->mode);
        qcow2_refcount_release(q, got->offset, got->clusters);
    }
    return r;
}

/* Gives clusters to a run of at most `count` entries from that of `guest_offset` on; *done: how many entries
 * were dealt with. */
static int fill_run(struct qcow2 *q, struct qcow2_slice *slice, unsigned index,
                    uint64_t guest_offset, uint64_t count, struct request *request, uint64_t *done)
{
    bool has_places = qcow2_has_data_file(q);
    struct qcow2_allocation got = {.offset = guest_offset};
    struct qcow2_cluster cluster;
    uint64_t run = 0;
    int r = 0;

    while (run < count && r == 0) {
        r = qcow2_l2_decode(q, slice, index + (unsigned)run, &cluster);
        if (r != 0 || cluster.host_offset != 0 || cluster.is_compressed ||
            (has_places && cluster.is_copied)) {
            break;
        }
        run++;
    }
    *done = max_u64(run, 1);
    if (r != 0 || run == 0) {
        return r;
    }
    got.clusters = run;
    r = has_places ? 0 : allocate_run(q, run, request, &got);
    if (r != 0) {
        return r;
    }
    *done = got.clusters;
    for (uint64_t i = 0; i < got.clusters; i++) {
        unsigned at = index + (unsigned)i;

        r = qcow2_l2_decode(q, slice, at, &cluster);
        if (r != 0) {
            return r;
        }
        cluster.host_offset = got.offset + i * q->cluster_size;
        cluster.is_copied = true;
        if (q->crypto != NULL) {
            cluster.zero = q->has_subclusters ? UINT32_MAX : 1; /* no zeros are stored there */
        } else if (!q->has_subclusters) {
            cluster.data = 1;
            cluster.zero = 0;
        }
        qcow2_l2_set(q, slice, at, guest_offset + (i << q->cluster_bits), &cluster);
    }
    qcow2_entry_leads_to(q, got.offset, got.clusters * q->cluster_size, got.is_fresh, true);
    return 0;
}

/* [start, end) shares a slice. */
static int fill_slice(struct qcow2 *q, uint64_t start, uint64_t end, struct request *request)
{
    uint64_t count = (end - start) >> q->cluster_bits, done;
    struct qcow2_inflight range;
    struct qcow2_slice *slice;
    unsigned index;
    int r;

    do {
        r = qcow2_refuse_if_broken(q);
        r = r == 0 ? qcow2_throttle(q) : r;
    } while (r == 0 && qcow2_inflight_wait(q, start, end));
    if (r != 0) {
        return r;
    }
    qcow2_inflight_add(q, &range, start, end);
    r = qcow2_l2_get_writable(q, start, &slice, &index);
    if (r == 0) {
        for (uint64_t i = 0; i < count && r == 0; i += done) {
            r = fill_run(q, slice, index + (unsigned)i, start + (i << q->cluster_bits), count - i,
                         request, &done);
        }
        qcow2_cache_put(slice);
    }
    qcow2_inflight_remove(q, &range);
    return r;
}

int qcow2_preallocate(struct blk *blk, uint64_t offset, uint64_t length, enum blk_prealloc mode,
                      struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t at = align_up(offset, q->cluster_size);
    uint64_t end = align_up(offset + length, q->cluster_size);
    struct request request = {.mode = mode, .failure = "Allocating clusters failed"};
    int r = 0;

    if (q->crypto != NULL && q->header.version < 3) {
        return err_set(err, -ENOTSUP,
                       "'%s': an encrypted image of version 2 cannot be preallocated when it grows",
                       blk->path);
    }
    if (qcow2_has_data_file(q)) {
        r = prepare_data_file(q, at, end, mode, err);
    }
    if (r != 0) {
        return r;
    }
    pthread_mutex_lock(&q->lock);
    while (at < end && r == 0) {
        uint64_t next = min_u64(end, qcow2_slice_end(q, at));

        r = fill_slice(q, at, next, &request);
        at = next;
    }
    pthread_mutex_unlock(&q->lock);
    r = r == 0 ? qcow2_flush(blk) : r;
    return r != 0 ? err_set_errno(err, r, "%s", request.failure) : 0;
}
