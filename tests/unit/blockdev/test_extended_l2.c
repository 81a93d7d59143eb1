/*
 * Extended L2 entries: every state of a subcluster, what writes, zeros and discards leave in the
 * bitmap, how little a small write touches, hostile bitmaps, and what qemu-img says.
 */
#include "trace.h"

enum {
    CLUSTER = 64 << 10,
    SUB = 2 << 10,
    L2 = 4 * CLUSTER, /* where qemu-img puts the first one */
    BASE = 9,
};

/* An overlay of 2M with subclusters of 2K over 1M of BASE. */
static void make_overlay(void)
{
    shell("rm -f top.qcow2 base.raw; truncate -s 1M base.raw");
    shell("qemu-io -f raw -c 'write -P %d 0 1M' base.raw > /dev/null", BASE);
    shell("qemu-img create -q -f qcow2 -o extended_l2=on -b base.raw -F raw top.qcow2 2M");
}

static void qemu_io(const char *commands)
{
    shell("qemu-io -d unmap %s top.qcow2 > /dev/null", commands);
}

static uint64_t entry_of(unsigned cluster)
{
    return peek_be64("top.qcow2", L2 + 16 * (uint64_t)cluster);
}

static uint64_t bitmap_of(unsigned cluster)
{
    return peek_be64("top.qcow2", L2 + 16 * (uint64_t)cluster + 8);
}

static uint64_t bits(unsigned first, unsigned count)
{
    return ((UINT64_C(1) << count) - 1) << first;
}

static uint64_t zero_bits(unsigned first, unsigned count)
{
    return bits(first, count) << 32;
}

static void assert_extent(struct blk *blk, uint64_t offset, enum blk_extent_kind kind,
                          bool has_host_offset, uint64_t length)
{
    struct layer_extent extent;

    assert_int_equal(blk->format->map(blk, offset, blk_length(blk) - offset, 0, &extent), 0);
    assert_int_equal(extent.kind, kind);
    assert_int_equal(extent.has_host_offset, has_host_offset);
    assert_int_equal(extent.length, length);
}

static void each_state_of_a_subcluster_is_read(void **state)
{
    struct blk_info info;
    struct blk *blk;

    (void)state;
    make_overlay();
    /* Cluster 0: data, zeros and neither, in a host cluster; 1: zeros without one. */
    qemu_io("-c 'write -P 1 4k 6k' -c 'write -z 12k 4k' -c 'write -P 2 62k 2k' "
            "-c 'write -z 66k 2k'");
    assert_int_equal(bitmap_of(0), bits(2, 3) | bits(31, 1) | zero_bits(6, 2));
    assert_int_equal(entry_of(1), 0);
    assert_int_equal(bitmap_of(1), zero_bits(1, 1));
    blk = open_image("top.qcow2", false);
    assert_int_equal(blk_get_info(blk, &info, NULL), 0);
    assert_true(info.extended_l2);
    assert_extent(blk, 0, BLK_EXTENT_UNALLOCATED, true, 2 * SUB);
    assert_extent(blk, 2 * SUB + 1, BLK_EXTENT_DATA, true, 3 * SUB - 1);
    assert_extent(blk, 5 * SUB, BLK_EXTENT_UNALLOCATED, true, SUB);
    assert_extent(blk, 6 * SUB, BLK_EXTENT_ZERO, true, 2 * SUB);
    assert_extent(blk, 31 * SUB, BLK_EXTENT_DATA, true, SUB);
    assert_extent(blk, 32 * SUB, BLK_EXTENT_UNALLOCATED, false, SUB);
    assert_extent(blk, 33 * SUB, BLK_EXTENT_ZERO, false, SUB);
    assert_extent(blk, 34 * SUB, BLK_EXTENT_UNALLOCATED, false, (2 << 20) - 34 * SUB);
    assert_bytes(blk, 0, 2 * SUB, BASE);
    assert_bytes(blk, 2 * SUB, 3 * SUB, 1);
    assert_bytes(blk, 5 * SUB, SUB, BASE);
    assert_bytes(blk, 6 * SUB, 2 * SUB, 0);
    assert_bytes(blk, 8 * SUB, 23 * SUB, BASE);
    assert_bytes(blk, 31 * SUB, SUB, 2);
    assert_bytes(blk, 32 * SUB, SUB, BASE);
    assert_bytes(blk, 33 * SUB, SUB, 0);
    assert_bytes(blk, 34 * SUB, (1 << 20) - 34 * SUB, BASE);
    assert_bytes(blk, 1 << 20, 1 << 20, 0);
    close_image(blk);
}

struct counts {
    uint64_t read, written; /* bytes at or above the first data cluster */
};

static void count_data(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    struct counts *counts = trace->opaque;

    if (offset >= L2 + CLUSTER) {
        counts->read += kind == TRACE_READ ? length : 0;
        counts->written += kind == TRACE_WRITE ? length : 0;
    }
}

static void small_writes_touch_their_subclusters_alone(void **state)
{
    struct counts counts = {0};
    struct trace trace = {.before = count_data, .opaque = &counts};
    uint64_t entry;
    struct blk *blk;

    (void)state;
    make_overlay();
    blk = trace_open(&trace, "top.qcow2", 0);
    /* Allocates: one subcluster, its edges from the base. */
    write_bytes(blk, 10 * SUB + 700, 100, 1);
    assert_int_equal(counts.written, SUB);
    /* Fills two more of the same host cluster. */
    write_bytes(blk, 13 * SUB - 100, 200, 2);
    assert_int_equal(counts.written, 3 * SUB);
    /* Overwrites. */
    write_bytes(blk, 10 * SUB + 10, 100, 3);
    assert_int_equal(counts.written, 3 * SUB + 100);
    assert_int_equal(counts.read, 0);
    /* Across data and other subclusters, into the next cluster, which is new. */
    write_bytes(blk, 12 * SUB, CLUSTER, 4);
    assert_int_equal(counts.written, 3 * SUB + 100 + CLUSTER);
    assert_int_equal(blk_flush(blk), 0);
    entry = entry_of(0);
    assert_int_equal(bitmap_of(0), bits(10, 1) | bits(12, 20));
    assert_int_equal(bitmap_of(1), bits(0, 12));
    write_bytes(blk, 0, 10 * SUB, 5);
    assert_bytes(blk, 0, 10 * SUB, 5);
    assert_bytes(blk, 10 * SUB, 10, BASE);
    assert_bytes(blk, 10 * SUB + 10, 100, 3);
    assert_bytes(blk, 10 * SUB + 110, 590, BASE);
    assert_bytes(blk, 10 * SUB + 700, 100, 1);
    assert_bytes(blk, 11 * SUB, SUB, BASE);
    assert_bytes(blk, 12 * SUB, CLUSTER, 4);
    close_image(blk);
    trace_free(&trace);
    assert_int_equal(entry_of(0), entry);
    assert_int_equal(bitmap_of(0), bits(0, 11) | bits(12, 20));
    shell("qemu-img check -q top.qcow2");
}

static void zeros_go_into_the_bitmap(void **state)
{
    uint64_t entry;
    struct blk *blk;

    (void)state;
    make_overlay();
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 8 * SUB, 1);
    /* Edges inside subclusters are written. */
    assert_int_equal(blk_pwrite_zeroes(blk, SUB + 10, 3 * SUB, 0), 0);
    assert_int_equal(blk_flush(blk), 0);
    entry = entry_of(0);
    assert_int_equal(bitmap_of(0), bits(0, 2) | bits(4, 4) | zero_bits(2, 2));
    assert_bytes(blk, 0, SUB + 10, 1);
    assert_bytes(blk, SUB + 10, 3 * SUB, 0);
    assert_bytes(blk, 4 * SUB + 10, 4 * SUB - 10, 1);
    assert_bytes(blk, 8 * SUB, SUB, BASE);
    /* A write takes the bit away and finds zeros around it. */
    write_bytes(blk, 2 * SUB + 10, 10, 2);
    assert_bytes(blk, 2 * SUB, 10, 0);
    assert_bytes(blk, 2 * SUB + 10, 10, 2);
    assert_bytes(blk, 2 * SUB + 20, SUB - 20, 0);
    /* Over what is not there: no host cluster. */
    assert_int_equal(blk_pwrite_zeroes(blk, CLUSTER + SUB, SUB, 0), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(bitmap_of(0), bits(0, 3) | bits(4, 4) | zero_bits(3, 1));
    assert_int_equal(entry_of(1), 0);
    assert_int_equal(bitmap_of(1), zero_bits(1, 1));
    /* All data gone, space kept. */
    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, 0), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(entry_of(0), entry);
    assert_int_equal(bitmap_of(0), zero_bits(0, 32));
    /* And given back. */
    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, BLK_REQ_MAY_UNMAP), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(entry_of(0), 0);
    assert_int_equal(bitmap_of(0), zero_bits(0, 32));
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

static void the_host_cluster_goes_with_its_last_data(void **state)
{
    struct blk *blk;

    (void)state;
    make_overlay();
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 4 * SUB, 4 * SUB, 1);
    assert_int_equal(blk_pdiscard(blk, 4 * SUB + 1, 2 * SUB), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_true(entry_of(0) != 0);
    assert_int_equal(bitmap_of(0), bits(4, 1) | bits(6, 2) | zero_bits(5, 1));
    assert_bytes(blk, 4 * SUB, SUB, 1);
    assert_bytes(blk, 5 * SUB, SUB, 0);
    assert_int_equal(blk_pdiscard(blk, 4 * SUB, 4 * SUB), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(entry_of(0), 0);
    assert_int_equal(bitmap_of(0), zero_bits(4, 4));
    assert_bytes(blk, 0, 4 * SUB, BASE);
    assert_bytes(blk, 4 * SUB, 4 * SUB, 0);
    assert_bytes(blk, 8 * SUB, CLUSTER, BASE);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

static void preallocated_subclusters_are_filled_and_given_back(void **state)
{
    uint64_t entry;
    struct blk *blk;

    (void)state;
    make_overlay();
    shell("rm top.qcow2; qemu-img create -q -f qcow2 -o extended_l2=on,preallocation=metadata "
          "-b base.raw -F raw top.qcow2 2M");
    entry = entry_of(0);
    assert_true(entry != 0);
    blk = open_image("top.qcow2", true);
    assert_extent(blk, 0, BLK_EXTENT_UNALLOCATED, true, 2 << 20);
    assert_bytes(blk, 0, 1 << 20, BASE);
    write_bytes(blk, CLUSTER - SUB - 1, SUB + 2, 1);
    assert_bytes(blk, 0, CLUSTER - SUB - 1, BASE);
    assert_bytes(blk, CLUSTER + 1, CLUSTER, BASE);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(entry_of(0), entry);
    assert_int_equal(bitmap_of(0), bits(30, 2));
    assert_int_equal(bitmap_of(1), bits(0, 1));
    assert_int_equal(blk_pdiscard(blk, 0, 2 << 20), 0);
    assert_bytes(blk, 0, 2 << 20, 0);
    close_image(blk);
    for (unsigned i = 0; i < 32; i++) {
        assert_int_equal(entry_of(i), 0);
    }
    shell("qemu-img check -q top.qcow2");
}

/* Without the COPIED flag a cluster may be shared: a new one takes over all of its data. */
static void a_cluster_that_is_not_ours_is_copied(void **state)
{
    uint64_t entry;
    struct blk *blk;

    (void)state;
    make_overlay();
    qemu_io(
        "-c 'write -P 1 4k 2k' -c 'write -P 2 20k 2k' -c 'write -z 8k 2k' -c 'write -z 62k 2k'");
    entry = entry_of(0);
    poke_be64("top.qcow2", L2, entry & ~QCOW2_ENTRY_COPIED);
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 6 * SUB + 5, 10, 3);
    assert_int_equal(blk_flush(blk), 0);
    assert_true((entry_of(0) & QCOW2_OFFSET_MASK) != (entry & QCOW2_OFFSET_MASK));
    assert_int_equal(bitmap_of(0), bits(2, 9) | zero_bits(31, 1));
    assert_bytes(blk, 0, 2 * SUB, BASE);
    assert_bytes(blk, 2 * SUB, SUB, 1);
    assert_bytes(blk, 3 * SUB, SUB, BASE);
    assert_bytes(blk, 4 * SUB, SUB, 0);
    assert_bytes(blk, 5 * SUB, SUB + 5, BASE);
    assert_bytes(blk, 6 * SUB + 5, 10, 3);
    assert_bytes(blk, 6 * SUB + 15, 4 * SUB - 15, BASE);
    assert_bytes(blk, 10 * SUB, SUB, 2);
    assert_bytes(blk, 11 * SUB, 20 * SUB, BASE);
    assert_bytes(blk, 31 * SUB, SUB, 0);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

static void compressed_clusters_have_no_subclusters(void **state)
{
    uint8_t *buffer = calloc(1, CLUSTER);
    struct blk *blk;

    (void)state;
    assert_non_null(buffer);
    make_overlay();
    qemu_io("-c 'write -c -P 1 0 64k' -c 'write -c -P 2 64k 64k' -c 'write -P 3 192k 2k'");
    blk = open_image("top.qcow2", true);
    assert_extent(blk, 0, BLK_EXTENT_COMPRESSED, false, 2 * CLUSTER);
    assert_bytes(blk, 0, CLUSTER, 1);
    /* A part: a discard leaves it, zeros are written, and so is data; then it is an ordinary one. */
    assert_int_equal(blk_pdiscard(blk, 0, 4 * SUB), 0);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_pwrite_zeroes(blk, CLUSTER - SUB, 2 * SUB, BLK_REQ_MAY_UNMAP), 0);
    assert_bytes(blk, 0, CLUSTER - SUB, 1);
    assert_bytes(blk, CLUSTER - SUB, 2 * SUB, 0);
    assert_bytes(blk, CLUSTER + SUB, CLUSTER - SUB, 2);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(bitmap_of(0), bits(0, 32));
    assert_int_equal(bitmap_of(1), bits(0, 32));
    /* And compressed again, over some subclusters. */
    memset(buffer, 4, CLUSTER);
    assert_int_equal(blk_pwrite_compressed(blk, 3 * CLUSTER, buffer, CLUSTER), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_true((entry_of(3) & QCOW2_L2_COMPRESSED) != 0);
    assert_int_equal(bitmap_of(3), 0);
    assert_bytes(blk, 3 * CLUSTER, CLUSTER, 4);
    assert_int_equal(blk_pdiscard(blk, 3 * CLUSTER, CLUSTER), 0);
    assert_bytes(blk, 3 * CLUSTER, CLUSTER, 0);
    close_image(blk);
    assert_int_equal(entry_of(3), 0);
    assert_int_equal(bitmap_of(3), zero_bits(0, 32));
    shell("qemu-img check -q top.qcow2");
    free(buffer);
}

static void bad_bitmaps_are_contained_and_found(void **state)
{
    static const struct {
        uint64_t entry, bitmap; /* 0 of `entry`: as it was */
        bool is_bad;
    } cases[] = {
        {0, 0xf | UINT64_C(0xf0) << 32, false},
        {0, 1 | UINT64_C(1) << 32, true},
        {0, UINT64_C(0x80000000) | UINT64_C(0x80000000) << 32, true},
        {QCOW2_ENTRY_COPIED, UINT64_C(0xffffffff) << 32, false},
        {QCOW2_ENTRY_COPIED, 1, true},
        {QCOW2_L2_COMPRESSED | (L2 + CLUSTER), 1, true},
        {QCOW2_L2_COMPRESSED | (L2 + CLUSTER), UINT64_C(1) << 63, true},
        {QCOW2_ENTRY_COPIED | (L2 + CLUSTER) | QCOW2_L2_ZERO, 0xf, false}, /* the flag is ignored */
    };
    uint8_t buffer[512] = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct blk_check_result result;
        struct blk *blk;
        int r;

        make_overlay();
        qemu_io("-c 'write -P 1 0 4k' -c 'write -P 2 64k 64k'");
        if (cases[i].entry != 0) {
            poke_be64("top.qcow2", L2, cases[i].entry);
        }
        poke_be64("top.qcow2", L2 + 8, cases[i].bitmap);
        blk = open_image("top.qcow2", false);
        assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, NULL), 0);
        assert_int_equal(result.corruptions > 0, cases[i].is_bad);
        close_image(blk);
        assert_int_equal(try_shell("qemu-img check -q top.qcow2 > /dev/null 2>&1") == 2,
                         cases[i].is_bad);
        blk = open_image("top.qcow2", true);
        r = blk_pread(blk, 0, buffer, sizeof(buffer));
        assert_int_equal(r, cases[i].is_bad ? -EIO : 0);
        assert_bytes(blk, CLUSTER, CLUSTER, 2);
        assert_int_equal(blk_pwrite(blk, 0, buffer, sizeof(buffer)), r);
        assert_int_equal(blk_close(blk, NULL), r);
        assert_int_equal((peek_be64("top.qcow2", 72) & QCOW2_INCOMPAT_CORRUPT) != 0,
                         cases[i].is_bad);
    }
}

static void small_clusters_are_refused(void **state)
{
    const struct blk_open_options options = {.path = "top.qcow2", .format = "qcow2"};
    struct err err;

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=8k top.qcow2 2M");
    poke_be64("top.qcow2", 72, QCOW2_INCOMPAT_EXTENDED_L2);
    err = refuse_with(&options, -EINVAL);
    assert_says(&err, "16384");
}

/* Subclusters behind the old end that show the base must not do so when the end moves. */
static void growing_does_not_expose_a_larger_backing_file(void **state)
{
    enum { OLD = 3 * CLUSTER + 3 * SUB + 512 };
    struct blk *blk;

    (void)state;
    make_overlay();
    shell("rm top.qcow2; qemu-img create -q -f qcow2 -o extended_l2=on -b base.raw -F raw "
          "top.qcow2 %d",
          OLD);
    blk = open_image("top.qcow2", true);
    write_bytes(blk, OLD - 100, 100, 1);
    assert_int_equal(blk_resize(blk, 2 << 20, NULL), 0);
    assert_bytes(blk, 0, OLD - 100, BASE);
    assert_bytes(blk, OLD - 100, 100, 1);
    assert_bytes(blk, OLD, (2 << 20) - OLD, 0);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    blk = open_image("top.qcow2", false);
    assert_bytes(blk, OLD, (2 << 20) - OLD, 0);
    close_image(blk);
}

static void emptying_shows_the_backing_file(void **state)
{
    struct blk *blk;

    (void)state;
    make_overlay();
    qemu_io("-c 'write -P 1 4k 6k' -c 'write -z 12k 4k' -c 'write -c -P 2 64k 64k'");
    blk = open_image("top.qcow2", true);
    assert_int_equal(blk_make_empty(blk, NULL), 0);
    assert_bytes(blk, 0, 1 << 20, BASE);
    write_bytes(blk, 10, 10, 3);
    assert_bytes(blk, 20, CLUSTER, BASE);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

/* ---- several at a time in one cluster ---- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_held, is_open;
};

/* Holds the first write to a data cluster up until the gate is opened. */
static void wait_at_gate(struct trace *trace, enum trace_kind kind, uint64_t offset,
                         uint64_t length)
{
    struct gate *gate = trace->opaque;

    (void)length;
    if (kind != TRACE_WRITE || offset < L2 + CLUSTER) {
        return;
    }
    pthread_mutex_lock(&gate->lock);
    if (!gate->is_held) {
        gate->is_held = true;
        pthread_cond_broadcast(&gate->changed);
        while (!gate->is_open) {
            pthread_cond_wait(&gate->changed, &gate->lock);
        }
    }
    pthread_mutex_unlock(&gate->lock);
}

static void *write_first(void *opaque)
{
    write_bytes(opaque, 4 * SUB + 10, 10, 3);
    return NULL;
}

static void fills_of_one_cluster_do_not_wait_for_each_other(void **state)
{
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct trace trace = {.opaque = &gate};
    pthread_t thread;
    struct blk *blk;

    (void)state;
    make_overlay();
    qemu_io("-c 'write -P 1 0 2k'");
    blk = trace_open(&trace, "top.qcow2", 0);
    trace.before = wait_at_gate;
    assert_int_equal(pthread_create(&thread, NULL, write_first, blk), 0);
    pthread_mutex_lock(&gate.lock);
    while (!gate.is_held) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    pthread_mutex_unlock(&gate.lock);
    /* One is held up before its data is written: others go on, and see what was there. */
    write_bytes(blk, 6 * SUB + 10, 10, 4);
    write_bytes(blk, 10, 10, 5);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(bitmap_of(0), bits(0, 1) | bits(6, 1));
    assert_bytes(blk, 4 * SUB, SUB, BASE);
    pthread_mutex_lock(&gate.lock);
    gate.is_open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_bytes(blk, 4 * SUB, 10, BASE);
    assert_bytes(blk, 4 * SUB + 10, 10, 3);
    assert_bytes(blk, 4 * SUB + 20, 2 * SUB - 10, BASE);
    assert_bytes(blk, 6 * SUB + 10, 10, 4);
    close_image(blk);
    trace_free(&trace);
    assert_int_equal(bitmap_of(0), bits(0, 1) | bits(4, 1) | bits(6, 1));
    shell("qemu-img check -q top.qcow2");
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(each_state_of_a_subcluster_is_read),
        TEST(small_writes_touch_their_subclusters_alone),
        TEST(zeros_go_into_the_bitmap),
        TEST(the_host_cluster_goes_with_its_last_data),
        TEST(preallocated_subclusters_are_filled_and_given_back),
        TEST(a_cluster_that_is_not_ours_is_copied),
        TEST(compressed_clusters_have_no_subclusters),
        TEST(bad_bitmaps_are_contained_and_found),
        TEST(small_clusters_are_refused),
        TEST(growing_does_not_expose_a_larger_backing_file),
        TEST(emptying_shows_the_backing_file),
        TEST(fills_of_one_cluster_do_not_wait_for_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
