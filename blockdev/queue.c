/*
 * queue.c - queue contexts. What needs no waiting is carried out in the queue's own thread, within
 * blk_queue_complete(): reads whose data and metadata are in memory, and writes, which the page cache takes.
 * Of what may wait for storage, reads that lie in one piece in one file go to the kernel (ring.h); all else
 * goes to the queue's workers: reads that are less simple or that the kernel gave up (they begin anew there),
 * writes past the page cache, flushes, discards and zeros.
 *
 * Whether a write waits is known afterwards: for what it copies from below, for room among dirty pages. After two
 * of a few that took too long for memory the next ones go to the workers, so that a slow disk costs two waits in so
 * many writes and a fast one nothing. (One alone may merely have lost the processor.)
 *
 * done() may submit again. What it submits joins the list and is carried out in the same call,
 * after everything that was there before.
 *
 * A lowest layer that cannot say whether it would wait (file.h, try_preadv) has no workers: all happens in
 * order and in one thread, as the tests below the format want it.
 */
#include "block.h"
#include "clock.h"
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
};

struct blk_queue {
    struct blk *blk;
    struct blk_request *first, **last; /* submitted, in order */
    unsigned in_flight;
    struct workers *workers; /* NULL: everything happens here */
    struct ring *ring;       /* or NULL */
    int epoll;               /* watches both; -1 without a ring */
    unsigned slow_writes;    /* so many of the next ones go to the workers */
    unsigned suspicion;      /* what is left of FEW_WRITES since a slow one */
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

static int start_engines(struct blk_queue *queue, struct err *err)
{
    const struct blk *blk = queue->blk;
    int r;

    queue->workers = workers_create(queue->blk);
    if (queue->workers == NULL) {
        return err_set_errno(err, -ENOMEM, "'%s': could not make a queue", blk->path);
    }
    if (blk->aio == BLK_AIO_THREADS) {
        return 0;
    }
    r = ring_create(&queue->ring);
    if (r == 0) {
        r = watch_both(queue);
        return r != 0 ? err_set_errno(err, r, "'%s': could not make a queue", blk->path) : 0;
    }
    return blk->aio == BLK_AIO_IO_URING
               ? err_set_errno(err, r, "'%s': could not set up io_uring", blk->path)
               : 0;
}

int blk_queue_create(struct blk *blk, struct blk_queue **out, struct err *err)
{
    struct blk_queue *queue = calloc(1, sizeof(*queue));
    int r = 0;

    if (queue == NULL) {
        return err_set_errno(err, -ENOMEM, "'%s': could not make a queue", blk->path);
    }
    queue->blk = blk;
    queue->last = &queue->first;
    queue->epoll = -1;
    if (blk->file->ops->try_preadv != NULL) {
        r = start_engines(queue, err);
    }
    if (r != 0) {
        blk_queue_destroy(queue);
        return r;
    }
    *out = queue;
    return 0;
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

void blk_submit(struct blk_queue *queue, struct blk_request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
    queue->in_flight++;
}

/* Whether the request is for the workers; not for reads, which are tried first. */
static bool may_wait(struct blk_queue *queue, const struct blk_request *request)
{
    const struct blk *blk = queue->blk;

    if (request->op == BLK_FLUSH) {
        return blk->writable && !blk->is_volatile;
    }
    if (request->op != BLK_WRITE || blk->file->alignment > 1 ||
        (request->flags & BLK_REQ_FUA) != 0) {
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

static void run_write(struct blk_queue *queue, struct blk_request *request)
{
    uint64_t begin = clock_ns();

    run(queue, request);
    if (clock_ns() - begin <= SLOW_NS + request->length / 1024 * NS_PER_KIB) {
        queue->suspicion -= queue->suspicion > 0;
    } else if (queue->suspicion > 0) {
        queue->suspicion = 0;
        queue->slow_writes = SLOW_WRITES;
    } else {
        queue->suspicion = FEW_WRITES;
    }
}

/* Gives a read to the kernel; false: it is not simple enough for that, or there are too many. */
static bool start_read(struct blk_queue *queue, struct blk_request *request)
{
    struct layer_extent extent;
    struct blk *layer;
    unsigned depth;
    int fd = -1;

    if (queue->ring == NULL ||
        chain_map(queue->blk, request->offset, request->length, LAYER_MAP_HOLD | LAYER_MAP_NO_WAIT,
                  &layer, &depth, &extent) != 0) {
        return false;
    }
    if (extent.kind == BLK_EXTENT_DATA && !extent.is_encrypted &&
        extent.length == request->length && extent.file != NULL &&
        extent.file->ops->plain_fd != NULL) {
        fd = extent.file->ops->plain_fd(extent.file, extent.host_offset, request->iov,
                                        request->iovcnt);
    }
    if (fd < 0 || !ring_read(queue->ring, fd, extent.host_offset, request, layer, extent.hold)) {
        chain_unhold(layer, extent.hold);
        return false;
    }
    return true;
}

/* True: carried out. False: it is with the kernel or the workers. */
static bool start(struct blk_queue *queue, struct blk_request *request)
{
    bool waits;

    if (queue->workers == NULL) {
        run(queue, request);
        return true;
    }
    if (request->op == BLK_READ) {
        request->result = blk_try_read(queue->blk, request->offset, request->length, request->iov,
                                       request->iovcnt);
        if (request->result != -EAGAIN) {
            return true;
        }
        if (start_read(queue, request)) {
            return false;
        }
        waits = true;
    } else {
        waits = may_wait(queue, request);
    }
    if (waits && workers_give(queue->workers, request)) {
        return false;
    }
    if (request->op == BLK_WRITE) {
        run_write(queue, request);
    } else {
        run(queue, request);
    }
    return true;
}

static void finish(struct blk_queue *queue, struct blk_request *request)
{
    queue->in_flight--;
    request->done(request, request->result);
}

/* Returns how many completed. One that the kernel did not carry out to its end begins anew: at the end of
 * a file, or where an error wants to be seen by who knows what to make of it. */
static unsigned collect_reads(struct blk_queue *queue)
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
        completed += collect_reads(queue);
    }
    request = workers_take_back(queue->workers);
    for (; request != NULL; request = next, completed++) {
        next = request->next; /* done() may submit it again */
        finish(queue, request);
    }
    return completed;
}

unsigned blk_queue_complete(struct blk_queue *queue)
{
    struct blk_request *request;
    unsigned completed = 0;

    do {
        while ((request = queue->first) != NULL) {
            queue->first = request->next;
            if (queue->first == NULL) {
                queue->last = &queue->first;
            }
            if (start(queue, request)) {
                finish(queue, request);
                completed++;
            }
        }
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
