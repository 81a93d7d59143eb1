/*
 * Rate limits: the arithmetic of a bucket, with a clock of the test's own; and a disk that keeps to one.
 */
#include "disk.h"

#include <time.h>

#define SECOND UINT64_C(1000000000)

static void a_bucket_lets_through_what_was_agreed(void **state)
{
    static const struct {
        uint64_t per_second, burst, amount;
    } rows[] = {
        {1, 1, 1},          {1000, 1, 1}, {1000, 50, 1},           {3, 2, 1}, {1 << 20, 4096, 512},
        {1 << 20, 0, 4096}, {7, 100, 3},  {999999937, 12345, 1000}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t start = 5 * SECOND, now = start, taken = 0, burst = rows[i].burst;
        struct rate_limit limit;

        rate_limit_init(&limit, rows[i].per_second, rows[i].burst);
        if (burst == 0)
            burst = rows[i].per_second / 10;
        for (unsigned n = 0; n < 10000; n++) {
            uint64_t delay = rate_limit_delay(&limit, now);

            now += delay;
            assert_int_equal(rate_limit_delay(&limit, now), 0); /* no longer than it takes */
            rate_limit_take(&limit, rows[i].amount, now);
            taken += rows[i].amount;
            /* Never more than the burst and one request ahead of time, nor behind by what is lost in
             * rounding. */
            assert_true((double)taken <= (double)burst + (double)rows[i].amount + 1 +
                                             (double)(now - start) / (double)SECOND *
                                                 (double)rows[i].per_second * 1.0001);
            assert_true((double)taken + 1 >= (double)(now - start) / (double)SECOND *
                                                 (double)rows[i].per_second * 0.9999);
        }
        /* A pause fills the bucket, and no more. */
        now += 1000 * SECOND;
        for (taken = 0; rate_limit_delay(&limit, now) == 0; taken += rows[i].amount)
            rate_limit_take(&limit, rows[i].amount, now);
        assert_true(taken >= burst && taken < burst + rows[i].amount + 1);
    }
}

static void without_a_limit_nothing_waits(void **state)
{
    struct rate_limit limit;

    (void)state;
    rate_limit_init(&limit, 0, 0);
    for (unsigned i = 0; i < 100; i++) {
        rate_limit_take(&limit, 1 << 30, 1);
        assert_int_equal(rate_limit_delay(&limit, 1), 0);
    }
}

static uint64_t monotonic(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* The requests end, all of them, and not before their time. */
static void expect_time(const struct disk_setup *setup, unsigned requests, uint32_t bytes,
                        uint64_t at_least)
{
    struct disk disk;
    uint64_t start;

    disk_open(&disk, setup);
    disk_run(&disk, COMMON);
    start = monotonic();
    for (unsigned i = 0; i < requests; i++)
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 8 * i, bytes), VIRTIO_BLK_S_OK);
    assert_true(monotonic() - start >= at_least);
    disk_close(&disk);
}

static void a_disk_keeps_to_its_requests(void **state)
{
    (void)state;
    expect_time(&(struct disk_setup){.queues = 1, .request_rate = {50, 1}}, 11, 512, SECOND / 5);
}

static void a_disk_keeps_to_its_bytes(void **state)
{
    (void)state;
    expect_time(&(struct disk_setup){.queues = 1, .byte_rate = {20480, 512}}, 6, 1024, SECOND / 5);
}

/* Whoever waits for the bucket can be stopped, and goes on where it was. */
static void a_disk_that_waits_can_be_reset(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &(struct disk_setup){.queues = 1, .request_rate = {1, 1}});
    disk_run(&disk, COMMON);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    disk_set_header(&disk, VIRTIO_BLK_T_IN, 8);
    ring_add(&disk.ring, 0);
    ring_kick(&disk.guest, &disk.ring);
    guest_reset(&disk.guest);
    disk_run(&disk, COMMON);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 8, 512), VIRTIO_BLK_S_OK);
    disk_assert_filled(&disk, 0, 512, 8);
    disk_close(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_lets_through_what_was_agreed),
        cmocka_unit_test(without_a_limit_nothing_waits),
        cmocka_unit_test(a_disk_keeps_to_its_requests),
        cmocka_unit_test(a_disk_keeps_to_its_bytes),
        cmocka_unit_test(a_disk_that_waits_can_be_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
