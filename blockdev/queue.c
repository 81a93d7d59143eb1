/*
 * queue.c - queue contexts. What needs no waiting is carried out in the queue's own thread, within
 * blk_queue_complete(): reads whose data and metadata are in memory, and writes, which the page cache takes.
 * Of what may wait for storage, reads that lie in one piece in one file and overwrites of such data go to the
 * kernel (ring.h); all else goes to the queue's workers: what is less simple or what the kernel gave up (it
 * begins anew there), first writes past the page cache, flushes, discards and zeros.
 *
 * Whether a write waits is known afterwards: for what it copies from below, for room among dirty pages. After two
 * of a few that took too long for memory the next ones go to the workers, so that a slow disk costs two waits in so
 * many writes and a fast one nothing. (One alone may merely have lost the processor.) While several queues write
 * to one image they wait for its inode, and for each other's turns at a processor; that is no slow disk, and
 * workers would only wait along: a write that had company is slow when no such wait explains it.
 *
 * Large reads that find their data in memory are copies, of which one processor makes one at a time. Where
 * several wait they are offered to the workers too, as many as there are other processors, and this thread and
 * they take one after the other. What was just copied is told before the next: so its place is asked for anew
 * while others are still copied, and nobody runs out of work.
 *
 * done() may submit again. What it submits joins the list and is carried out in the same call,
 * after everything that was there before.
 *
 * A lowest layer that cannot say whether it would wait (file.h, try_preadv) has no workers: all happens in
 * order and in one thread, as the tests below the format want it.
 */
#include "block.h"
#include "clock.h"
#include "fixed_files.h"
#include "ring.h"
#include "workers.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    SLOW_NS = 500 * 1000, /* more than a copy of a cluster from page to page, */
    NS_PER_KIB = 1000,    /* and than memory takes for the rest */
    SLOW_WRITES = 64,
    FEW_WRITES = 8,
    LARGE_BYTES = 256 << 10, /* takes longer to copy than it takes to wake somebody */
};

/* In company, more than some turns of others at the processor. */
static const uint64_t CROWD_SLOW_NS = UINT64_C(20) * 1000 * 1000;

struct blk_queue {
    struct blk *blk;
    struct blk_request *first, **last; /* submitted, in order */
    unsigned in_flight;
    struct workers *workers; /* NULL: everything happens here */
    struct ring *ring;       /* or NULL */
    int ring_error;          /* why there is none, if there might have been one; or 0 */
    int epoll;               /* watches both; -1 without a ring */
    unsigned slow_writes;    /* so many of the next ones go to the workers */
    unsigned suspicion;      /* what is left of FEW_WRITES since a slow one */
    bool copies;             /* the last large read found its data in memory */
    bool has_offered;        /* there may be some that nobody has taken */
};

static int watch_both(struct blk_queue *queue)
{
    struct epoll_event event = {.events = EPOLLIN};

    queue->epoll = epoll_create1(EPOLL_CLOEXEC);
    return queue->epoll < 0 ||
                   epoll_ctl(queue->epoll, EPOLL_CTL_ADD, ring_fd(queue->ring), &event) != 0 ||
                   epoll_ctl(queue->epoll, EPOLL_CTL_ADD, workers_fd(queue->workers), &event) != 0
               ? -errno
               : 0;
}

static bool is_any(const struct blk_fixed *fixed)
{
    return fixed->region_count > 0 || fixed->files;
}

static int ring_refused(const struct blk_queue *queue, const char *what, int r, struct err *err)
{
    return err_set_errno(err, r, "'%s': could not %s%s", queue->blk->path, what,
                         r == -ENOMEM ? " (see `ulimit -l`)" : "");
}

static int fill_ring(const struct blk_queue *queue, struct ring *ring,
                     const struct blk_fixed *fixed, struct err *err)
{
    int r = fixed->region_count > 0
                ? ring_register_memory(ring, fixed->regions, fixed->region_count)
                : 0;

    if (r != 0) {
        return ring_refused(queue, "register memory with io_uring", r, err);
    }
    r = fixed->files ? fixed_files_register(queue->blk, ring, err) : 0;
    if (r != 0) {
        return r;
    }
    r = ring_enable(ring);
    return r != 0 ? ring_refused(queue, "set up io_uring", r, err) : 0;
}

static int start_ring(struct blk_queue *queue, const struct blk_fixed *fixed, struct err *err)
{
    struct ring *ring;
    int r = ring_create(&ring);

    if (r != 0) {
        return ring_refused(queue, "set up io_uring", r, err);
    }
    r = fill_ring(queue, ring, fixed, err);
    if (r != 0) {
        ring_destroy(ring);
        return r;
    }
    queue->ring = ring;
    r = watch_both(queue);
    return r != 0 ? err_set_errno(err, r, "'%s': could not make a queue", queue->blk->path) : 0;
}

static int start_engines(struct blk_queue *queue, const struct blk_fixed *fixed, struct err *err)
{
    enum blk_aio aio = queue->blk->aio;
    int r;

    queue->workers = workers_create(queue->blk);
    if (queue->workers == NULL) {
        return err_set_errno(err, -ENOMEM, "'%s': could not make a queue", queue->blk->path);
    }
    if (aio == BLK_AIO_THREADS) {
        return 0;
    }
    r = start_ring(queue, fixed, err);
    if (r == 0 || queue->ring != NULL || aio == BLK_AIO_IO_URING || is_any(fixed)) {
        return r;
    }
    queue->ring_error = r;
    return 0;
}

int blk_queue_create_fixed(struct blk *blk, const struct blk_fixed *fixed, struct blk_queue **out,
                           struct err *err)
{
    bool no_ring = blk->aio == BLK_AIO_THREADS || blk->file->ops->try_preadv == NULL;
    struct blk_queue *queue;
    int r = 0;

    if (fixed->region_count > RING_REGIONS || (no_ring && is_any(fixed))) {
        return err_set(err, -EINVAL, "'%s': %s cannot be registered without io_uring", blk->path,
                       fixed->region_count > 0 ? "memory" : "files");
    }
    queue = calloc(1, sizeof(*queue));
    if (queue == NULL) {
        return err_set_errno(err, -ENOMEM, "'%s': could not make a queue", blk->path);
    }
    queue->blk = blk;
    blk->has_queues = true;
    queue->last = &queue->first;
    queue->epoll = -1;
    if (blk->file->ops->try_preadv != NULL) {
        r = start_engines(queue, fixed, err);
    }
    if (r != 0) {
        blk_queue_destroy(queue);
        return r;
    }
    *out = queue;
    return 0;
}

int blk_queue_create(struct blk *blk, struct blk_queue **out, struct err *err)
{
    return blk_queue_create_fixed(blk, &(struct blk_fixed){.region_count = 0}, out, err);
}

void blk_queue_destroy(struct blk_queue *queue)
{
    if (queue->epoll >= 0) {
        close(queue->epoll);
    }
    ring_destroy(queue->ring);
    workers_destroy(queue->workers);
    free(queue);
}

const char *blk_queue_engine(const struct blk_queue *queue)
{
    return queue->ring != NULL ? "io_uring" : "threads";
}

int blk_queue_engine_error(const struct blk_queue *queue)
{
    return queue->ring_error;
}

void blk_submit(struct blk_queue *queue, struct blk_request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
    queue->in_flight++;
}

static bool is_plain_write(const struct blk_request *request)
{
    return request->op == BLK_WRITE && (request->flags & BLK_REQ_FUA) == 0;
}

/* Whether the request is not for this thread; not for reads, which are tried first. */
static bool may_wait(struct blk_queue *queue, const struct blk_request *request)
{
    const struct blk *blk = queue->blk;

    if (request->op == BLK_FLUSH) {
        return blk->writable && !blk->is_volatile;
    }
    if (!is_plain_write(request) || blk->file->alignment > 1) {
        return true;
    }
    if (queue->slow_writes == 0) {
        return false;
    }
    queue->slow_writes--;
    return true;
}

/* Waits if it must. */
static void run(struct blk_queue *queue, struct blk_request *request)
{
    request->result = blk_run(queue->blk, request->op, request->flags, request->offset,
                              request->length, request->iov, request->iovcnt);
}

/* Whether it took longer than memory does, or than the other queues' writes explain. */
static bool run_is_slow(struct blk_queue *queue, struct blk_request *request)
{
    struct blk *blk = queue->blk;
    unsigned n = atomic_fetch_add_explicit(&blk->writes_begun, 1, memory_order_relaxed);
    bool alone = atomic_load_explicit(&blk->writes_ended, memory_order_relaxed) == n;
    uint64_t limit = SLOW_NS + request->length / 1024 * NS_PER_KIB, begin = clock_ns();

    run(queue, request);
    alone = alone && atomic_load_explicit(&blk->writes_begun, memory_order_relaxed) == n + 1;
    atomic_fetch_add_explicit(&blk->writes_ended, 1, memory_order_relaxed);
    return clock_ns() - begin > (alone ? limit : limit + CROWD_SLOW_NS);
}

static void run_write(struct blk_queue *queue, struct blk_request *request)
{
    if (!run_is_slow(queue, request)) {
        queue->suspicion -= queue->suspicion > 0;
    } else if (queue->suspicion > 0) {
        queue->suspicion = 0;
        queue->slow_writes = SLOW_WRITES;
    } else {
        queue->suspicion = FEW_WRITES;
    }
}

/* Finds the one piece of one file that the request reads or overwrites; then *layer's extent->hold is held. */
static bool find_piece(struct blk_queue *queue, const struct blk_request *request,
                       struct blk **layer, struct layer_extent *extent)
{
    unsigned depth;

    if (request->op == BLK_WRITE) {
        *layer = queue->blk;
        return blk_map_overwrite(queue->blk, request->offset, request->length, request->iov,
                                 request->iovcnt, extent);
    }
    return chain_map(queue->blk, request->offset, request->length,
                     LAYER_MAP_HOLD | LAYER_MAP_NO_WAIT, layer, &depth, extent) == 0;
}

/* Gives a transfer to the kernel; false: it is not simple enough for that, or there are too many. */
static bool start_in_kernel(struct blk_queue *queue, struct blk_request *request)
{
    struct layer_extent extent;
    struct blk *layer;
    int fd = -1;

    if (queue->ring == NULL || !find_piece(queue, request, &layer, &extent)) {
        return false;
    }
    if (extent.kind == BLK_EXTENT_DATA && !extent.is_encrypted &&
        extent.length == request->length && extent.file != NULL) {
        fd = file_plain_fd(extent.file, extent.host_offset, request->iov, request->iovcnt);
    }
    if (fd < 0 || !ring_transfer(queue->ring, fd, extent.file->fd_offset + extent.host_offset,
                                 request, layer, extent.hold)) {
        chain_unhold(layer, extent.hold);
        return false;
    }
    return true;
}

static bool is_large(const struct blk_request *request)
{
    return request->op == BLK_READ && request->length >= LARGE_BYTES;
}

/* False: it is with the kernel or the workers. */
static bool start_read(struct blk_queue *queue, struct blk_request *request)
{
    request->result =
        blk_try_read(queue->blk, request->offset, request->length, request->iov, request->iovcnt);
    if (is_large(request)) {
        queue->copies = request->result != -EAGAIN;
    }
    if (request->result != -EAGAIN) {
        return true;
    }
    if (start_in_kernel(queue, request) || workers_give(queue->workers, request)) {
        return false;
    }
    run(queue, request);
    return true;
}

/* True: carried out. False: it is with the kernel or the workers. */
static bool start(struct blk_queue *queue, struct blk_request *request)
{
    if (queue->workers == NULL) {
        run(queue, request);
        return true;
    }
    if (request->op == BLK_READ) {
        return start_read(queue, request);
    }
    if (may_wait(queue, request) && ((is_plain_write(request) && start_in_kernel(queue, request)) ||
                                     workers_give(queue->workers, request))) {
        return false;
    }
    if (request->op == BLK_WRITE) {
        run_write(queue, request);
    } else {
        run(queue, request);
    }
    return true;
}

/* Gives a large read to whoever comes first, if there is another one. */
static bool offer(struct blk_queue *queue, struct blk_request *request)
{
    bool offered = queue->copies && is_large(request) &&
                   (queue->has_offered || (queue->first != NULL && is_large(queue->first))) &&
                   workers_offer(queue->workers, request);

    queue->has_offered |= offered;
    return offered;
}

static void finish(struct blk_queue *queue, struct blk_request *request)
{
    queue->in_flight--;
    request->done(request, request->result);
}

/* Returns how many completed. One that the kernel did not carry out to its end begins anew: at the end of
 * a file, or where an error wants to be seen by who knows what to make of it. */
static unsigned collect_from_kernel(struct blk_queue *queue)
{
    struct ring_ended ended;
    unsigned completed = 0;

    while (ring_take_back(queue->ring, &ended)) {
        struct blk_request *request = ended.request;

        chain_unhold(ended.layer, ended.hold);
        if (ended.result >= 0 && (uint64_t)ended.result == request->length) {
            request->result = 0;
        } else if (workers_give(queue->workers, request)) {
            continue;
        } else {
            run(queue, request);
        }
        finish(queue, request);
        completed++;
    }
    return completed;
}

static unsigned collect(struct blk_queue *queue)
{
    struct blk_request *request, *next;
    unsigned completed = 0;

    if (queue->workers == NULL) {
        return 0;
    }
    if (queue->ring != NULL && ring_count(queue->ring) > 0) {
        ring_start(queue->ring);
        completed += collect_from_kernel(queue);
    }
    request = workers_take_back(queue->workers);
    for (; request != NULL; request = next, completed++) {
        next = request->next; /* done() may submit it again */
        finish(queue, request);
    }
    return completed;
}

static unsigned start_submitted(struct blk_queue *queue)
{
    struct blk_request *request;
    unsigned completed = 0;

    while ((request = queue->first) != NULL) {
        queue->first = request->next;
        if (queue->first == NULL) {
            queue->last = &queue->first;
        }
        if (!offer(queue, request) && start(queue, request)) {
            finish(queue, request);
            completed++;
        }
    }
    return completed;
}

/* Takes one of the offered reads back to carry it out here; returns how many completed. */
static unsigned run_offered(struct blk_queue *queue)
{
    struct blk_request *request;

    while (queue->has_offered) {
        request = workers_take_offered(queue->workers);
        queue->has_offered = request != NULL;
        if (request != NULL && start(queue, request)) {
            finish(queue, request);
            return 1;
        }
    }
    return 0;
}

unsigned blk_queue_complete(struct blk_queue *queue)
{
    unsigned completed = 0;

    do {
        completed += start_submitted(queue);
        completed += run_offered(queue);
        completed += collect(queue);
    } while (queue->first != NULL);
    return completed;
}

int blk_queue_fd(const struct blk_queue *queue)
{
    return queue->epoll >= 0        ? queue->epoll
           : queue->workers != NULL ? workers_fd(queue->workers)
                                    : -1;
}

unsigned blk_queue_in_flight(const struct blk_queue *queue)
{
    return queue->in_flight;
}
