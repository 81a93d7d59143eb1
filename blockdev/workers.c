/*
 * workers.c - a queue's threads for what may wait, and for a share of its large copies.
 *
 * One lock guards three lists: of what is to be done, of what is offered, and of what was done. No wake-up is
 * lost: a worker looks at the first two under the lock before it sleeps. The event is raised, once, when the
 * last list stops being empty, and lowered by whoever empties it, both under the lock.
 */
#include "workers.h"

#include "block.h"
#include "signals.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    MAX_WORKERS = 32, /* what drivers keep in flight when they wait for a disk */
    STACK_BYTES = 256 << 10,
    MAX_HELPERS = 3, /* more do not copy faster together */
};

struct list {
    struct blk_request *first, **last;
    unsigned count;
};

struct workers {
    struct blk *blk;
    int event;
    unsigned helpers; /* how many carry out at once what was offered */

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t wanted;
    struct list waiting, offered, done;
    unsigned helping; /* of `helpers` */
    pthread_t threads[MAX_WORKERS];
    unsigned count, idle; /* idle: also those that were woken and have not taken anything yet */
    bool stopping;
};

static void clear(struct list *list)
{
    *list = (struct list){.last = &list->first};
}

static void append(struct list *list, struct blk_request *request)
{
    request->next = NULL;
    *list->last = request;
    list->last = &request->next;
    list->count++;
}

static struct blk_request *take_first(struct list *list)
{
    struct blk_request *request = list->first;

    list->first = request->next;
    list->count--;
    if (list->first == NULL)
        list->last = &list->first;
    return request;
}

static void raise_event(int event)
{
    uint64_t one = 1;

    /* Cannot fail: the counter is 0. */
    (void)!write(event, &one, sizeof(one));
}

static bool may_help(const struct workers *w)
{
    return w->offered.first != NULL && w->helping < w->helpers;
}

static void *work(void *opaque)
{
    struct workers *w = opaque;

    pthread_setname_np(pthread_self(), "blk-worker");
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct blk_request *request;
        bool helps;

        w->idle++;
        while (w->waiting.first == NULL && !may_help(w) && !w->stopping)
            pthread_cond_wait(&w->wanted, &w->lock);
        w->idle--;
        if (w->waiting.first == NULL && !may_help(w))
            break;
        helps = w->waiting.first == NULL;
        request = take_first(helps ? &w->offered : &w->waiting);
        w->helping += helps;
        pthread_mutex_unlock(&w->lock);
        request->result = blk_run(w->blk, request->op, request->flags, request->offset,
                                  request->length, request->iov, request->iovcnt);
        pthread_mutex_lock(&w->lock);
        w->helping -= helps;
        append(&w->done, request);
        if (w->done.count == 1)
            raise_event(w->event);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals are the main thread's. */
static int start_thread(struct workers *w)
{
    sigset_t most, old;
    pthread_attr_t attr;
    int r = -pthread_attr_init(&attr);

    if (r != 0)
        return r;
    r = -pthread_attr_setstacksize(&attr, STACK_BYTES);
    signals_fill_worker_mask(&most);
    pthread_sigmask(SIG_SETMASK, &most, &old);
    if (r == 0)
        r = -pthread_create(&w->threads[w->count], &attr, work, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (r == 0)
        w->count++;
    return r;
}

static unsigned count_helpers(void)
{
    cpu_set_t usable;
    unsigned processors =
        sched_getaffinity(0, sizeof(usable), &usable) == 0 ? (unsigned)CPU_COUNT(&usable) : 1;

    return processors - 1 < MAX_HELPERS ? processors - 1 : MAX_HELPERS;
}

struct workers *workers_create(struct blk *blk)
{
    struct workers *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return NULL;
    w->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->event < 0) {
        free(w);
        return NULL;
    }
    w->blk = blk;
    w->helpers = count_helpers();
    clear(&w->waiting);
    clear(&w->offered);
    clear(&w->done);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wanted, NULL);
    return w;
}

void workers_destroy(struct workers *w)
{
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_broadcast(&w->wanted);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->count; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->wanted);
    pthread_mutex_destroy(&w->lock);
    close(w->event);
    free(w);
}

bool workers_give(struct workers *w, struct blk_request *request)
{
    bool given = true;

    pthread_mutex_lock(&w->lock);
    if (w->waiting.count >= w->idle && w->count < MAX_WORKERS)
        given = start_thread(w) == 0 || w->count > 0;
    if (given) {
        append(&w->waiting, request);
        pthread_cond_signal(&w->wanted);
    }
    pthread_mutex_unlock(&w->lock);
    return given;
}

bool workers_offer(struct workers *w, struct blk_request *request)
{
    bool offered;

    pthread_mutex_lock(&w->lock);
    if (w->offered.count >= w->idle && w->count < w->helpers)
        (void)start_thread(w);
    offered = w->helpers > 0 && w->count > 0;
    if (offered) {
        append(&w->offered, request);
        if (w->helping < w->helpers)
            pthread_cond_signal(&w->wanted);
    }
    pthread_mutex_unlock(&w->lock);
    return offered;
}

struct blk_request *workers_take_offered(struct workers *w)
{
    struct blk_request *request;

    pthread_mutex_lock(&w->lock);
    request = w->offered.first != NULL ? take_first(&w->offered) : NULL;
    pthread_mutex_unlock(&w->lock);
    return request;
}

struct blk_request *workers_take_back(struct workers *w)
{
    struct blk_request *first;
    uint64_t raised;

    pthread_mutex_lock(&w->lock);
    first = w->done.first;
    if (first != NULL) {
        clear(&w->done);
        (void)!read(w->event, &raised, sizeof(raised));
    }
    pthread_mutex_unlock(&w->lock);
    return first;
}

int workers_fd(const struct workers *w)
{
    return w->event;
}
