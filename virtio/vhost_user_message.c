/*
 * Messages that are not about one ring, and the table of all.
 */
#include "vhost_user_state.h"

#include "checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- negotiation ---- */

static int answer_u64(struct vhost_user_message *message, uint64_t value)
{
    message->payload.u64 = value;
    message->header.size = sizeof(value);
    return 0;
}

static int get_features(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                        struct err *err)
{
    (void)fd, (void)err;
    return answer_u64(message, vu->offered_features);
}

static int set_features(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                        struct err *err)
{
    uint64_t features = message->payload.u64;

    (void)fd;
    if (features & ~vu->offered_features)
        return err_set(err, -EINVAL, "the features 0x%llx were not offered",
                       (unsigned long long)(features & ~vu->offered_features));
    if (vu->active && features != vu->features)
        return err_set(err, -EBUSY, "features cannot change while rings run");
    vu->features = features;
    vu->dev->features = features & ~(1ULL << VU_F_PROTOCOL_FEATURES);
    return 0;
}

static int get_protocol_features(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                                 struct err *err)
{
    (void)fd, (void)err;
    return answer_u64(message, vu->offered_protocol_features);
}

static int set_protocol_features(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                                 struct err *err)
{
    uint64_t features = message->payload.u64;

    (void)fd;
    if (features & ~vu->offered_protocol_features)
        return err_set(err, -EINVAL, "the protocol features 0x%llx were not offered",
                       (unsigned long long)(features & ~vu->offered_protocol_features));
    vu->protocol_features = features;
    return 0;
}

static int get_queue_num(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                         struct err *err)
{
    (void)fd, (void)err;
    return answer_u64(message, vu->dev->queue_count);
}

/* SET_OWNER begins a session, which the connection has begun already; RESET_OWNER is to be ignored. */
static int ignore(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                  struct err *err)
{
    (void)vu, (void)message, (void)fd, (void)err;
    return 0;
}

/* ---- memory ---- */

static int set_mem_table(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                         struct err *err)
{
    const struct vu_memory *table = &message->payload.memory;
    uint32_t size = message->header.size;
    int ret = 0;

    (void)fd;
    if (size < VU_MEMORY_HEADER || table->count == 0 || table->count > VU_TABLE_REGIONS ||
        size != VU_MEMORY_HEADER + table->count * sizeof(table->regions[0]) ||
        message->fd_count != table->count)
        return err_set(err, -EINVAL, "%u bytes and %u descriptors are no table of memory", size,
                       message->fd_count);
    vhost_user_memory_clear(&vu->memory);
    for (uint32_t i = 0; i < table->count && ret == 0; i++)
        ret = vhost_user_memory_add(&vu->memory, &table->regions[i], message->fds[i], err);
    if (ret < 0)
        vhost_user_memory_clear(&vu->memory);
    return ret;
}

static int get_max_mem_slots(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                             struct err *err)
{
    (void)vu, (void)fd, (void)err;
    return answer_u64(message, GUESTMEM_MAX_REGIONS);
}

static int add_mem_reg(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                       struct err *err)
{
    (void)fd;
    return vhost_user_memory_add(&vu->memory, &message->payload.one_region.region, message->fds[0],
                                 err);
}

static int rem_mem_reg(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                       struct err *err)
{
    (void)fd;
    return vhost_user_memory_remove(&vu->memory, &message->payload.one_region.region, err);
}

/* ---- configuration space ---- */

static bool config_fits(const struct vhost_user_message *message)
{
    const struct vu_config *config = &message->payload.config;

    return message->header.size > VU_CONFIG_HEADER &&
           message->header.size - VU_CONFIG_HEADER == config->size &&
           range_within(config->offset, config->size, VU_CONFIG_MAX);
}

/* The part of an access that the device has. */
static unsigned within_device(const struct vhost_user *vu, const struct vu_config *config)
{
    return config->offset < vu->dev->config_size
               ? (unsigned)min_u64(config->size, vu->dev->config_size - config->offset)
               : 0;
}

static int get_config(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                      struct err *err)
{
    struct vu_config *config = &message->payload.config;
    unsigned length;

    (void)fd;
    if (!config_fits(message))
        return err_set(err, -EINVAL, "%u bytes at %u are no part of the configuration",
                       config->size, config->offset);
    length = within_device(vu, config);
    memset(config->bytes, 0, config->size);
    if (length > 0)
        vu->dev->ops->config_read(vu->dev, config->offset, config->bytes, length);
    return 0;
}

static int set_config(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                      struct err *err)
{
    const struct vu_config *config = &message->payload.config;
    unsigned length;

    (void)fd;
    if (!config_fits(message))
        return err_set(err, -EINVAL, "%u bytes at %u are no part of the configuration",
                       config->size, config->offset);
    length = within_device(vu, config);
    if (length > 0 && vu->dev->ops->config_write)
        vu->dev->ops->config_write(vu->dev, config->offset, config->bytes, length);
    return 0;
}

/* ---- what is in flight ---- */

static int check_inflight(const struct vhost_user *vu, const struct vhost_user_message *message,
                          struct err *err)
{
    const struct vu_inflight *inflight = &message->payload.inflight;
    uint32_t size = message->header.size;

    if (size != VU_INFLIGHT_SIZE && size != sizeof(*inflight))
        return err_set(err, -EINVAL, "the message is %u bytes long", size);
    if (inflight->queues >= 1 && inflight->queues <= vu->dev->queue_count &&
        inflight->queue_size >= 1 && inflight->queue_size <= INFLIGHT_MAX_SIZE)
        return 0;
    return err_set(err, -EINVAL, "there are no %u rings of %u descriptors", inflight->queues,
                   inflight->queue_size);
}

static int get_inflight_fd(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                           struct err *err)
{
    struct vu_inflight *inflight = &message->payload.inflight;
    int ret = check_inflight(vu, message, err);
    int memory;

    if (ret < 0)
        return ret;
    inflight->offset = 0;
    inflight->size = inflight->queues * inflight_region_size(inflight->queue_size) + vu->log_bytes;
    memory = memfd_create("minivmm-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0 || ftruncate(memory, (off_t)inflight->size) < 0 ||
        fcntl(memory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        ret = err_set_errno(err, -errno, "cannot make memory for what is in flight");
        if (memory >= 0)
            close(memory);
        return ret;
    }
    *fd = memory;
    return 0;
}

static int set_inflight_fd(struct vhost_user *vu, struct vhost_user_message *message, int *fd,
                           struct err *err)
{
    const struct vu_inflight *inflight = &message->payload.inflight;
    struct shared_map map = {0};
    int ret = check_inflight(vu, message, err);
    size_t rings;

    (void)fd;
    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < vu->dev->queue_count; i++) {
        if (vu->rings[i].started)
            return err_set(err, -EBUSY, "ring %u has been started", i);
    }
    if (inflight->size < inflight->queues * inflight_region_size(inflight->queue_size) ||
        !is_aligned(inflight->offset, INFLIGHT_ALIGN))
        return err_set(err, -EINVAL, "%llu bytes are too few for what %u rings have in flight",
                       (unsigned long long)inflight->size, inflight->queues);
    ret = shared_map_open(&map, message->fds[0], inflight->offset, inflight->size, &vu->lost,
                          vu->event, err);
    if (ret < 0)
        return ret;
    vhost_user_forget_inflight(vu);
    vu->inflight = map;
    vu->inflight_queues = inflight->queues;
    vu->inflight_queue_size = inflight->queue_size;
    rings = inflight->queues * inflight_region_size(inflight->queue_size);
    return vu->remember ? vu->remember(vu->opaque, map.data + rings, inflight->size - rings, err)
                        : 0;
}

/* ---- the table ---- */

#define U64       .size = sizeof(uint64_t)
#define STATE     .size = sizeof(struct vu_ring_state)
#define FDS(a, b) .fds_min = (a), .fds_max = (b)
#define NEEDS(f)  .protocol_features = VU_PROTOCOL(f)

static const struct vhost_user_kind kinds[VU_REQUESTS] = {
    [VU_GET_FEATURES] = {"GET_FEATURES", get_features, .answers = true},
    [VU_SET_FEATURES] = {"SET_FEATURES", set_features, U64},
    [VU_SET_OWNER] = {"SET_OWNER", ignore},
    [VU_RESET_OWNER] = {"RESET_OWNER", ignore},
    [VU_SET_MEM_TABLE] = {"SET_MEM_TABLE", set_mem_table, .any_size = true,
                          FDS(1, VU_TABLE_REGIONS), .stops = true, .moves = true},
    [VU_SET_VRING_NUM] = {"SET_VRING_NUM", vhost_user_set_ring_size, STATE},
    [VU_SET_VRING_ADDR] = {"SET_VRING_ADDR", vhost_user_set_ring_address,
                           .size = sizeof(struct vu_ring_address), .stops = true},
    [VU_SET_VRING_BASE] = {"SET_VRING_BASE", vhost_user_set_ring_base, STATE},
    [VU_GET_VRING_BASE] = {"GET_VRING_BASE", vhost_user_get_ring_base, STATE, .stops = true,
                           .answers = true},
    [VU_SET_VRING_KICK] = {"SET_VRING_KICK", vhost_user_set_ring_kick, U64, FDS(0, 1),
                           .stops = true},
    [VU_SET_VRING_CALL] = {"SET_VRING_CALL", vhost_user_set_ring_call, U64, FDS(0, 1)},
    [VU_SET_VRING_ERR] = {"SET_VRING_ERR", vhost_user_set_ring_error, U64, FDS(0, 1)},
    [VU_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", get_protocol_features, .answers = true},
    [VU_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", set_protocol_features, U64},
    [VU_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", get_queue_num, .answers = true, NEEDS(MQ)},
    [VU_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", vhost_user_set_ring_enable, STATE, .stops = true},
    [VU_GET_CONFIG] = {"GET_CONFIG", get_config, .any_size = true, .answers = true, NEEDS(CONFIG)},
    [VU_SET_CONFIG] = {"SET_CONFIG", set_config, .any_size = true, NEEDS(CONFIG)},
    [VU_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", get_inflight_fd, .any_size = true, .answers = true,
                            NEEDS(INFLIGHT_SHMFD)},
    [VU_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", set_inflight_fd, .any_size = true, FDS(1, 1),
                            NEEDS(INFLIGHT_SHMFD)},
    [VU_RESET_DEVICE] = {"RESET_DEVICE", vhost_user_reset_device, .stops = true,
                         NEEDS(RESET_DEVICE)},
    [VU_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", get_max_mem_slots, .answers = true,
                              NEEDS(CONFIGURE_MEM_SLOTS)},
    [VU_ADD_MEM_REG] = {"ADD_MEM_REG", add_mem_reg, .size = sizeof(struct vu_one_region), FDS(1, 1),
                        .stops = true, .moves = true, NEEDS(CONFIGURE_MEM_SLOTS)},
    [VU_REM_MEM_REG] = {"REM_MEM_REG", rem_mem_reg, .size = sizeof(struct vu_one_region), FDS(0, 1),
                        .stops = true, .moves = true, NEEDS(CONFIGURE_MEM_SLOTS)},
};

const struct vhost_user_kind *vhost_user_find_kind(uint32_t request)
{
    return request < VU_REQUESTS && kinds[request].name ? &kinds[request] : NULL;
}
