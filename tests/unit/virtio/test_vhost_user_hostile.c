/* Front ends and drivers that break the rules: each loses its connection, with one line, and the next
 * one is served. */
#include "back_end.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RING = 1, MEMORY = 2, NEGOTIATED = 4, STARTED = 8 }; /* what is set up before */

struct message {
    const char *line; /* what is said about it */
    unsigned before;
    uint32_t request, size;
    union vu_payload payload;
    unsigned fds; /* of guest memory */
    uint32_t flags;
};

#define STATE(i, n) .size = sizeof(struct vu_ring_state), .payload.state = {(i), (n)}
#define U64(v)      .size = sizeof(uint64_t), .payload.u64 = (v)

static const struct message messages[] = {
    {"there is no such message", 0, 77, .size = 0},
    {"there is no such message", 0, VU_REQUESTS, .size = 0},
    {"there is no such message", 0, 0xffffffff, .size = 0},
    {"there is no such message", 0, 6, U64(0)},
    {"flags", 0, VU_GET_FEATURES, .size = 0, .flags = VU_FLAG_REPLY},
    {"flags", 0, VU_GET_FEATURES, .size = 0, .flags = 2},
    {"too long", 0, VU_GET_FEATURES, .size = sizeof(union vu_payload) + 1},
    {"too long", 0, VU_SET_MEM_TABLE, .size = 0xffffffff},
    {"GET_FEATURES: the message is 8 bytes long", 0, VU_GET_FEATURES, U64(0)},
    {"SET_FEATURES: the message is 0 bytes long", 0, VU_SET_FEATURES, .size = 0},
    {"more than 8 descriptors", 0, VU_GET_FEATURES, .size = 0, .fds = 9},
    {"more than 8 descriptors", 0, VU_GET_FEATURES, .size = 0, .fds = 60},
    {"it came with 1 descriptors", 0, VU_GET_FEATURES, .size = 0, .fds = 1},
    {"were not offered", 0, VU_SET_FEATURES, U64(1ULL << 63)},
    {"were not offered", 0, VU_SET_PROTOCOL_FEATURES, U64(1ULL << 1)},
    {"it was not negotiated", 0, VU_GET_QUEUE_NUM, .size = 0},
    {"it was not negotiated", 0, VU_GET_CONFIG, .size = 13, .payload.config = {0, 1, 0, {0}}},
    {"it was not negotiated", 0, VU_RESET_DEVICE, .size = 0},

    {"no part of the configuration", NEGOTIATED, VU_GET_CONFIG, .size = 12},
    {"no part of the configuration", NEGOTIATED, VU_GET_CONFIG, .size = 11},
    {"no part of the configuration", NEGOTIATED, VU_GET_CONFIG, .size = 16,
     .payload.config = {0, 5, 0, {0}}},
    {"no part of the configuration", NEGOTIATED, VU_GET_CONFIG, .size = 13,
     .payload.config = {256, 1, 0, {0}}},
    {"no part of the configuration", NEGOTIATED, VU_GET_CONFIG, .size = 13,
     .payload.config = {0xffffffff, .size = 1, 0, {0}}},
    {"no part of the configuration", NEGOTIATED, VU_SET_CONFIG, .size = 16,
     .payload.config = {0xfffffffe, 4, 0, {0}}},

    {"no table of memory", NEGOTIATED, VU_SET_MEM_TABLE, .size = 0, .fds = 1},
    {"no table of memory", NEGOTIATED, VU_SET_MEM_TABLE, .size = 8, .fds = 1},
    {"no table of memory", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40, .payload.memory = {.count = 1},
     .fds = 2},
    {"no table of memory", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40, .payload.memory = {.count = 2},
     .fds = 1},
    {"no table of memory", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40, .payload.memory = {.count = 9},
     .fds = 8},
    {"no table of memory", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40,
     .payload.memory = {.count = 0x8000001}, .fds = 1},
    {"cannot be", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40,
     .payload.memory = {.count = 1, .regions = {{0, 0, 0, 0}}}, .fds = 1},
    {"cannot be", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40,
     .payload.memory = {.count = 1, .regions = {{0, 0x1000, 0, UINT64_MAX - 0xfff}}}, .fds = 1},
    {"ends behind its file", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40,
     .payload.memory = {.count = 1, .regions = {{0, FRONT_END_RAM, 0, 1}}}, .fds = 1},
    {"has no end", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40,
     .payload.memory = {.count = 1, .regions = {{0, 0x2000, UINT64_MAX - 0xfff, 0}}}, .fds = 1},
    {"has no end", NEGOTIATED, VU_SET_MEM_TABLE, .size = 40,
     .payload.memory = {.count = 1, .regions = {{UINT64_MAX - 0xfff, 0x2000, 0, 0}}}, .fds = 1},
    {"overlap", NEGOTIATED, VU_SET_MEM_TABLE, .size = 72,
     .payload.memory = {.count = 2, .regions = {{0, 0x2000, 0, 0}, {0x4000, 0x2000, 0x1000, 0}}},
     .fds = 2},
    {"overlap", NEGOTIATED, VU_SET_MEM_TABLE, .size = 72,
     .payload.memory = {.count = 2, .regions = {{0, 0x2000, 0, 0}, {0x1000, 0x2000, 0x4000, 0}}},
     .fds = 2},
    {"there is no region", NEGOTIATED | MEMORY, VU_REM_MEM_REG, .size = 40,
     .payload.one_region = {0, {1, 2, 3, 4}}},
    {"overlap", NEGOTIATED | MEMORY, VU_ADD_MEM_REG, .size = 40,
     .payload.one_region = {0, {FRONT_END_GPA, 0x1000, 1, 0}}, .fds = 1},

    {"there is no ring 2", NEGOTIATED, VU_SET_VRING_NUM, STATE(2, 64)},
    {"there is no ring 4294967295", NEGOTIATED, VU_SET_VRING_NUM, STATE(0xffffffff, 64)},
    {"cannot have 0 descriptors", NEGOTIATED, VU_SET_VRING_NUM, STATE(0, 0)},
    {"cannot have 48 descriptors", NEGOTIATED, VU_SET_VRING_NUM, STATE(0, 48)},
    {"cannot have 512 descriptors", NEGOTIATED, VU_SET_VRING_NUM, STATE(0, 512)},
    {"cannot have 65600 descriptors", NEGOTIATED, VU_SET_VRING_NUM, STATE(0, 65600)},
    {"cannot begin at 65536", NEGOTIATED, VU_SET_VRING_BASE, STATE(1, 65536)},
    {"there is no ring 2", NEGOTIATED, VU_GET_VRING_BASE, STATE(2, 0)},
    {"there is no ring 2", NEGOTIATED, VU_SET_VRING_ENABLE, STATE(2, 1)},
    {"cannot be enabled by 2", NEGOTIATED, VU_SET_VRING_ENABLE, STATE(0, 2)},
    {"does not lie in guest memory", NEGOTIATED, VU_SET_VRING_ADDR, .size = 40,
     .payload.address = {.index = 0}},
    {"there is no ring 2", NEGOTIATED, VU_SET_VRING_ADDR, .size = 40,
     .payload.address = {.index = 2}},
    {"not logged", NEGOTIATED, VU_SET_VRING_ADDR, .size = 40, .payload.address = {.flags = 1}},
    {"there is no ring 2", NEGOTIATED, VU_SET_VRING_KICK, U64(2), .fds = 1},
    {"descriptors came", NEGOTIATED, VU_SET_VRING_KICK, U64(0), .fds = 0},
    {"descriptors came", NEGOTIATED, VU_SET_VRING_CALL, U64(VU_RING_NO_FD), .fds = 1},
    {"descriptors came", NEGOTIATED, VU_SET_VRING_ERR, U64(0x200), .fds = 1},
    {"no polling", NEGOTIATED, VU_SET_VRING_KICK, U64(VU_RING_NO_FD)},
    {"cannot be waited for", NEGOTIATED | MEMORY | RING, VU_SET_VRING_KICK, U64(0), .fds = 1},

    {"has been started", NEGOTIATED | MEMORY | STARTED, VU_SET_VRING_NUM, STATE(0, 64)},
    {"has been started", NEGOTIATED | MEMORY | STARTED, VU_SET_VRING_BASE, STATE(0, 0)},
    {"cannot change", NEGOTIATED | MEMORY | STARTED, VU_SET_FEATURES, U64(0)},
    {"has been started", NEGOTIATED | MEMORY | STARTED, VU_SET_INFLIGHT_FD, .size = 24,
     .payload.inflight = {4096, 0, 1, 128, 0}, .fds = 1},

    {"there are no 3 rings", NEGOTIATED, VU_GET_INFLIGHT_FD, .size = 24,
     .payload.inflight = {0, 0, 3, 128, 0}},
    {"there are no 0 rings", NEGOTIATED, VU_GET_INFLIGHT_FD, .size = 20,
     .payload.inflight = {0, 0, 0, 128, 0}},
    {"1 rings of 65535", NEGOTIATED, VU_GET_INFLIGHT_FD, .size = 20,
     .payload.inflight = {0, 0, 1, 65535, 0}},
    {"21 bytes long", NEGOTIATED, VU_GET_INFLIGHT_FD, .size = 21,
     .payload.inflight = {0, 0, 1, 128, 0}},
    {"too few", NEGOTIATED, VU_SET_INFLIGHT_FD, .size = 24,
     .payload.inflight = {2048, 0, 1, 128, 0}, .fds = 1},
    {"too few", NEGOTIATED, VU_SET_INFLIGHT_FD, .size = 24,
     .payload.inflight = {4096, 8, 1, 128, 0}, .fds = 1},
    {"ends behind its file", NEGOTIATED, VU_SET_INFLIGHT_FD, .size = 24,
     .payload.inflight = {UINT64_MAX / 4, 0, 1, 128, 0}, .fds = 1},
    {"cannot be", NEGOTIATED, VU_SET_INFLIGHT_FD, .size = 24,
     .payload.inflight = {UINT64_MAX, 64, 1, 128, 0}, .fds = 1},
    {"it came with 0 descriptors", NEGOTIATED, VU_SET_INFLIGHT_FD, .size = 24,
     .payload.inflight = {4096, 0, 1, 128, 0}},
};

/* A negotiation without acknowledgements, so that what is wrong ends the connection. */
static void negotiate_silently(struct front_end *fe)
{
    uint64_t features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VU_F_PROTOCOL_FEATURES;
    uint64_t protocol = front_end_ask_u64(fe, VU_GET_PROTOCOL_FEATURES);

    protocol &= ~(1ULL << VU_PROTOCOL_REPLY_ACK);
    assert_true(front_end_send(fe, VU_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0));
    assert_true(front_end_send(fe, VU_SET_FEATURES, 0, &features, 8, NULL, 0));
}

static void set_up_ring(struct front_end *fe, bool start)
{
    const struct vu_ring_state size = {0, FRONT_END_RING_SIZE}, on = {0, 1};
    const struct vu_ring_address address = front_end_ring_address(fe, 0);
    const uint64_t ring = 0;

    assert_true(front_end_send(fe, VU_SET_VRING_NUM, 0, &size, sizeof(size), NULL, 0));
    assert_true(front_end_send(fe, VU_SET_VRING_ADDR, 0, &address, sizeof(address), NULL, 0));
    assert_true(front_end_send(fe, VU_SET_VRING_ENABLE, 0, &on, sizeof(on), NULL, 0));
    if (start)
        assert_true(front_end_send(fe, VU_SET_VRING_KICK, 0, &ring, 8, &fe->rings[0].kick, 1));
}

static void test_messages(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        const struct message *m = &messages[i];
        const struct vu_memory table = {.count = 1, .regions = {front_end_region(fe)}};
        int fds[64];

        if (m->before & NEGOTIATED)
            negotiate_silently(fe);
        if (m->before & MEMORY)
            assert_true(front_end_send(fe, VU_SET_MEM_TABLE, 0, &table, 40, &fe->ram_fd, 1));
        if (m->before & (RING | STARTED))
            set_up_ring(fe, m->before & STARTED);
        for (unsigned n = 0; n < m->fds; n++)
            fds[n] = fe->ram_fd;
        assert_true(front_end_send(fe, m->request, m->flags,
                                   m->size <= sizeof(m->payload) ? &m->payload : NULL, m->size, fds,
                                   m->fds));
        back_end_assert_refused(back_end, m->line);
        back_end_reconnect(back_end);
    }
    back_end_run(back_end, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
}

/* Who asks gets an answer instead, and may go on. */
static void test_an_acknowledged_refusal(void **state)
{
    struct back_end *back_end = *state;

    back_end_run(back_end, 0);
    assert_false(front_end_tell_ring(&back_end->fe, VU_SET_VRING_NUM, 9, 64));
    back_end_assert_line(back_end, "SET_VRING_NUM: there is no ring 9");
    assert_int_equal(front_end_request(&back_end->fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
}

static void test_a_connection_that_ends_within_a_message(void **state)
{
    struct back_end *back_end = *state;
    const struct vu_header header = {VU_SET_FEATURES, VU_VERSION, 8};

    assert_int_equal(send(back_end->fe.socket, &header, sizeof(header), 0), sizeof(header));
    assert_int_equal(shutdown(back_end->fe.socket, SHUT_WR), 0);
    back_end_assert_refused(back_end, "ended within a message");
    back_end_reconnect(back_end);
}

static void test_descriptors_in_the_middle_of_a_message(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    const struct vu_header header = {VU_SET_FEATURES, VU_VERSION, 20};

    assert_int_equal(send(fe->socket, &header, sizeof(header), 0), sizeof(header));
    assert_true(front_end_send(fe, 0, 0, NULL, 0, &fe->ram_fd, 1));
    back_end_assert_refused(back_end, "in the middle of a message");
    back_end_reconnect(back_end);
}

static void test_a_front_end_that_does_not_read(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    assert_int_equal(fcntl(fe->socket, F_SETFL, O_NONBLOCK), 0);
    for (;;) {
        struct pollfd pfd = {.fd = fe->socket, .events = POLLOUT};

        if (!front_end_send(fe, VU_GET_FEATURES, 0, NULL, 0, NULL, 0) &&
            (errno != EAGAIN || poll(&pfd, 1, FRONT_END_TIMEOUT_MS) != 1))
            break;
    }
    back_end_reconnect(back_end);
    back_end_assert_line(back_end, "cannot answer");
}

/* The file behind guest memory becomes shorter while a ring runs in it. */
static void test_memory_that_is_taken_away(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    const uint64_t one = 1;

    back_end_run(back_end, 0);
    assert_int_equal(ftruncate(fe->ram_fd, 0), 0);
    assert_int_equal(write(fe->rings[0].kick, &one, sizeof(one)), sizeof(one));
    back_end_assert_refused(back_end, "took away memory");
    back_end_reconnect(back_end);
    back_end_run(back_end, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
}

/* A driver's fault: the front end is told, and the connection stays for the reset that follows. */
static void test_a_driver_that_breaks_a_rule(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    int error = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct pollfd pfd = {.fd = error, .events = POLLIN};
    struct vu_ring_state base = {0, 0};
    const uint64_t ring = 0;

    back_end_run(back_end, 0);
    assert_true(front_end_tell(fe, VU_SET_VRING_ERR, &ring, sizeof(ring), &error, 1));
    fe->rings[0].avail->ring[0] = 0xffff;
    fe->rings[0].avail->idx = 1;
    front_end_kick(fe, 0);
    assert_int_equal(poll(&pfd, 1, FRONT_END_TIMEOUT_MS), 1);
    assert_true(front_end_ask(fe, VU_GET_VRING_BASE, &base, sizeof(base), NULL));
    assert_true(front_end_tell(fe, VU_SET_OWNER, NULL, 0, NULL, 0));
    back_end_assert_line(back_end, "the driver broke a rule");
    fe->rings[0].avail->idx = 0;
    assert_true(front_end_start_ring(fe, 0, 0));
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 1, 512), VIRTIO_BLK_S_OK);
    close(error);
}

/* Interrupts into a pipe that is full, or that nobody reads any more: nobody waits for them. */
static void test_a_call_that_takes_nothing(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    const uint64_t ring = 0;
    struct vu_ring_state base = {0, 0};
    int pipe_fds[2];

    back_end_run(back_end, 0);
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
    while (write(pipe_fds[1], &ring, sizeof(ring)) > 0)
        ;
    assert_true(front_end_tell(fe, VU_SET_VRING_CALL, &ring, sizeof(ring), &pipe_fds[1], 1));
    for (unsigned slot = 0; slot < FRONT_END_SLOTS; slot++) {
        front_end_prepare(fe, 0, slot, VIRTIO_BLK_T_IN, slot, 512);
        front_end_offer(fe, 0, slot);
    }
    if (fcntl(pipe_fds[0], F_GETFD) >= 0)
        close(pipe_fds[0]);
    front_end_kick(fe, 0);
    assert_true(front_end_ask(fe, VU_GET_VRING_BASE, &base, sizeof(base), NULL));
    close(pipe_fds[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, back_end_start, back_end_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_messages),
        TEST(test_an_acknowledged_refusal),
        TEST(test_a_connection_that_ends_within_a_message),
        TEST(test_descriptors_in_the_middle_of_a_message),
        TEST(test_a_front_end_that_does_not_read),
        TEST(test_memory_that_is_taken_away),
        TEST(test_a_driver_that_breaks_a_rule),
        TEST(test_a_call_that_takes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
