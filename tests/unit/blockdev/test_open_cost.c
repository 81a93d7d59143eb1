/*
 * What opening a large image reads, and how much of its tables stays in memory.
 */
#include "trace.h"

#include <inttypes.h>

enum { CLUSTER = 65536, MOST_READS = 8 };

struct reads {
    uint64_t count, bytes;
};

static void count_reads(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    struct reads *reads = trace->opaque;

    (void)offset;
    if (kind == TRACE_READ) {
        reads->count++;
        reads->bytes += length;
    }
}

/* Opens top.qcow2 for writing, closes it, and says what that read. */
static struct reads open_and_close(void)
{
    struct reads reads = {0};
    struct trace trace = {.before = count_reads, .opaque = &reads};
    struct blk *blk = trace_open(&trace, "top.qcow2", 0);
    struct reads opened = reads;

    close_image(blk);
    /* Nothing was written, so there is nothing to look up either. */
    assert_int_equal(reads.count, opened.count);
    trace_free(&trace);
    return opened;
}

static void opening_reads_no_l2_table_and_no_refcount_block(void **state)
{
    /* 100 GB: 200 L2 tables, 1.6 million clusters. */
    static const char *const options[] = {"preallocation=metadata",
                                          "preallocation=metadata,lazy_refcounts=on",
                                          "preallocation=metadata,extended_l2=on"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct reads reads;

        shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o %s top.qcow2 100G", options[i]);
        reads = open_and_close();
        if (reads.count > MOST_READS || reads.bytes > 4 * CLUSTER) {
            fail_msg("%s: %" PRIu64 " reads, %" PRIu64 " bytes", options[i], reads.count,
                     reads.bytes);
        }
    }
}

static void an_overlay_of_100_gb_is_opened_by_a_few_reads(void **state)
{
    struct reads reads;

    (void)state;
    shell("rm -f top.qcow2 base.qcow2; qemu-img create -q -f qcow2 base.qcow2 100G");
    shell("qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    reads = open_and_close();
    assert_true(reads.count <= MOST_READS);
    assert_true(reads.bytes <= 4 * CLUSTER);
}

/* The cache keeps what it was told to, however much is read. */
static void the_metadata_cache_is_bounded(void **state)
{
    struct blk_open_options options = {
        .path = "top.qcow2", .format = "qcow2", .metadata_cache = 256 << 10};
    uint8_t buffer[512];
    struct blk *blk;

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o preallocation=metadata top.qcow2 100G");
    blk = open_with(&options);
    for (uint64_t at = 0; at < blk_length(blk); at += 32 << 20) {
        assert_int_equal(blk_pread(blk, at, buffer, sizeof(buffer)), 0);
    }
    assert_true(qcow2_of(blk)->cache.count <= 256 / 4);
    close_image(blk);
    options.metadata_cache = 0; /* by default all of 64 GiB: 2048 slices of 4 KiB */
    blk = open_with(&options);
    for (uint64_t at = 0; at < blk_length(blk); at += 32 << 20) {
        assert_int_equal(blk_pread(blk, at, buffer, sizeof(buffer)), 0);
    }
    assert_int_equal(qcow2_of(blk)->cache.count, 2048);
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_reads_no_l2_table_and_no_refcount_block),
        cmocka_unit_test(an_overlay_of_100_gb_is_opened_by_a_few_reads),
        cmocka_unit_test(the_metadata_cache_is_bounded),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
