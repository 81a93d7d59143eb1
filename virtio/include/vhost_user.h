/*
 * vhost_user.h - a virtio device behind a Unix socket: the back end of the vhost-user protocol
 * (docs/interop/vhost-user.rst of QEMU). The front end, a VMM, shares its guest's memory and its
 * eventfds; requests then pass through memory alone, and the socket carries changes of the set-up.
 *
 * A back end serves one connection at a time, and any number after each other: a front end may go
 * away and come back. Requests that were being worked on when a back end ended without notice are
 * carried out by the next one, where the front end keeps the memory that they are written down in.
 *
 * The front end is not trusted: whatever it sends ends its connection at worst, with one line.
 *
 * Threads: all functions belong to one thread, which polls vhost_user_fd(); the device's queues have
 * threads of their own. Before any, the program ignores SIGPIPE.
 */
#ifndef VIRTIO_VHOST_USER_H
#define VIRTIO_VHOST_USER_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>

struct vhost_user;
struct virtio_device;

struct vhost_user_options {
    struct virtio_device *device; /* the back end owns it, from the call on */
    /* Offer to write down what is in flight, so that the driver can outlive this process. */
    bool inflight;
    /* What else is to be kept in the memory for that: `log_bytes` of it, or what a front end has instead, are
     * handed to remember() before a ring starts, and taken back with NULL when the front end goes or has other
     * memory. An error ends the connection. */
    size_t log_bytes;
    int (*remember)(void *opaque, void *memory, size_t bytes, struct err *err);
    /* Called with one line for each thing that a person should know of, by vhost_user_serve() alone. */
    void (*report)(void *opaque, const char *line);
    void *opaque;
};

int vhost_user_create(const struct vhost_user_options *options, struct vhost_user **out,
                      struct err *err);
/* NULL is allowed. What is in flight is completed first. */
void vhost_user_destroy(struct vhost_user *vu);

/* Begins to serve the connected socket `fd`, which belongs to the back end from the call on. There is
 * no connection. 0 or a negative errno value. */
int vhost_user_attach(struct vhost_user *vu, int fd);
/* Completes what is in flight and closes the connection. Harmless when there is none. */
void vhost_user_detach(struct vhost_user *vu);

/* Polls readable while vhost_user_serve() has something to do. */
int vhost_user_fd(const struct vhost_user *vu);
/* Does what there is to do, one message at most. False: the connection is over, and another one may
 * be attached. */
bool vhost_user_serve(struct vhost_user *vu);

#endif
