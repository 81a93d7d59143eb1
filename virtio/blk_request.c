/*
 * Requests of the block device (VIRTIO 1.2 section 5.2.6).
 *
 * A request is two byte streams, however the driver cut them into descriptors: what the device
 * reads (a header of 16 bytes, then data) and what it writes (data, then the status byte, last of
 * all).
 *
 * What can be wrong, and what happens:
 * - no room for the header or the status: the driver broke the frame, there is nowhere to say so,
 *   and the device needs a reset. So does a head whose chain is still in flight;
 * - a request that this device does not have, or unknown flags: UNSUPP;
 * - everything else (bad length, beyond the end, too large, a write to a read-only disk, a failure
 *   of the image): IOERR.
 *
 * Each chain that was taken passes through finish() exactly once, but for those that a reset finds
 * kept: the driver has given these up.
 *
 * A request that failed may be kept (options on_read_error, on_write_error). Its slot, its iovec and
 * its head stay as they are, and the device is halted: its queues take nothing more. Once somebody
 * has cleared `halted`, each queue gives what it kept to the engine again.
 *
 * A request that was carried out may have to wait for a flush (must_settle()).
 */
#include "blk.h"

#include "bytes.h"
#include "checked.h"
#include "clock.h"
#include "iov.h"

#include <errno.h>
#include <limits.h>

static struct blk_vq *from_thread(const struct queue_thread *qt)
{
    return (struct blk_vq *)(uintptr_t)qt;
}

static void finish(struct blk_slot *slot, uint8_t status)
{
    struct blk_vq *queue = slot->queue;

    *slot->status = status;
    slot->in_flight = false;
    queue->in_flight--;
    virtqueue_push(queue->thread.vq, slot->head,
                   status == VIRTIO_BLK_S_OK ? slot->written : slot->written_on_failure);
}

/* ---- how fast ---- */

enum { NS_PER_MS = 1000000 };

static bool is_limited(const struct blk_device *device)
{
    return device->request_limit.per_second > 0 || device->byte_limit.per_second > 0;
}

/* Nanoseconds until the next request may be taken. */
static uint64_t wait_time(const struct blk_device *device)
{
    uint64_t now;

    if (!is_limited(device))
        return 0;
    now = clock_ns();
    return max_u64(rate_limit_delay(&device->request_limit, now),
                   rate_limit_delay(&device->byte_limit, now));
}

static void account(struct blk_device *device, uint64_t bytes)
{
    uint64_t now;

    if (!is_limited(device))
        return;
    now = clock_ns();
    rate_limit_take(&device->request_limit, 1, now);
    rate_limit_take(&device->byte_limit, bytes, now);
}

/* ---- what is counted ---- */

/* One thread writes, others read. */
static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* The least n with `ns` below 2^n microseconds, or the last. */
static unsigned latency_class(uint64_t ns)
{
    uint64_t us = ns / 1000;
    unsigned n = us == 0 ? 0 : 64 - (unsigned)__builtin_clzll(us);

    return n < VIRTIO_BLK_LATENCIES ? n : VIRTIO_BLK_LATENCIES - 1;
}

static void count(struct blk_slot *slot, bool is_error)
{
    static const enum virtio_blk_kind kinds[] = {[BLK_READ] = VIRTIO_BLK_READS,
                                                 [BLK_WRITE] = VIRTIO_BLK_WRITES,
                                                 [BLK_FLUSH] = VIRTIO_BLK_FLUSHES,
                                                 [BLK_DISCARD] = VIRTIO_BLK_DISCARDS,
                                                 [BLK_WRITE_ZEROES] = VIRTIO_BLK_ZEROES};
    struct blk_vq *queue = slot->queue;
    enum virtio_blk_kind kind = kinds[slot->request.op];

    add(&queue->counters[kind].requests, 1);
    add(&queue->counters[kind].errors, is_error);
    if (!is_error)
        add(&queue->counters[kind].bytes, slot->bytes);
    if (queue->device->measure)
        add(&queue->counters[kind].latency[latency_class(clock_ns() - slot->taken)], 1);
}

/* ---- the engine's answers ---- */

static void submit_range(struct blk_slot *slot)
{
    const struct blk_range *range = &slot->ranges[slot->range++];

    slot->request.offset = range->offset;
    slot->request.length = range->length;
    slot->request.flags &= ~(unsigned)BLK_REQ_MAY_UNMAP;
    if (range->unmap)
        slot->request.flags |= BLK_REQ_MAY_UNMAP;
    blk_submit(slot->queue->engine, &slot->request);
}

static bool is_kept_after(const struct blk_slot *slot, int error)
{
    const struct blk_device *device = slot->queue->device;

    if (error == -EPERM) /* a refusal, which no second try changes */
        return false;
    switch (slot->request.op == BLK_READ ? device->on_read_error : device->on_write_error) {
    case VIRTIO_BLK_HALT_NO_SPACE:
        return error == -ENOSPC || error == -EDQUOT;
    case VIRTIO_BLK_HALT:
        return true;
    case VIRTIO_BLK_REPORT:
        break;
    }
    return false;
}

static void keep(struct blk_slot *slot, int error)
{
    static const char *const names[] = {
        [BLK_READ] = "read",
        [BLK_WRITE] = "write",
        [BLK_FLUSH] = "flush",
        [BLK_DISCARD] = "discard",
        [BLK_WRITE_ZEROES] = "write-zeroes",
    };
    struct blk_vq *queue = slot->queue;
    struct blk_device *device = queue->device;

    slot->kept = true;
    queue->kept++;
    queue->in_flight--;
    if (!atomic_exchange(&device->dev.halted, true))
        device->halted(device->opaque, names[slot->request.op], error);
}

static void conclude(struct blk_slot *slot, int result)
{
    if (result < 0 && is_kept_after(slot, result)) {
        keep(slot, result);
    } else {
        if (result < 0 && slot->queue->device->failed)
            slot->queue->device->failed(slot->queue->device->opaque);
        count(slot, result < 0);
        finish(slot, result == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
    }
}

/*
 * Where requests in flight are written down, a driver outlives this process. What it has been told to
 * be done must then not be lost with the process either, and not only from the next flush on, since the
 * driver would know of no reason to do it again.
 */
static bool must_settle(const struct blk_slot *slot)
{
    const struct blk_vq *queue = slot->queue;

    return queue->thread.vq->inflight && slot->request.op != BLK_READ &&
           slot->request.op != BLK_FLUSH && blk_unsettled(queue->device->blk);
}

static void request_done(struct blk_request *request, int result)
{
    struct blk_slot *slot = request->opaque;

    if (result == 0 && slot->range < slot->range_count) {
        submit_range(slot);
    } else if (result == 0 && must_settle(slot)) {
        slot->next = slot->queue->unsettled;
        slot->queue->unsettled = slot;
    } else {
        conclude(slot, result);
    }
}

static void settled(struct blk_request *request, int result)
{
    struct blk_vq *queue = request->opaque;
    struct blk_slot *slot = queue->settling;

    queue->settling = NULL;
    while (slot) {
        struct blk_slot *next = slot->next;

        conclude(slot, result);
        slot = next;
    }
}

/* One flush for all that have come in since the last one began. */
static void settle(struct blk_vq *queue)
{
    if (queue->settling || !queue->unsettled)
        return;
    queue->settling = queue->unsettled;
    queue->unsettled = NULL;
    queue->settle = (struct blk_request){
        .op = BLK_FLUSH, .flags = BLK_REQ_TO_FILE, .done = settled, .opaque = queue};
    blk_submit(queue->engine, &queue->settle);
}

static void resubmit_kept(struct blk_vq *queue)
{
    for (unsigned i = 0; i < BLK_QUEUE_SIZE && queue->kept > 0; i++) {
        struct blk_slot *slot = &queue->slots[i];

        if (!slot->kept)
            continue;
        slot->kept = false;
        queue->kept--;
        queue->in_flight++;
        slot->range = 0;
        if (slot->range_count > 0)
            submit_range(slot);
        else
            blk_submit(queue->engine, &slot->request);
    }
}

void blk_request_drop_kept(struct blk_vq *queue)
{
    for (unsigned i = 0; i < BLK_QUEUE_SIZE && queue->kept > 0; i++) {
        struct blk_slot *slot = &queue->slots[i];

        if (!slot->kept)
            continue;
        slot->kept = slot->in_flight = false;
        queue->kept--;
    }
}

/* ---- what each type means: true when the engine has it, else *status is the answer ---- */

static bool start_data(struct blk_slot *slot, enum blk_op op, uint64_t sector, struct iovec *iov,
                       unsigned entries, uint64_t bytes, uint8_t *status)
{
    const struct blk_device *device = slot->queue->device;
    uint64_t offset, end;

    *status = VIRTIO_BLK_S_IOERR;
    if (bytes == 0 || bytes % BLK_SECTOR_SIZE != 0 || bytes > BLK_DATA_MAX ||
        !mul_u64(sector, BLK_SECTOR_SIZE, &offset) || !add_u64(offset, bytes, &end) ||
        end > blk_length(device->blk) || (op == BLK_WRITE && device->read_only))
        return false;
    slot->request.op = op;
    slot->request.flags = op == BLK_WRITE && !blk_device_writeback(device) ? BLK_REQ_FUA : 0;
    slot->request.offset = offset;
    slot->request.length = bytes;
    slot->request.iov = iov;
    slot->request.iovcnt = (int)entries;
    slot->bytes = bytes;
    account(slot->queue->device, bytes);
    blk_submit(slot->queue->engine, &slot->request);
    return true;
}

/* Copies the ranges of a discard or write-zeroes request; VIRTIO_BLK_S_OK or the answer. */
static uint8_t copy_ranges(struct blk_slot *slot, uint32_t type, const struct iovec *iov,
                           unsigned entries, uint64_t bytes)
{
    const struct blk_device *device = slot->queue->device;
    struct virtio_blk_discard_write_zeroes raw[BLK_RANGES_MAX];
    uint32_t known_flags =
        type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;

    if (bytes == 0 || bytes % sizeof(raw[0]) != 0 || bytes > sizeof(raw))
        return VIRTIO_BLK_S_IOERR;
    iov_to_buf(iov, (int)entries, 0, raw, (size_t)bytes);
    slot->range = 0;
    slot->range_count = (unsigned)(bytes / sizeof(raw[0]));
    for (unsigned i = 0; i < slot->range_count; i++) {
        struct blk_range *range = &slot->ranges[i];
        uint32_t flags = le32toh(raw[i].flags), sectors = le32toh(raw[i].num_sectors);
        uint64_t end;

        if (flags & ~known_flags)
            return VIRTIO_BLK_S_UNSUPP;
        range->length = (uint64_t)sectors * BLK_SECTOR_SIZE;
        range->unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        slot->bytes += range->length;
        if (sectors > BLK_RANGE_SECTORS_MAX ||
            !mul_u64(le64toh(raw[i].sector), BLK_SECTOR_SIZE, &range->offset) ||
            !add_u64(range->offset, range->length, &end) || end > blk_length(device->blk))
            return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

static bool start_ranges(struct blk_slot *slot, uint32_t type, const struct iovec *iov,
                         unsigned entries, uint64_t bytes, uint8_t *status)
{
    const struct blk_device *device = slot->queue->device;
    unsigned feature =
        type == VIRTIO_BLK_T_DISCARD ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;

    *status = VIRTIO_BLK_S_UNSUPP;
    if (!(device->dev.features & (1ULL << feature)))
        return false;
    *status = copy_ranges(slot, type, iov, entries, bytes);
    if (*status != VIRTIO_BLK_S_OK)
        return false;
    slot->request.op = type == VIRTIO_BLK_T_DISCARD ? BLK_DISCARD : BLK_WRITE_ZEROES;
    slot->request.flags =
        type == VIRTIO_BLK_T_WRITE_ZEROES && !blk_device_writeback(device) ? BLK_REQ_FUA : 0;
    slot->request.iov = NULL;
    slot->request.iovcnt = 0;
    account(slot->queue->device, 0);
    submit_range(slot);
    return true;
}

static void start_flush(struct blk_slot *slot)
{
    slot->request.op = BLK_FLUSH;
    slot->request.flags = 0;
    slot->request.offset = slot->request.length = 0;
    slot->request.iov = NULL;
    slot->request.iovcnt = 0;
    account(slot->queue->device, 0);
    blk_submit(slot->queue->engine, &slot->request);
}

/* ---- taking chains apart ---- */

/* Drops `bytes` from the front of a vector; returns the entries left, from *iov on. */
static unsigned trim_front(struct iovec **iov, unsigned count, size_t bytes)
{
    while (count > 0 && bytes >= (*iov)->iov_len) {
        bytes -= (*iov)->iov_len;
        (*iov)++;
        count--;
    }
    if (count > 0) {
        (*iov)->iov_base = (unsigned char *)(*iov)->iov_base + bytes;
        (*iov)->iov_len -= bytes;
    }
    return count;
}

/* Cuts the last byte off a vector that has one and returns its address. */
static uint8_t *trim_last_byte(struct iovec *iov, unsigned *count)
{
    struct iovec *last = &iov[*count - 1];
    uint8_t *byte = (uint8_t *)last->iov_base + --last->iov_len;

    if (last->iov_len == 0)
        (*count)--;
    return byte;
}

static void start(struct blk_slot *slot, struct virtqueue_chain *chain)
{
    struct iovec *out = chain->iov, *in = chain->iov + chain->readable;
    struct virtio_blk_outhdr header;
    unsigned out_count = chain->readable, in_count = chain->writable;
    uint64_t out_bytes = chain->readable_bytes - sizeof(header);
    uint64_t in_bytes = chain->writable_bytes - 1;
    uint8_t status = VIRTIO_BLK_S_OK;
    bool submitted = false;

    iov_to_buf(out, (int)out_count, 0, &header, sizeof(header));
    out_count = trim_front(&out, out_count, sizeof(header));
    slot->status = trim_last_byte(in, &in_count);
    /* What the ring claims to be written begins at the first writable byte (2.7.8.2): that is true of
     * the status byte alone only where nothing precedes it. */
    slot->written = slot->written_on_failure = in_bytes == 0;
    slot->range = slot->range_count = 0;
    slot->bytes = 0;

    switch (le32toh(header.type)) {
    case VIRTIO_BLK_T_IN:
        slot->written = (uint32_t)chain->writable_bytes;
        submitted =
            start_data(slot, BLK_READ, le64toh(header.sector), in, in_count, in_bytes, &status);
        break;
    case VIRTIO_BLK_T_OUT:
        submitted =
            start_data(slot, BLK_WRITE, le64toh(header.sector), out, out_count, out_bytes, &status);
        break;
    case VIRTIO_BLK_T_FLUSH:
        start_flush(slot);
        submitted = true;
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        submitted = start_ranges(slot, le32toh(header.type), out, out_count, out_bytes, &status);
        break;
    case VIRTIO_BLK_T_GET_ID:
        slot->written = (uint32_t)iov_from_buf(in, (int)in_count, 0, slot->queue->device->serial,
                                               VIRTIO_BLK_ID_BYTES);
        if (slot->written == in_bytes)
            slot->written++; /* the status byte follows at once */
        break;
    default:
        status = VIRTIO_BLK_S_UNSUPP;
        break;
    }
    if (!submitted)
        finish(slot, status);
}

/* 1: took a chain; 0: there is none; -EPROTO. */
static int take(struct blk_vq *queue)
{
    struct virtqueue *vq = queue->thread.vq;
    struct virtqueue_chain chain;
    struct blk_slot *slot;
    uint16_t head;
    int ret = virtqueue_take(vq, &head);

    if (ret <= 0)
        return ret;
    slot = &queue->slots[head];
    if (slot->in_flight) /* its iovec is the engine's now */
        return virtqueue_fail(vq);
    chain.iov = queue->iov + (size_t)head * BLK_QUEUE_SIZE;
    ret = virtqueue_read_chain(vq, head, &chain);
    if (ret < 0)
        return ret;
    if (chain.readable_bytes < sizeof(struct virtio_blk_outhdr) || chain.writable_bytes == 0)
        return virtqueue_fail(vq);
    slot->in_flight = true;
    slot->taken = queue->device->measure ? clock_ns() : 0;
    slot->head = head;
    slot->queue = queue;
    slot->request.done = request_done;
    slot->request.opaque = slot;
    queue->in_flight++;
    start(slot, &chain);
    return 1;
}

/* ---- the queue's thread ---- */

static int serve(struct queue_thread *qt, bool drain)
{
    struct blk_vq *queue = from_thread(qt);
    unsigned taken = 0, completed;
    int ret = 0;

    if (!drain && queue->kept > 0)
        resubmit_kept(queue);
    /* At most a ring full a round, so that completions and a stop get their turn. */
    while (!drain && taken < BLK_QUEUE_SIZE && wait_time(queue->device) == 0 &&
           (ret = take(queue)) > 0)
        taken++;
    completed = queue->in_flight > 0 ? blk_queue_complete(queue->engine) : 0;
    settle(queue);
    queue_thread_publish(qt);
    return ret < 0 ? ret : taken > 0 || completed > 0;
}

static bool busy(const struct queue_thread *qt)
{
    return from_thread(qt)->in_flight > 0;
}

/* Also after a round that was cut short for the ring being empty: then for once in vain. */
static int delay(const struct queue_thread *qt)
{
    uint64_t ns = wait_time(from_thread(qt)->device);

    return ns == 0 ? -1 : (int)min_u64(div_round_up(ns, NS_PER_MS), INT_MAX);
}

static int event_fd(const struct queue_thread *qt)
{
    return blk_queue_fd(from_thread(qt)->engine);
}

const struct queue_thread_ops blk_request_ops = {
    .serve = serve,
    .busy = busy,
    .delay = delay,
    .event_fd = event_fd,
};
