/*
 * queue_thread.h - the thread of one virtqueue: it sleeps until the driver rings the doorbell, the
 * device has something to complete, or somebody wants it to stop, and in between lets the device
 * serve the queue. Before it sleeps it may look at the ring for a while (ring_poll.h).
 *
 * Stopping joins the thread. Pausing is stopping, resuming is starting: the queue's position is in
 * the virtqueue, so nothing else has to be kept.
 *
 * Threads: start and stop come from one thread at a time (the one that drives the device's ops).
 */
#ifndef VIRTIO_QUEUE_THREAD_H
#define VIRTIO_QUEUE_THREAD_H

#include "ring_poll.h"
#include "virtio_device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct queue_thread;

struct queue_thread_ops {
    /* Takes a bounded number of chains (none when `drain` is set), works on them and on what is
     * under way, and publishes what has finished. Returns 1 when it may be worth calling again at
     * once, 0 when there is nothing to do until an event, and -EPROTO when the driver broke a rule.
     */
    int (*serve)(struct queue_thread *qt, bool drain);
    /* Whether chains are being worked on: taken, and neither given back nor put aside. */
    bool (*busy)(const struct queue_thread *qt);
    /* Milliseconds until serve() goes on though no event comes; -1: only an event makes it. NULL: always
     * -1. Asked when serve() has nothing to do. */
    int (*delay)(const struct queue_thread *qt);
    /* Polls readable when serve() has something to complete; -1: serve() completes all it takes. */
    int (*event_fd)(const struct queue_thread *qt);
};

struct queue_thread {
    const struct queue_thread_ops *ops;
    struct virtio_device *dev;
    struct virtqueue *vq;
    unsigned index; /* of the queue */

    pthread_t thread;
    bool running;
    atomic_bool stopping;
    int epoll;
    struct ring_poll poll;
};

/* poll_ns: for how long to look at an empty ring at most; 0, or a single processor to run on: not at all.
 * 0 or a negative errno value. */
int queue_thread_init(struct queue_thread *qt, const struct queue_thread_ops *ops,
                      struct virtio_device *dev, unsigned index, uint64_t poll_ns);
/* The thread is stopped. */
void queue_thread_destroy(struct queue_thread *qt);

/* Runs the thread; the virtqueue was started. 0 or a negative errno value. */
int queue_thread_start(struct queue_thread *qt);
/* Takes nothing new, waits until the device is not busy, ends the thread. Harmless when it does not
 * run. */
void queue_thread_stop(struct queue_thread *qt);

/* Sends the queue's interrupt if virtqueue_publish() asks for it. */
void queue_thread_publish(struct queue_thread *qt);

#endif
