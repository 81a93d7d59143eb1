/* Random front ends and drivers: sequences of messages that are almost right, over rings and records that
 * hold anything. The back end serves an honest front end after each. */
#include "back_end.h"
#include "harness.h"

#include <linux/virtio_config.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 400, MESSAGES = 40 };

static uint64_t seed;

static uint64_t below(uint64_t limit)
{
    return test_random(&seed) % limit;
}

/* Mostly `honest`. */
static uint64_t almost(uint64_t honest)
{
    static const uint64_t odd[] = {0,          1,          0xff,       0x100,      0xffff,
                                   0xffffffff, 0x80000000, UINT64_MAX, 1ULL << 63, 4096};

    switch (below(12)) {
    case 0:
        return odd[below(sizeof(odd) / sizeof(odd[0]))];
    case 1:
        return honest + 1;
    case 2:
        return honest ^ 1ULL << below(64);
    default:
        return honest;
    }
}

static struct vu_region random_region(const struct front_end *fe)
{
    struct vu_region region = front_end_region(fe);

    return (struct vu_region){.gpa = almost(region.gpa),
                              .size = almost(region.size),
                              .user = almost(region.user),
                              .offset = almost(0)};
}

/* Fills in a payload that is right for the request but for some of its numbers; its size. */
static uint32_t random_payload(const struct front_end *fe, uint32_t request,
                               union vu_payload *payload)
{
    unsigned ring = (unsigned)below(BACK_END_QUEUES);
    struct vu_ring_address address = front_end_ring_address(fe, ring);

    switch (request) {
    case VU_SET_FEATURES:
        payload->u64 = almost(1ULL << VIRTIO_F_VERSION_1 | 1ULL << VU_F_PROTOCOL_FEATURES |
                              1ULL << VIRTIO_RING_F_INDIRECT_DESC);
        return sizeof(payload->u64);
    case VU_SET_PROTOCOL_FEATURES:
        payload->u64 = almost(0xb201);
        return sizeof(payload->u64);
    case VU_SET_MEM_TABLE:
        payload->memory.count = (uint32_t)almost(1);
        payload->memory.regions[0] = random_region(fe);
        return VU_MEMORY_HEADER + sizeof(struct vu_region);
    case VU_ADD_MEM_REG:
    case VU_REM_MEM_REG:
        payload->one_region.region = random_region(fe);
        return sizeof(payload->one_region);
    case VU_SET_VRING_NUM:
        payload->state =
            (struct vu_ring_state){(uint32_t)almost(ring), (uint32_t)almost(FRONT_END_RING_SIZE)};
        return sizeof(payload->state);
    case VU_SET_VRING_BASE:
    case VU_GET_VRING_BASE:
    case VU_SET_VRING_ENABLE:
        payload->state = (struct vu_ring_state){(uint32_t)almost(ring), (uint32_t)almost(1)};
        return sizeof(payload->state);
    case VU_SET_VRING_ADDR:
        payload->address = (struct vu_ring_address){.index = (uint32_t)almost(ring),
                                                    .flags = (uint32_t)(almost(0)),
                                                    .desc = almost(address.desc),
                                                    .avail = almost(address.avail),
                                                    .used = almost(address.used)};
        return sizeof(payload->address);
    case VU_SET_VRING_KICK:
    case VU_SET_VRING_CALL:
    case VU_SET_VRING_ERR:
        payload->u64 = almost(ring);
        return sizeof(payload->u64);
    case VU_GET_CONFIG:
    case VU_SET_CONFIG:
        payload->config.offset = (uint32_t)almost(0);
        payload->config.size = (uint32_t)almost(60);
        return VU_CONFIG_HEADER + 60;
    case VU_GET_INFLIGHT_FD:
    case VU_SET_INFLIGHT_FD:
        payload->inflight = (struct vu_inflight){.size = almost(8192),
                                                 .offset = almost(0),
                                                 .queues = (uint16_t)almost(1),
                                                 .queue_size = (uint16_t)almost(128)};
        return VU_INFLIGHT_SIZE;
    default:
        return 0;
    }
}

static bool send_random(struct front_end *fe)
{
    union vu_payload payload = {0};
    uint32_t request = (uint32_t)almost(1 + below(VU_REQUESTS));
    uint32_t size = random_payload(fe, request, &payload);
    const struct front_end_ring *ring = &fe->rings[below(BACK_END_QUEUES)];
    bool has_fd = true;
    int fd = fe->ram_fd;

    switch (request) {
    case VU_SET_VRING_KICK:
        fd = ring->kick;
        break;
    case VU_SET_VRING_CALL:
    case VU_SET_VRING_ERR:
        fd = ring->call;
        break;
    case VU_SET_MEM_TABLE:
    case VU_ADD_MEM_REG:
    case VU_SET_INFLIGHT_FD:
        break;
    default:
        has_fd = false;
        break;
    }
    if (below(30) == 0)
        has_fd = !has_fd;
    if (below(30) == 0 && size > 0)
        size--;
    return front_end_send(fe, request, below(2) ? VU_FLAG_NEED_REPLY : 0, &payload, size, &fd,
                          has_fd);
}

/* Anything in rings and descriptors, some of it plausible. */
static void scribble(struct front_end *fe)
{
    for (unsigned r = 0; r < BACK_END_QUEUES; r++) {
        struct front_end_ring *ring = &fe->rings[r];

        for (unsigned slot = 0; slot < FRONT_END_SLOTS; slot++) {
            front_end_prepare(fe, r, slot, (uint32_t)almost(below(2)), below(BACK_END_SECTORS),
                              512);
            for (unsigned i = 0; i < 3; i++) {
                struct vring_desc *desc = &ring->desc[3 * slot + i];

                desc->addr = almost(desc->addr);
                desc->len = (uint32_t)almost(desc->len);
                desc->flags = (uint16_t)almost(desc->flags);
                desc->next = (uint16_t)almost(desc->next);
            }
        }
        for (unsigned i = 0; i < FRONT_END_RING_SIZE; i++)
            ring->avail->ring[i] = (uint16_t)almost(3 * below(FRONT_END_SLOTS));
        ring->avail->idx = (uint16_t)almost(ring->avail->idx + below(8));
        front_end_kick(fe, r);
    }
}

static void drain(const struct front_end *fe)
{
    char bytes[4096];

    while (recv(fe->socket, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
}

static void test_anything(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    seed = test_seed();
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        bool is_open = true;

        if (below(3) != 0)
            back_end_run(back_end, 0);
        for (unsigned n = 0; n < MESSAGES && is_open; n++) {
            if (below(4) == 0)
                scribble(fe);
            is_open = send_random(fe);
            drain(fe);
        }
        if (below(8) == 0)
            assert_int_equal(ftruncate(fe->ram_fd, 4096), 0);
        back_end_reconnect(back_end);
        if (i % 20 == 0) {
            back_end_run(back_end, 0);
            assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
            back_end_reconnect(back_end);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_anything, back_end_start_overlay, back_end_stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
