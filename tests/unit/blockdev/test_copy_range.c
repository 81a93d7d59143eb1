/*
 * blk_copy_range(): what the kernel copies is what was there, and nothing else changes.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { LENGTH = 1 << 20, SECTOR = 512 };

/* Whether the kernel can copy between files of this directory. */
static bool kernel_can(void)
{
    int from = open("probe.from", O_RDWR | O_CREAT, 0600),
        to = open("probe.to", O_RDWR | O_CREAT, 0600);
    bool can;

    assert_true(from >= 0 && to >= 0);
    assert_int_equal(ftruncate(from, SECTOR), 0);
    can = copy_file_range(from, NULL, to, NULL, SECTOR, 0) == SECTOR;
    close(from);
    close(to);
    return can;
}

static struct blk *make_target(const char *format)
{
    shell("qemu-img create -q -f %s target.%s 1M && qemu-io -f %s -c 'write -P 7 0 1M' target.%s "
          ">/dev/null",
          format, format, format, format);
    return open_with(&(struct blk_open_options){
        .path = strcmp(format, "raw") == 0 ? "target.raw" : "target.qcow2",
        .format = format,
        .writable = true,
    });
}

static void copies_what_the_chain_shows(void **state)
{
    uint8_t *theirs = malloc(LENGTH), *ours = malloc(LENGTH);
    struct blk *from, *to;
    int rc;

    (void)state;
    shell("qemu-img create -q -f raw base.raw 1M && qemu-io -f raw -c 'write -P 1 0 1M' base.raw "
          ">/dev/null");
    shell("qemu-img create -q -f qcow2 -b base.raw -F raw -o cluster_size=4k over.qcow2");
    shell("qemu-io -c 'write -P 2 8k 20k' -c 'write -P 3 100k 4k' over.qcow2 >/dev/null");
    from = open_image("over.qcow2", false);
    to = make_target("raw");
    rc = blk_copy_range(from, 4096 + SECTOR, to, 64 << 10, 200 << 10);
    if (!kernel_can()) {
        assert_int_equal(rc, -ENOTSUP);
    } else {
        assert_int_equal(rc, 0);
        assert_int_equal(blk_pread(from, 0, theirs, LENGTH), 0);
        assert_int_equal(blk_pread(to, 0, ours, LENGTH), 0);
        assert_memory_equal(ours + (64 << 10), theirs + 4096 + SECTOR, 200 << 10);
        for (unsigned i = 0; i < LENGTH; i++) {
            if (i < 64 << 10 || i >= 264 << 10)
                assert_int_equal(ours[i], 7);
        }
    }
    close_image(to);
    close_image(from);
    free(theirs);
    free(ours);
}

static void what_is_not_stored_as_it_is_is_refused(void **state)
{
    struct blk *from, *to;

    (void)state;
    shell("qemu-img create -q -f qcow2 -o cluster_size=64k holes.qcow2 1M");
    shell("qemu-io -c 'write -P 2 0 64k' -c 'write -c -P 3 64k 64k' -c 'write -z 128k 64k' "
          "-c 'write -P 4 192k 64k' holes.qcow2 >/dev/null");
    from = open_image("holes.qcow2", false);
    to = make_target("raw");
    assert_int_equal(blk_copy_range(from, 64 << 10, to, 0, 4096), -ENOTSUP);
    assert_int_equal(blk_copy_range(from, 128 << 10, to, 0, 4096), -ENOTSUP);
    assert_int_equal(blk_copy_range(from, 256 << 10, to, 0, 4096), -ENOTSUP);
    assert_int_equal(blk_copy_range(from, LENGTH - 4096, to, 0, 8192), -EINVAL);
    assert_int_equal(blk_copy_range(from, 0, to, LENGTH - 4096, 8192), -EINVAL);
    assert_int_equal(blk_copy_range(to, 0, from, 0, 4096), -EINVAL); /* read-only */
    close_image(to);
    to = make_target("qcow2");
    assert_int_equal(blk_copy_range(from, 0, to, 0, 4096), -ENOTSUP);
    close_image(to);
    close_image(from);
}

/* Its first sector may not become a qcow2 header: the copy would not be looked at. */
static void a_guessed_raw_image_is_written_with_care(void **state)
{
    struct blk *from, *to;

    (void)state;
    close_image(make_target("raw"));
    from = open_image("base.raw", false);
    to = open_image("target.raw", true);
    assert_int_equal(blk_copy_range(from, 0, to, 0, SECTOR), -ENOTSUP);
    close_image(to);
    close_image(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_what_the_chain_shows),
        cmocka_unit_test(what_is_not_stored_as_it_is_is_refused),
        cmocka_unit_test(a_guessed_raw_image_is_written_with_care),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
