/*
 * queue.c - queue contexts. What needs no waiting is carried out in the queue's own thread, within
 * blk_queue_complete(): reads whose data and metadata are in memory, and writes, which the page cache takes.
 * What may wait for storage goes to the queue's workers: reads that find something missing (they begin
 * anew there), writes past the page cache, flushes, discards and zeros.
 *
 * done() may submit again. What it submits joins the list and is carried out in the same call,
 * after everything that was there before.
 *
 * A lowest layer that cannot say whether it would wait (file.h, try_preadv) has no workers: all happens in
 * order and in one thread, as the tests below the format want it.
 */
#include "block.h"
#include "workers.h"

#include <errno.h>
#include <stdlib.h>

struct blk_queue {
    struct blk *blk;
    struct blk_request *first, **last; /* submitted, in order */
    unsigned in_flight;
    struct workers *workers; /* NULL: everything happens here */
};

int blk_queue_create(struct blk *blk, struct blk_queue **out, struct err *err)
{
    struct blk_queue *queue = calloc(1, sizeof(*queue));

    if (queue == NULL) {
        return err_set_errno(err, -ENOMEM, "'%s': could not make a queue", blk->path);
    }
    queue->blk = blk;
    queue->last = &queue->first;
    if (blk->file->ops->try_preadv != NULL) {
        queue->workers = workers_create(blk);
        if (queue->workers == NULL) {
            free(queue);
            return err_set_errno(err, -ENOMEM, "'%s': could not make a queue", blk->path);
        }
    }
    *out = queue;
    return 0;
}

void blk_queue_destroy(struct blk_queue *queue)
{
    workers_destroy(queue->workers);
    free(queue);
}

void blk_submit(struct blk_queue *queue, struct blk_request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
    queue->in_flight++;
}

static bool may_wait(const struct blk *blk, const struct blk_request *request)
{
    switch (request->op) {
    case BLK_READ:
        return false; /* tried first */
    case BLK_WRITE:
        return blk->file->alignment > 1 || (request->flags & BLK_REQ_FUA) != 0;
    case BLK_FLUSH:
        return blk->writable && !blk->is_volatile;
    case BLK_DISCARD:
    case BLK_WRITE_ZEROES:
        break;
    }
    return true;
}

/* True: carried out. False: it is with the workers. */
static bool start(struct blk_queue *queue, struct blk_request *request)
{
    struct blk *blk = queue->blk;
    bool waits = queue->workers != NULL && may_wait(blk, request);

    if (queue->workers != NULL && request->op == BLK_READ) {
        request->result =
            blk_try_read(blk, request->offset, request->length, request->iov, request->iovcnt);
        waits = request->result == -EAGAIN;
        if (!waits) {
            return true;
        }
    }
    if (waits && workers_give(queue->workers, request)) {
        return false;
    }
    request->result = blk_run(blk, request->op, request->flags, request->offset, request->length,
                              request->iov, request->iovcnt);
    return true;
}

static void finish(struct blk_queue *queue, struct blk_request *request)
{
    queue->in_flight--;
    request->done(request, request->result);
}

unsigned blk_queue_complete(struct blk_queue *queue)
{
    struct blk_request *request, *next;
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
        request = queue->workers != NULL ? workers_take_back(queue->workers) : NULL;
        for (; request != NULL; request = next, completed++) {
            next = request->next; /* done() may submit it again */
            finish(queue, request);
        }
    } while (queue->first != NULL);
    return completed;
}

int blk_queue_fd(const struct blk_queue *queue)
{
    return queue->workers != NULL ? workers_fd(queue->workers) : -1;
}

unsigned blk_queue_in_flight(const struct blk_queue *queue)
{
    return queue->in_flight;
}
