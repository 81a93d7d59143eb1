/*
 * The loop of a queue's thread.
 *
 * The doorbell is watched edge-triggered and never read: each ring is an event of its own, which saves
 * a system call a wake-up, and a counter of 64 bits does not fill up. A ring between serve_all() and
 * epoll_wait() is such an event too, so nothing is missed. Whoever stops the thread sets `stopping`
 * and rings. A kick of somebody else's (vhost-user) is watched in the same way.
 *
 * When the driver breaks a rule the device needs a reset: every queue of the device stops taking
 * chains, completes what it had taken, and waits to be stopped. A device that is halted stops taking
 * chains likewise, until whoever clears `halted` rings.
 */
#include "queue_thread.h"

#include "clock.h"
#include "signals.h"
#include "virtqueue.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { LOOKS_A_CLOCK = 16 }; /* at the ring, about a microsecond */

/* Tells the processor that this is a loop which waits for another one. */
static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int watch(struct queue_thread *qt, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};

    return epoll_ctl(qt->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Its owner may close it while the thread is stopped, or give the queue another one. */
static void unwatch_kick(const struct queue_thread *qt)
{
    if (qt->vq->kick >= 0)
        (void)epoll_ctl(qt->epoll, EPOLL_CTL_DEL, qt->vq->kick, NULL);
}

/* Where there is one, who looks at a ring keeps the driver from putting something there. */
static bool is_only_processor(void)
{
    cpu_set_t usable;

    return sched_getaffinity(0, sizeof(usable), &usable) == 0 && CPU_COUNT(&usable) < 2;
}

int queue_thread_init(struct queue_thread *qt, const struct queue_thread_ops *ops,
                      struct virtio_device *dev, unsigned index, uint64_t poll_ns)
{
    int ret;

    qt->ops = ops;
    qt->dev = dev;
    qt->vq = &dev->queues[index];
    qt->index = index;
    qt->running = false;
    atomic_init(&qt->stopping, false);
    ring_poll_init(&qt->poll, is_only_processor() ? 0 : poll_ns);
    qt->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (qt->epoll < 0)
        return -errno;
    ret = watch(qt, qt->vq->doorbell, EPOLLIN | EPOLLET);
    if (ret == 0 && ops->event_fd(qt) >= 0)
        ret = watch(qt, ops->event_fd(qt), EPOLLIN);
    if (ret < 0)
        queue_thread_destroy(qt);
    return ret;
}

void queue_thread_destroy(struct queue_thread *qt)
{
    if (qt->epoll >= 0)
        close(qt->epoll);
    qt->epoll = -1;
}

void queue_thread_publish(struct queue_thread *qt)
{
    if (virtqueue_publish(qt->vq))
        qt->dev->transport->interrupt_queue(qt->dev, qt->index);
}

static bool must_drain(struct queue_thread *qt)
{
    return atomic_load(&qt->stopping) || atomic_load(&qt->dev->broken) ||
           atomic_load(&qt->dev->halted);
}

/* Looks at the empty ring for as long as that pays; the driver has been asked not to ring. True: there is
 * something to do. */
static bool poll_ring(struct queue_thread *qt)
{
    uint64_t now, deadline;
    bool found = false;

    /* What is under way announces its end by an event. */
    if (qt->poll.max == 0 || qt->ops->busy(qt))
        return false;
    now = clock_ns();
    deadline = ring_poll_begin(&qt->poll, now);
    if (deadline == 0)
        return false;
    while (!found && now < deadline) {
        for (unsigned i = 0; i < LOOKS_A_CLOCK && !found; i++) {
            found = virtqueue_has_more(qt->vq) || must_drain(qt);
            relax();
        }
        now = clock_ns();
    }
    ring_poll_end(&qt->poll, found, now);
    return found;
}

/* Serves until there is nothing to do but to wait; returns for how many milliseconds, -1: an event. */
static int serve_all(struct queue_thread *qt)
{
    virtqueue_notify_disable(qt->vq);
    for (;;) {
        bool drain = must_drain(qt);
        int ret = qt->ops->serve(qt, drain);

        if (ret > 0 && qt->poll.is_asleep)
            ring_poll_woken(&qt->poll, clock_ns());
        if (ret < 0) {
            virtio_device_fail(qt->dev);
        } else if (ret == 0) {
            int delay = drain || !qt->ops->delay ? -1 : qt->ops->delay(qt);

            /* What waits in the ring is known: the driver need not tell. */
            if (delay >= 0)
                return delay;
            if (drain)
                return -1;
            if (poll_ring(qt))
                continue;
            if (!virtqueue_notify_enable(qt->vq))
                return -1;
            virtqueue_notify_disable(qt->vq);
        }
    }
}

static void *queue_main(void *arg)
{
    struct queue_thread *qt = arg;
    char name[16];

    snprintf(name, sizeof(name), "%.10s-q%u", qt->dev->name, qt->index % 100);
    pthread_setname_np(pthread_self(), name);
    for (;;) {
        struct epoll_event events[3];
        int delay = serve_all(qt);

        if (atomic_load(&qt->stopping) && !qt->ops->busy(qt))
            return NULL;
        epoll_wait(qt->epoll, events, 3, delay);
    }
}

int queue_thread_start(struct queue_thread *qt)
{
    sigset_t most, old;
    int ret;

    atomic_store(&qt->stopping, false);
    if (qt->vq->kick >= 0) {
        ret = watch(qt, qt->vq->kick, EPOLLIN | EPOLLET);
        if (ret < 0)
            return ret;
    }

    /* Signals are the main thread's. */
    signals_fill_worker_mask(&most);
    pthread_sigmask(SIG_SETMASK, &most, &old);
    ret = -pthread_create(&qt->thread, NULL, queue_main, qt);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    qt->running = ret == 0;
    if (ret < 0)
        unwatch_kick(qt);
    return ret;
}

void queue_thread_stop(struct queue_thread *qt)
{
    if (!qt->running)
        return;
    atomic_store(&qt->stopping, true);
    virtqueue_ring_doorbell(qt->vq);
    pthread_join(qt->thread, NULL);
    qt->running = false;
    unwatch_kick(qt);
}
