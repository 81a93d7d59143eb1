/*
 * workers.h - the threads of one queue that carry out what may wait for storage: blk_run() in their own
 * time, so that the queue's thread never waits.
 *
 * They are started when there is work that no idle one can take, and stay until the end: a queue whose
 * requests all find their data in the page cache never has any.
 */
#ifndef BLOCKDEV_WORKERS_H
#define BLOCKDEV_WORKERS_H

#include "blockdev.h"

#include <stdbool.h>

struct workers;

/* NULL: out of memory or descriptors. */
struct workers *workers_create(struct blk *blk);
/* Nothing may be in their hands any more. NULL is fine. */
void workers_destroy(struct workers *workers);

/* The rest by the queue's thread alone. */

/* Hands a request over, whose result is set when it comes back. False: there is no thread and none could
 * be started. */
bool workers_give(struct workers *workers, struct blk_request *request);
/* The same, but that it may be taken back before anybody has begun: no more of them are carried out at once
 * than there are processors besides the queue's thread's. False: there is no such processor, or no thread. */
bool workers_offer(struct workers *workers, struct blk_request *request);
/* Takes back the first one that was offered and not begun, or NULL. */
struct blk_request *workers_take_offered(struct workers *workers);
/* Takes back what has been carried out: a list by `next`, in the order in which it ended; or NULL. */
struct blk_request *workers_take_back(struct workers *workers);
/* Polls readable while there is something to take back. */
int workers_fd(const struct workers *workers);

#endif
