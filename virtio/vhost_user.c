/*
 * The connection, and the device's life with it.
 *
 * Changes of rings and memory are made while the device's threads are stopped, which completes what is
 * in flight: nothing else is then needed to change addresses, descriptors and mappings. A ring that
 * lies in no memory for a moment, while a front end moves that, waits.
 *
 * What is wrong with a message ends the connection, or, where the front end wants to be told of each
 * message's fate, is answered.
 */
#include "vhost_user_state.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const uint64_t one = 1;

/* ---- what the device's threads call ---- */

static void interrupt_queue(struct virtio_device *dev, unsigned queue)
{
    const struct vhost_user *vu = dev->transport_data;

    (void)!write(vu->rings[queue].call, &one, sizeof(one));
}

static void needs_reset(struct virtio_device *dev)
{
    struct vhost_user *vu = dev->transport_data;

    for (unsigned i = 0; i < dev->queue_count; i++)
        (void)!write(vu->rings[i].error, &one, sizeof(one));
    atomic_store(&vu->broke, true);
    (void)!write(vu->event, &one, sizeof(one));
}

static const struct virtio_transport_ops transport_ops = {
    .interrupt_queue = interrupt_queue,
    .needs_reset = needs_reset,
};

/* ---- the device's threads ---- */

static void pause_device(struct vhost_user *vu)
{
    if (vu->running)
        vu->dev->ops->pause(vu->dev);
    vu->running = false;
}

/* Lets every ring run that can. -EFAULT, with a line, when one lies in no memory. */
static int resume_device(struct vhost_user *vu, struct err *err)
{
    struct virtio_device *dev = vu->dev;
    bool any = false;
    int ret = 0;

    if (vu->running)
        return 0;
    for (unsigned i = 0; i < dev->queue_count; i++) {
        struct err why;

        dev->queues[i].ready =
            vhost_user_ring_ready(vu, i, &why) && vhost_user_ring_start(vu, i, &why);
        any |= dev->queues[i].ready;
        if (!dev->queues[i].ready && why.text[0] != '\0')
            ret = err_set(err, -EFAULT, "%s", why.text);
    }
    if (!any)
        return ret;
    if (vu->active) {
        dev->ops->resume(dev);
    } else {
        int failed = dev->ops->activate(dev);

        if (failed < 0)
            return err_set_errno(err, failed, "cannot start the rings");
    }
    vu->active = vu->running = true;
    return ret;
}

void vhost_user_reset(struct vhost_user *vu)
{
    pause_device(vu);
    vu->dev->ops->reset(vu->dev);
    atomic_store(&vu->dev->broken, false);
    vu->active = false;
}

/* ---- messages ---- */

static void report(const struct vhost_user *vu, const struct err *err)
{
    vu->report(vu->opaque, err->text);
}

static int check_message(const struct vhost_user *vu, const struct vhost_user_message *message,
                         const struct vhost_user_kind *kind, struct err *err)
{
    if ((vu->protocol_features & kind->protocol_features) != kind->protocol_features)
        return err_set(err, -EPROTO, "it was not negotiated");
    if (!kind->any_size && message->header.size != kind->size)
        return err_set(err, -EPROTO, "the message is %u bytes long, not %u", message->header.size,
                       kind->size);
    if (message->fd_count < kind->fds_min || message->fd_count > kind->fds_max)
        return err_set(err, -EPROTO, "it came with %u descriptors", message->fd_count);
    return 0;
}

static int carry_out(struct vhost_user *vu, const struct vhost_user_kind *kind, int *fd,
                     struct err *err)
{
    struct vhost_user_message *message = &vu->message;
    int ret = check_message(vu, message, kind, err);

    if (ret < 0)
        return ret;
    if (kind->stops)
        pause_device(vu);
    ret = kind->handle(vu, message, fd, err);
    if (kind->stops) {
        struct err why;
        int resumed = resume_device(vu, &why);

        /* Memory that is on the move is no mistake; a ring that is told to run there is one. */
        if (ret == 0 && resumed < 0 && !kind->moves) {
            ret = resumed;
            *err = why;
        }
    }
    return ret;
}

static int answer(struct vhost_user *vu, const struct vhost_user_kind *kind, int result, int fd,
                  struct err *err)
{
    struct vhost_user_message *message = &vu->message;

    if (!kind || !kind->answers) {
        message->payload.u64 = result < 0;
        message->header.size = sizeof(message->payload.u64);
    }
    message->header.flags = VU_VERSION | VU_FLAG_REPLY;
    return vhost_user_send(vu->socket, message, fd, err);
}

/* Carries the message out; false: the connection cannot go on. */
static bool take_message(struct vhost_user *vu)
{
    const struct vhost_user_message *message = &vu->message;
    const struct vhost_user_kind *kind = vhost_user_find_kind(message->header.request);
    bool wants_result = (message->header.flags & VU_FLAG_NEED_REPLY) &&
                        (vu->protocol_features & VU_PROTOCOL(REPLY_ACK));
    bool goes_on = true;
    struct err err;
    int fd = -1, ret;

    if (kind)
        ret = carry_out(vu, kind, &fd, &err);
    else
        ret = err_set(&err, -ENOTSUP, "there is no such message");
    if (ret < 0) {
        if (kind)
            (void)err_prefix(&err, ret, "%s", kind->name);
        else
            (void)err_prefix(&err, ret, "%u", message->header.request);
        report(vu, &err);
        goes_on = wants_result && !(kind && kind->answers);
    }
    if (goes_on && (wants_result || kind->answers) && answer(vu, kind, ret, fd, &err) < 0) {
        report(vu, &err);
        goes_on = false;
    }
    if (fd >= 0)
        close(fd);
    return goes_on;
}

/* What the device's threads have met. False: the connection cannot go on. */
static bool take_events(struct vhost_user *vu)
{
    struct err err;
    uint64_t count;

    (void)!read(vu->event, &count, sizeof(count));
    if (atomic_exchange(&vu->broke, false)) {
        (void)err_set(&err, -EPROTO,
                      "the driver broke a rule: the disk stands still until it is "
                      "reset");
        report(vu, &err);
    }
    if (!atomic_load(&vu->lost))
        return true;
    (void)err_set(&err, -EFAULT, "the front end took away memory that it had shared");
    report(vu, &err);
    return false;
}

bool vhost_user_serve(struct vhost_user *vu)
{
    struct err err;
    bool goes_on;
    int ret;

    if (vu->socket < 0)
        return false;
    goes_on = take_events(vu);
    if (goes_on) {
        ret = vhost_user_receive(vu->socket, &vu->message, &err);
        goes_on = ret >= 0;
        if (ret > 0) {
            goes_on = take_message(vu);
            vhost_user_message_clear(&vu->message);
        } else if (ret < 0 && ret != -ENOTCONN) {
            report(vu, &err);
        }
    }
    if (!goes_on)
        vhost_user_detach(vu);
    return goes_on;
}

/* ---- life ---- */

static int watch(const struct vhost_user *vu, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(vu->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int vhost_user_attach(struct vhost_user *vu, int fd)
{
    int ret = watch(vu, fd);

    if (ret < 0) {
        close(fd);
        return ret;
    }
    vu->socket = fd;
    return 0;
}

void vhost_user_forget_inflight(struct vhost_user *vu)
{
    struct err err;

    if (vu->remember && vu->inflight.base)
        (void)vu->remember(vu->opaque, NULL, 0, &err);
    shared_map_close(&vu->inflight);
}

void vhost_user_detach(struct vhost_user *vu)
{
    uint64_t count;

    if (vu->socket < 0)
        return;
    vhost_user_reset(vu);
    for (unsigned i = 0; i < vu->dev->queue_count; i++)
        vhost_user_ring_reset(vu, i);
    vhost_user_forget_inflight(vu);
    vhost_user_memory_clear(&vu->memory);
    vhost_user_message_clear(&vu->message);
    vu->features = vu->dev->features = vu->protocol_features = 0;
    atomic_store(&vu->lost, false);
    atomic_store(&vu->broke, false);
    (void)!read(vu->event, &count, sizeof(count));
    close(vu->socket); /* which takes it out of the epoll as well */
    vu->socket = -1;
}

int vhost_user_fd(const struct vhost_user *vu)
{
    return vu->epoll;
}

void vhost_user_destroy(struct vhost_user *vu)
{
    if (!vu)
        return;
    vhost_user_detach(vu);
    for (unsigned i = 0; vu->rings && i < vu->dev->queue_count; i++) {
        if (vu->rings[i].call >= 0)
            close(vu->rings[i].call);
        if (vu->rings[i].error >= 0)
            close(vu->rings[i].error);
    }
    vu->dev->ops->destroy(vu->dev);
    if (vu->nobody >= 0)
        close(vu->nobody);
    if (vu->event >= 0)
        close(vu->event);
    if (vu->epoll >= 0)
        close(vu->epoll);
    free(vu->rings);
    free(vu);
}

static int open_descriptors(struct vhost_user *vu)
{
    vu->epoll = epoll_create1(EPOLL_CLOEXEC);
    vu->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vu->nobody = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vu->epoll < 0 || vu->event < 0 || vu->nobody < 0)
        return -errno;
    for (unsigned i = 0; i < vu->dev->queue_count; i++) {
        vu->rings[i].call = fcntl(vu->nobody, F_DUPFD_CLOEXEC, 0);
        vu->rings[i].error = fcntl(vu->nobody, F_DUPFD_CLOEXEC, 0);
        if (vu->rings[i].call < 0 || vu->rings[i].error < 0)
            return -errno;
    }
    return watch(vu, vu->event);
}

int vhost_user_create(const struct vhost_user_options *options, struct vhost_user **out,
                      struct err *err)
{
    struct virtio_device *dev = options->device;
    struct vhost_user *vu = calloc(1, sizeof(*vu));
    int ret;

    if (!vu) {
        dev->ops->destroy(dev);
        return err_set_errno(err, -ENOMEM, "cannot create a back end");
    }
    vu->dev = dev;
    vu->report = options->report;
    vu->opaque = options->opaque;
    vu->remember = options->remember;
    vu->log_bytes = options->remember ? options->log_bytes : 0;
    vu->socket = vu->epoll = vu->event = vu->nobody = -1;
    vu->offered_features = dev->offered_features | 1ULL << VIRTIO_F_VERSION_1 |
                           1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX |
                           1ULL << VU_F_PROTOCOL_FEATURES;
    vu->offered_protocol_features = VU_PROTOCOL(MQ) | VU_PROTOCOL(REPLY_ACK) | VU_PROTOCOL(CONFIG) |
                                    VU_PROTOCOL(RESET_DEVICE) | VU_PROTOCOL(CONFIGURE_MEM_SLOTS);
    if (options->inflight)
        vu->offered_protocol_features |= VU_PROTOCOL(INFLIGHT_SHMFD);
    vu->memory.lost = &vu->lost;
    dev->transport = &transport_ops;
    dev->transport_data = vu;
    dev->mem = &vu->memory.guest;
    vu->rings = calloc(dev->queue_count, sizeof(*vu->rings));
    for (unsigned i = 0; vu->rings && i < dev->queue_count; i++)
        vu->rings[i].call = vu->rings[i].error = -1;
    ret = vu->rings ? open_descriptors(vu) : -ENOMEM;
    if (ret < 0) {
        vhost_user_destroy(vu);
        return err_set_errno(err, ret, "cannot create a back end");
    }
    vu->memory.event = vu->event;
    *out = vu;
    return 0;
}
