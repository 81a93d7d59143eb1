/*
 * queue.c - queue contexts. This engine carries requests out in the queue's own thread, within
 * blk_queue_complete(), with blocking calls; so there is nothing to poll.
 *
 * done() may submit again. What it submits joins the list and is carried out in the same call,
 * after everything that was there before.
 */
#include "block.h"

#include <errno.h>
#include <stdlib.h>

struct blk_queue {
    struct blk *blk;
    struct blk_request *first, **last; /* submitted, in order */
    unsigned in_flight;
};

int blk_queue_create(struct blk *blk, struct blk_queue **out, struct err *err)
{
    struct blk_queue *queue = calloc(1, sizeof(*queue));

    if (queue == NULL) {
        return err_set_errno(err, -ENOMEM, "'%s': could not make a queue", blk->path);
    }
    queue->blk = blk;
    queue->last = &queue->first;
    *out = queue;
    return 0;
}

void blk_queue_destroy(struct blk_queue *queue)
{
    free(queue);
}

void blk_submit(struct blk_queue *queue, struct blk_request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
    queue->in_flight++;
}

unsigned blk_queue_complete(struct blk_queue *queue)
{
    unsigned completed = 0;

    while (queue->first != NULL) {
        struct blk_request *request = queue->first;

        queue->first = request->next;
        if (queue->first == NULL) {
            queue->last = &queue->first;
        }
        request->result = blk_run(queue->blk, request->op, request->flags, request->offset,
                                  request->length, request->iov, request->iovcnt);
        queue->in_flight--;
        completed++;
        request->done(request, request->result);
    }
    return completed;
}

int blk_queue_fd(const struct blk_queue *queue)
{
    (void)queue;
    return -1;
}

unsigned blk_queue_in_flight(const struct blk_queue *queue)
{
    return queue->in_flight;
}
