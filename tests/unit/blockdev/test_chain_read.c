/*
 * Reads through chains that qemu-img made give what qemu-img reads.
 */
#include "fixture.h"

static void assert_same_as_convert(const char *path)
{
    struct blk *blk = open_image(path, false);
    size_t length = (size_t)blk_length(blk);
    uint8_t *mine = malloc(length), *theirs = malloc(length);
    FILE *f;

    shell("qemu-img convert -O raw %s flat.raw", path);
    f = fopen("flat.raw", "r");
    assert_non_null(f);
    assert_int_equal(fread(theirs, 1, length, f), length);
    fclose(f);
    assert_int_equal(blk_pread(blk, 0, mine, length), 0);
    assert_memory_equal(mine, theirs, length);
    /* And in odd pieces. */
    memset(mine, 0xee, length);
    for (size_t at = 0, n = 1; at < length; at += n) {
        n = min_u64(length - at, 1 + at * 7919 % 70001);
        assert_int_equal(blk_pread(blk, at, mine + at, n), 0);
    }
    assert_memory_equal(mine, theirs, length);
    free(mine);
    free(theirs);
    close_image(blk);
}

static void mixed_chain_reads_as_qemu_reads_it(void **state)
{
    (void)state;
    shell("truncate -s 3000000 base.raw && printf 'abc' | dd of=base.raw conv=notrunc bs=1 "
          "seek=2999997 status=none");
    shell("qemu-io -f raw -c 'write -P 1 0 1M' -c 'write -P 2 1500k 64k' base.raw >/dev/null");
    shell("qemu-img create -q -f qcow2 -b base.raw -F raw -o cluster_size=512 a.qcow2 4M");
    shell("qemu-io -f qcow2 -c 'write -P 3 100k 3k' -c 'write -z 200k 64k' a.qcow2 >/dev/null");
    shell("qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 -o cluster_size=2M b.qcow2 2M");
    shell("qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 -o compat=0.10,cluster_size=4k c.qcow2 "
          "5000001");
    shell("qemu-io -f qcow2 -c 'write -P 4 1k 10k' -c 'write -P 5 4M 1k' c.qcow2 >/dev/null");
    shell("qemu-img create -q -f qcow2 -b c.qcow2 -F qcow2 d.qcow2 6M");
    shell("qemu-io -f qcow2 -c 'write -P 6 2M 1k' d.qcow2 >/dev/null");
    assert_same_as_convert("base.raw");
    assert_same_as_convert("a.qcow2");
    assert_same_as_convert("b.qcow2");
    assert_same_as_convert("c.qcow2");
    assert_same_as_convert("d.qcow2");
}

static void loop_in_the_chain_is_refused(void **state)
{
    const struct blk_open_options options = {.path = "l1.qcow2", .trust_probe = true};
    struct err err;

    (void)state;
    shell("qemu-img create -q -f qcow2 l1.qcow2 1M");
    shell("qemu-img create -q -f qcow2 -b l1.qcow2 -F qcow2 l2.qcow2");
    shell("qemu-img rebase -q -u -b l2.qcow2 -F qcow2 l1.qcow2");
    err = refuse_with(&options, -ELOOP);
    assert_says(&err, "loop");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_chain_reads_as_qemu_reads_it),
        cmocka_unit_test(loop_in_the_chain_is_refused),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
