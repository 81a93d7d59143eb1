/*
 * vhost_user_protocol.h - numbers and layouts of the vhost-user protocol, as far as this back end has
 * it (docs/interop/vhost-user.rst of QEMU). All numbers are in the machine's byte order.
 */
#ifndef VIRTIO_VHOST_USER_PROTOCOL_H
#define VIRTIO_VHOST_USER_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

enum vhost_user_request {
    VU_GET_FEATURES = 1,
    VU_SET_FEATURES = 2,
    VU_SET_OWNER = 3,
    VU_RESET_OWNER = 4,
    VU_SET_MEM_TABLE = 5,
    VU_SET_VRING_NUM = 8,
    VU_SET_VRING_ADDR = 9,
    VU_SET_VRING_BASE = 10,
    VU_GET_VRING_BASE = 11,
    VU_SET_VRING_KICK = 12,
    VU_SET_VRING_CALL = 13,
    VU_SET_VRING_ERR = 14,
    VU_GET_PROTOCOL_FEATURES = 15,
    VU_SET_PROTOCOL_FEATURES = 16,
    VU_GET_QUEUE_NUM = 17,
    VU_SET_VRING_ENABLE = 18,
    VU_GET_CONFIG = 24,
    VU_SET_CONFIG = 25,
    VU_GET_INFLIGHT_FD = 31,
    VU_SET_INFLIGHT_FD = 32,
    VU_RESET_DEVICE = 34,
    VU_GET_MAX_MEM_SLOTS = 36,
    VU_ADD_MEM_REG = 37,
    VU_REM_MEM_REG = 38,
    VU_REQUESTS,
};

/* Bit 30 of the virtio features: the front end knows protocol features, and rings begin disabled. */
enum { VU_F_PROTOCOL_FEATURES = 30 };

enum vhost_user_protocol_feature {
    VU_PROTOCOL_MQ = 0,
    VU_PROTOCOL_REPLY_ACK = 3,
    VU_PROTOCOL_CONFIG = 9,
    VU_PROTOCOL_INFLIGHT_SHMFD = 12,
    VU_PROTOCOL_RESET_DEVICE = 13,
    VU_PROTOCOL_CONFIGURE_MEM_SLOTS = 15,
};

#define VU_PROTOCOL(name) (1ULL << VU_PROTOCOL_##name)

enum {
    VU_VERSION = 1, /* of the flags' lowest two bits */
    VU_VERSION_MASK = 3,
    VU_FLAG_REPLY = 4,
    VU_FLAG_NEED_REPLY = 8,

    /* Of the u64 that names a ring and has a descriptor with it. */
    VU_RING_MASK = 0xff,
    VU_RING_NO_FD = 0x100,

    VU_TABLE_REGIONS = 8, /* of one SET_MEM_TABLE */
    VU_CONFIG_MAX = 256,
    VU_MAX_FDS = VU_TABLE_REGIONS,
};

struct vu_header {
    uint32_t request, flags, size;
};

struct vu_ring_state {
    uint32_t index, number;
};

struct vu_ring_address {
    uint32_t index, flags;
    uint64_t desc, used, avail, log; /* as the front end's process sees them */
};

struct vu_region {
    uint64_t gpa, size, user, offset;
};

struct vu_memory {
    uint32_t count, padding;
    struct vu_region regions[VU_TABLE_REGIONS];
};

struct vu_one_region {
    uint64_t padding;
    struct vu_region region;
};

struct vu_config {
    uint32_t offset, size, flags;
    uint8_t bytes[VU_CONFIG_MAX];
};

struct vu_inflight {
    uint64_t size, offset;
    uint16_t queues, queue_size;
    uint32_t padding; /* not sent by everybody */
};

enum { VU_CONFIG_HEADER = 12, VU_MEMORY_HEADER = 8, VU_INFLIGHT_SIZE = 20 };

union vu_payload {
    uint64_t u64;
    struct vu_ring_state state;
    struct vu_ring_address address;
    struct vu_memory memory;
    struct vu_one_region one_region;
    struct vu_config config;
    struct vu_inflight inflight;
};

static_assert(sizeof(struct vu_header) == 12, "as specified");
static_assert(sizeof(struct vu_ring_address) == 40, "as specified");
static_assert(sizeof(struct vu_region) == 32, "as specified");

#endif
