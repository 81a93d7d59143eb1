/*
 * The disk of an image as a file: what file.h promises of one, and of a raw image that lies on another.
 */
#include "fixture.h"

#include "file_disk.h"

enum { SIZE = 1 << 20, OPERATIONS = 500 };

static struct blk *make_disk(uint8_t *model)
{
    shell(
        "qemu-img create -q -f raw below.raw 1M && qemu-io -f raw -c 'write -P 3 0 600k' below.raw "
        ">/dev/null");
    shell("rm -f over.qcow2; qemu-img create -q -f qcow2 -b below.raw -F raw over.qcow2");
    memset(model, 0, SIZE);
    memset(model, 3, 600 << 10);
    return open_image("over.qcow2", true);
}

static void does_what_a_file_does(void **state)
{
    uint8_t *model = malloc(SIZE), *buffer = malloc(SIZE);
    struct blk *disk = make_disk(model);
    struct file *file;

    (void)state;
    assert_int_equal(file_disk_open(disk, &file), 0);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        uint64_t at = (uint64_t)rand() % (SIZE + 5000), length = (uint64_t)rand() % 100000, end;
        uint64_t in = at < SIZE ? min_u64(length, SIZE - at) : 0;
        bool is_data;

        switch (rand() % 4) {
        case 0:
            memset(buffer, 0xee, length);
            assert_int_equal(file_pread(file, at, buffer, length), 0);
            assert_memory_equal(buffer, model + min_u64(at, SIZE), in);
            for (uint64_t b = in; b < length; b++)
                assert_int_equal(buffer[b], 0);
            break;
        case 1:
            memset(buffer, rand() % 255 + 1, length);
            assert_int_equal(file_pwrite(file, at, buffer, length), in == length ? 0 : -ENOSPC);
            if (in == length)
                memcpy(model + min_u64(at, SIZE), buffer, length);
            break;
        case 2:
            assert_int_equal(file->ops->zero(file, at, length, rand() % 2), 0);
            memset(model + min_u64(at, SIZE), 0, in);
            break;
        default:
            assert_int_equal(file->ops->extent(file, at, &is_data, &end), 0);
            assert_true(end >= at && (at >= SIZE || (end > at && end <= SIZE)));
            for (uint64_t b = at; b < end && !is_data; b++)
                assert_int_equal(model[b], 0);
            break;
        }
    }
    assert_int_equal(file->ops->sync(file), 0);
    file_close(file);
    assert_int_equal(blk_pread(disk, 0, buffer, SIZE), 0);
    assert_memory_equal(buffer, model, SIZE);
    close_image(disk);
    free(buffer);
    free(model);
}

static void far_away_is_nothing(void **state)
{
    uint8_t *model = malloc(SIZE), bytes[16] = {1};
    struct blk *disk = make_disk(model);
    struct file *file;
    uint64_t size = 0, end = 0;
    bool is_data = true;

    (void)state;
    assert_int_equal(file_disk_open(disk, &file), 0);
    assert_int_equal(file_pread(file, UINT64_MAX - 8, bytes, sizeof(bytes)), 0);
    assert_int_equal(bytes[0], 0);
    assert_int_equal(file_pwrite(file, UINT64_MAX - 8, bytes, sizeof(bytes)), -ENOSPC);
    assert_int_equal(file->ops->zero(file, UINT64_MAX - 8, UINT64_MAX, true), 0);
    assert_int_equal(file->ops->extent(file, UINT64_MAX - 8, &is_data, &end), 0);
    assert_false(is_data);
    assert_int_equal(file->ops->allocate(file, SIZE - 8, 16), -ENOSPC);
    assert_int_equal(file->ops->truncate(file, 2 * SIZE), 0);
    assert_int_equal(file->ops->size(file, &size), 0);
    assert_int_equal(size, 2 * SIZE);
    file_close(file);
    close_image(disk);
    free(model);
}

/* Of a raw image on it, closed together with it. */
static void a_raw_image_on_an_image(void **state)
{
    const struct blk_part part = {.offset = 512 << 10, .has_size = true, .size = 64 << 10};
    struct blk_open_options options = {
        .path = "over.qcow2",
        .format = "raw",
        .writable = true,
        .trust_probe = true,
        .place = {.image_format = "qcow2", .raw_part = &part},
    };
    uint8_t *model = malloc(SIZE), *buffer = malloc(SIZE);
    struct blk_extent extent;
    struct blk_info info;
    struct err err;
    struct blk *blk;

    (void)state;
    close_image(make_disk(model));
    blk = open_with(&options);
    assert_string_equal(blk_format(blk), "raw");
    assert_int_equal(blk_length(blk), 64 << 10);
    assert_int_equal(blk_map(blk, 0, 4096, 0, &extent), 0);
    assert_int_equal(extent.kind,
                     BLK_EXTENT_DATA); /* which is below the image: nowhere in its file */
    assert_int_equal(extent.depth, 0);
    assert_false(extent.has_host_offset);
    assert_int_equal(blk_pwrite(blk, 0, memset(buffer, 9, 4096), 4096), 0);
    memset(model + (512 << 10), 9, 4096);
    assert_int_equal(blk_map(blk, 0, 4096, 0, &extent), 0);
    assert_true(extent.has_host_offset);
    assert_true(blk_unsettled(blk));
    assert_int_equal(blk_run(blk, BLK_FLUSH, BLK_REQ_TO_FILE, 0, 0, NULL, 0), 0);
    assert_false(blk_unsettled(blk));
    assert_int_equal(blk_get_info(blk, &info, &err), 0);
    assert_int_equal(info.cluster_size, 65536);
    assert_true(info.disk_size > 0);
    assert_int_equal(blk_cluster_size(blk), 0);
    refuse_with(&options, -EAGAIN); /* its locks are those of the image */
    assert_int_equal(blk_resize(blk, SIZE, &err), -ENOTSUP);
    close_image(blk);
    options.format = NULL;
    refuse_with(&options, -EINVAL);
    options.format = "qcow2";
    refuse_with(&options, -EINVAL);
    blk = open_image("over.qcow2", false);
    assert_int_equal(blk_pread(blk, 0, buffer, SIZE), 0);
    assert_memory_equal(buffer, model, SIZE);
    close_image(blk);
    free(buffer);
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(does_what_a_file_does),
        cmocka_unit_test(far_away_is_nothing),
        cmocka_unit_test(a_raw_image_on_an_image),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
