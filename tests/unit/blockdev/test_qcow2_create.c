/*
 * test_qcow2_create.c - blk_create: what is in the file, and what is refused without leaving one.
 */
#include "blockdev.h"
#include "bytes.h"
#include "qcow2/format.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

static int setup(void **state)
{
    int fd;

    (void)state;
    (void)snprintf(path, sizeof(path), "/tmp/minivmm-create.XXXXXX");
    fd = mkstemp(path);
    if (fd < 0)
        return -1;
    close(fd);
    return unlink(path);
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(path);
    return 0;
}

static void must_create(const struct blk_create_options *options)
{
    struct err err;

    if (blk_create(options, &err) != 0)
        fail_msg("%s", err.text);
}

static void must_refuse(const struct blk_create_options *options, int code, const char *part)
{
    struct err err;

    assert_int_equal(blk_create(options, &err), code);
    if (strstr(err.text, part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err.text);
    assert_int_equal(access(path, F_OK), -1);
}

static void read_at(uint64_t offset, void *buf, size_t length)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    memset(buf, 0, length);
    assert_true(fd >= 0);
    assert_true(pread(fd, buf, length, (off_t)offset) >= 0);
    close(fd);
}

static void header_has_the_fields_of_the_specification(void **state)
{
    unsigned char h[1024];

    (void)state;
    must_create(&(struct blk_create_options){.path = path,
                                             .format = "qcow2",
                                             .size = 64 << 20,
                                             .backing_name = "base,one.raw",
                                             .backing_format = "raw",
                                             .lazy_refcounts = true});
    read_at(0, h, sizeof(h));
    assert_int_equal(load_be32(h), QCOW2_MAGIC);
    assert_int_equal(load_be32(h + 4), 3);
    assert_int_equal(load_be32(h + 20), 16);
    assert_int_equal(load_be64(h + 24), 64 << 20);
    assert_int_equal(load_be32(h + 36), 1); /* one L1 entry covers 512 MiB */
    assert_int_equal(load_be32(h + 60), 0);
    assert_int_equal(load_be64(h + 72), 0);
    assert_int_equal(load_be64(h + 80), QCOW2_COMPAT_LAZY_REFCOUNTS);
    assert_int_equal(load_be32(h + 96), 4);
    assert_int_equal(load_be32(h + 100), 112);
    assert_int_equal(load_be32(h + 112), QCOW2_EXT_BACKING_FORMAT);
    assert_int_equal(load_be32(h + 116), 3);
    assert_memory_equal(h + 120, "raw\0\0\0\0\0", 8);
    assert_int_equal(load_be32(h + 128), QCOW2_EXT_FEATURE_NAMES);
    assert_int_equal(load_be32(h + 132) % 48, 0);
    assert_int_equal(load_be32(h + 16), strlen("base,one.raw"));
    assert_memory_equal(h + load_be64(h + 8), "base,one.raw", strlen("base,one.raw"));
}

static void version_2_ends_at_72(void **state)
{
    unsigned char h[128];

    (void)state;
    must_create(&(struct blk_create_options){
        .path = path, .format = "qcow2", .size = 1 << 20, .compat = 2});
    read_at(0, h, sizeof(h));
    assert_int_equal(load_be32(h + 4), 2);
    for (size_t i = QCOW2_V2_HEADER_LENGTH; i < sizeof(h); i++)
        assert_int_equal(h[i], 0);
}

/* Every cluster of the file has refcount one, and none behind its end has any. */
static void every_cluster_of_the_layout_is_counted(void **state)
{
    static const unsigned modes[] = {BLK_PREALLOC_OFF, BLK_PREALLOC_METADATA, BLK_PREALLOC_FALLOC,
                                     BLK_PREALLOC_FULL};

    (void)state;
    for (unsigned bits = 9; bits <= 21; bits++) {
        for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
            struct blk_open_options open = {.path = path, .format = "qcow2"};
            struct blk_check_result result;
            struct stat st;
            struct blk *blk;
            struct err err;

            must_create(&(struct blk_create_options){.path = path,
                                                     .format = "qcow2",
                                                     .size = (7 << 20) + 512,
                                                     .cluster_size = 1U << bits,
                                                     .refcount_bits = 1U << (bits + i) % 7,
                                                     .prealloc = modes[i]});
            if (blk_open(&open, &blk, &err) != 0)
                fail_msg("%s", err.text);
            assert_int_equal(blk_length(blk), (7 << 20) + 512);
            assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
            assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
            assert_int_equal(stat(path, &st), 0);
            assert_int_equal(result.image_end_offset, st.st_size);
            assert_int_equal(result.allocated_clusters,
                             modes[i] == BLK_PREALLOC_OFF ? 0 : result.total_clusters);
            assert_int_equal(blk_close(blk, &err), 0);
            assert_int_equal(unlink(path), 0);
        }
    }
}

static void features_stand_in_the_header(void **state)
{
    struct blk_open_options open = {.path = path, .format = "qcow2"};
    struct blk_info info;
    unsigned char h[112];
    struct blk *blk;
    struct err err;

    (void)state;
    must_create(&(struct blk_create_options){.path = path,
                                             .format = "qcow2",
                                             .size = 1 << 20,
                                             .refcount_bits = 64,
                                             .compression_type = "zstd"});
    read_at(0, h, sizeof(h));
    assert_int_equal(load_be64(h + 72), QCOW2_INCOMPAT_COMPRESSION);
    assert_int_equal(load_be32(h + 96), 6);
    assert_int_equal(h[104], QCOW2_COMPRESSION_ZSTD);
    assert_int_equal(blk_open(&open, &blk, &err), 0);
    assert_int_equal(blk_get_info(blk, &info, &err), 0);
    assert_int_equal(info.refcount_bits, 64);
    assert_string_equal(info.compression_type, "zstd");
    assert_int_equal(blk_close(blk, &err), 0);
}

/* Entries of 16 bytes: an L2 table of 2048 clusters of 32 KiB. No subcluster is in use. */
static void extended_l2_entries_have_an_empty_bitmap(void **state)
{
    const uint64_t cluster = 32 << 10;
    unsigned char h[112], entries[48];
    uint64_t l1[3];

    (void)state;
    must_create(&(struct blk_create_options){.path = path,
                                             .format = "qcow2",
                                             .size = 2049 * cluster,
                                             .cluster_size = (unsigned)cluster,
                                             .extended_l2 = true,
                                             .prealloc = BLK_PREALLOC_METADATA});
    read_at(0, h, sizeof(h));
    assert_int_equal(load_be64(h + 72), QCOW2_INCOMPAT_EXTENDED_L2);
    assert_int_equal(load_be32(h + 36), 2);
    read_at(load_be64(h + 40), l1, sizeof(l1));
    for (unsigned table = 0; table < 2; table++) {
        uint64_t entry = load_be64((unsigned char *)&l1[table]);

        assert_true(entry & QCOW2_ENTRY_COPIED);
        read_at(entry & QCOW2_OFFSET_MASK, entries, sizeof(entries));
        assert_true(load_be64(entries) & QCOW2_ENTRY_COPIED);
        assert_int_equal(load_be64(entries + 8), 0);
        if (table == 0)
            assert_int_equal(load_be64(entries + 16), load_be64(entries) + cluster);
        else
            assert_int_equal(load_be64(entries + 16), 0);
        assert_int_equal(load_be64(entries + 24), 0);
    }
    assert_int_equal(l1[2], 0);
}

/* 128 GiB of 512-byte clusters: an L1 table of 32 MiB, whose clusters need many refcount blocks. */
static void largest_tables_fit_together(void **state)
{
    struct blk_open_options open = {.path = path, .format = "qcow2"};
    struct blk_check_result result;
    struct blk *blk;
    struct err err;
    struct stat st;

    (void)state;
    must_create(&(struct blk_create_options){
        .path = path, .format = "qcow2", .size = UINT64_C(128) << 30, .cluster_size = 512});
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_blocks * 512 < 1 << 20); /* an empty table is a hole */
    assert_int_equal(blk_open(&open, &blk, &err), 0);
    assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
    assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
    assert_int_equal(blk_close(blk, &err), 0);
}

static void what_cannot_be_is_refused_and_leaves_no_file(void **state)
{
    struct blk_create_options o = {.path = path, .format = "qcow2", .size = 1 << 20};
    static char name[1100];

    (void)state;
    memset(name, 'n', sizeof(name) - 1);
    o.cluster_size = 256;
    must_refuse(&o, -EINVAL, "power of two between 512 and 2048k");
    o.cluster_size = 4 << 20;
    must_refuse(&o, -EINVAL, "power of two between 512 and 2048k");
    o.cluster_size = 65537;
    must_refuse(&o, -EINVAL, "power of two between 512 and 2048k");
    o.cluster_size = 512;
    o.size = (UINT64_C(128) << 30) + 1;
    must_refuse(&o, -EFBIG, "larger cluster size");
    o.size = UINT64_MAX;
    must_refuse(&o, -EFBIG, "too large");
    o.size = INT64_MAX;
    o.cluster_size = 0;
    must_refuse(&o, -EFBIG, "too large");
    o.size = 1 << 20;
    o.compat = 2;
    o.lazy_refcounts = true;
    must_refuse(&o, -EINVAL, "Lazy refcounts");
    o.lazy_refcounts = false;
    o.refcount_bits = 8;
    must_refuse(&o, -EINVAL, "Different refcount widths");
    o.refcount_bits = 16;
    o.compression_type = "zstd";
    must_refuse(&o, -EINVAL, "Non-zlib compression type");
    o.compression_type = "zlib";
    o.extended_l2 = true;
    must_refuse(&o, -EINVAL, "Extended L2 entries");
    o.compat = 3;
    o.cluster_size = 8 << 10;
    must_refuse(&o, -EINVAL, "at least 16384 bytes");
    o.cluster_size = 0;
    o.extended_l2 = false;
    o.compression_type = "lz4";
    must_refuse(&o, -EINVAL, "Unknown compression type");
    o.compression_type = NULL;
    o.refcount_bits = 24;
    must_refuse(&o, -EINVAL, "Refcount width");
    o.refcount_bits = 128;
    must_refuse(&o, -EINVAL, "Refcount width");
    o.refcount_bits = 0;
    o.backing_format = "raw";
    must_refuse(&o, -EINVAL, "without backing file");
    o.backing_name = name;
    must_refuse(&o, -ENAMETOOLONG, "longer than");
    name[500] = '\0';
    o.cluster_size = 512;
    must_refuse(&o, -ENAMETOOLONG, "does not fit");
    o.cluster_size = 0;
    o.prealloc = BLK_PREALLOC_METADATA;
    must_refuse(&o, -EINVAL, "preallocation");
    o.format = "raw";
    must_refuse(&o, -ENOTSUP, "Backing file not supported");
    o.format = "vmdk";
    must_refuse(&o, -EINVAL, "Unknown file format");
}

static void raw_disks_consist_of_sectors(void **state)
{
    struct stat st;

    (void)state;
    must_create(&(struct blk_create_options){.path = path, .format = "raw", .size = 1000});
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 1024);
}

static void an_existing_file_is_emptied(void **state)
{
    unsigned char byte;
    struct stat st;

    (void)state;
    must_create(&(struct blk_create_options){
        .path = path, .format = "raw", .size = 1 << 20, .prealloc = BLK_PREALLOC_FULL});
    assert_int_equal(truncate(path, 5 << 20), 0);
    must_create(&(struct blk_create_options){.path = path, .format = "qcow2", .size = 1 << 20});
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size <= 5 * 65536);
    read_at(3 * 65536, &byte, 1);
    assert_int_equal(byte, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(header_has_the_fields_of_the_specification, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(version_2_ends_at_72, setup, teardown),
        cmocka_unit_test_setup_teardown(every_cluster_of_the_layout_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(features_stand_in_the_header, setup, teardown),
        cmocka_unit_test_setup_teardown(extended_l2_entries_have_an_empty_bitmap, setup, teardown),
        cmocka_unit_test_setup_teardown(largest_tables_fit_together, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_is_refused_and_leaves_no_file, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(raw_disks_consist_of_sectors, setup, teardown),
        cmocka_unit_test_setup_teardown(an_existing_file_is_emptied, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
