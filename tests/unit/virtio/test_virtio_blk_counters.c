/*
 * What a disk counts: each request that was answered, once, under what it was; bytes of those that went
 * well; and the engine's part of it.
 */
#include "disk.h"

#include "blockdev.h"

static uint64_t measured(const struct virtio_blk_counters *counters, enum virtio_blk_kind kind)
{
    uint64_t sum = 0;

    for (unsigned n = 0; n < VIRTIO_BLK_LATENCIES; n++)
        sum += counters->kinds[kind].latency[n];
    return sum;
}

static void expect(const struct virtio_blk_counters *counters, enum virtio_blk_kind kind,
                   uint64_t requests, uint64_t errors, uint64_t bytes)
{
    assert_int_equal(counters->kinds[kind].requests, requests);
    assert_int_equal(counters->kinds[kind].errors, errors);
    assert_int_equal(counters->kinds[kind].bytes, bytes);
}

static void answers_are_counted_by_what_they_were(void **state)
{
    const struct disk_setup setup = {.queues = 1, .overlay = true, .measure = true};
    struct virtio_blk_counters counters;
    struct blk_counters engine;
    struct disk disk;

    (void)state;
    disk_open(&disk, &setup);
    disk_run(&disk, COMMON | RANGES);
    virtio_blk_get_counters(disk.device, &counters);
    for (unsigned k = 0; k < VIRTIO_BLK_KINDS; k++)
        expect(&counters, (enum virtio_blk_kind)k, 0, 0, 0);

    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 8, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 0, 1024), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    disk_set_range(&disk, 0, 0, 256, 0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_OK);
    disk_set_range(&disk, 0, 8, 16, 0);
    disk_set_range(&disk, 1, 64, 8, 0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32), VIRTIO_BLK_S_OK);
    /* Refused before it reaches the image: no request of the disk's. */
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, DISK_SECTORS, 512), VIRTIO_BLK_S_IOERR);

    virtio_blk_get_counters(disk.device, &counters);
    expect(&counters, VIRTIO_BLK_READS, 2, 0, 4096 + 512);
    expect(&counters, VIRTIO_BLK_WRITES, 1, 0, 1024);
    expect(&counters, VIRTIO_BLK_FLUSHES, 1, 0, 0);
    expect(&counters, VIRTIO_BLK_DISCARDS, 1, 0, 256 * SECTOR);
    expect(&counters, VIRTIO_BLK_ZEROES, 1, 0, 24 * SECTOR);
    for (unsigned k = 0; k < VIRTIO_BLK_KINDS; k++)
        assert_int_equal(measured(&counters, (enum virtio_blk_kind)k), counters.kinds[k].requests);
    blk_get_counters(disk.blk, &engine);
    assert_true(engine.allocations >= 2); /* a table and a cluster */
    assert_true(engine.cache_hits > 0);
    disk_close(&disk);
}

/* A reset of the device is no new disk; and who does not ask for latencies pays for none. */
static void counters_outlive_a_reset(void **state)
{
    struct virtio_blk_counters counters;
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    for (unsigned i = 0; i < 2; i++) {
        disk_run(&disk, COMMON);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
        guest_reset(&disk.guest);
    }
    virtio_blk_get_counters(disk.device, &counters);
    expect(&counters, VIRTIO_BLK_READS, 2, 0, 1024);
    assert_int_equal(measured(&counters, VIRTIO_BLK_READS), 0);
    disk_close(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_counted_by_what_they_were),
        cmocka_unit_test(counters_outlive_a_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
