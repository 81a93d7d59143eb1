/*
 * Throwaway overlays: what is written is seen and then gone, the base keeps its bytes, and nothing is left
 * behind. What random requests and overlapping ones show is the oracle's to judge (tests/diff).
 */
#include "fixture.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

static struct blk_open_options throwaway(const char *path, enum blk_ephemeral where)
{
    return (struct blk_open_options){
        .path = path,
        .format = strstr(path, "qcow2") != NULL ? "qcow2" : "raw",
        .discard = true,
        .ephemeral = where,
        .tmpdir = ".",
    };
}

static unsigned files_here(void)
{
    DIR *dir = opendir(".");
    unsigned count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static void writes_are_seen_and_gone_at_the_end(void **state)
{
    static const enum blk_ephemeral places[] = {BLK_EPHEMERAL_FILE, BLK_EPHEMERAL_RAM};

    (void)state;
    shell(
        "qemu-img create -q -f qcow2 base.qcow2 1M && qemu-io -c 'write -q -P 1 0 1M' base.qcow2");
    shell("chmod 444 base.qcow2 && sha256sum base.qcow2 >sum");
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        const struct blk_open_options options = throwaway("base.qcow2", places[i]);
        unsigned files = files_here();
        struct blk *one = open_with(&options), *two = open_with(&options);

        assert_true(blk_writable(one));
        assert_string_equal(blk_path(one), "base.qcow2");
        write_bytes(one, 100, 50000, 2);
        assert_int_equal(blk_flush(one), 0);
        assert_bytes(one, 0, 100, 1);
        assert_bytes(one, 100, 50000, 2);
        assert_bytes(one, 50100, 100000, 1);
        assert_bytes(two, 0, 1 << 20, 1); /* nobody else sees it */
        assert_int_equal(files_here(), files);
        close_image(one);
        close_image(two);
        one = open_with(&options);
        assert_bytes(one, 0, 1 << 20, 1);
        close_image(one);
    }
    shell("sha256sum --status -c sum");
}

static void zeros_and_discards_hide_the_base(void **state)
{
    const struct blk_open_options options = throwaway("odd.raw", BLK_EPHEMERAL_FILE);
    struct blk *blk;
    struct blk_extent extent;

    (void)state;
    /* 20 blocks and a part of one. */
    shell("head -c 82432 /dev/zero | tr '\\0' '\\1' >odd.raw");
    blk = open_with(&options);
    assert_int_equal(blk_pwrite_zeroes(blk, 5000, 10000, BLK_REQ_MAY_UNMAP), 0);
    assert_bytes(blk, 0, 5000, 1);
    assert_bytes(blk, 5000, 10000, 0);
    assert_bytes(blk, 15000, 82432 - 15000, 1);
    assert_int_equal(blk_pwrite_zeroes(blk, 100, 50, 0), 0); /* inside of one block */
    assert_bytes(blk, 0, 100, 1);
    assert_bytes(blk, 100, 50, 0);
    assert_bytes(blk, 150, 4850, 1);
    /* Whole blocks alone: 8 and 9, and the last one, which the end cuts. */
    assert_int_equal(blk_pdiscard(blk, 32000, 9000), 0);
    assert_bytes(blk, 32000, 768, 1);
    assert_bytes(blk, 32768, 8192, 0);
    assert_bytes(blk, 40960, 40, 1);
    write_bytes(blk, 82000, 432, 7);
    assert_int_equal(blk_pdiscard(blk, 81920, 512), 0);
    assert_bytes(blk, 81920, 512, 0);
    write_bytes(blk, 33000, 8, 9); /* the rest of a block that was zeroed stays zero */
    assert_bytes(blk, 32768, 232, 0);
    assert_bytes(blk, 33008, 5000, 0);
    assert_int_equal(blk_map(blk, 36864, 4096, 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_ZERO);
    close_image(blk);
}

static uint64_t disk_size(struct blk *blk)
{
    struct blk_info info;

    assert_int_equal(blk_get_info(blk, &info, NULL), 0);
    return info.disk_size;
}

static void discard_gives_space_back(void **state)
{
    const struct blk_open_options options = throwaway("big.raw", BLK_EPHEMERAL_RAM);
    struct blk *blk;

    (void)state;
    shell("truncate -s 64M big.raw");
    blk = open_with(&options);
    write_bytes(blk, 0, 8 << 20, 1);
    assert_true(disk_size(blk) >= 8 << 20);
    assert_int_equal(blk_pdiscard(blk, 0, 64 << 20), 0);
    assert_true(disk_size(blk) < 1 << 20);
    close_image(blk);
}

/* 8 TiB: one byte of memory a block would be 2 GiB, if it were touched. */
static void a_large_device_costs_what_is_written(void **state)
{
    const struct blk_open_options options = throwaway("huge.qcow2", BLK_EPHEMERAL_FILE);
    const uint64_t step = UINT64_C(1) << 37, length = UINT64_C(8) << 40;
    struct rusage before, after;
    struct blk *blk;

    (void)state;
    shell("qemu-img create -q -f qcow2 huge.qcow2 8T");
    assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
    blk = open_with(&options);
    assert_int_equal(blk_length(blk), length);
    for (uint64_t at = 0; at < length; at += step)
        write_bytes(blk, at + 512, 512, 5);
    for (uint64_t at = 0; at < length; at += step)
        assert_bytes(blk, at + 512, 512, 5);
    assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
    assert_true(after.ru_maxrss - before.ru_maxrss < 8 << 10); /* KiB */
    close_image(blk);
}

static void a_directory_that_is_missing_is_named(void **state)
{
    struct blk_open_options options = throwaway("big.raw", BLK_EPHEMERAL_FILE);
    struct err err;

    (void)state;
    options.tmpdir = "missing";
    err = refuse_with(&options, -ENOENT);
    assert_says(&err, "missing");
    options.path = "gone.raw";
    options.ephemeral = BLK_EPHEMERAL_RAM;
    err = refuse_with(&options, -ENOENT);
    assert_says(&err, "gone.raw");
}

/* The file cannot grow: the request fails, and the block is what it was. */
static void no_space_is_an_error_and_loses_nothing(void **state)
{
    const struct blk_open_options options = throwaway("big.raw", BLK_EPHEMERAL_FILE);
    struct rlimit old, small;
    struct blk *blk = open_with(&options);
    uint8_t byte = 4;

    (void)state;
    write_bytes(blk, 0, 1 << 20, 3);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(blk_pwrite(blk, 2 << 20, &byte, 1), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_bytes(blk, 0, 1 << 20, 3);
    assert_bytes(blk, 1 << 20, 2 << 20, 0);
    assert_int_equal(blk_pwrite(blk, 2 << 20, &byte, 1), 0);
    assert_bytes(blk, 2 << 20, 1, 4);
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_are_seen_and_gone_at_the_end),
        cmocka_unit_test(zeros_and_discards_hide_the_base),
        cmocka_unit_test(discard_gives_space_back),
        cmocka_unit_test(a_large_device_costs_what_is_written),
        cmocka_unit_test(a_directory_that_is_missing_is_named),
        cmocka_unit_test(no_space_is_an_error_and_loses_nothing),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
