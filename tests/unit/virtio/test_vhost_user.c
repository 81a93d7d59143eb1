/* The vhost-user transport with a front end that keeps the rules: negotiation, configuration, requests,
 * and a device that goes on while its set-up changes. */
#include "back_end.h"

#include "vhost_user.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIT(n) (1ULL << (n))

static void test_what_is_offered(void **state)
{
    struct front_end *fe = &((struct back_end *)*state)->fe;
    uint64_t features = front_end_ask_u64(fe, VU_GET_FEATURES);
    uint64_t wanted = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                      BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VU_F_PROTOCOL_FEATURES) |
                      BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ);

    assert_int_equal(features & wanted, wanted);
    /* A restarted back end would not know what the driver had chosen. */
    assert_int_equal(features & BIT(VIRTIO_BLK_F_CONFIG_WCE), 0);
    assert_true(front_end_negotiate(fe, BIT(VIRTIO_BLK_F_FLUSH)));
    assert_int_equal(front_end_ask_u64(fe, VU_GET_PROTOCOL_FEATURES),
                     BIT(VU_PROTOCOL_MQ) | BIT(VU_PROTOCOL_REPLY_ACK) | BIT(VU_PROTOCOL_CONFIG) |
                         BIT(VU_PROTOCOL_INFLIGHT_SHMFD) | BIT(VU_PROTOCOL_RESET_DEVICE) |
                         BIT(VU_PROTOCOL_CONFIGURE_MEM_SLOTS));
    assert_int_equal(front_end_ask_u64(fe, VU_GET_QUEUE_NUM), BACK_END_QUEUES);
    assert_true(front_end_ask_u64(fe, VU_GET_MAX_MEM_SLOTS) >= 8);
}

static void test_configuration(void **state)
{
    struct front_end *fe = &((struct back_end *)*state)->fe;
    struct vu_config config = {.size = sizeof(struct virtio_blk_config)};
    struct virtio_blk_config blk;

    assert_true(front_end_negotiate(fe, 0));
    assert_true(front_end_ask(fe, VU_GET_CONFIG, &config, VU_CONFIG_HEADER + config.size, NULL));
    memcpy(&blk, config.bytes, sizeof(blk));
    assert_int_equal(le64toh(blk.capacity), BACK_END_SECTORS);
    assert_int_equal(le16toh(blk.num_queues), BACK_END_QUEUES);

    /* A part, and what lies behind the device's end. */
    config = (struct vu_config){.offset = 4, .size = VU_CONFIG_MAX - 4};
    memset(config.bytes, 0xff, sizeof(config.bytes));
    assert_true(front_end_ask(fe, VU_GET_CONFIG, &config, VU_CONFIG_HEADER + config.size, NULL));
    assert_memory_equal(config.bytes, (const uint8_t *)&blk + 4, sizeof(blk) - 4);
    assert_int_equal(config.bytes[VU_CONFIG_MAX - 5], 0);
}

static void test_requests(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    uint8_t bytes[512];
    int fd;

    back_end_run(back_end, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 7, 1024), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(front_end_data(fe, 0, 0)[i], i < 512 ? 7 : 8);
    memset(front_end_data(fe, 0, 0), 0xa5, 512);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_OUT, 9, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, BACK_END_SECTORS, 512),
                     VIRTIO_BLK_S_IOERR);

    fd = open(back_end->image, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, bytes, sizeof(bytes), 9 * 512), sizeof(bytes));
    close(fd);
    assert_memory_equal(bytes, front_end_data(fe, 0, 0), sizeof(bytes));
}

/* Linux goes by the number of segments that the device takes, not by the size of the ring. */
static void test_a_chain_longer_than_the_ring(void **state)
{
    enum { SEGMENTS = 254 };
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    struct vring_desc *ring = fe->rings[0].desc, *table;
    uint64_t data;

    assert_true(front_end_negotiate(fe, BIT(VIRTIO_RING_F_INDIRECT_DESC)));
    assert_true(front_end_share_memory(fe));
    assert_true(front_end_start_ring(fe, 0, 0));
    front_end_prepare(fe, 0, 0, VIRTIO_BLK_T_IN, 0, SEGMENTS * 512);
    /* In the buffer of a slot that is far from the data. */
    table = (struct vring_desc *)(void *)front_end_data(fe, 0, FRONT_END_SLOTS - 1);
    data = ring[1].addr;
    table[0] = ring[0];
    for (unsigned i = 1; i <= SEGMENTS; i++)
        table[i] = (struct vring_desc){data + (i - 1) * 512ULL, 512,
                                       VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, (uint16_t)(i + 1)};
    for (unsigned i = 0; i < SEGMENTS; i++)
        table[i].next = (uint16_t)(i + 1);
    table[SEGMENTS + 1] = ring[2];
    ring[0] = (struct vring_desc){FRONT_END_GPA + (uint64_t)((uint8_t *)table - fe->ram),
                                  (SEGMENTS + 2) * sizeof(*table), VRING_DESC_F_INDIRECT, 0};
    front_end_offer(fe, 0, 0);
    front_end_kick(fe, 0);
    assert_int_equal(front_end_wait(fe, 0), 0);
    assert_int_equal(*front_end_status(fe, 0, 0), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < SEGMENTS; i++)
        assert_int_equal(front_end_data(fe, 0, 0)[i * 512UL], (uint8_t)i);
    assert_int_equal(back_end->line_count, 0);
}

static void test_two_rings_at_once(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    back_end_run(back_end, 0);
    assert_true(front_end_start_ring(fe, 1, 0));
    for (unsigned slot = 0; slot < FRONT_END_SLOTS; slot++) {
        for (unsigned ring = 0; ring < 2; ring++) {
            front_end_prepare(fe, ring, slot, VIRTIO_BLK_T_IN, slot + 100ULL * ring, 512);
            front_end_offer(fe, ring, slot);
        }
    }
    front_end_kick(fe, 0);
    front_end_kick(fe, 1);
    for (unsigned i = 0; i < FRONT_END_SLOTS; i++) {
        for (unsigned ring = 0; ring < 2; ring++) {
            int slot = front_end_wait(fe, ring);

            assert_true(slot >= 0);
            assert_int_equal(*front_end_status(fe, ring, (unsigned)slot), VIRTIO_BLK_S_OK);
            assert_int_equal(*front_end_data(fe, ring, (unsigned)slot), slot + 100 * (int)ring);
        }
    }
}

static void test_a_message_in_pieces(void **state)
{
    struct front_end *fe = &((struct back_end *)*state)->fe;
    const struct vu_header header = {VU_GET_FEATURES, VU_VERSION, 0};
    uint64_t features;

    for (size_t i = 0; i < sizeof(header); i++)
        assert_int_equal(send(fe->socket, (const uint8_t *)&header + i, 1, 0), 1);
    assert_true(front_end_receive(fe, VU_GET_FEATURES, &features, sizeof(features), NULL));
}

/* What GET_VRING_BASE says is where the ring goes on, nothing happens in between. */
static void test_a_ring_stops_and_goes_on(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    struct vu_ring_state base = {0, 0};

    back_end_run(back_end, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, i, 512), VIRTIO_BLK_S_OK);
    assert_true(front_end_ask(fe, VU_GET_VRING_BASE, &base, sizeof(base), NULL));
    assert_int_equal(base.number, 3);
    front_end_prepare(fe, 0, 0, VIRTIO_BLK_T_IN, 33, 512);
    front_end_offer(fe, 0, 0);
    front_end_kick(fe, 0);
    assert_true(front_end_ask(fe, VU_GET_VRING_BASE, &base, sizeof(base), NULL));
    assert_int_equal(base.number, 3);
    assert_int_equal(*front_end_status(fe, 0, 0), 0xee);
    assert_true(front_end_start_ring(fe, 0, 3));
    assert_int_equal(front_end_wait(fe, 0), 0);
    assert_int_equal(*front_end_data(fe, 0, 0), 33);
}

static void test_a_disabled_ring_waits(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    back_end_run(back_end, 0);
    assert_true(front_end_tell_ring(fe, VU_SET_VRING_ENABLE, 0, 0));
    front_end_prepare(fe, 0, 0, VIRTIO_BLK_T_IN, 5, 512);
    front_end_offer(fe, 0, 0);
    front_end_kick(fe, 0);
    assert_true(front_end_tell(fe, VU_SET_OWNER, NULL, 0, NULL, 0));
    assert_int_equal(*front_end_status(fe, 0, 0), 0xee);
    assert_true(front_end_tell_ring(fe, VU_SET_VRING_ENABLE, 0, 1));
    assert_int_equal(front_end_wait(fe, 0), 0);
    assert_int_equal(*front_end_status(fe, 0, 0), VIRTIO_BLK_S_OK);
}

/* The ring's own memory goes and comes back elsewhere while the ring is started. */
static void test_memory_moves_below_a_ring(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    struct vu_one_region one = {.region = front_end_region(fe)};

    back_end_run(back_end, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
    assert_true(front_end_tell(fe, VU_REM_MEM_REG, &one, sizeof(one), NULL, 0));
    front_end_prepare(fe, 0, 0, VIRTIO_BLK_T_IN, 2, 512);
    front_end_offer(fe, 0, 0);
    front_end_kick(fe, 0);
    assert_true(front_end_tell(fe, VU_ADD_MEM_REG, &one, sizeof(one), &fe->ram_fd, 1));
    assert_int_equal(front_end_wait(fe, 0), 0);
    assert_int_equal(*front_end_data(fe, 0, 0), 2);
    assert_true(front_end_share_memory(fe));
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 3, 512), VIRTIO_BLK_S_OK);
}

/* A new descriptor for interrupts is told at once: the old one may have had the last one. */
static void test_a_new_call_is_signalled(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    struct pollfd pfd;
    const uint64_t ring = 0, polling = VU_RING_NO_FD;
    uint64_t count;

    back_end_run(back_end, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
    assert_true(front_end_tell(fe, VU_SET_VRING_CALL, &polling, sizeof(polling), NULL, 0));
    (void)!read(fe->rings[0].call, &count, sizeof(count));
    assert_true(front_end_tell(fe, VU_SET_VRING_CALL, &ring, sizeof(ring), &fe->rings[0].call, 1));
    pfd = (struct pollfd){.fd = fe->rings[0].call, .events = POLLIN};
    assert_int_equal(poll(&pfd, 1, FRONT_END_TIMEOUT_MS), 1);
}

static void test_a_reset_begins_anew(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    back_end_run(back_end, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
    assert_true(front_end_tell(fe, VU_RESET_DEVICE, NULL, 0, NULL, 0));
    assert_true(front_end_start_ring(fe, 0, 1));
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 2, 512), VIRTIO_BLK_S_OK);
}

static void test_one_front_end_after_the_other(void **state)
{
    struct back_end *back_end = *state;

    for (unsigned i = 0; i < 3; i++) {
        back_end_run(back_end, 0);
        assert_int_equal(front_end_request(&back_end->fe, 0, VIRTIO_BLK_T_IN, i, 512),
                         VIRTIO_BLK_S_OK);
        back_end_reconnect(back_end);
    }
    assert_int_equal(back_end->line_count, 0);
}

/* A guest that lives on: its ring goes on where the used ring is. */
static void test_the_same_guest_comes_back(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    back_end_run(back_end, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
    back_end_reconnect_guest(back_end);
    back_end_run(back_end, 1);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 2, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(*front_end_data(fe, 0, 0), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, back_end_start, back_end_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_offered),
        TEST(test_configuration),
        TEST(test_requests),
        TEST(test_a_chain_longer_than_the_ring),
        TEST(test_two_rings_at_once),
        TEST(test_a_message_in_pieces),
        TEST(test_a_ring_stops_and_goes_on),
        TEST(test_a_disabled_ring_waits),
        TEST(test_memory_moves_below_a_ring),
        TEST(test_a_new_call_is_signalled),
        TEST(test_a_reset_begins_anew),
        TEST(test_one_front_end_after_the_other),
        TEST(test_the_same_guest_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
