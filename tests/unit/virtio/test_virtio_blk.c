/*
 * The block device behind the PCI transport, over real images: its configuration, what each request
 * does in any layout, what it says to bad ones, and its write cache.
 */
#include "disk.h"

#include <stdlib.h>
#include <string.h>

/* ---- configuration ---- */

static void test_configuration_space(void **state)
{
    struct disk disk;
    struct virtio_blk_config config;

    (void)state;
    disk_open(&disk, &(struct disk_setup){.queues = 4});
    for (unsigned i = 0; i < sizeof(config); i++)
        ((uint8_t *)&config)[i] = (uint8_t)bar_get(&disk.guest, VIRTIO_PCI_DEVICE_OFFSET + i, 1);
    assert_int_equal(config.capacity, DISK_SECTORS);
    assert_int_equal(config.seg_max, 254);
    assert_int_equal(config.blk_size, SECTOR);
    assert_int_equal(config.physical_block_exp, 3);
    assert_int_equal(config.num_queues, 4);
    assert_true(config.max_discard_sectors > 0 && config.max_discard_seg > 0);
    assert_true(config.max_write_zeroes_sectors > 0 && config.max_write_zeroes_seg > 0);
    assert_int_equal(common_get(&disk.guest, VIRTIO_PCI_COMMON_NUMQ, 2), 4);
    assert_int_equal(guest_features(&disk.guest),
                     COMMON | RANGES | EVENT_IDX | INDIRECT | BIT(VIRTIO_BLK_F_SIZE_MAX) |
                         BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
                         BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) |
                         BIT(VIRTIO_BLK_F_MQ));
    disk_close(&disk);
}

static void test_bad_options_are_refused(void **state)
{
    struct virtio_device *device;
    struct err err;

    (void)state;
    assert_true(virtio_blk_create(&(struct virtio_blk_options){.queues = 0}, &device, &err) < 0);
    assert_true(virtio_blk_create(&(struct virtio_blk_options){.queues = 65}, &device, &err) < 0);
    assert_true(virtio_blk_create(
                    &(struct virtio_blk_options){.queues = 1, .serial = "123456789012345678901"},
                    &device, &err) < 0);
}

/* ---- requests ---- */

static void test_read_write_flush(void **state)
{
    struct disk disk;
    uint8_t sector[SECTOR], *data;

    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        bool event_idx = variant & 1;

        disk_open(&disk, &(struct disk_setup){.queues = 1, .overlay = variant & 2});
        data = guest_ptr(&disk.guest, disk.data);
        disk_run(&disk, COMMON | (event_idx ? EVENT_IDX : 0));
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 7, 2 * SECTOR), VIRTIO_BLK_S_OK);
        disk_assert_filled(&disk, 0, SECTOR, 7);
        disk_assert_filled(&disk, SECTOR, SECTOR, 8);
        memset(data, 0xcd, 3 * SECTOR);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 100, 3 * SECTOR), VIRTIO_BLK_S_OK);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(blk_pread(disk.blk, 102 * SECTOR, sector, SECTOR), 0);
        assert_int_equal(sector[511], 0xcd);
        assert_int_equal(blk_pread(disk.blk, 103 * SECTOR, sector, SECTOR), 0);
        assert_int_equal(sector[0], 103);
        /* The last sector. */
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, DISK_SECTORS - 1, SECTOR),
                         VIRTIO_BLK_S_OK);
        disk_assert_filled(&disk, 0, SECTOR, (uint8_t)(DISK_SECTORS - 1));
        disk_close(&disk);
    }
}

static void test_serial_number(void **state)
{
    static const char *const serials[] = {NULL, "", "disk-1", "12345678901234567890"};

    (void)state;
    for (size_t i = 0; i < sizeof(serials) / sizeof(serials[0]); i++) {
        struct disk disk;
        char expected[20] = {0};
        uint8_t *data;

        if (serials[i])
            memcpy(expected, serials[i], strlen(serials[i]));
        disk_open(&disk, &(struct disk_setup){.queues = 1, .serial = serials[i]});
        disk_run(&disk, COMMON);
        data = guest_ptr(&disk.guest, disk.data);
        memset(data, 0x77, 32);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
        assert_memory_equal(data, expected, 20);
        assert_int_equal(data[20], 0x77);
        disk_close(&disk);
    }
}

static void discard_and_write_zeroes(bool overlay)
{
    struct disk disk;

    disk_open(&disk, &(struct disk_setup){.queues = 1, .overlay = overlay});
    disk_run(&disk, COMMON | RANGES);
    disk_set_range(&disk, 0, 10, 2, 0);
    disk_set_range(&disk, 1, 20, 3, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 9, 15 * SECTOR), VIRTIO_BLK_S_OK);
    disk_assert_filled(&disk, 0, SECTOR, 9);
    disk_assert_filled(&disk, SECTOR, 2 * SECTOR, 0);
    disk_assert_filled(&disk, 3 * SECTOR, SECTOR, 12);
    disk_assert_filled(&disk, 10 * SECTOR, SECTOR, 19);
    disk_assert_filled(&disk, 11 * SECTOR, 3 * SECTOR, 0);
    disk_assert_filled(&disk, 14 * SECTOR, SECTOR, 23);
    for (unsigned i = 0; i < 16; i++)
        disk_set_range(&disk, i, 1000 + 16 * i, 8, 0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_DISCARD, 0, 256), VIRTIO_BLK_S_OK);
    /* A range without sectors changes nothing. */
    disk_set_range(&disk, 0, 30, 0, 0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 30, SECTOR), VIRTIO_BLK_S_OK);
    disk_assert_filled(&disk, 0, SECTOR, 30);
    disk_close(&disk);
}

static void test_discard_and_write_zeroes_on_raw(void **state)
{
    (void)state;
    discard_and_write_zeroes(false);
}

static void test_discard_and_write_zeroes_on_an_overlay(void **state)
{
    (void)state;
    discard_and_write_zeroes(true);
}

static void test_bad_requests_get_a_status(void **state)
{
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t sector;
        uint32_t bytes;
        uint8_t expected;
    } cases[] = {
        {"read beyond the end", VIRTIO_BLK_T_IN, DISK_SECTORS, SECTOR, VIRTIO_BLK_S_IOERR},
        {"read across the end", VIRTIO_BLK_T_IN, DISK_SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR},
        {"write beyond the end", VIRTIO_BLK_T_OUT, DISK_SECTORS, SECTOR, VIRTIO_BLK_S_IOERR},
        {"sector that overflows", VIRTIO_BLK_T_IN, 1ULL << 55, SECTOR, VIRTIO_BLK_S_IOERR},
        {"sector at the limit", VIRTIO_BLK_T_OUT, UINT64_MAX, SECTOR, VIRTIO_BLK_S_IOERR},
        {"sector that wraps with its length", VIRTIO_BLK_T_IN, (1ULL << 55) - 1, SECTOR,
         VIRTIO_BLK_S_IOERR},
        {"read of part of a sector", VIRTIO_BLK_T_IN, 0, 100, VIRTIO_BLK_S_IOERR},
        {"write of part of a sector", VIRTIO_BLK_T_OUT, 0, 513, VIRTIO_BLK_S_IOERR},
        {"read of nothing", VIRTIO_BLK_T_IN, 0, 0, VIRTIO_BLK_S_IOERR},
        {"write of nothing", VIRTIO_BLK_T_OUT, 0, 0, VIRTIO_BLK_S_IOERR},
        {"SCSI command", VIRTIO_BLK_T_SCSI_CMD, 0, 0, VIRTIO_BLK_S_UNSUPP},
        {"secure erase", VIRTIO_BLK_T_SECURE_ERASE, 0, 16, VIRTIO_BLK_S_UNSUPP},
        {"write with a barrier", VIRTIO_BLK_T_OUT | 0x80000000u, 0, SECTOR, VIRTIO_BLK_S_UNSUPP},
        {"unknown type", 0xdeadbeef, 0, SECTOR, VIRTIO_BLK_S_UNSUPP},
        {"discard without ranges", VIRTIO_BLK_T_DISCARD, 0, 0, VIRTIO_BLK_S_IOERR},
        {"discard of half a range", VIRTIO_BLK_T_DISCARD, 0, 8, VIRTIO_BLK_S_IOERR},
        {"discard of too many ranges", VIRTIO_BLK_T_DISCARD, 0, 17 * 16, VIRTIO_BLK_S_IOERR},
    };
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON | RANGES);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t status;

        memset(guest_ptr(&disk.guest, disk.data), 0, 4096);
        status = disk_request(&disk, cases[i].type, cases[i].sector, cases[i].bytes);
        if (status != cases[i].expected)
            fail_msg("%s: status %u", cases[i].name, status);
    }
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
    disk_close(&disk);
}

static void test_bad_ranges_get_a_status(void **state)
{
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t sector;
        uint32_t sectors, flags;
        uint8_t expected;
    } cases[] = {
        {"discard with unmap", VIRTIO_BLK_T_DISCARD, 0, 8, 1, VIRTIO_BLK_S_UNSUPP},
        {"discard with unknown flags", VIRTIO_BLK_T_DISCARD, 0, 8, 2, VIRTIO_BLK_S_UNSUPP},
        {"zeroes with unknown flags", VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 3, VIRTIO_BLK_S_UNSUPP},
        {"discard beyond the end", VIRTIO_BLK_T_DISCARD, DISK_SECTORS - 7, 8, 0,
         VIRTIO_BLK_S_IOERR},
        {"zeroes beyond the end", VIRTIO_BLK_T_WRITE_ZEROES, DISK_SECTORS, 1, 0,
         VIRTIO_BLK_S_IOERR},
        {"zeroes that wrap", VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX, 1, 0, VIRTIO_BLK_S_IOERR},
        {"discard of too much", VIRTIO_BLK_T_DISCARD, 0, 0xffffffff, 0, VIRTIO_BLK_S_IOERR},
    };
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON | RANGES);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t status;

        /* A good range before a bad one is not carried out either. */
        disk_set_range(&disk, 0, 40, 1, 0);
        disk_set_range(&disk, 1, cases[i].sector, cases[i].sectors, cases[i].flags);
        status = disk_request(&disk, cases[i].type, 0, 32);
        if (status != cases[i].expected)
            fail_msg("%s: status %u", cases[i].name, status);
    }
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 40, SECTOR), VIRTIO_BLK_S_OK);
    disk_assert_filled(&disk, 0, SECTOR, 40);
    disk_close(&disk);
}

static void test_discard_that_was_not_negotiated(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON);
    disk_set_range(&disk, 0, 0, 8, 0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_UNSUPP);
    disk_close(&disk);
}

static void test_read_only_disk(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &(struct disk_setup){.queues = 1, .read_only = true});
    assert_true(guest_features(&disk.guest) & BIT(VIRTIO_BLK_F_RO));
    assert_int_equal(guest_features(&disk.guest) & RANGES, 0);
    disk_run(&disk, COMMON | BIT(VIRTIO_BLK_F_RO));
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 0, SECTOR), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 3, SECTOR), VIRTIO_BLK_S_OK);
    disk_assert_filled(&disk, 0, SECTOR, 3);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    disk_close(&disk);
}

/* ---- layout ---- */

static void test_any_layout_of_a_read(void **state)
{
    struct disk disk;
    uint64_t seed = test_seed();

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON);
    for (unsigned round = 0; round < 300; round++) {
        struct disk_piece pieces[64];
        unsigned count = 0;
        uint32_t left;
        uint64_t at = disk.header, sector = test_random(&seed) % (DISK_SECTORS - 2);

        /* Header in random pieces. */
        disk_set_header(&disk, VIRTIO_BLK_T_IN, sector);
        for (left = 16; left > 0;) {
            uint32_t n = (uint32_t)(1 + test_random(&seed) % left);

            pieces[count++] = (struct disk_piece){at, n, 0};
            at += n;
            left -= n;
        }
        /* Data and status in random pieces; the status byte directly behind the data. */
        at = disk.data;
        for (left = 1024 + 1; left > 0;) {
            uint32_t n = (uint32_t)(1 + test_random(&seed) % left);

            pieces[count++] = (struct disk_piece){at, n, WRITE};
            at += n;
            left -= n;
        }
        disk_lay_out(&disk, pieces, count);
        ((uint8_t *)guest_ptr(&disk.guest, disk.data))[1024] = 0xee;
        assert_int_equal(disk_complete(&disk), 1025);
        disk_assert_filled(&disk, 0, SECTOR, (uint8_t)sector);
        disk_assert_filled(&disk, SECTOR, SECTOR, (uint8_t)(sector + 1));
        disk_assert_filled(&disk, 1024, 1, VIRTIO_BLK_S_OK);
    }
    disk_close(&disk);
}

static void test_any_layout_of_a_write(void **state)
{
    struct disk disk;
    uint8_t *data, sector[SECTOR];

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON);
    data = guest_ptr(&disk.guest, disk.data);
    /* Header and data in one descriptor; then cut in the middle of both. */
    for (uint32_t cut = 0; cut < 16 + SECTOR; cut++) {
        struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = 50};
        struct disk_piece pieces[3];
        unsigned count = 0;

        memcpy(data, &header, 16);
        memset(data + 16, (uint8_t)cut, SECTOR);
        if (cut > 0)
            pieces[count++] = (struct disk_piece){disk.data, cut, 0};
        pieces[count++] = (struct disk_piece){disk.data + cut, (uint32_t)(16 + SECTOR - cut), 0};
        pieces[count++] = (struct disk_piece){disk.status, 1, WRITE};
        disk_lay_out(&disk, pieces, count);
        assert_int_equal(disk_complete(&disk), 1);
        assert_int_equal(*disk_status(&disk), VIRTIO_BLK_S_OK);
        assert_int_equal(blk_pread(disk.blk, 50 * SECTOR, sector, SECTOR), 0);
        assert_int_equal(sector[0], (uint8_t)cut);
        assert_int_equal(sector[511], (uint8_t)cut);
    }
    disk_close(&disk);
}

static void test_used_length_claims_what_was_written(void **state)
{
    static const struct {
        uint32_t type, in_bytes, claimed; /* with the status byte */
        uint8_t status;
    } cases[] = {
        {VIRTIO_BLK_T_GET_ID, 21, 21, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_GET_ID, 33, 20, VIRTIO_BLK_S_OK}, /* a gap before the status */
        {VIRTIO_BLK_T_GET_ID, 6, 6, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_GET_ID, 1, 1, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_FLUSH, 1, 1, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_FLUSH, 10, 0, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_IN, 513, 513, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_IN, 514, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, 1, 1, VIRTIO_BLK_S_IOERR},
    };
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t end = disk.data + cases[i].in_bytes - 1;

        disk_set_header(&disk, cases[i].type, 0);
        disk_lay_out(
            &disk,
            (struct disk_piece[]){{disk.header, 16, 0}, {disk.data, cases[i].in_bytes, WRITE}}, 2);
        assert_int_equal(disk_complete(&disk), cases[i].claimed);
        assert_int_equal(*(uint8_t *)guest_ptr(&disk.guest, end), cases[i].status);
    }
    disk_close(&disk);
}

static void test_indirect_request_as_long_as_the_queue(void **state)
{
    struct disk disk;
    struct vring_desc *table;
    uint64_t table_gpa;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON | INDIRECT);
    table_gpa = guest_alloc(&disk.guest, 1024, 16);
    table = guest_ptr(&disk.guest, table_gpa);
    disk_set_header(&disk, VIRTIO_BLK_T_IN, 0);
    table[0] = (struct vring_desc){disk.header, 16, NEXT, 1};
    for (unsigned i = 1; i < 63; i++)
        table[i] = (struct vring_desc){disk.data + SECTOR * (i - 1U), SECTOR, NEXT | WRITE,
                                       (uint16_t)(i + 1)};
    table[63] = (struct vring_desc){disk.status, 1, WRITE, 0};
    ring_desc(&disk.ring, 0, table_gpa, 1024, VRING_DESC_F_INDIRECT, 0);
    assert_int_equal(disk_complete(&disk), 62 * SECTOR + 1);
    for (unsigned i = 0; i < 62; i++)
        disk_assert_filled(&disk, SECTOR * i, SECTOR, (uint8_t)i);
    disk_close(&disk);
}

/* ---- the write cache ---- */

/* Flags that the engine was given with the last request of head 0. */
static unsigned engine_flags(struct disk *disk)
{
    struct blk_device *device = (struct blk_device *)disk->device;

    return device->queues[0].slots[0].request.flags;
}

static uint8_t wce(struct disk *disk)
{
    return (uint8_t)bar_get(&disk->guest,
                            VIRTIO_PCI_DEVICE_OFFSET + offsetof(struct virtio_blk_config, wce), 1);
}

static void set_wce(struct disk *disk, uint8_t value)
{
    bar_set(&disk->guest, VIRTIO_PCI_DEVICE_OFFSET + offsetof(struct virtio_blk_config, wce), value,
            1);
}

static void test_write_cache_follows_negotiation(void **state)
{
    static const struct {
        uint64_t features;
        bool writeback;
    } cases[] = {
        {0, false},
        {BIT(VIRTIO_BLK_F_FLUSH), true},
        {BIT(VIRTIO_BLK_F_CONFIG_WCE), false},
        {BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE), true},
    };
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        disk_run(&disk, cases[i].features | RANGES | BIT(VIRTIO_F_VERSION_1));
        assert_int_equal(wce(&disk), cases[i].writeback);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 0, SECTOR), VIRTIO_BLK_S_OK);
        assert_int_equal(engine_flags(&disk), cases[i].writeback ? 0 : BLK_REQ_FUA);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
        assert_int_equal(engine_flags(&disk), 0);
        disk_set_range(&disk, 0, 10, 2, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
        assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
        assert_int_equal(engine_flags(&disk),
                         BLK_REQ_MAY_UNMAP | (cases[i].writeback ? 0 : BLK_REQ_FUA));
        guest_reset(&disk.guest);
    }
    disk_close(&disk);
}

static void test_write_cache_is_switched_while_running(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &disk_plain);
    disk_run(&disk, COMMON);
    set_wce(&disk, 0); /* not negotiated: read-only */
    assert_int_equal(wce(&disk), 1);
    guest_reset(&disk.guest);
    disk_run(&disk, COMMON | BIT(VIRTIO_BLK_F_CONFIG_WCE));
    set_wce(&disk, 0);
    assert_int_equal(wce(&disk), 0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 0, SECTOR), VIRTIO_BLK_S_OK);
    assert_int_equal(engine_flags(&disk), BLK_REQ_FUA);
    set_wce(&disk, 1);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 0, SECTOR), VIRTIO_BLK_S_OK);
    assert_int_equal(engine_flags(&disk), 0);
    set_wce(&disk, 0);
    guest_reset(&disk.guest);
    disk_run(&disk, COMMON | BIT(VIRTIO_BLK_F_CONFIG_WCE));
    assert_int_equal(wce(&disk), 1);
    disk_close(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configuration_space),
        cmocka_unit_test(test_bad_options_are_refused),
        cmocka_unit_test(test_read_write_flush),
        cmocka_unit_test(test_serial_number),
        cmocka_unit_test(test_discard_and_write_zeroes_on_raw),
        cmocka_unit_test(test_discard_and_write_zeroes_on_an_overlay),
        cmocka_unit_test(test_bad_requests_get_a_status),
        cmocka_unit_test(test_bad_ranges_get_a_status),
        cmocka_unit_test(test_discard_that_was_not_negotiated),
        cmocka_unit_test(test_read_only_disk),
        cmocka_unit_test(test_any_layout_of_a_read),
        cmocka_unit_test(test_any_layout_of_a_write),
        cmocka_unit_test(test_used_length_claims_what_was_written),
        cmocka_unit_test(test_indirect_request_as_long_as_the_queue),
        cmocka_unit_test(test_write_cache_follows_negotiation),
        cmocka_unit_test(test_write_cache_is_switched_while_running),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
