/*
 * write.c - guest writes.
 *
 * A write goes forward in steps; each step is a range that is written in one of three ways:
 *
 *   overwrite   subclusters with data in clusters that are ours alone (COPIED): data I/O under a
 *               hold, no other lock;
 *   fill        other subclusters of such clusters: the data, with what the chain holds around it,
 *               then the masks say so. A preallocated zero cluster is one such subcluster;
 *   allocate    anything else: new clusters, the data with what the chain holds around it, then
 *               the L2 entries; what the entries led to before is given back.
 *
 * The last two register the range in flight (inflight.c) before they drop the lock, and put the L2
 * entries into memory only after the data was written: until then readers see what was there
 * before, and a failure only has to give the new clusters back. That the data is stable before the
 * entries reach the disk is the committer's business (needs_barrier).
 *
 * A fill writes subclusters that nobody reads from the host cluster, in memory, and changes no
 * others; so it owns these alone, and several of them go on in one cluster. Everything else that
 * changes a mapping owns whole clusters. On disk an older entry may still lead to such a subcluster,
 * after a discard that is not stable yet: after a crash it then holds something of what was written
 * since the last flush, or what was there before.
 *
 * A step that allocates ends at the run that the allocator gave and at the slice of the L2 table,
 * so it needs one write to the file; whole subclusters are not read, and the edges of one that
 * reads as zeros anyway are not written.
 */
#include "checked.h"
#include "iov.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { VECTOR_ENTRIES = 128, EDGES = 2, BIG_CLUSTER = 256 << 10 };

static const struct iovec no_edge;

/* Guest data: bytes [skip, skip + length) of the caller's vector, bound for guest offset `offset`.
 */
struct payload {
    const struct iovec *iov;
    int count;
    uint64_t skip, offset, length;
};

enum way { WAY_OVERWRITE, WAY_FILL, WAY_ALLOCATE };

struct plan {
    enum way way;
    uint64_t start, end;  /* guest range that is written, edges included: whole subclusters */
    uint64_t host_offset; /* of `start` */
    bool is_fresh;        /* the host clusters read as zeros */
    bool was_zero;        /* and so did the guest's (looked at where it matters alone) */
};

static enum way choose_way(const struct qcow2_cluster *cluster, unsigned sub)
{
    if (!qcow2_has_place(cluster) || !cluster->is_copied) {
        return WAY_ALLOCATE;
    }
    return cluster->data >> sub & 1 ? WAY_OVERWRITE : WAY_FILL;
}

/* How many subclusters of the cluster, from `sub` on, can be written in that way. */
static unsigned way_run(const struct qcow2 *q, const struct qcow2_cluster *cluster, enum way way,
                        unsigned sub)
{
    switch (way) {
    case WAY_OVERWRITE:
        return qcow2_subcluster_run(q, cluster->data, sub);
    case WAY_FILL:
        return qcow2_subcluster_run(q, ~cluster->data, sub);
    case WAY_ALLOCATE:
        break;
    }
    return q->subclusters - sub;
}

/* A new cluster takes over all data of the old one (guest offset `at`): makes [*start, *end) reach
 * over it. */
static void include_old_data(const struct qcow2 *q, const struct qcow2_cluster *old, uint64_t at,
                             uint64_t *start, uint64_t *end)
{
    uint32_t data = old->is_compressed ? qcow2_subcluster_mask(0, q->subclusters) : old->data;

    if (data != 0) {
        unsigned first = (unsigned)__builtin_ctz(data), last = 31 - (unsigned)__builtin_clz(data);

        *start = min_u64(*start, at + first * q->subcluster_size);
        *end = max_u64(*end, at + (last + 1) * q->subcluster_size);
    }
}

/* What to do with [plan->start, plan->end), whole subclusters, the first of them in the cluster of
 * entry `index`, all of them in `slice`. */
static int make_plan(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                     struct plan *plan)
{
    uint64_t first = plan->start, last = plan->end, at = first;
    unsigned run, sub;

    do {
        uint64_t in_cluster = at & (q->cluster_size - 1);
        struct qcow2_cluster cluster;
        int r = qcow2_l2_decode(q, slice, index++, &cluster);

        if (r != 0 && at == first) {
            return r;
        }
        sub = (unsigned)(in_cluster >> q->subcluster_bits);
        if (at == first && r == 0) {
            plan->way = choose_way(&cluster, sub);
            qcow2_lookaside_put(q, at, &cluster);
            plan->host_offset = cluster.host_offset + in_cluster;
        }
        if (r != 0 || choose_way(&cluster, sub) != plan->way ||
            (plan->way != WAY_ALLOCATE &&
             cluster.host_offset + in_cluster != plan->host_offset + (at - first))) {
            break;
        }
        run = way_run(q, &cluster, plan->way, sub);
        if (plan->way == WAY_ALLOCATE) {
            include_old_data(q, &cluster, at - in_cluster, &plan->start, &plan->end);
        }
        at += run * q->subcluster_size;
    } while (at < last && sub + run == q->subclusters);
    plan->end = at < last ? at : plan->way == WAY_ALLOCATE ? plan->end : last;
    return 0;
}

/* The same in one call, however long the vector is: together they are whole sectors. */
static int write_encrypted(struct qcow2 *q, uint64_t host_offset, const struct iovec *head,
                           const struct payload *payload, const struct iovec *tail)
{
    struct iovec *iov = calloc((size_t)payload->count + EDGES, sizeof(*iov));
    int n, r;

    if (iov == NULL) {
        return -ENOMEM;
    }
    iov[0] = *head;
    n = 1 + iov_slice(iov + 1, payload->count, payload->iov, payload->count, payload->skip,
                      payload->length);
    iov[n++] = *tail;
    r = qcow2_data_pwritev(q, host_offset, iov, n);
    free(iov);
    return r;
}

/* How far the plan's range is filled: a data file gets no longer than the device. */
static uint64_t data_end(const struct qcow2 *q, const struct plan *plan)
{
    return qcow2_has_data_file(q) ? min_u64(plan->end, q->blk->length) : plan->end;
}

/* Writes edges and payload, in one call unless the vector is very long. */
static int write_vector(struct qcow2 *q, uint64_t host_offset, const struct iovec *head,
                        const struct payload *payload, const struct iovec *tail)
{
    struct iovec iov[VECTOR_ENTRIES + EDGES];
    uint64_t skip = payload->skip, left = payload->length;
    int n = 0, r;

    if (q->crypto != NULL) {
        return write_encrypted(q, host_offset, head, payload, tail);
    }

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
        r = qcow2_data_pwritev(q, host_offset, iov, n);
        if (r != 0 || left == 0) {
            return r;
        }
        host_offset += iov_length(iov, n);
        n = 0;
    }
}

/* Whether all that the guest sees in the range is known to be zeros without reading. */
static int find_zeros(struct qcow2 *q, uint64_t offset, uint64_t length, bool *is_zero)
{
    struct layer_extent extent;
    struct blk *layer;
    unsigned depth;
    int r = 0;

    *is_zero = true;
    for (uint64_t at = 0; at < length && *is_zero && r == 0; at += extent.length) {
        r = chain_map(q->blk, offset + at, length - at, 0, &layer, &depth, &extent);
        *is_zero =
            r == 0 && (extent.kind == BLK_EXTENT_ZERO || extent.kind == BLK_EXTENT_UNALLOCATED);
    }
    return r;
}

/* Reads what the guest sees at [offset, offset + length) into `buffer`; *is_zero instead when all
 * of it is known to be zeros without reading. */
static int read_edge(struct qcow2 *q, uint64_t offset, uint64_t length, uint8_t *buffer,
                     bool *is_zero)
{
    uint64_t inside = offset < q->blk->length ? min_u64(length, q->blk->length - offset) : 0;
    struct iovec iov = {.iov_base = buffer, .iov_len = inside};
    int r = find_zeros(q, offset, inside, is_zero);

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

/* Writes the payload and what surrounds it in the plan's range. Without the lock. */
static int write_with_edges(struct qcow2 *q, const struct plan *plan, const struct payload *payload)
{
    uint64_t host = plan->host_offset, payload_end = payload->offset + payload->length;
    struct iovec head = {.iov_len = payload->offset - plan->start};
    struct iovec tail = {.iov_len = data_end(q, plan) - payload_end};
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

/* The range holds its data: makes the map say so. `index` is the first cluster's. */
static void link_range(struct qcow2 *q, const struct plan *plan, struct qcow2_slice *slice,
                       unsigned index)
{
    uint64_t base = align_down(plan->host_offset, q->cluster_size);
    uint64_t next;

    for (uint64_t at = plan->start; at < plan->end; at = next, index++) {
        uint64_t cluster_start = align_down(at, q->cluster_size);
        struct qcow2_cluster old = {0}, new = {.is_copied = true};
        uint32_t mask;

        next = min_u64(plan->end, cluster_start + q->cluster_size);
        mask = qcow2_subcluster_mask((unsigned)((at - cluster_start) >> q->subcluster_bits),
                                     (unsigned)((next - at) >> q->subcluster_bits));
        /* Decoded without complaint when the plan was made, and in flight since. */
        if (qcow2_l2_decode(q, slice, index, &old) == 0 && plan->way == WAY_ALLOCATE) {
            qcow2_give_up(q, &old);
        }
        new.host_offset = base + (cluster_start - align_down(plan->start, q->cluster_size));
        new.data = mask | (plan->way == WAY_FILL ? old.data : 0);
        new.zero = old.zero & ~mask;
        qcow2_l2_set(q, slice, index, cluster_start, &new);
    }
    qcow2_entry_leads_to(q, plan->host_offset, plan->end - plan->start, plan->is_fresh,
                         plan->was_zero);
}

/* An external data file holds nothing but guest data. */
static int check_place(struct qcow2 *q, const struct plan *plan)
{
    return qcow2_has_data_file(q) ? 0
                                  : qcow2_check_overlap(q, QCOW2_WRITES_DATA, plan->host_offset,
                                                        plan->end - plan->start);
}

/* The plan's range is in flight, `slice` is pinned. */
static int change_mapping(struct qcow2 *q, struct plan *plan, struct qcow2_slice *slice,
                          unsigned index, struct payload *payload)
{
    uint64_t first = align_down(plan->start, q->cluster_size);
    bool allocates = plan->way == WAY_ALLOCATE && !qcow2_has_data_file(q);
    struct qcow2_allocation got = {0};
    int r = 0;

    if (plan->way == WAY_ALLOCATE && !allocates) {
        plan->host_offset = plan->start; /* what the data file holds there is not known */
    } else if (allocates) {
        r = qcow2_alloc(q, (align_up(plan->end, q->cluster_size) - first) >> q->cluster_bits, first,
                        &got);
        if (r != 0) {
            return r;
        }
        plan->host_offset = got.offset + (plan->start - first);
        plan->end = min_u64(plan->end, first + (got.clusters << q->cluster_bits));
        /* What is written as zeros does not decrypt to zeros. */
        plan->is_fresh = got.is_fresh && q->crypto == NULL;
    }
    r = check_place(q, plan);
    if (r != 0) {
        return r;
    }
    payload->length = min_u64(payload->length, plan->end - payload->offset);

    pthread_mutex_unlock(&q->lock);
    if (q->is_lazy && plan->is_fresh) {
        uint64_t end = min_u64(plan->end, q->blk->length);

        r = find_zeros(q, plan->start, end - plan->start, &plan->was_zero);
    }
    r = r == 0 ? write_with_edges(q, plan, payload) : r;
    pthread_mutex_lock(&q->lock);

    if (r == 0) {
        link_range(q, plan, slice, index);
    } else if (allocates) {
        qcow2_refcount_release(q, got.offset, got.clusters);
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

/* Parts of sectors take the rest of them along. */
static int overwrite_encrypted(struct qcow2 *q, uint64_t host_offset, const struct payload *payload)
{
    uint64_t end = host_offset + payload->length;
    uint64_t first = align_down(host_offset, CRYPTO_SECTOR);
    uint64_t last = align_down(end, CRYPTO_SECTOR);
    uint8_t before[CRYPTO_SECTOR], after[CRYPTO_SECTOR];
    struct iovec head = {.iov_base = before, .iov_len = host_offset - first};
    struct iovec tail = {.iov_base = after + (end - last),
                         .iov_len = align_up(end, CRYPTO_SECTOR) - end};
    int r = 0;

    qcow2_crypto_lock(q, head.iov_len > 0 || tail.iov_len > 0);
    if (head.iov_len > 0) {
        r = qcow2_crypto_read_sector(q, qcow2_data_file(q), first, before);
    }
    if (r == 0 && tail.iov_len > 0) {
        r = qcow2_crypto_read_sector(q, qcow2_data_file(q), last, after);
    }
    r = r == 0 ? write_vector(q, first, &head, payload, &tail) : r;
    qcow2_crypto_unlock(q);
    return r;
}

static int overwrite(struct qcow2 *q, const struct plan *plan, struct payload *payload)
{
    uint64_t host_offset = plan->host_offset + (payload->offset - plan->start);
    int r = check_place(q, plan);
    int hold;

    if (r != 0) {
        return r;
    }
    hold = qcow2_hold(q);
    pthread_mutex_unlock(&q->lock);
    payload->length = min_u64(payload->length, plan->end - payload->offset);
    r = q->crypto != NULL ? overwrite_encrypted(q, host_offset, payload)
                          : write_vector(q, host_offset, &no_edge, payload, &no_edge);
    qcow2_unhold(q->blk, hold);
    pthread_mutex_lock(&q->lock);
    return r;
}

/* The range whose mapping the plan needs to itself. */
static void owned_range(const struct qcow2 *q, const struct plan *plan, uint64_t *start,
                        uint64_t *end)
{
    uint64_t unit = plan->way == WAY_FILL ? q->subcluster_size : q->cluster_size;

    *start = align_down(plan->start, unit);
    *end = align_up(plan->end, unit);
}

static int allocate_or_fill(struct qcow2 *q, struct plan *plan, struct qcow2_slice *slice,
                            unsigned index, struct payload *payload)
{
    struct qcow2_inflight range;
    uint64_t start, end;
    int r = 0;

    owned_range(q, plan, &start, &end);
    qcow2_inflight_add(q, &range, start, end);
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
    uint64_t start = align_down(payload->offset, q->subcluster_size);
    uint64_t end = min_u64(align_up(payload->offset + payload->length, q->subcluster_size),
                           qcow2_slice_end(q, start));
    struct qcow2_slice *slice;
    unsigned index = 0;
    struct plan plan;
    int r;

    for (;;) {
        uint64_t owned_start, owned_end;

        plan = (struct plan){.start = start, .end = end};
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
        owned_range(q, &plan, &owned_start, &owned_end);
        if (!qcow2_inflight_wait(q, owned_start, owned_end)) {
            return allocate_or_fill(q, &plan, slice, index, payload);
        }
        if (slice != NULL) {
            qcow2_cache_put(slice);
        }
    }
}

/* False: it is to be done with the lock. */
static bool overwrite_quickly(struct qcow2 *q, uint64_t offset, const struct iovec *iov, int count,
                              uint64_t length, int *result)
{
    const struct payload payload = {.iov = iov, .count = count, .offset = offset, .length = length};
    uint64_t host_offset;
    int hold;

    if (q->crypto != NULL || !qcow2_lookaside_overwrite(q, offset, length, &host_offset, &hold)) {
        return false;
    }
    *result = write_vector(q, host_offset, &no_edge, &payload, &no_edge);
    qcow2_unhold(q->blk, hold);
    return true;
}

int qcow2_write(struct blk *blk, uint64_t offset, const struct iovec *iov, int count,
                uint64_t length)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t done = 0;
    int r = 0;

    if (overwrite_quickly(q, offset, iov, count, length, &r)) {
        return r;
    }
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
