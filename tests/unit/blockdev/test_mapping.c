/*
 * test_mapping.c - tables of an image that is only read are mapped: it reads as ever, and somebody who
 * changes or shortens the file meanwhile makes reads fail, and nothing worse.
 */
#include "fixture.h"

#include <sys/resource.h>

/* An L2 table of 4 KiB covers 2 MiB: the disk has 8 of them. */
enum { DISK = 16 << 20, TABLE_SPAN = 2 << 20, BLOCK = 4096, CLUSTER = 4096, HEADER_L1 = 40 };

static const char image[] = "disk.qcow2";

static void make_image(void)
{
    shell("rm -f %s; qemu-img create -q -f qcow2 -o cluster_size=4k %s 16M", image, image);
    shell("qemu-io -f qcow2 -c 'write -q -P 0x11 0 8M' -c 'write -q -P 0x22 8M 8M' %s", image);
}

static bool is_mapped(void)
{
    return try_shell("grep -q %s/%s /proc/%d/maps", fixture_dir, image, (int)getpid()) == 0;
}

/* Of each table one block. */
static void read_all(struct blk *blk)
{
    for (uint64_t at = 0; at < DISK; at += TABLE_SPAN) {
        uint8_t block[BLOCK];

        assert_int_equal(blk_pread(blk, at + TABLE_SPAN / 2, block, sizeof(block)), 0);
        assert_int_equal(block[0], at < DISK / 2 ? 0x11 : 0x22);
        assert_int_equal(block[BLOCK - 1], block[0]);
    }
}

/* Where the host has the table that `number` is the index of in the L1 table. */
static uint64_t table_of(unsigned number)
{
    uint64_t l1 = peek_be64(image, HEADER_L1);

    return peek_be64(image, l1 + number * UINT64_C(8)) & QCOW2_OFFSET_MASK;
}

static int read_at(struct blk *blk, uint64_t at)
{
    uint8_t block[BLOCK];

    return blk_pread(blk, at, block, sizeof(block));
}

static void tables_of_an_image_that_is_read_are_mapped(void **state)
{
    struct blk *blk;

    (void)state;
    make_image();
    blk = open_image(image, false);
    assert_false(is_mapped()); /* nobody has looked anything up */
    read_all(blk);
    assert_true(is_mapped());
    close_image(blk);
    assert_false(is_mapped());
}

static void those_of_a_writable_image_are_not(void **state)
{
    struct blk *blk;

    (void)state;
    make_image();
    blk = open_image(image, true);
    read_all(blk);
    assert_false(is_mapped());
    close_image(blk);
}

static void nothing_is_mapped_where_address_space_is_limited(void **state)
{
    struct rlimit before, limited;
    struct blk *blk;

    (void)state;
    make_image();
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    limited = (struct rlimit){.rlim_cur = INT64_MAX, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_AS, &limited), 0);
    blk = open_image(image, false);
    read_all(blk);
    assert_false(is_mapped());
    close_image(blk);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
}

/* Those that were looked at before and those that were not. */
static void a_file_that_was_shortened_is_an_error(void **state)
{
    struct blk *blk;

    (void)state;
    make_image();
    blk = open_image(image, false);
    assert_int_equal(read_at(blk, 0), 0);
    assert_int_equal(read_at(blk, TABLE_SPAN), 0);
    assert_true(is_mapped());
    assert_int_equal(truncate(image, CLUSTER), 0);
    assert_int_equal(read_at(blk, BLOCK), -EIO);
    for (uint64_t at = 0; at < DISK; at += TABLE_SPAN) {
        assert_int_equal(read_at(blk, at + 5 * (uint64_t)BLOCK), -EIO);
    }
    close_image(blk);
}

static void entries_that_change_are_checked_again(void **state)
{
    uint8_t garbage[CLUSTER];
    struct blk *blk;

    (void)state;
    make_image();
    blk = open_image(image, false);
    read_all(blk);
    memset(garbage, 0xff, sizeof(garbage));
    poke(image, table_of(1), garbage, sizeof(garbage));
    poke_be64(image, table_of(2) + 8, QCOW2_ENTRY_COPIED | UINT64_C(1) << 40); /* beyond the end */
    assert_int_equal(read_at(blk, TABLE_SPAN + BLOCK), -EIO);
    assert_int_equal(read_at(blk, 2 * (uint64_t)TABLE_SPAN + BLOCK), -EIO);
    assert_int_equal(read_at(blk, 2 * (uint64_t)TABLE_SPAN + 2 * (uint64_t)BLOCK), 0);
    assert_int_equal(read_at(blk, 7 * (uint64_t)TABLE_SPAN + BLOCK), 0);
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_of_an_image_that_is_read_are_mapped),
        cmocka_unit_test(those_of_a_writable_image_are_not),
        cmocka_unit_test(nothing_is_mapped_where_address_space_is_limited),
        cmocka_unit_test(a_file_that_was_shortened_is_an_error),
        cmocka_unit_test(entries_that_change_are_checked_again),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
