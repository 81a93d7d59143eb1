/*
 * write.c - guest writes.
 *
 * A write goes forward in steps; each step is a range that is written in one of three ways:
 *
 *   overwrite   clusters that are ours alone (COPIED): data I/O under a hold, no other lock;
 *   reuse       preallocated zero clusters: the data, with zeros around it, then the zero flag
 * goes; allocate    anything else: new clusters, the data with what the chain holds around it, then
 * the L2 entries; what the entries led to before is given back.
 *
 * The last two register the range in flight (inflight.c) before they drop the lock, and put the L2
 * entries into memory only after the data was written: until then readers see what was there
 * before, and a failure only has to give the new clusters back. That the data is stable before the
 * entries reach the disk is the committer's business (needs_barrier).
 *
 * A step that allocates ends at the run that the allocator gave and at the slice of the L2 table,
 * so it needs one write to the file; whole clusters are not read, and the edges of a cluster that
 * reads as zeros anyway are not written.
 */
#include "checked.h"
#include "iov.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { VECTOR_ENTRIES = 128, EDGES = 2, BIG_CLUSTER = 256 << 10 };

/* Guest data: bytes [skip, skip + length) of the caller's vector, bound for guest offset `offset`.
 */
struct payload {
    const struct iovec *iov;
    int count;
    uint64_t skip, offset, length;
};

enum way { WAY_OVERWRITE, WAY_REUSE, WAY_ALLOCATE };

struct plan {
    enum way way;
    uint64_t start; /* guest offset of the first cluster */
    uint64_t clusters;
    uint64_t host_offset; /* of the first cluster */
    bool is_fresh;        /* the host clusters read as zeros */
};

static bool is_ours(const struct qcow2_cluster *cluster)
{
    return cluster->host_offset != 0 && cluster->is_copied;
}

static int choose_way(struct qcow2 *q, const struct qcow2_cluster *cluster, enum way *way)
{
    switch (cluster->kind) {
    case BLK_EXTENT_COMPRESSED:
        return blk_note_problem(q->blk, -ENOTSUP, "compressed clusters are not supported");
    case BLK_EXTENT_DATA:
        *way = is_ours(cluster) ? WAY_OVERWRITE : WAY_ALLOCATE;
        return 0;
    case BLK_EXTENT_ZERO:
        *way = is_ours(cluster) ? WAY_REUSE : WAY_ALLOCATE;
        return 0;
    case BLK_EXTENT_UNALLOCATED:
        break;
    }
    *way = WAY_ALLOCATE;
    return 0;
}

/* What to do with the clusters from plan->start on, at most plan->clusters of them, all in `slice`.
 */
static int make_plan(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                     struct plan *plan)
{
    uint64_t n;

    for (n = 0; n < plan->clusters; n++) {
        struct qcow2_cluster cluster;
        enum way way = WAY_ALLOCATE;
        int r = qcow2_l2_decode(q, slice, index + (unsigned)n, &cluster);

        r = r == 0 ? choose_way(q, &cluster, &way) : r;
        if (r != 0 && n == 0) {
            return r;
        }
        if (n == 0) {
            plan->way = way;
            plan->host_offset = cluster.host_offset;
        }
        if (r != 0 || way != plan->way ||
            (way != WAY_ALLOCATE &&
             cluster.host_offset != plan->host_offset + n * q->cluster_size)) {
            break;
        }
    }
    plan->clusters = n;
    return 0;
}

static uint64_t plan_end(const struct qcow2 *q, const struct plan *plan)
{
    return plan->start + plan->clusters * q->cluster_size;
}

/* Writes edges and payload, in one call unless the vector is very long. */
static int write_vector(struct qcow2 *q, uint64_t host_offset, const struct iovec *head,
                        const struct payload *payload, const struct iovec *tail)
{
    struct iovec iov[VECTOR_ENTRIES + EDGES];
    uint64_t skip = payload->skip, left = payload->length;
    int n = 0, r;

    if (head->iov_len > 0) {
        iov[n++] = *head;
    }
    for (;;) {
        int entries = iov_slice(iov + n, VECTOR_ENTRIES, payload->iov, payload->count, skip, left);
        uint64_t bytes = iov_length(iov + n, entries);

        skip += bytes;
        left -= bytes;
        n += entries;
        if (left == 0 && tail->iov_len > 0) {
            iov[n++] = *tail;
        }
        r = file_pwritev(q->file, host_offset, iov, n);
        if (r != 0 || left == 0) {
            return r;
        }
        host_offset += iov_length(iov, n);
        n = 0;
    }
}

/* Reads what the guest sees at [offset, offset + length) into `buffer`; *is_zero instead when all
 * of it is known to be zeros without reading. */
static int read_edge(struct qcow2 *q, uint64_t offset, uint64_t length, uint8_t *buffer,
                     bool *is_zero)
{
    uint64_t inside = offset < q->blk->length ? min_u64(length, q->blk->length - offset) : 0;
    struct iovec iov = {.iov_base = buffer, .iov_len = inside};
    struct layer_extent extent;
    struct blk *layer;
    unsigned depth;
    int r = 0;

    *is_zero = true;
    for (uint64_t at = 0; at < inside && *is_zero && r == 0; at += extent.length) {
        r = chain_map(q->blk, offset + at, inside - at, 0, &layer, &depth, &extent);
        *is_zero =
            r == 0 && (extent.kind == BLK_EXTENT_ZERO || extent.kind == BLK_EXTENT_UNALLOCATED);
    }
    if (r != 0) {
        return r;
    }
    if (*is_zero) {
        memset(buffer, 0, length);
        return 0;
    }
    memset(buffer + inside, 0, length - inside);
    return chain_readv(q->blk, offset, &iov, 1, inside);
}

static uint8_t *take_buffer(struct qcow2 *q)
{
    uint8_t *buffer = NULL;

    pthread_mutex_lock(&q->lock);
    for (int i = 0; i < QCOW2_SPARE_BUFFERS && buffer == NULL; i++) {
        buffer = q->spare[i];
        q->spare[i] = NULL;
    }
    pthread_mutex_unlock(&q->lock);
    return buffer != NULL ? buffer : aligned_alloc(4096, align_up(EDGES * q->cluster_size, 4096));
}

static void give_buffer(struct qcow2 *q, uint8_t *buffer)
{
    int keep = q->cluster_size <= BIG_CLUSTER ? QCOW2_SPARE_BUFFERS : 1;

    pthread_mutex_lock(&q->lock);
    for (int i = 0; i < keep && buffer != NULL; i++) {
        if (q->spare[i] == NULL) {
            q->spare[i] = buffer;
            buffer = NULL;
        }
    }
    pthread_mutex_unlock(&q->lock);
    free(buffer);
}

/* Writes the payload and what surrounds it in its first and last cluster. Without the lock. */
static int write_with_edges(struct qcow2 *q, const struct plan *plan, const struct payload *payload)
{
    uint64_t host = plan->host_offset, payload_end = payload->offset + payload->length;
    struct iovec head = {.iov_len = payload->offset - plan->start};
    struct iovec tail = {.iov_len = plan_end(q, plan) - payload_end};
    bool head_is_zero = false, tail_is_zero = false;
    uint8_t *buffer;
    int r = 0;

    if (head.iov_len == 0 && tail.iov_len == 0) {
        return write_vector(q, host, &head, payload, &tail);
    }
    buffer = take_buffer(q);
    if (buffer == NULL) {
        return -ENOMEM;
    }
    head.iov_base = buffer;
    tail.iov_base = buffer + q->cluster_size;
    if (head.iov_len > 0) {
        r = read_edge(q, plan->start, head.iov_len, head.iov_base, &head_is_zero);
    }
    if (r == 0 && tail.iov_len > 0) {
        r = read_edge(q, payload_end, tail.iov_len, tail.iov_base, &tail_is_zero);
    }
    if (r == 0) {
        if (head_is_zero && plan->is_fresh) {
            host += head.iov_len;
            head.iov_len = 0;
        }
        if (tail_is_zero && plan->is_fresh) {
            tail.iov_len = 0;
        }
        r = write_vector(q, host, &head, payload, &tail);
    }
    give_buffer(q, buffer);
    return r;
}

/* The clusters hold their data: makes the map say so. */
static void link_clusters(struct qcow2 *q, const struct plan *plan, struct qcow2_slice *slice,
                          unsigned index)
{
    for (uint64_t i = 0; i < plan->clusters; i++) {
        unsigned at = index + (unsigned)i;
        struct qcow2_cluster old;

        /* Decoded without complaint when the plan was made, and in flight since. */
        if (plan->way == WAY_ALLOCATE && qcow2_l2_decode(q, slice, at, &old) == 0 &&
            old.host_offset != 0) {
            qcow2_free_later(q, old.host_offset, 1);
        }
        qcow2_l2_set(q, slice, at, (plan->host_offset + i * q->cluster_size) | QCOW2_ENTRY_COPIED);
    }
    q->needs_barrier = true;
}

/* The plan's range is in flight, `slice` is pinned. */
static int change_mapping(struct qcow2 *q, struct plan *plan, struct qcow2_slice *slice,
                          unsigned index, struct payload *payload)
{
    struct qcow2_allocation got;
    int r = 0;

    if (plan->way == WAY_ALLOCATE) {
        r = qcow2_alloc(q, plan->clusters, &got);
        if (r != 0) {
            return r;
        }
        plan->host_offset = got.offset;
        plan->clusters = got.clusters;
        plan->is_fresh = got.is_fresh;
    }
    payload->length = min_u64(payload->length, plan_end(q, plan) - payload->offset);

    pthread_mutex_unlock(&q->lock);
    r = write_with_edges(q, plan, payload);
    pthread_mutex_lock(&q->lock);

    if (r == 0) {
        link_clusters(q, plan, slice, index);
    } else if (plan->way == WAY_ALLOCATE) {
        qcow2_refcount_release(q, plan->host_offset, plan->clusters);
    }
    return r;
}

/* Looks the range up and plans; *slice is pinned, or NULL when there is no L2 table yet. The lock
 * is not dropped after the look-up. */
static int look_up(struct qcow2 *q, struct plan *plan, struct qcow2_slice **slice, unsigned *index)
{
    uint64_t l2_offset = 0;
    int r = qcow2_l1_get(q, plan->start, &l2_offset);

    *slice = NULL;
    plan->way = WAY_ALLOCATE;
    if (r != 0 || l2_offset == 0) {
        return r;
    }
    r = qcow2_l2_get(q, plan->start, l2_offset, slice, index);
    if (r == 0) {
        r = make_plan(q, *slice, *index, plan);
        if (r != 0) {
            qcow2_cache_put(*slice);
        }
    }
    return r;
}

static int overwrite(struct qcow2 *q, const struct plan *plan, struct payload *payload)
{
    static const struct iovec none;
    int hold = qcow2_hold(q), r;

    pthread_mutex_unlock(&q->lock);
    payload->length = min_u64(payload->length, plan_end(q, plan) - payload->offset);
    r = write_vector(q, plan->host_offset + (payload->offset - plan->start), &none, payload, &none);
    qcow2_unhold(q->blk, hold);
    pthread_mutex_lock(&q->lock);
    return r;
}

static int allocate(struct qcow2 *q, struct plan *plan, struct qcow2_slice *slice, unsigned index,
                    struct payload *payload)
{
    struct qcow2_inflight range;
    int r = 0;

    qcow2_inflight_add(q, &range, plan->start, plan_end(q, plan));
    if (slice != NULL) {
        qcow2_cache_put(slice);
    }
    r = qcow2_l2_get_writable(q, plan->start, &slice, &index);
    if (r == 0) {
        r = change_mapping(q, plan, slice, index, payload);
        qcow2_cache_put(slice);
    }
    qcow2_inflight_remove(q, &range);
    return r;
}

/* Writes a first part of the payload; payload->length is cut to what was written. */
static int write_step(struct qcow2 *q, struct payload *payload)
{
    uint64_t start = align_down(payload->offset, q->cluster_size);
    uint64_t end = min_u64(align_up(payload->offset + payload->length, q->cluster_size),
                           qcow2_slice_end(q, start));
    struct qcow2_slice *slice;
    unsigned index = 0;
    struct plan plan;
    int r;

    for (;;) {
        plan = (struct plan){.start = start, .clusters = (end - start) >> q->cluster_bits};
        r = qcow2_refuse_if_broken(q);
        r = r == 0 ? qcow2_throttle(q) : r;
        r = r == 0 ? look_up(q, &plan, &slice, &index) : r;
        if (r != 0) {
            return r;
        }
        if (plan.way == WAY_OVERWRITE) {
            qcow2_cache_put(slice);
            return overwrite(q, &plan, payload);
        }
        if (!qcow2_inflight_wait(q, plan.start, plan_end(q, &plan))) {
            return allocate(q, &plan, slice, index, payload);
        }
        if (slice != NULL) {
            qcow2_cache_put(slice);
        }
    }
}

int qcow2_write(struct blk *blk, uint64_t offset, const struct iovec *iov, int count,
                uint64_t length)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t done = 0;
    int r = 0;

    pthread_mutex_lock(&q->lock);
    while (done < length && r == 0) {
        struct payload payload = {
            .iov = iov,
            .count = count,
            .skip = done,
            .offset = offset + done,
            .length = length - done,
        };

        r = write_step(q, &payload);
        done += payload.length;
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}
