/*
 * Split rings: good chains, every malformed one, event indices, and no lost wake-up between two
 * threads.
 */
#include "harness.h"

#include "virtqueue.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>

#define INDIRECT  (1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT_IDX (1ULL << VIRTIO_RING_F_EVENT_IDX)

enum { NEXT = VRING_DESC_F_NEXT, WRITE = VRING_DESC_F_WRITE, INDIR = VRING_DESC_F_INDIRECT };
enum { SIZE = 8 };

/* Bytes of the rings. */
#define DESC_SIZE  (16ULL * SIZE)
#define AVAIL_SIZE (6 + 2ULL * SIZE)
#define USED_SIZE  (6 + 8ULL * SIZE)

struct fixture {
    struct guest guest;
    struct ring ring;
    struct virtqueue vq;
    struct iovec iov[SIZE];
    struct virtqueue_chain chain;
};

static void start(struct fixture *f, uint64_t features)
{
    guest_init(&f->guest);
    ring_layout(&f->guest, &f->ring, SIZE, features & EVENT_IDX);
    ring_attach(&f->guest, &f->ring, &f->vq, features);
    f->chain.iov = f->iov;
}

static void stop(struct fixture *f)
{
    virtqueue_destroy(&f->vq);
    guest_destroy(&f->guest);
}

static int take_chain(struct fixture *f)
{
    uint16_t head;
    int ret = virtqueue_take(&f->vq, &head);

    if (ret <= 0)
        return ret;
    ret = virtqueue_read_chain(&f->vq, head, &f->chain);
    return ret < 0 ? ret : 1;
}

static void test_direct_chain_is_read_in_order(void **state)
{
    struct fixture f;
    uint64_t gpa = HARNESS_RAM_GPA + 0x100000;

    (void)state;
    start(&f, 0);
    assert_int_equal(take_chain(&f), 0);
    ring_desc(&f.ring, 5, gpa, 16, NEXT, 2);
    ring_desc(&f.ring, 2, gpa + 0x1000, 512, NEXT | WRITE, 7);
    ring_desc(&f.ring, 7, gpa + 0x2000, 1, WRITE, 0xffff);
    ring_add(&f.ring, 5);
    ring_publish(&f.ring);
    assert_int_equal(take_chain(&f), 1);
    assert_int_equal(f.chain.head, 5);
    assert_int_equal(f.chain.readable, 1);
    assert_int_equal(f.chain.writable, 2);
    assert_int_equal(f.chain.readable_bytes, 16);
    assert_int_equal(f.chain.writable_bytes, 513);
    assert_ptr_equal(f.iov[0].iov_base, guest_ptr(&f.guest, gpa));
    assert_ptr_equal(f.iov[2].iov_base, guest_ptr(&f.guest, gpa + 0x2000));
    assert_int_equal(take_chain(&f), 0);
    stop(&f);
}

static void test_indirect_table_behind_direct_descriptors(void **state)
{
    struct fixture f;
    uint64_t gpa = HARNESS_RAM_GPA + 0x100000, table_gpa;
    struct vring_desc *table;

    (void)state;
    start(&f, INDIRECT);
    /* Odd address: only the ring's own table has to be aligned. */
    table_gpa = guest_alloc(&f.guest, 64 * sizeof(*table) + 1, 16) + 1;
    table = guest_ptr(&f.guest, table_gpa);
    struct vring_desc first = {.addr = gpa + 16, .len = 512, .flags = NEXT, .next = 63};
    struct vring_desc second = {.addr = gpa + 1024, .len = 1, .flags = WRITE};

    memcpy(&table[0], &first, sizeof(first));
    memcpy(&table[63], &second, sizeof(second));
    ring_desc(&f.ring, 0, gpa, 16, NEXT, 1);
    /* The device ignores WRITE on the descriptor of a table. */
    ring_desc(&f.ring, 1, table_gpa, 64 * sizeof(*table), INDIR | WRITE, 0);
    ring_add(&f.ring, 0);
    ring_publish(&f.ring);
    assert_int_equal(take_chain(&f), 1);
    assert_int_equal(f.chain.readable, 2);
    assert_int_equal(f.chain.writable, 1);
    assert_int_equal(f.chain.readable_bytes, 528);
    stop(&f);
}

/* ---- malformed chains ---- */

struct bad_chain {
    const char *name;
    uint64_t features;
    uint16_t heads; /* chains made available, all with head `head` */
    uint16_t head;
    struct vring_desc ring[SIZE];
    struct vring_desc table[SIZE + 2]; /* at TABLE */
};

#define RAM   ((uint64_t)HARNESS_RAM_GPA)
#define END   ((uint64_t)HARNESS_RAM_GPA + HARNESS_RAM_SIZE)
#define TABLE (RAM + 0x200000)

static const struct bad_chain bad_chains[] = {
    {"head out of range", 0, 1, SIZE, {{0}}, {{0}}},
    {"head far out of range", 0, 1, 0xffff, {{0}}, {{0}}},
    {"avail index beyond the queue", 0, SIZE + 1, 0, {{RAM, 1, 0, 0}}, {{0}}},
    {"avail index far beyond the queue", 0, 0xffff, 0, {{RAM, 1, 0, 0}}, {{0}}},
    {"descriptor that is its own next", 0, 1, 0, {{RAM, 1, NEXT, 0}}, {{0}}},
    {"loop of two", 0, 1, 0, {{RAM, 1, NEXT, 1}, {RAM, 1, NEXT, 0}}, {{0}}},
    {"next out of range", 0, 1, 0, {{RAM, 1, NEXT, SIZE}}, {{0}}},
    {"next far out of range", 0, 1, 0, {{RAM, 1, NEXT, 0xffff}}, {{0}}},
    {"length zero", 0, 1, 0, {{RAM, 0, 0, 0}}, {{0}}},
    {"length zero, later", 0, 1, 0, {{RAM, 1, NEXT, 1}, {RAM, 0, WRITE, 0}}, {{0}}},
    {"address below RAM", 0, 1, 0, {{RAM - 1, 2, 0, 0}}, {{0}}},
    {"address zero", 0, 1, 0, {{0, 16, 0, 0}}, {{0}}},
    {"buffer across the end of RAM", 0, 1, 0, {{END - 1, 2, 0, 0}}, {{0}}},
    {"buffer behind RAM", 0, 1, 0, {{END, 1, 0, 0}}, {{0}}},
    {"buffer that wraps", 0, 1, 0, {{UINT64_MAX - 1, 0xffffffff, 0, 0}}, {{0}}},
    {"longer than RAM", 0, 1, 0, {{RAM, 0xffffffff, 0, 0}}, {{0}}},
    {"readable behind writable", 0, 1, 0, {{RAM, 1, NEXT | WRITE, 1}, {RAM, 1, 0, 0}}, {{0}}},
    {"indirect without the feature", 0, 1, 0, {{TABLE, 16, INDIR, 0}}, {{RAM, 1, 0, 0}}},
    {"indirect with next", INDIRECT, 1, 0, {{TABLE, 16, INDIR | NEXT, 1}}, {{RAM, 1, 0, 0}}},
    {"indirect in indirect", INDIRECT, 1, 0, {{TABLE, 16, INDIR, 0}}, {{TABLE, 16, INDIR, 0}}},
    {"empty indirect table", INDIRECT, 1, 0, {{TABLE, 0, INDIR, 0}}, {{RAM, 1, 0, 0}}},
    {"ragged indirect table", INDIRECT, 1, 0, {{TABLE, 17, INDIR, 0}}, {{RAM, 1, 0, 0}}},
    {"short indirect table", INDIRECT, 1, 0, {{TABLE, 15, INDIR, 0}}, {{RAM, 1, 0, 0}}},
    {"indirect table outside RAM", INDIRECT, 1, 0, {{END, 16, INDIR, 0}}, {{0}}},
    {"indirect table across the end", INDIRECT, 1, 0, {{END - 16, 32, INDIR, 0}}, {{0}}},
    {"indirect next out of range",
     INDIRECT,
     1,
     0,
     {{TABLE, 16, INDIR, 0}},
     {{RAM, 1, NEXT, 1}, {RAM, 1, 0, 0}}},
    {"indirect loop",
     INDIRECT,
     1,
     0,
     {{TABLE, 32, INDIR, 0}},
     {{RAM, 1, NEXT, 1}, {RAM, 1, NEXT, 0}}},
    {"indirect zero length", INDIRECT, 1, 0, {{TABLE, 16, INDIR, 0}}, {{RAM, 0, 0, 0}}},
    {"indirect chain longer than the queue",
     INDIRECT,
     1,
     0,
     {{TABLE, 16 * (SIZE + 1), INDIR, 0}},
     {{RAM, 1, NEXT, 1},
      {RAM, 1, NEXT, 2},
      {RAM, 1, NEXT, 3},
      {RAM, 1, NEXT, 4},
      {RAM, 1, NEXT, 5},
      {RAM, 1, NEXT, 6},
      {RAM, 1, NEXT, 7},
      {RAM, 1, NEXT, 8},
      {RAM, 1, 0, 0}}},
    {"indirect and direct together longer than the queue",
     INDIRECT,
     1,
     0,
     {{RAM, 1, NEXT, 1}, {TABLE, 16 * SIZE, INDIR, 0}},
     {{RAM, 1, NEXT, 1},
      {RAM, 1, NEXT, 2},
      {RAM, 1, NEXT, 3},
      {RAM, 1, NEXT, 4},
      {RAM, 1, NEXT, 5},
      {RAM, 1, NEXT, 6},
      {RAM, 1, NEXT, 7},
      {RAM, 1, 0, 0}}},
};

static void test_malformed_chains_break_the_queue(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_chains) / sizeof(bad_chains[0]); i++) {
        const struct bad_chain *bad = &bad_chains[i];
        struct fixture f;

        start(&f, bad->features);
        memcpy(f.ring.desc, bad->ring, sizeof(bad->ring));
        ring_desc(&f.ring, SIZE, RAM, 1, 0, 0); /* fine, but behind the table */
        memcpy(guest_ptr(&f.guest, TABLE), bad->table, sizeof(bad->table));
        for (unsigned n = 0; n < bad->heads; n++)
            ring_add(&f.ring, bad->head);
        ring_publish(&f.ring);
        if (take_chain(&f) != -EPROTO)
            fail_msg("%s: accepted", bad->name);
        /* Nothing is taken any more, not even what would be fine. */
        ring_desc(&f.ring, 0, RAM, 1, 0, 0);
        assert_int_equal(take_chain(&f), -EPROTO);
        /* What was taken before can still be given back. */
        virtqueue_push(&f.vq, 0, 0);
        virtqueue_publish(&f.vq);
        stop(&f);
    }
}

static void test_avail_index_going_backwards_breaks_the_queue(void **state)
{
    struct fixture f;

    (void)state;
    start(&f, 0);
    ring_desc(&f.ring, 0, RAM, 1, 0, 0);
    ring_add(&f.ring, 0);
    ring_publish(&f.ring);
    assert_int_equal(take_chain(&f), 1);
    f.ring.avail->idx = 0;
    assert_int_equal(take_chain(&f), -EPROTO);
    stop(&f);
}

static void test_chain_of_more_than_4_gib_is_refused(void **state)
{
    struct fixture f;
    struct guestmem mem = {0};
    /* Only addresses are looked at: nothing is touched. */
    void *host = (void *)(uintptr_t)0x10000;

    (void)state;
    start(&f, 0);
    assert_int_equal(guestmem_add(&mem, 1ULL << 33, 1ULL << 33, host), 0);
    f.vq.mem = &mem;
    ring_desc(&f.ring, 0, 1ULL << 33, 0xffffffff, NEXT, 1);
    ring_desc(&f.ring, 1, 1ULL << 33, 1, 0, 0);
    ring_add(&f.ring, 0);
    ring_publish(&f.ring);
    assert_int_equal(take_chain(&f), 1); /* 2^32 exactly */
    ring_desc(&f.ring, 1, 1ULL << 33, 2, 0, 0);
    ring_add(&f.ring, 0);
    ring_publish(&f.ring);
    assert_int_equal(take_chain(&f), -EPROTO);
    stop(&f);
}

static void test_longest_chain_is_taken(void **state)
{
    struct fixture f;

    (void)state;
    start(&f, 0);
    for (unsigned i = 0; i < SIZE; i++)
        ring_desc(&f.ring, i, RAM, 1, i < SIZE - 1 ? NEXT : 0, (uint16_t)(i + 1));
    ring_add(&f.ring, 0);
    ring_publish(&f.ring);
    assert_int_equal(take_chain(&f), 1);
    assert_int_equal(f.chain.readable, SIZE);
    stop(&f);
}

static void test_rings_must_be_aligned_and_in_ram(void **state)
{
    struct guest guest;
    struct virtqueue vq;
    struct {
        uint64_t desc, avail, used;
        int expected;
    } cases[] = {
        {RAM, RAM + 0x1000, RAM + 0x2000, 0},
        {RAM + 8, RAM + 0x1000, RAM + 0x2000, -EINVAL},
        {RAM, RAM + 0x1001, RAM + 0x2000, -EINVAL},
        {RAM, RAM + 0x1000, RAM + 0x2002, -EINVAL},
        {0, RAM + 0x1000, RAM + 0x2000, -EFAULT},
        {RAM, 0, RAM + 0x2000, -EFAULT},
        {RAM, RAM + 0x1000, 0, -EFAULT},
        {END - DESC_SIZE, RAM + 0x1000, RAM + 0x2000, 0},
        {END - DESC_SIZE + 16, RAM + 0x1000, RAM + 0x2000, -EFAULT},
        {RAM, END - AVAIL_SIZE, RAM + 0x2000, 0},
        {RAM, END - AVAIL_SIZE + 2, RAM + 0x2000, -EFAULT},
        {RAM, RAM + 0x1000, END - USED_SIZE - 2, 0},
        {RAM, RAM + 0x1000, END - USED_SIZE + 2, -EFAULT},
        {UINT64_MAX - 15, RAM + 0x1000, RAM + 0x2000, -EFAULT},
    };

    (void)state;
    guest_init(&guest);
    assert_int_equal(virtqueue_init(&vq, SIZE), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vq.desc_gpa = cases[i].desc;
        vq.avail_gpa = cases[i].avail;
        vq.used_gpa = cases[i].used;
        assert_int_equal(virtqueue_start(&vq, &guest.mem, 0), cases[i].expected);
    }
    virtqueue_destroy(&vq);
    guest_destroy(&guest);
}

/* ---- notifications ---- */

static void test_index_passed_at_every_wrap(void **state)
{
    (void)state;
    /* The driver's own formula, from the specification's text: event in [old, now). */
    for (uint32_t base = 0; base < 0x10000; base += 0xff) {
        for (uint16_t step = 0; step < 20; step++) {
            uint16_t old = (uint16_t)base, now = (uint16_t)(old + step);

            for (int d = -3; d < 24; d++) {
                uint16_t event = (uint16_t)(old + d);
                bool within = d >= 0 && d < step;

                assert_int_equal(virtqueue_index_passed(event, now, old), within);
            }
        }
    }
}

static void test_interrupt_follows_used_event_through_the_wrap(void **state)
{
    struct fixture f;
    uint64_t seed = test_seed();

    (void)state;
    start(&f, EVENT_IDX);
    f.vq.next_used = f.vq.used_published = 0xfff0;
    for (unsigned round = 0; round < 40000; round++) {
        uint16_t old = f.vq.next_used, batch = (uint16_t)(1 + test_random(&seed) % SIZE);
        uint16_t ahead = (uint16_t)(test_random(&seed) % (2ULL * SIZE));

        ring_set_used_event(&f.ring, (uint16_t)(old + ahead));
        for (unsigned i = 0; i < batch; i++)
            virtqueue_push(&f.vq, 0, 0);
        assert_int_equal(virtqueue_publish(&f.vq), ahead < batch);
        assert_int_equal(f.ring.used->idx, (uint16_t)(old + batch));
    }
    /* Nothing new: no interrupt, whatever the event index says. */
    ring_set_used_event(&f.ring, (uint16_t)(f.vq.next_used - 1));
    assert_false(virtqueue_publish(&f.vq));
    stop(&f);
}

static void test_no_interrupt_flag(void **state)
{
    struct fixture f;

    (void)state;
    start(&f, 0);
    virtqueue_push(&f.vq, 3, 77);
    assert_int_equal(f.ring.used->idx, 0);
    assert_true(virtqueue_publish(&f.vq));
    assert_int_equal(f.ring.used->idx, 1);
    assert_int_equal(f.ring.used->ring[0].id, 3);
    assert_int_equal(f.ring.used->ring[0].len, 77);
    ring_set_no_interrupt(&f.ring, true);
    virtqueue_push(&f.vq, 3, 77);
    assert_false(virtqueue_publish(&f.vq));
    stop(&f);
}

static void test_notification_is_suppressed_and_enabled(void **state)
{
    (void)state;
    for (int event_idx = 0; event_idx < 2; event_idx++) {
        struct fixture f;

        start(&f, event_idx ? EVENT_IDX : 0);
        ring_desc(&f.ring, 0, RAM, 1, 0, 0);
        assert_false(virtqueue_notify_enable(&f.vq));
        ring_add(&f.ring, 0);
        assert_true(ring_publish(&f.ring));
        virtqueue_notify_disable(&f.vq);
        assert_int_equal(take_chain(&f), 1);
        ring_add(&f.ring, 0);
        assert_false(ring_publish(&f.ring));         /* suppressed */
        assert_true(virtqueue_notify_enable(&f.vq)); /* but seen */
        assert_int_equal(take_chain(&f), 1);
        assert_false(virtqueue_notify_enable(&f.vq));
        ring_add(&f.ring, 0);
        assert_true(ring_publish(&f.ring));
        stop(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_direct_chain_is_read_in_order),
        cmocka_unit_test(test_indirect_table_behind_direct_descriptors),
        cmocka_unit_test(test_malformed_chains_break_the_queue),
        cmocka_unit_test(test_avail_index_going_backwards_breaks_the_queue),
        cmocka_unit_test(test_chain_of_more_than_4_gib_is_refused),
        cmocka_unit_test(test_longest_chain_is_taken),
        cmocka_unit_test(test_rings_must_be_aligned_and_in_ram),
        cmocka_unit_test(test_index_passed_at_every_wrap),
        cmocka_unit_test(test_interrupt_follows_used_event_through_the_wrap),
        cmocka_unit_test(test_no_interrupt_flag),
        cmocka_unit_test(test_notification_is_suppressed_and_enabled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
