/*
 * The life of a block device: drivers that break its rules, reset and pause with requests in flight,
 * and many queues at once.
 */
#include "disk.h"

#include <string.h>

/* ---- a driver that breaks rules ---- */

static void expect_needs_reset(struct disk *disk, const char *name)
{
    uint32_t id, len;

    fake_host_wait_interrupt(&disk->guest.host, HARNESS_MSI_DATA);
    if (!(guest_status(&disk->guest) & VIRTIO_CONFIG_S_NEEDS_RESET))
        fail_msg("%s: no NEEDS_RESET", name);
    guest_reset(&disk->guest);
    /* As good as new. */
    disk_run(disk, COMMON);
    assert_int_equal(disk_request(disk, VIRTIO_BLK_T_IN, 5, SECTOR), VIRTIO_BLK_S_OK);
    disk_assert_filled(disk, 0, SECTOR, 5);
    assert_false(ring_get_used(&disk->ring, &id, &len));
}

static void test_broken_frames_need_reset(void **state)
{
    struct disk disk;
    struct disk_piece frames[][2] = {
        {{0, 15, 0}, {0, 1, WRITE}},         /* header too short */
        {{0, 16, 0}, {0, SECTOR, 0}},        /* nothing to write a status into */
        {{0, SECTOR, WRITE}, {0, 1, WRITE}}, /* no header */
        {{0, 16, WRITE}, {0, 1, 0}},         /* wrong order */
    };

    (void)state;
    disk_open(&disk, &disk_plain);
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        disk_run(&disk, COMMON);
        frames[i][0].gpa = disk.header;
        frames[i][1].gpa = disk.data;
        disk_lay_out(&disk, frames[i], 2);
        ring_add(&disk.ring, 0);
        ring_kick(&disk.guest, &disk.ring);
        expect_needs_reset(&disk, "frame");
        guest_reset(&disk.guest);
    }
    disk_close(&disk);
}

static void test_head_twice_in_flight_needs_reset(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON);
    disk_set_header(&disk, VIRTIO_BLK_T_IN, 0);
    disk_lay_out(&disk,
                 (struct disk_piece[]){
                     {disk.header, 16, 0}, {disk.data, SECTOR, WRITE}, {disk.status, 1, WRITE}},
                 3);
    ring_add(&disk.ring, 0);
    ring_add(&disk.ring, 0);
    ring_kick(&disk.guest, &disk.ring);
    expect_needs_reset(&disk, "head twice");
    disk_close(&disk);
}

static void test_one_broken_queue_stops_the_others(void **state)
{
    struct disk disk;
    struct ring other;
    uint32_t id, len;

    (void)state;
    disk_open(&disk, &(struct disk_setup){.queues = 2});
    assert_true(guest_negotiate(&disk.guest, COMMON | BIT(VIRTIO_BLK_F_MQ)));
    guest_setup_ring(&disk.guest, &disk.ring, 0, 64, COMMON);
    guest_setup_ring(&disk.guest, &other, 1, 64, COMMON);
    guest_enable_msix(&disk.guest, 2);
    guest_driver_ok(&disk.guest);
    ring_desc(&other, 0, 0, 0, 0, 0);
    ring_add(&other, 0);
    ring_kick(&disk.guest, &other);
    fake_host_wait_interrupt(&disk.guest.host, HARNESS_MSI_DATA);
    disk_set_header(&disk, VIRTIO_BLK_T_IN, 0);
    disk_lay_out(&disk,
                 (struct disk_piece[]){
                     {disk.header, 16, 0}, {disk.data, SECTOR, WRITE}, {disk.status, 1, WRITE}},
                 3);
    ring_add(&disk.ring, 0);
    ring_kick(&disk.guest, &disk.ring);
    disk.device->ops->pause(disk.device); /* its thread has seen all there is to see */
    assert_false(ring_get_used(&disk.ring, &id, &len));
    guest_reset(&disk.guest);
    disk_close(&disk);
}

/* ---- reset, pause ---- */

enum { BATCH = 20 };

/* Fills the ring with reads of 4 KiB, heads 0, 3, 6 ... */
static void submit_batch(struct disk *disk)
{
    disk_set_header(disk, VIRTIO_BLK_T_IN, 8);
    for (unsigned i = 0; i < BATCH; i++) {
        ring_desc(&disk->ring, 3 * i, disk->header, 16, NEXT, (uint16_t)(3 * i + 1));
        ring_desc(&disk->ring, 3 * i + 1, disk->data + 4096 * (uint64_t)i, 4096, NEXT | WRITE,
                  (uint16_t)(3 * i + 2));
        ring_desc(&disk->ring, 3 * i + 2, disk->status, 1, WRITE, 0);
        ring_add(&disk->ring, (uint16_t)(3 * i));
    }
    ring_kick(&disk->guest, &disk->ring);
}

static void test_reset_in_mid_flight_leaves_memory_alone(void **state)
{
    struct disk disk;
    uint64_t seed = test_seed();
    unsigned cut_short = 0;

    (void)state;
    disk_open(&disk, &disk_plain);
    for (unsigned round = 0; round < 200; round++) {
        struct ring old;
        uint64_t mark = disk.guest.next_free;

        disk_run(&disk, COMMON);
        old = disk.ring;
        submit_batch(&disk);
        for (uint64_t spin = test_random(&seed) % 300000; spin > 0; spin--)
            __asm__ volatile("" ::: "memory");
        guest_reset(&disk.guest);
        cut_short += old.used->idx < BATCH;
        /* The memory is the driver's again. */
        memset(old.used, 0x5a, 6 + 8 * 64);
        memset(guest_ptr(&disk.guest, disk.data), 0x5a, BATCH * 4096ULL);
        disk_run(&disk, COMMON);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
        disk_assert_filled(&disk, 0, BATCH * 4096ULL, 0x5a);
        for (unsigned i = 0; i < 6 + 8 * 64; i++)
            assert_int_equal(((uint8_t *)old.used)[i], 0x5a);
        guest_reset(&disk.guest);
        disk.guest.next_free = mark;
    }
    print_message("%u of 200 rounds cut short\n", cut_short);
    disk_close(&disk);
}

static void test_pause_and_resume(void **state)
{
    struct disk disk;
    uint32_t id, len;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
    disk.device->ops->pause(disk.device);
    disk.device->ops->pause(disk.device);
    submit_batch(&disk);
    assert_false(ring_get_used(&disk.ring, &id, &len));
    disk.device->ops->resume(disk.device);
    for (unsigned i = 0; i < BATCH; i++)
        ring_wait_used(&disk.ring, &id, &len);
    disk_assert_filled(&disk, 4096ULL * (BATCH - 1), SECTOR, 8);
    disk_close(&disk);
}

static void test_destroyed_while_running(void **state)
{
    struct disk disk;

    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        disk_open(&disk, &disk_plain);
        disk_run(&disk, COMMON);
        submit_batch(&disk);
        disk_close(&disk);
    }
}

/* ---- many queues ---- */

enum { MQ = 4, MQ_REQUESTS = 1500, MQ_DEPTH = 16, MQ_SECTORS = DISK_SECTORS / MQ };

struct mq_driver {
    struct disk *disk;
    struct ring ring;
    unsigned index;
    uint64_t seed, headers, statuses, data; /* a slot of each for each chain */
    uint8_t model[MQ_SECTORS];              /* what each of this driver's sectors is filled with */
    const char *failure;
};

struct mq_slot {
    bool busy, write;
    uint64_t sector; /* within the driver's part */
    uint8_t fill;
};

static void mq_submit(struct mq_driver *driver, struct mq_slot *slots, unsigned n)
{
    struct guest *guest = &driver->disk->guest;
    struct mq_slot *slot = &slots[n];
    struct virtio_blk_outhdr *header = guest_ptr(guest, driver->headers + 16 * (uint64_t)n);
    uint64_t data = driver->data + SECTOR * (uint64_t)n;

    slot->busy = true;
    slot->write = test_random(&driver->seed) % 2;
    /* No two requests in flight on one sector: their order would be open. */
    slot->sector = (test_random(&driver->seed) % (MQ_SECTORS / MQ_DEPTH)) * MQ_DEPTH + n;
    slot->fill = (uint8_t)test_random(&driver->seed);
    *header =
        (struct virtio_blk_outhdr){.type = slot->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
                                   .sector = slot->sector + (uint64_t)driver->index * MQ_SECTORS};
    memset(guest_ptr(guest, data), slot->write ? slot->fill : 0xa5, SECTOR);
    ring_desc(&driver->ring, 3 * n, driver->headers + 16 * (uint64_t)n, 16, NEXT,
              (uint16_t)(3 * n + 1));
    ring_desc(&driver->ring, 3 * n + 1, data, SECTOR, (uint16_t)(NEXT | (slot->write ? 0 : WRITE)),
              (uint16_t)(3 * n + 2));
    ring_desc(&driver->ring, 3 * n + 2, driver->statuses + n, 1, WRITE, 0);
    ring_add(&driver->ring, (uint16_t)(3 * n));
}

static const char *mq_check(struct mq_driver *driver, struct mq_slot *slots, uint32_t id)
{
    struct guest *guest = &driver->disk->guest;
    unsigned n = id / 3;
    const uint8_t *data = guest_ptr(guest, driver->data + SECTOR * (uint64_t)n);

    if (id % 3 != 0 || n >= MQ_DEPTH || !slots[n].busy)
        return "a chain came back that was not there";
    if (*(uint8_t *)guest_ptr(guest, driver->statuses + n) != VIRTIO_BLK_S_OK)
        return "a request failed";
    if (slots[n].write)
        driver->model[slots[n].sector] = slots[n].fill;
    else
        for (unsigned i = 0; i < SECTOR; i++)
            if (data[i] != driver->model[slots[n].sector])
                return "wrong data";
    slots[n].busy = false;
    return NULL;
}

static void *mq_main(void *arg)
{
    struct mq_driver *driver = arg;
    struct mq_slot slots[MQ_DEPTH] = {0};
    unsigned sent = 0, got = 0;

    while (got < MQ_REQUESTS && !driver->failure) {
        uint32_t id, len;

        for (unsigned n = 0; n < MQ_DEPTH; n++) {
            if (!slots[n].busy && sent < MQ_REQUESTS && test_random(&driver->seed) % 4 != 0) {
                mq_submit(driver, slots, n);
                sent++;
            }
        }
        ring_kick(&driver->disk->guest, &driver->ring);
        while (ring_get_used(&driver->ring, &id, &len) && !driver->failure) {
            driver->failure = mq_check(driver, slots, id);
            got++;
        }
        if (got == sent || got == MQ_REQUESTS)
            continue;
        /* Sleep until the next one is used. */
        ring_set_used_event(&driver->ring, driver->ring.last_used);
        if (__atomic_load_n(&driver->ring.used->idx, __ATOMIC_SEQ_CST) == driver->ring.last_used)
            fake_host_wait_interrupt(&driver->disk->guest.host,
                                     HARNESS_MSI_DATA + 1 + driver->index);
    }
    return NULL;
}

static void four_queues_at_once(bool overlay)
{
    uint64_t features = COMMON | EVENT_IDX | INDIRECT | BIT(VIRTIO_BLK_F_MQ);
    static struct mq_driver drivers[MQ];
    pthread_t threads[MQ];
    struct disk disk;
    uint64_t seed = test_seed();

    disk_open(&disk, &(struct disk_setup){.queues = MQ, .overlay = overlay});
    assert_true(guest_negotiate(&disk.guest, features));
    for (unsigned q = 0; q < MQ; q++) {
        struct mq_driver *driver = &drivers[q];

        *driver = (struct mq_driver){.disk = &disk, .index = q, .seed = seed + q * 0x9e3779b9ULL};
        guest_setup_ring(&disk.guest, &driver->ring, q, 64, features);
        driver->headers = guest_alloc(&disk.guest, 16ULL * MQ_DEPTH, 16);
        driver->statuses = guest_alloc(&disk.guest, MQ_DEPTH, 16);
        driver->data = guest_alloc(&disk.guest, SECTOR * MQ_DEPTH, SECTOR);
        for (unsigned i = 0; i < MQ_SECTORS; i++)
            driver->model[i] = (uint8_t)(q * MQ_SECTORS + i);
    }
    guest_enable_msix(&disk.guest, MQ);
    guest_driver_ok(&disk.guest);
    for (unsigned q = 0; q < MQ; q++)
        assert_int_equal(pthread_create(&threads[q], NULL, mq_main, &drivers[q]), 0);
    for (unsigned q = 0; q < MQ; q++)
        pthread_join(threads[q], NULL);
    for (unsigned q = 0; q < MQ; q++) {
        if (drivers[q].failure)
            fail_msg("queue %u: %s", q, drivers[q].failure);
    }
    disk_close(&disk);
}

static void test_four_queues_at_once_on_raw(void **state)
{
    (void)state;
    four_queues_at_once(false);
}

static void test_four_queues_at_once_on_an_overlay(void **state)
{
    (void)state;
    four_queues_at_once(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_frames_need_reset),
        cmocka_unit_test(test_head_twice_in_flight_needs_reset),
        cmocka_unit_test(test_one_broken_queue_stops_the_others),
        cmocka_unit_test(test_reset_in_mid_flight_leaves_memory_alone),
        cmocka_unit_test(test_pause_and_resume),
        cmocka_unit_test(test_destroyed_while_running),
        cmocka_unit_test(test_four_queues_at_once_on_raw),
        cmocka_unit_test(test_four_queues_at_once_on_an_overlay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
