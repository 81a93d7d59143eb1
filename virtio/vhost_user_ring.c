/*
 * Messages about rings.
 *
 * A ring runs while it has addresses in guest memory, a kick and, where the front end knows protocol
 * features, is enabled. It gets its position when it first runs: from SET_VRING_BASE; or, where chains
 * in flight are written down, from the used ring and from these. It keeps it until GET_VRING_BASE.
 */
#include "vhost_user_state.h"

#include "checked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/epoll.h>
#include <unistd.h>

static int check_index(const struct vhost_user *vu, uint32_t index, struct err *err)
{
    if (index < vu->dev->queue_count)
        return 0;
    return err_set(err, -EINVAL, "there is no ring %u", index);
}

static int check_stopped(const struct vhost_user *vu, uint32_t index, struct err *err)
{
    int ret = check_index(vu, index, err);

    if (ret == 0 && vu->rings[index].started)
        ret = err_set(err, -EBUSY, "ring %u has been started", index);
    return ret;
}

/* Where the addresses are now: a change of memory may have moved them. */
static bool translate(const struct vhost_user *vu, unsigned index)
{
    const struct vhost_user_ring *ring = &vu->rings[index];
    struct virtqueue *vq = &vu->dev->queues[index];

    return vhost_user_memory_find(&vu->memory, ring->desc_user, &vq->desc_gpa) &&
           vhost_user_memory_find(&vu->memory, ring->avail_user, &vq->avail_gpa) &&
           vhost_user_memory_find(&vu->memory, ring->used_user, &vq->used_gpa) &&
           virtqueue_map(vq, &vu->memory.guest) == 0;
}

bool vhost_user_ring_ready(struct vhost_user *vu, unsigned index, struct err *err)
{
    const struct vhost_user_ring *ring = &vu->rings[index];

    err->text[0] = '\0';
    if (!ring->has_address || !ring->enabled || vu->dev->queues[index].kick < 0)
        return false;
    if (translate(vu, index))
        return true;
    (void)err_set(err, -EFAULT, "ring %u does not lie in guest memory", index);
    return false;
}

static int attach_inflight(struct vhost_user *vu, unsigned index, uint16_t used_idx,
                           struct err *err)
{
    struct virtqueue *vq = &vu->dev->queues[index];
    struct inflight *inflight = &vu->rings[index].inflight;
    uint8_t *region;
    int ret;

    if (!vu->inflight.base || index >= vu->inflight_queues)
        return 0;
    region = vu->inflight.data + index * inflight_region_size(vu->inflight_queue_size);
    ret = inflight_attach(inflight, region, vu->inflight_queue_size, vq->size, used_idx);
    if (ret < 0)
        return err_set_errno(err, ret, "ring %u: what was in flight cannot be used", index);
    vq->inflight = inflight;
    return 0;
}

bool vhost_user_ring_start(struct vhost_user *vu, unsigned index, struct err *err)
{
    struct vhost_user_ring *ring = &vu->rings[index];
    struct virtqueue *vq = &vu->dev->queues[index];
    uint16_t used_idx, next_avail = ring->base;

    if (ring->started)
        return true;
    if (virtqueue_start(vq, &vu->memory.guest, vu->dev->features) < 0)
        return false;
    virtqueue_allow_long_chains(vq);
    used_idx = virtqueue_used_index(vq);
    if (attach_inflight(vu, index, used_idx, err) < 0)
        return false;
    /* A front end whose back end has crashed does not know how far that had come. */
    if (vq->inflight && ring->inflight.resubmit_count > 0)
        next_avail = (uint16_t)(used_idx + ring->inflight.resubmit_count);
    virtqueue_set_position(vq, next_avail, used_idx);
    ring->started = true;
    return true;
}

static void close_kick(struct virtqueue *vq)
{
    if (vq->kick >= 0)
        close(vq->kick);
    vq->kick = -1;
}

static void stop(struct vhost_user *vu, unsigned index)
{
    struct virtqueue *vq = &vu->dev->queues[index];
    struct vhost_user_ring *ring = &vu->rings[index];

    if (ring->started)
        ring->base = vq->next_avail;
    ring->started = false;
    close_kick(vq);
    inflight_detach(&ring->inflight);
    vq->inflight = NULL;
}

/* From now on the number stands for what `fd` stands for. */
static int replace(int number, int fd)
{
    int ret;

    do
        ret = dup3(fd, number, O_CLOEXEC);
    while (ret < 0 && (errno == EINTR || errno == EBUSY));
    return ret < 0 ? -errno : 0;
}

void vhost_user_ring_reset(struct vhost_user *vu, unsigned index)
{
    struct vhost_user_ring *ring = &vu->rings[index];

    stop(vu, index);
    virtqueue_reset(&vu->dev->queues[index]);
    (void)replace(ring->call, vu->nobody);
    (void)replace(ring->error, vu->nobody);
    *ring = (struct vhost_user_ring){.call = ring->call, .error = ring->error};
}

/* ---- messages ---- */

int vhost_user_set_ring_size(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                             struct err *err)
{
    const struct vu_ring_state *state = &message->payload.state;
    int ret = check_stopped(vu, state->index, err);

    (void)fd;
    if (ret < 0)
        return ret;
    if (!is_power_of_2(state->number) || state->number > vu->dev->queues[state->index].size_max)
        return err_set(err, -EINVAL, "ring %u cannot have %u descriptors: at most %u", state->index,
                       state->number, vu->dev->queues[state->index].size_max);
    vu->dev->queues[state->index].size = (uint16_t)state->number;
    return 0;
}

int vhost_user_set_ring_address(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                                struct err *err)
{
    const struct vu_ring_address *address = &message->payload.address;
    int ret = check_index(vu, address->index, err);
    struct vhost_user_ring *ring, before;

    (void)fd;
    if (ret < 0)
        return ret;
    if (address->flags != 0)
        return err_set(err, -EINVAL, "ring %u: writes are not logged", address->index);
    ring = &vu->rings[address->index];
    before = *ring;
    ring->desc_user = address->desc;
    ring->avail_user = address->avail;
    ring->used_user = address->used;
    ring->has_address = true;
    if (translate(vu, address->index))
        return 0;
    *ring = before;
    return err_set(err, -EINVAL, "ring %u is not aligned or does not lie in guest memory",
                   address->index);
}

int vhost_user_set_ring_base(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                             struct err *err)
{
    const struct vu_ring_state *state = &message->payload.state;
    int ret = check_stopped(vu, state->index, err);

    (void)fd;
    if (ret < 0)
        return ret;
    if (state->number > UINT16_MAX)
        return err_set(err, -EINVAL, "ring %u cannot begin at %u", state->index, state->number);
    vu->rings[state->index].base = (uint16_t)state->number;
    return 0;
}

int vhost_user_get_ring_base(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                             struct err *err)
{
    struct vu_ring_state *state = &message->payload.state;
    int ret = check_index(vu, state->index, err);
    bool any = false;

    (void)fd;
    if (ret < 0)
        return ret;
    stop(vu, state->index);
    state->number = vu->rings[state->index].base;
    for (unsigned i = 0; i < vu->dev->queue_count; i++)
        any |= vu->rings[i].started;
    if (!any)
        vhost_user_reset(vu);
    return 0;
}

/* The ring and the descriptor of a message that has both: -1 when it says that there is none. */
static int take_ring_fd(const struct vhost_user *vu, struct vhost_user_message *message,
                        unsigned *index, int *fd, struct err *err)
{
    uint64_t u64 = message->payload.u64;
    unsigned expected = u64 & VU_RING_NO_FD ? 0 : 1;
    int ret;

    *fd = -1;
    *index = u64 & VU_RING_MASK;
    ret = check_index(vu, *index, err);
    if (ret < 0)
        return ret;
    if ((u64 & ~(uint64_t)(VU_RING_MASK | VU_RING_NO_FD)) || message->fd_count != expected)
        return err_set(err, -EINVAL, "%u descriptors came for 0x%" PRIx64, message->fd_count, u64);
    if (message->fd_count > 0)
        *fd = vhost_user_message_take_fd(message, 0);
    return 0;
}

/* A queue's thread has to be able to wait for it. */
static int check_kick(const struct vhost_user *vu, int kick, unsigned index, struct err *err)
{
    struct epoll_event nothing = {0};

    if (epoll_ctl(vu->epoll, EPOLL_CTL_ADD, kick, &nothing) < 0)
        return err_set_errno(err, -errno, "ring %u: the descriptor cannot be waited for", index);
    (void)epoll_ctl(vu->epoll, EPOLL_CTL_DEL, kick, NULL);
    return 0;
}

int vhost_user_set_ring_kick(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                             struct err *err)
{
    struct virtqueue *vq;
    unsigned index;
    int kick, ret = take_ring_fd(vu, message, &index, &kick, err);

    (void)fd;
    if (ret < 0)
        return ret;
    if (kick < 0)
        return err_set(err, -ENOTSUP, "ring %u: there is no polling, a descriptor is needed",
                       index);
    ret = check_kick(vu, kick, index, err);
    if (ret < 0) {
        close(kick);
        return ret;
    }
    vq = &vu->dev->queues[index];
    close_kick(vq);
    vq->kick = kick;
    if (!(vu->features & (1ULL << VU_F_PROTOCOL_FEATURES)))
        vu->rings[index].enabled = true;
    return 0;
}

/* Interrupts must not make a queue's thread wait. */
static int set_signal(struct vhost_user *vu, int number, int fd, unsigned index, struct err *err)
{
    int ret;

    if (fd >= 0)
        (void)fcntl(fd, F_SETFL, O_NONBLOCK | fcntl(fd, F_GETFL));
    ret = replace(number, fd >= 0 ? fd : vu->nobody);
    if (fd >= 0)
        close(fd);
    return ret < 0 ? err_set_errno(err, ret, "ring %u: cannot take the descriptor", index) : 0;
}

int vhost_user_set_ring_call(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                             struct err *err)
{
    unsigned index;
    int call, ret = take_ring_fd(vu, message, &index, &call, err);

    (void)fd;
    if (ret == 0)
        ret = set_signal(vu, vu->rings[index].call, call, index, err);
    /* What was completed before may have been told to nobody: to a descriptor that is not looked at any
     * more, or not at all by a back end that has crashed. One interrupt too many is harmless. */
    if (ret == 0)
        vu->dev->transport->interrupt_queue(vu->dev, index);
    return ret;
}

int vhost_user_set_ring_error(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                              struct err *err)
{
    unsigned index;
    int error, ret = take_ring_fd(vu, message, &index, &error, err);

    (void)fd;
    return ret < 0 ? ret : set_signal(vu, vu->rings[index].error, error, index, err);
}

int vhost_user_set_ring_enable(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                               struct err *err)
{
    const struct vu_ring_state *state = &message->payload.state;
    int ret = check_index(vu, state->index, err);

    (void)fd;
    if (ret < 0)
        return ret;
    if (state->number > 1)
        return err_set(err, -EINVAL, "ring %u cannot be enabled by %u", state->index,
                       state->number);
    vu->rings[state->index].enabled = state->number;
    return 0;
}

int vhost_user_reset_device(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                            struct err *err)
{
    (void)message, (void)fd, (void)err;
    vhost_user_reset(vu);
    for (unsigned i = 0; i < vu->dev->queue_count; i++)
        vhost_user_ring_reset(vu, i);
    return 0;
}
