/*
 * vhost_user_state.h - what the files of the vhost-user transport share.
 *
 * vhost_user.c has the connection and the life of the device, vhost_user_ring.c the messages about
 * rings, vhost_user_message.c all others.
 *
 * Threads: the back end's, but for what is marked atomic and the descriptors `call` and `error`, which
 * queue threads write to: their numbers stay, and what they stand for is replaced by dup3(2).
 */
#ifndef VIRTIO_VHOST_USER_STATE_H
#define VIRTIO_VHOST_USER_STATE_H

#include "inflight.h"
#include "vhost_user.h"
#include "vhost_user_memory.h"
#include "vhost_user_socket.h"
#include "virtio_device.h"
#include "virtqueue.h"

#include <stdatomic.h>
#include <stdint.h>

struct vhost_user_ring {
    uint64_t desc_user, avail_user, used_user; /* as the front end's process sees them */
    bool has_address;
    bool enabled;
    bool started;  /* the virtqueue has a position */
    uint16_t base; /* where it begins once it starts */
    int call, error;
    struct inflight inflight;
};

struct vhost_user {
    struct virtio_device *dev;
    void (*report)(void *opaque, const char *line);
    void *opaque;

    int epoll;  /* of the two that follow */
    int socket; /* -1: no connection */
    int event;  /* eventfd: `lost` or `broke` was set */
    int nobody; /* eventfd for interrupts that nobody wants */
    atomic_bool lost, broke;

    struct vhost_user_message message; /* as far as it has been read */
    uint64_t offered_features, features;
    uint64_t offered_protocol_features, protocol_features;

    struct vhost_user_memory memory;
    struct shared_map inflight;
    uint16_t inflight_queues, inflight_queue_size;
    size_t log_bytes; /* as in vhost_user_options */
    int (*remember)(void *opaque, void *memory, size_t bytes, struct err *err);

    bool active;                   /* the device's activate() succeeded */
    bool running;                  /* and its threads run */
    struct vhost_user_ring *rings; /* dev->queue_count of them */
};

/*
 * A message's handler. The device's threads are stopped where the message's kind says so. It checks all
 * that it uses before it changes anything. A message that is answered has its answer in the payload and
 * its length in header.size when the handler returns; *fd becomes a descriptor that goes with it and is
 * then closed. 0 or a negative errno value.
 */
typedef int vhost_user_handler(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                               struct err *err);

vhost_user_handler vhost_user_set_ring_size, vhost_user_set_ring_address, vhost_user_set_ring_base,
    vhost_user_get_ring_base, vhost_user_set_ring_kick, vhost_user_set_ring_call,
    vhost_user_set_ring_error, vhost_user_set_ring_enable, vhost_user_reset_device;

struct vhost_user_kind {
    const char *name; /* NULL: no such message */
    vhost_user_handler *handle;
    uint8_t size;               /* of the payload, where it is fixed */
    bool any_size;              /* the handler checks it */
    uint8_t fds_min, fds_max;   /* descriptors */
    bool stops;                 /* the device's threads do not run while it is carried out */
    bool moves;                 /* memory: a ring may lie in none for a while */
    bool answers;               /* with more than an acknowledgement */
    uint64_t protocol_features; /* that must have been negotiated */
};

/* NULL: this back end has no such message. */
const struct vhost_user_kind *vhost_user_find_kind(uint32_t request);

/* Whether the ring is complete and lies in guest memory; a line when it is complete and does not. */
bool vhost_user_ring_ready(struct vhost_user *vu, unsigned index, struct err *err);
/* Gives the ring's virtqueue a position if it has none. False: it cannot run. */
bool vhost_user_ring_start(struct vhost_user *vu, unsigned index, struct err *err);
/* Takes the ring back to where no message has come for it. The device's threads do not run. */
void vhost_user_ring_reset(struct vhost_user *vu, unsigned index);

/* Gives up the memory for what is in flight. No ring has been started. */
void vhost_user_forget_inflight(struct vhost_user *vu);
/* Stops what the device does for the connection and forgets what its driver has set. */
void vhost_user_reset(struct vhost_user *vu);

#endif
