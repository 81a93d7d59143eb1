/*
 * Lazy refcounts: what a flush saves, what the dirty bit says meanwhile, and what an open for writing
 * makes of it.
 */
#include "trace.h"

enum { CLUSTER = 65536, AT_INCOMPATIBLE = 72 };

static unsigned warnings;

static void count_warning(const char *line)
{
    assert_non_null(strstr(line, "was not closed properly"));
    assert_null(strchr(line, '\n'));
    warnings++;
}

static bool is_dirty(const char *path)
{
    return (peek_be64(path, AT_INCOMPATIBLE) & QCOW2_INCOMPAT_DIRTY) != 0;
}

static void make_image(const char *options)
{
    shell("rm -f top.qcow2 copy.qcow2");
    shell("qemu-img create -q -f qcow2 -o %s top.qcow2 64M", options);
}

static void count_syncs(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    (void)offset;
    (void)length;
    if (kind == TRACE_SYNC) {
        ++*(unsigned *)trace->opaque;
    }
}

/* The syncs of `flushes` flushes, each after a cluster that is new, once everything is under way. */
static unsigned syncs_of(const char *options, unsigned flushes)
{
    struct trace trace = {.before = count_syncs};
    unsigned syncs = 0;
    struct blk *blk;

    make_image(options);
    trace.opaque = &syncs;
    blk = trace_open(&trace, "top.qcow2", 0);
    write_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_flush(blk), 0);
    syncs = 0;
    for (unsigned i = 1; i <= flushes; i++) {
        write_bytes(blk, (uint64_t)i * CLUSTER, CLUSTER, (uint8_t)i);
        assert_int_equal(blk_flush(blk), 0);
    }
    trace.before = NULL;
    close_image(blk);
    trace_free(&trace);
    shell("qemu-img check -q top.qcow2");
    return syncs;
}

static void a_flush_of_new_data_is_one_sync(void **state)
{
    (void)state;
    assert_int_equal(syncs_of("lazy_refcounts=off", 8), 16);
    assert_int_equal(syncs_of("lazy_refcounts=on", 8), 8);
}

/* What the first commit of an image does, in order. */
struct order {
    bool bit_was_written, bit_is_stable, l2_was_written;
};

static void look_at_order(struct trace *trace, enum trace_kind kind, uint64_t offset,
                          uint64_t length)
{
    struct order *order = trace->opaque;

    if (kind == TRACE_WRITE && offset == AT_INCOMPATIBLE && length == 8) {
        order->bit_was_written = true;
    } else if (kind == TRACE_SYNC && order->bit_was_written) {
        order->bit_is_stable = true;
    } else if (kind == TRACE_WRITE && length < CLUSTER) {
        assert_true(order->bit_is_stable);
        order->l2_was_written = true;
    }
}

static void the_dirty_bit_is_stable_before_any_metadata(void **state)
{
    struct order order = {false};
    struct trace trace = {.before = look_at_order, .opaque = &order};
    struct blk *blk;

    (void)state;
    make_image("lazy_refcounts=on");
    blk = trace_open(&trace, "top.qcow2", 0);
    write_bytes(blk, 0, CLUSTER, 1);
    assert_false(is_dirty("top.qcow2"));
    assert_int_equal(blk_flush(blk), 0);
    assert_true(order.l2_was_written);
    assert_true(is_dirty("top.qcow2"));
    trace.before = NULL;
    close_image(blk);
    trace_free(&trace);
    assert_false(is_dirty("top.qcow2"));
    shell("qemu-img check -q top.qcow2");
}

static void an_image_that_is_only_read_stays_clean(void **state)
{
    struct blk *blk;

    (void)state;
    make_image("lazy_refcounts=on");
    shell("cp top.qcow2 copy.qcow2");
    blk = open_image("top.qcow2", true);
    assert_bytes(blk, 0, CLUSTER, 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_false(is_dirty("top.qcow2"));
    close_image(blk);
    shell("cmp top.qcow2 copy.qcow2");
}

/* copy.qcow2: an image whose writer died, with `clusters` clusters that were flushed. */
static void make_dirty_copy(unsigned clusters)
{
    struct blk *blk;

    make_image("lazy_refcounts=on");
    blk = open_image("top.qcow2", true);
    for (unsigned i = 0; i < clusters; i++) {
        write_bytes(blk, (uint64_t)i * CLUSTER, CLUSTER, (uint8_t)(i + 1));
    }
    assert_int_equal(blk_flush(blk), 0);
    shell("cp top.qcow2 copy.qcow2");
    close_image(blk);
    assert_true(is_dirty("copy.qcow2"));
    assert_int_equal(try_shell("qemu-img check -q copy.qcow2 > /dev/null 2>&1"), 2);
}

static void opening_for_writing_repairs_a_dirty_image(void **state)
{
    const struct blk_open_options options = {
        .path = "copy.qcow2", .format = "qcow2", .writable = true, .warn = count_warning};
    struct blk *blk;

    (void)state;
    make_dirty_copy(5);
    warnings = 0;
    blk = open_with(&options);
    assert_int_equal(warnings, 1);
    assert_false(is_dirty("copy.qcow2"));
    for (unsigned i = 0; i < 5; i++) {
        assert_bytes(blk, (uint64_t)i * CLUSTER, CLUSTER, (uint8_t)(i + 1));
    }
    write_bytes(blk, 10 * CLUSTER, CLUSTER, 11);
    close_image(blk);
    shell("qemu-img check -q copy.qcow2");
    close_image(open_with(&options));
    assert_int_equal(warnings, 1);
}

static void reading_a_dirty_image_repairs_nothing(void **state)
{
    struct blk *blk;

    (void)state;
    make_dirty_copy(3);
    shell("cp copy.qcow2 before.qcow2");
    blk = open_image("copy.qcow2", false);
    assert_bytes(blk, 2 * CLUSTER, CLUSTER, 3);
    close_image(blk);
    shell("cmp copy.qcow2 before.qcow2");
}

static void a_check_of_an_open_image_sees_exact_refcounts(void **state)
{
    struct blk_check_result result;
    struct err err = {""};
    struct blk *blk;

    (void)state;
    make_image("lazy_refcounts=on");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_false(is_dirty("top.qcow2"));
    write_bytes(blk, CLUSTER, CLUSTER, 1);
    assert_int_equal(blk_flush(blk), 0);
    assert_true(is_dirty("top.qcow2"));
    close_image(blk);
}

static void qemu_and_we_repair_what_the_other_left_dirty(void **state)
{
    struct blk *blk;

    (void)state;
    make_dirty_copy(4);
    shell("qemu-io -c 'read -P 4 192k 64k' -c 'write -P 5 256k 64k' copy.qcow2 > qemu.txt 2>&1");
    assert_int_not_equal(try_shell("grep -q 'Pattern verification failed' qemu.txt"), 0);
    assert_false(is_dirty("copy.qcow2"));
    shell("qemu-img check -q copy.qcow2");

    make_image("lazy_refcounts=on");
    (void)try_shell("(qemu-io -c 'write -P 7 0 200k' -c flush -c 'sigraise 9' top.qcow2) "
                    "> /dev/null 2>&1");
    assert_true(is_dirty("top.qcow2"));
    blk = open_image("top.qcow2", true);
    assert_bytes(blk, 0, 200 << 10, 7);
    write_bytes(blk, 1 << 20, CLUSTER, 8);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

static void a_dirty_image_that_cannot_be_repaired_is_refused(void **state)
{
    const struct blk_open_options options = {
        .path = "copy.qcow2", .format = "qcow2", .writable = true};
    uint64_t l1, l2;
    struct err err;

    (void)state;
    make_dirty_copy(2);
    l1 = peek_be64("copy.qcow2", 40);
    l2 = peek_be64("copy.qcow2", l1) & QCOW2_OFFSET_MASK;
    poke_be64("copy.qcow2", l2, QCOW2_ENTRY_COPIED | (l1 + 512)); /* not aligned */
    err = refuse_with(&options, -EIO);
    assert_says(&err, "not closed properly");
    assert_true(is_dirty("copy.qcow2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flush_of_new_data_is_one_sync),
        cmocka_unit_test(the_dirty_bit_is_stable_before_any_metadata),
        cmocka_unit_test(an_image_that_is_only_read_stays_clean),
        cmocka_unit_test(opening_for_writing_repairs_a_dirty_image),
        cmocka_unit_test(reading_a_dirty_image_repairs_nothing),
        cmocka_unit_test(a_check_of_an_open_image_sees_exact_refcounts),
        cmocka_unit_test(qemu_and_we_repair_what_the_other_left_dirty),
        cmocka_unit_test(a_dirty_image_that_cannot_be_repaired_is_refused),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
