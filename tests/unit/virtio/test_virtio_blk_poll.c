/*
 * Queues that look at their rings before they sleep: requests need no doorbell then, and nothing is lost
 * however the thread is stopped; without requests no time of a processor is used.
 */
#include "disk.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

static const struct disk_setup polling = {.queues = 1, .poll_us = VIRTIO_BLK_POLL_US_MAX};

static void lay_out_read(struct disk *disk, uint64_t sector)
{
    const struct disk_piece pieces[] = {
        {disk->header, 16, 0}, {disk->data, 512, WRITE}, {disk->status, 1, WRITE}};

    disk_set_header(disk, VIRTIO_BLK_T_IN, sector);
    *disk_status(disk) = 0xee;
    disk_lay_out(disk, pieces, 3);
}

/* One read, by a driver that looks at the ring instead of waiting for an interrupt; returns whether the
 * device wanted to be told. */
static bool read_sector(struct disk *disk, uint64_t sector)
{
    uint32_t id, len;
    bool wanted;

    lay_out_read(disk, sector);
    ring_add(&disk->ring, 0);
    wanted = ring_publish(&disk->ring);
    if (wanted)
        virtqueue_ring_doorbell(&disk->device->queues[0]);
    ring_wait_used(&disk->ring, &id, &len);
    assert_int_equal(*disk_status(disk), VIRTIO_BLK_S_OK);
    disk_assert_filled(disk, 0, 512, (uint8_t)sector);
    return wanted;
}

/* The nth of the processors that the test may use. */
static bool run_on(const cpu_set_t *usable, unsigned n)
{
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, usable) && n-- == 0) {
            cpu_set_t one;

            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            return sched_setaffinity(0, sizeof(one), &one) == 0;
        }
    }
    return false;
}

/* Driver and device have a processor each, as where looking is meant to pay; others may want them too. */
static void read_until_no_doorbell_is_wanted(uint64_t features)
{
    uint64_t begin = test_now_ms();
    struct disk disk;
    cpu_set_t usable;
    bool wanted = true;

    assert_int_equal(sched_getaffinity(0, sizeof(usable), &usable), 0);
    if (CPU_COUNT(&usable) < 2)
        skip();
    disk_open(&disk, &polling);
    assert_true(run_on(&usable, 1)); /* where the queue's thread will be */
    disk_run(&disk, features);
    assert_true(run_on(&usable, 0));
    for (unsigned i = 0; wanted; i++) {
        assert_true(test_now_ms() - begin < HARNESS_TIMEOUT_MS);
        wanted = read_sector(&disk, i % DISK_SECTORS);
    }
    disk_close(&disk);
    assert_int_equal(sched_setaffinity(0, sizeof(usable), &usable), 0);
}

static void requests_need_no_doorbell_by_flags(void **state)
{
    (void)state;
    read_until_no_doorbell_is_wanted(COMMON);
}

static void requests_need_no_doorbell_by_event_indices(void **state)
{
    (void)state;
    read_until_no_doorbell_is_wanted(COMMON | EVENT_IDX);
}

static void a_disk_that_may_not_poll_does_not(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &(struct disk_setup){.queues = 1});
    disk_run(&disk, COMMON);
    for (unsigned i = 0; i < 1000; i++)
        (void)read_sector(&disk, i);
    queue_thread_stop(&((struct blk_device *)disk.device)->queues[0].thread);
    assert_int_equal(((struct blk_device *)disk.device)->queues[0].thread.poll.window, 0);
    disk_close(&disk);
}

/* A reset waits for who looks, and ends that at once. */
static void a_queue_that_looks_can_be_stopped(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &polling);
    for (unsigned i = 0; i < 30; i++) {
        disk_run(&disk, i % 2 ? COMMON : COMMON | EVENT_IDX);
        for (unsigned n = 0; n < 20; n++)
            (void)read_sector(&disk, n);
        guest_reset(&disk.guest);
    }
    disk_close(&disk);
}

static uint64_t cpu_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void an_idle_disk_uses_no_processor(void **state)
{
    uint64_t begin;
    struct disk disk;

    (void)state;
    disk_open(&disk, &polling);
    disk_run(&disk, COMMON);
    for (unsigned i = 0; i < 1000; i++)
        (void)read_sector(&disk, i);
    begin = cpu_ms();
    poll(NULL, 0, 300); /* what is measured, not what is waited for */
    assert_true(cpu_ms() - begin < 100);
    disk_close(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_need_no_doorbell_by_flags),
        cmocka_unit_test(requests_need_no_doorbell_by_event_indices),
        cmocka_unit_test(a_disk_that_may_not_poll_does_not),
        cmocka_unit_test(a_queue_that_looks_can_be_stopped),
        cmocka_unit_test(an_idle_disk_uses_no_processor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
