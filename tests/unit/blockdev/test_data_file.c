/*
 * External data files: guest data in a file of its own, at the guest's offsets.
 */
#include "fixture.h"

#include <sys/stat.h>

enum { CLUSTER = 64 << 10, SIZE = 1 << 20, L2_AT = 4 * CLUSTER };

static void make_image(const char *options)
{
    shell("rm -f d.qcow2 d.raw; qemu-img create -q -f qcow2 -o data_file=d.raw%s%s d.qcow2 1M",
          options[0] != '\0' ? "," : "", options);
}

static void write_byte(struct blk *blk, uint64_t offset, size_t length, int byte)
{
    uint8_t *buffer = malloc(length);

    assert_non_null(buffer);
    memset(buffer, byte, length);
    assert_int_equal(blk_pwrite(blk, offset, buffer, length), 0);
    free(buffer);
}

static void expect_byte(struct blk *blk, uint64_t offset, size_t length, int byte)
{
    uint8_t *buffer = malloc(length);

    assert_non_null(buffer);
    assert_int_equal(blk_pread(blk, offset, buffer, length), 0);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(buffer[i], byte);
    }
    free(buffer);
}

static void expect_file_byte(const char *path, uint64_t offset, size_t length, int byte)
{
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(getc(f), byte);
    }
    fclose(f);
}

static void use_and_compare(struct blk *blk)
{
    write_byte(blk, 0, SIZE, 7);
    write_byte(blk, 100, 70000, 3);
    assert_int_equal(blk_pdiscard(blk, 2 * CLUSTER, CLUSTER), 0);
    assert_int_equal(blk_pwrite_zeroes(blk, 4 * CLUSTER, CLUSTER, 0), 0);
    assert_int_equal(blk_pwrite_zeroes(blk, 8 * CLUSTER, 2 * CLUSTER, BLK_REQ_MAY_UNMAP), 0);
    assert_int_equal(blk_pwrite_zeroes(blk, 700000, 1000, 0), 0);
    write_byte(blk, 2 * CLUSTER + 512, 512, 9);
    write_byte(blk, 4 * CLUSTER, 100, 5);
    expect_byte(blk, 0, 100, 7);
    expect_byte(blk, 100, 70000, 3);
    expect_byte(blk, 2 * CLUSTER, 512, 0);
    expect_byte(blk, 2 * CLUSTER + 512, 512, 9);
    expect_byte(blk, 2 * CLUSTER + 1024, CLUSTER - 1024, 0);
    expect_byte(blk, 4 * CLUSTER, 100, 5);
    expect_byte(blk, 4 * CLUSTER + 100, CLUSTER - 100, 0);
    expect_byte(blk, 8 * CLUSTER, 2 * CLUSTER, 0);
    expect_byte(blk, 700000, 1000, 0);
}

static void guest_data_lies_in_the_data_file_at_its_own_offset(void **state)
{
    static const char *const options[] = {"", "data_file_raw=on", "extended_l2=on",
                                          "extended_l2=on,data_file_raw=on",
                                          "preallocation=metadata"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct blk_extent extent;
        struct blk *blk;

        make_image(options[i]);
        blk = open_image("d.qcow2", true);
        use_and_compare(blk);
        assert_int_equal(blk_map(blk, 0, SIZE, 0, &extent), 0);
        assert_int_equal(extent.kind, BLK_EXTENT_DATA);
        assert_true(extent.has_host_offset);
        assert_int_equal(extent.host_offset, 0);
        close_image(blk);
        expect_file_byte("d.raw", 100, 70000, 3);
        shell("qemu-img check -q d.qcow2 && qemu-io -c 'read -q -P 3 100 70000' "
              "-c 'read -q -P 0 128k 512' -c 'read -q -P 9 131584 512' -c 'read -q -P 0 512k 128k' "
              "d.qcow2 | { ! grep -q erification; }");
        /* And what QEMU has written is read here. */
        shell("qemu-io -c 'write -q -P 11 0 1M' -c 'write -q -z 64k 64k' d.qcow2");
        blk = open_image("d.qcow2", false);
        expect_byte(blk, 0, CLUSTER, 11);
        expect_byte(blk, CLUSTER, CLUSTER, 0);
        close_image(blk);
    }
}

static void a_raw_data_file_alone_is_the_disk(void **state)
{
    struct blk *blk;

    (void)state;
    make_image("data_file_raw=on");
    blk = open_image("d.qcow2", true);
    use_and_compare(blk);
    close_image(blk);
    shell("qemu-img compare -q -f raw -F qcow2 d.raw d.qcow2");
    /* Where QEMU has put zero flags, and no data, zeros and data still reach the file. */
    shell("qemu-io -c 'write -q -z 0 1M' d.qcow2");
    blk = open_image("d.qcow2", true);
    write_byte(blk, 70000, 10, 4);
    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, 0), 0);
    close_image(blk);
    shell("qemu-img compare -q -f raw -F qcow2 d.raw d.qcow2 && qemu-img check -q d.qcow2");
}

static void the_last_cluster_does_not_lengthen_the_data_file(void **state)
{
    struct stat st;
    struct blk *blk;

    (void)state;
    shell("rm -f d.*; qemu-img create -q -f qcow2 -o data_file=d.raw d.qcow2 100k");
    blk = open_image("d.qcow2", true);
    write_byte(blk, 70000, 100, 1);
    close_image(blk);
    assert_int_equal(stat("d.raw", &st), 0);
    assert_int_equal(st.st_size, 100 << 10);
}

static void a_cluster_of_an_overlay_is_copied_into_its_data_file(void **state)
{
    struct blk *blk;

    (void)state;
    shell("rm -f d.* b.*; qemu-img create -q -f raw b.raw 1M && qemu-io -f raw -c 'write -q -P 6 0 "
          "1M' "
          "b.raw && qemu-img create -q -f qcow2 -o data_file=d.raw -b b.raw -F raw d.qcow2");
    blk = open_image("d.qcow2", true);
    write_byte(blk, 1000, 10, 1);
    assert_int_equal(blk_pdiscard(blk, CLUSTER, CLUSTER), 0);
    expect_byte(blk, 0, 1000, 6);
    expect_byte(blk, 1000, 10, 1);
    expect_byte(blk, CLUSTER, CLUSTER, 0);
    expect_byte(blk, 2 * CLUSTER, CLUSTER, 6);
    assert_int_equal(blk_make_empty(blk, NULL), 0);
    expect_byte(blk, 0, SIZE, 6);
    close_image(blk);
    expect_file_byte("d.raw", 0, CLUSTER, 0);
    shell("qemu-img check -q d.qcow2 && qemu-img compare -q d.qcow2 -f qcow2 -F raw b.raw");
}

static void growing_lengthens_the_data_file_first(void **state)
{
    struct stat st;
    struct err err;
    struct blk *blk;

    (void)state;
    make_image("data_file_raw=on");
    blk = open_image("d.qcow2", true);
    assert_int_equal(blk_resize(blk, SIZE + 512 * 3, &err), 0);
    expect_byte(blk, SIZE, 512 * 3, 0);
    close_image(blk);
    assert_int_equal(stat("d.raw", &st), 0);
    assert_int_equal(st.st_size, SIZE + 512 * 3);
    shell("qemu-img check -q d.qcow2 && qemu-img compare -q -f raw -F qcow2 d.raw d.qcow2");
}

/* L2 entries that the specification does not allow: an I/O error, and no byte of another place. */
static void entries_that_lead_elsewhere_are_refused(void **state)
{
    static const uint64_t entries[] = {
        QCOW2_ENTRY_COPIED | 9 * CLUSTER,                 /* somebody else's place */
        QCOW2_ENTRY_COPIED,                               /* offset 0 */
        QCOW2_ENTRY_COPIED | CLUSTER | 512,               /* unaligned */
        QCOW2_L2_COMPRESSED | CLUSTER,                    /* compressed */
        QCOW2_ENTRY_COPIED | 9 * CLUSTER | QCOW2_L2_ZERO, /* zeros with a wrong place */
        QCOW2_ENTRY_COPIED | CLUSTER | UINT64_C(1) << 57, /* reserved bit */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        uint8_t byte;
        struct blk *blk;

        make_image("preallocation=metadata");
        poke_be64("d.qcow2", L2_AT + 8, entries[i]);
        blk = open_image("d.qcow2", false);
        assert_int_equal(blk_pread(blk, CLUSTER + 5, &byte, 1), -EIO);
        assert_int_equal(blk_pread(blk, 5, &byte, 1), 0);
        close_image(blk);
    }
}

static void a_table_that_is_used_twice_is_refused(void **state)
{
    uint8_t byte;
    struct blk *blk;

    (void)state;
    shell("rm -f d.*; qemu-img create -q -f qcow2 -o data_file=d.raw,cluster_size=4k,"
          "preallocation=metadata d.qcow2 4M");
    poke_be64("d.qcow2", 3 * 4096 + 8, peek_be64("d.qcow2", 3 * 4096));
    blk = open_image("d.qcow2", false);
    assert_int_equal(blk_pread(blk, 0, &byte, 1), 0);
    assert_int_equal(blk_pread(blk, 2 << 20, &byte, 1), -EIO);
    close_image(blk);
}

static void compressed_writes_and_backing_files_of_raw_data_are_refused(void **state)
{
    static uint8_t cluster[CLUSTER];
    struct err err;
    struct blk *blk;

    (void)state;
    make_image("data_file_raw=on");
    blk = open_image("d.qcow2", true);
    assert_false(blk_can_compress(blk));
    assert_int_equal(blk_pwrite_compressed(blk, 0, cluster, CLUSTER), -ENOTSUP);
    assert_int_equal(blk_set_backing(blk, "b.raw", "raw", &err), -EINVAL);
    close_image(blk);
}

static void a_check_and_facts_need_no_data_file(void **state)
{
    struct blk_open_options options = {
        .path = "d.qcow2", .format = "qcow2", .no_backing = true, .no_data_file = true};
    struct blk_check_result result;
    struct blk_info info;
    struct err err;
    struct blk *blk;
    uint8_t byte;

    (void)state;
    make_image("data_file_raw=on");
    shell("rm d.raw");
    blk = open_with(&options);
    assert_int_equal(blk_get_info(blk, &info, &err), 0);
    assert_string_equal(info.data_name, "d.raw");
    assert_true(info.has_data_file && info.data_file_raw);
    assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
    assert_int_equal(result.corruptions + result.leaks, 0);
    assert_int_equal(result.allocated_clusters, SIZE / CLUSTER);
    assert_int_equal(blk_pread(blk, 0, &byte, 1), -ENOMEDIUM);
    close_image(blk);
    options.no_data_file = false;
    err = refuse_with(&options, -ENOENT);
    assert_says(&err, "data file");
}

static void the_data_file_is_locked_as_the_image_is(void **state)
{
    const struct blk_open_options raw = {.path = "d.raw", .format = "raw", .writable = true};
    const struct blk_open_options reader = {.path = "d.raw", .format = "raw"};
    struct blk *blk, *other;

    (void)state;
    make_image("");
    blk = open_image("d.qcow2", true);
    refuse_with(&raw, -EAGAIN);
    assert_int_not_equal(try_shell("qemu-io -f raw -c 'write -q 0 512' d.raw 2>/dev/null"), 0);
    close_image(blk);
    blk = open_image("d.qcow2", false);
    refuse_with(&raw, -EAGAIN);
    other = open_with(&reader);
    close_image(other);
    close_image(blk);
}

static void created_images_are_what_qemu_makes(void **state)
{
    struct blk_create_options options = {
        .path = "sub/n.qcow2", .format = "qcow2", .size = SIZE, .data_file = "n.raw"};
    struct stat st;
    struct err err;
    struct blk *blk;

    (void)state;
    shell("rm -rf sub; mkdir sub");
    for (int raw = 0; raw < 2; raw++) {
        options.data_file_raw = raw;
        assert_int_equal(blk_create(&options, &err), 0);
        assert_int_equal(stat("sub/n.raw", &st), 0);
        assert_int_equal(st.st_size, SIZE);
        blk = open_image("sub/n.qcow2", true);
        write_byte(blk, 5000, 70000, 3);
        close_image(blk);
        shell("cd sub && qemu-img check -q n.qcow2 && "
              "qemu-img info n.qcow2 | grep -q 'data file raw: %s'",
              raw ? "true" : "false");
        expect_file_byte("sub/n.raw", 5000, 70000, 3);
    }
    options.data_file = "n.qcow2";
    assert_int_equal(blk_create(&options, &err), -EAGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_data_lies_in_the_data_file_at_its_own_offset),
        cmocka_unit_test(a_raw_data_file_alone_is_the_disk),
        cmocka_unit_test(the_last_cluster_does_not_lengthen_the_data_file),
        cmocka_unit_test(a_cluster_of_an_overlay_is_copied_into_its_data_file),
        cmocka_unit_test(growing_lengthens_the_data_file_first),
        cmocka_unit_test(entries_that_lead_elsewhere_are_refused),
        cmocka_unit_test(a_table_that_is_used_twice_is_refused),
        cmocka_unit_test(compressed_writes_and_backing_files_of_raw_data_are_refused),
        cmocka_unit_test(a_check_and_facts_need_no_data_file),
        cmocka_unit_test(the_data_file_is_locked_as_the_image_is),
        cmocka_unit_test(created_images_are_what_qemu_makes),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
