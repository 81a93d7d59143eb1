/*
 * alloc.c - finds free host clusters: the first run of refcount 0 from free_hint on, first fit; for a stream of
 * guest writes, behind its last ones (window.c).
 *
 * The scan loads refcount slices, which drops the lock; so what counts is only what is seen in a
 * slice after it was pinned, and a run is found and marked without dropping the lock again. A run
 * never crosses a slice; callers that want more call again.
 *
 * The host file is made longer ahead of its use, in steps and under the lock: so no write ever goes
 * past the end, and what lies above `never_written` is a hole of a file that was never longer,
 * which is known to read as zeros.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { MIN_GROWTH = 1 << 20, MAX_GROWTH = 16 << 20 };

static int extend_file(struct qcow2 *q, uint64_t end)
{
    uint64_t step = max_u64(MIN_GROWTH, min_u64(MAX_GROWTH, q->file_size / 8));
    uint64_t target = align_up(end + step, q->cluster_size);
    int r;

    if (end <= q->file_size) {
        return 0;
    }
    r = q->file->ops->truncate(q->file, target);
    if (r != 0) {
        target = end;
        r = q->file->ops->truncate(q->file, target);
    }
    if (r == 0) {
        q->file_size = target;
    }
    return r;
}

struct request {
    uint64_t want;  /* clusters, at most */
    uint64_t guest; /* for the stream that goes on there, or QCOW2_NO_STREAM */
    uint64_t keep;  /* how many more to keep behind them */
};

/* How many clusters from entry `index` of the slice on, the refcount of `cluster`, are free and not kept for others. */
static uint64_t free_run(const struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                         uint64_t cluster, uint64_t guest, uint64_t most)
{
    unsigned entries = qcow2_refcounts_per_slice(q);
    uint64_t n = 0;

    while (n < most && index + n < entries &&
           qcow2_refcount_load(q, slice, index + (unsigned)n) == 0 &&
           qcow2_window_keeps(q, guest, cluster + n) == 0) {
        n++;
    }
    return n;
}

/* Takes the run of free clusters at entry `index` of the slice, the refcount of `cluster`. */
static int take_run(struct qcow2 *q, struct qcow2_slice *slice, unsigned index, uint64_t cluster,
                    const struct request *request, struct qcow2_allocation *out)
{
    uint64_t offset = cluster << q->cluster_bits;
    uint64_t run =
        free_run(q, slice, index, cluster, request->guest, request->want + request->keep);
    uint64_t n = min_u64(run, request->want);
    int r;

    for (uint64_t i = 0; i < n; i++) {
        if (qcow2_is_metadata(q, offset + i * q->cluster_size)) {
            return qcow2_mark_corrupt(q, "metadata at 0x%" PRIx64 " has refcount 0",
                                      offset + i * q->cluster_size);
        }
    }
    r = extend_file(q, offset + n * q->cluster_size);
    if (r != 0) {
        return r;
    }
    for (uint64_t i = 0; i < n; i++) {
        qcow2_refcount_store(q, slice, index + (unsigned)i, 1);
    }
    out->offset = offset;
    out->clusters = n;
    out->is_fresh =
        offset >= q->never_written || qcow2_window_is_fresh(q, request->guest, cluster, n);
    q->never_written = max_u64(q->never_written, offset + n * q->cluster_size);
    q->file_end = max_u64(q->file_end, offset + n * q->cluster_size);
    if (request->guest != QCOW2_NO_STREAM) {
        qcow2_window_went_on(q, request->guest, cluster, n, run - n);
    }
    return 0;
}

/* Looks for a free cluster from `cluster` to the end of its slice: true, with the run in *out or an
 * error in *result; or false, and *next is where to look on. */
static bool search_slice(struct qcow2 *q, uint64_t cluster, const struct request *request,
                         uint64_t *next, struct qcow2_allocation *out, int *result)
{
    unsigned entries = qcow2_refcounts_per_slice(q);
    struct qcow2_slice *slice;
    uint64_t kept_to = 0;
    unsigned index, i;
    bool found = false;

    *result = qcow2_refcount_slice(q, cluster << q->cluster_bits, &slice, &index);
    if (*result != 0) {
        return true;
    }
    for (i = index; i < entries; i++) {
        uint64_t at = cluster + (i - index);

        if (at >= kept_to && qcow2_refcount_load(q, slice, i) == 0) {
            kept_to = qcow2_window_keeps(q, request->guest, at);
            found = kept_to == 0;
            if (found)
                break;
        }
    }
    *next = cluster + (i - index);
    if (found) {
        *result = take_run(q, slice, i, *next, request, out);
    }
    qcow2_cache_put(slice);
    return found;
}

/* From free_hint on. */
static int search(struct qcow2 *q, const struct request *request, struct qcow2_allocation *out)
{
    uint64_t changes = q->free_changes, cluster = q->free_hint, next;

    for (;;) {
        uint64_t block = cluster >> q->refblock_bits, block_offset = 0;
        int r;

        if (cluster >= QCOW2_MAX_HOST_OFFSET >> q->cluster_bits) {
            return -EFBIG;
        }
        if (block >= q->reftable.count) {
            r = qcow2_grow_reftable(q, block);
        } else {
            r = qcow2_refblock_get(q, block, &block_offset);
            if (r == 0 && block_offset == 0) {
                r = qcow2_add_refblock(q, block);
            }
        }
        if (r != 0) {
            return r;
        }
        if (block_offset == 0) {
            continue;
        }
        if (search_slice(q, cluster, request, &next, out, &r)) {
            if (r == 0 && changes == q->free_changes) {
                /* Nothing was freed since the hint was read, so all up to here is in use or kept. */
                q->free_hint = max_u64(q->free_hint, next + out->clusters);
            }
            return r;
        }
        cluster = next;
    }
}

/* Behind the stream's last clusters, if it has any; *found is false when there is no room, and then the request may want
 * a window. */
static int go_on(struct qcow2 *q, struct request *request, struct qcow2_allocation *out,
                 bool *found)
{
    uint64_t place = qcow2_window_place(q, request->guest), block = place >> q->refblock_bits;
    uint64_t block_offset = 0;
    struct qcow2_slice *slice;
    unsigned index;
    int r;

    *found = false;
    if (place == 0 || block >= q->reftable.count) {
        return 0;
    }
    r = qcow2_refblock_get(q, block, &block_offset);
    if (r != 0 || block_offset == 0) {
        return r;
    }
    r = qcow2_refcount_slice(q, place << q->cluster_bits, &slice, &index);
    if (r != 0) {
        return r;
    }
    if (free_run(q, slice, index, place, request->guest, 1) != 0) {
        *found = true;
        r = take_run(q, slice, index, place, request, out);
    } else if (qcow2_window_is_crowded(q, request->guest, place)) {
        request->keep = qcow2_window_clusters(q);
    }
    qcow2_cache_put(slice);
    return r;
}

int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t guest, struct qcow2_allocation *out)
{
    struct request request = {.want = want, .guest = q->blk->has_queues ? guest : QCOW2_NO_STREAM};
    bool found = false;
    int r = go_on(q, &request, out, &found);

    if (r == 0 && !found) {
        r = search(q, &request, out);
    }
    /* A device that cannot grow, or the largest of files, has no room to be kept, nor to go on as one likes. */
    if ((r == -ENOSPC || r == -EFBIG) && (qcow2_windows_drop(q) || found)) {
        request.keep = 0;
        r = search(q, &request, out);
    }
    q->counters.allocations += r == 0 ? out->clusters : 0;
    return r;
}

int qcow2_zero_cluster(struct qcow2 *q, uint64_t offset)
{
    uint8_t *zeroes;
    int r = qcow2_check_overlap(q, QCOW2_WRITES_NEW, offset, q->cluster_size);

    if (r != 0) {
        return r;
    }
    pthread_mutex_unlock(&q->lock);
    r = q->file->ops->zero(q->file, offset, q->cluster_size, false);
    if (r == -ENOTSUP) {
        zeroes = calloc(1, q->cluster_size);
        r = zeroes != NULL ? file_pwrite(q->file, offset, zeroes, q->cluster_size) : -ENOMEM;
        free(zeroes);
    }
    pthread_mutex_lock(&q->lock);
    return r;
}
