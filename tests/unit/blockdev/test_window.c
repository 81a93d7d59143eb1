/*
 * Allocation windows: several streams of first writes at once each get their data in long pieces, one alone gets
 * it as ever, and what was kept is neither lost nor taken for something it is not.
 */
#include "queue_helpers.h"

enum { CLUSTER = 64 << 10, BLOCK = 4096, STREAMS = 3, EACH = 64, KEPT = (1 << 20) / CLUSTER };

static const uint64_t apart = UINT64_C(64) << 20;

static struct blk *make_device(struct blk_queue **queue, const char *options)
{
    struct blk *blk;

    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 -o %s t.qcow2 1G", options);
    blk = open_image("t.qcow2", true);
    /* All L2 tables are there from the start: they lie where they would be between the data otherwise. */
    for (unsigned i = 0; i < STREAMS + 1; i++)
        write_bytes(blk, i * apart + apart / 2, CLUSTER, 1);
    if (queue != NULL)
        assert_int_equal(blk_queue_create(blk, queue, NULL), 0);
    return blk;
}

static void close_device(struct blk *blk, struct blk_queue *queue)
{
    if (queue != NULL)
        blk_queue_destroy(queue);
    close_image(blk);
    shell("qemu-img check -q t.qcow2");
}

/* Each of `streams` writes its next `bytes`, in turns, until it has EACH clusters. */
static void write_in_turns(struct blk *blk, unsigned streams, uint64_t bytes)
{
    for (uint64_t at = 0; at < EACH * CLUSTER; at += bytes) {
        for (unsigned s = 0; s < streams; s++)
            write_bytes(blk, s * apart + at, bytes, (uint8_t)(s + 2));
    }
    for (unsigned s = 0; s < streams; s++)
        assert_bytes(blk, s * apart, EACH * CLUSTER, (uint8_t)(s + 2));
}

/* In how many pieces a stream's clusters lie in the file. */
static unsigned pieces_of(struct blk *blk, unsigned stream)
{
    unsigned pieces = 1;

    for (uint64_t i = 1; i < EACH; i++) {
        uint64_t at = stream * apart + i * CLUSTER;

        pieces += host_of(blk, at) != host_of(blk, at - CLUSTER) + CLUSTER;
    }
    return pieces;
}

static void streams_lie_in_long_pieces(void **state)
{
    static const uint64_t sizes[] = {BLOCK, CLUSTER, 4 * CLUSTER};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct blk_queue *queue;
        struct blk *blk = make_device(&queue, "cluster_size=64k");

        write_in_turns(blk, STREAMS, sizes[i]);
        for (unsigned s = 0; s < STREAMS; s++)
            assert_in_range(pieces_of(blk, s), 1, EACH / KEPT + 1);
        close_device(blk, queue);
    }
}

/* Without a queue it is no device's, and lies densely. */
static void tools_write_densely(void **state)
{
    struct blk *blk = make_device(NULL, "cluster_size=64k");
    uint64_t first;

    (void)state;
    write_in_turns(blk, STREAMS, CLUSTER);
    first = host_of(blk, 0);
    for (uint64_t i = 0; i < EACH; i++) {
        for (unsigned s = 0; s < STREAMS; s++)
            assert_int_equal(host_of(blk, s * apart + i * CLUSTER),
                             first + (i * STREAMS + s) * CLUSTER);
    }
    close_device(blk, NULL);
}

static void one_stream_keeps_nothing(void **state)
{
    struct blk_queue *queue;
    struct blk *blk = make_device(&queue, "cluster_size=64k");
    uint64_t first;

    (void)state;
    write_in_turns(blk, 1, BLOCK);
    assert_int_equal(pieces_of(blk, 0), 1);
    first = host_of(blk, 0);
    /* Not with writes all over the place beside it either, as far as those leave it. */
    write_bytes(blk, apart, CLUSTER, 7);
    assert_int_equal(host_of(blk, apart), first + EACH * CLUSTER);
    for (uint64_t i = 1; i < EACH; i++) {
        write_bytes(blk, apart + i * 2 * CLUSTER, CLUSTER, 7);
        assert_int_equal(host_of(blk, apart + i * 2 * CLUSTER), first + (EACH + i) * CLUSTER);
    }
    /* Nor when a table is in its way. */
    write_bytes(blk, UINT64_C(600) << 20, CLUSTER, 7);
    write_bytes(blk, apart + EACH * 2 * CLUSTER - CLUSTER, CLUSTER, 7);
    assert_false(qcow2_windows_drop(qcow2_of(blk)));
    close_device(blk, queue);
}

/* More streams than there are windows: what the oldest kept goes to others, and in the end the file has no hole. */
static void what_is_given_up_is_used(void **state)
{
    enum { MANY = QCOW2_WINDOWS + 4 };
    struct blk_queue *queue;
    struct blk *blk = make_device(&queue, "cluster_size=64k");
    struct qcow2 *q = qcow2_of(blk);
    uint64_t allocated, end;

    (void)state;
    for (unsigned i = 0; i < 3 * MANY; i++) {
        unsigned s = i / 6 * 2 + i % 2, round = i / 2 % 3; /* two at a time */

        write_bytes(blk, apart + (s * 64 + round) * CLUSTER, CLUSTER, (uint8_t)(s + 1));
    }
    end = q->file_end;
    assert_true(qcow2_windows_drop(q));
    allocated = q->counters.allocations;
    while (q->file_end == end)
        write_bytes(blk, (q->counters.allocations - allocated) * CLUSTER, CLUSTER, 0x77);
    /* One more than there were holes. */
    for (uint64_t at = q->reftable.entries[0]; at < end; at += CLUSTER) {
        uint64_t count;

        pthread_mutex_lock(&q->lock);
        assert_int_equal(qcow2_refcount_get(q, at, &count), 0);
        pthread_mutex_unlock(&q->lock);
        assert_int_equal(count, 1);
    }
    for (unsigned s = 0; s < MANY; s++)
        assert_bytes(blk, apart + s * 64 * CLUSTER, 3 * CLUSTER, (uint8_t)(s + 1));
    close_device(blk, queue);
}

/* Of a file that cannot grow each cluster is used, whoever it was kept for. */
static void refuse_to_grow(struct trace *trace, enum trace_kind kind, uint64_t offset,
                           uint64_t length)
{
    const uint64_t *limit = trace->opaque;

    (void)length;
    if (kind == TRACE_TRUNCATE) {
        trace->fail_code = -ENOSPC;
        trace->fail_from = offset > *limit ? trace->operations + 1 : 0;
        trace->fail_count = 1;
    }
}

static void all_of_a_full_device_is_used(void **state)
{
    struct blk_queue *queue;
    struct trace trace = {0};
    struct blk *blk;
    uint64_t limit, used = 0;
    int r = 0;

    (void)state;
    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 t.qcow2 1G");
    blk = trace_open(&trace, "t.qcow2", 0);
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    write_bytes(blk, 0, CLUSTER, 2); /* and the only L2 table */
    limit = qcow2_of(blk)->file_size + 60 * CLUSTER;
    trace.opaque = &limit;
    trace.before = refuse_to_grow;
    for (unsigned i = 1; r == 0; i++) {
        for (unsigned s = 0; s < STREAMS && r == 0; s++) {
            static uint8_t bytes[CLUSTER];

            memset(bytes, (int)s + 2, sizeof(bytes));
            r = blk_pwrite(blk, s * apart + i * CLUSTER, bytes, sizeof(bytes));
            used += r == 0;
        }
    }
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(qcow2_of(blk)->file_end, align_down(limit, CLUSTER));
    for (uint64_t at = 0; at < limit; at += CLUSTER) {
        uint64_t count;

        pthread_mutex_lock(&qcow2_of(blk)->lock);
        assert_int_equal(qcow2_refcount_get(qcow2_of(blk), at, &count), 0);
        pthread_mutex_unlock(&qcow2_of(blk)->lock);
        assert_int_equal(count, 1);
    }
    trace.before = NULL;
    trace.fail_from = 0;
    close_device(blk, queue);
}

/* As on a file system that gives nothing back. */
static void fill_host(uint64_t place, uint64_t clusters)
{
    uint8_t *bytes = malloc(clusters * CLUSTER);

    assert_non_null(bytes);
    memset(bytes, 0xaa, clusters * CLUSTER);
    poke("t.qcow2", place, bytes, clusters * CLUSTER);
    free(bytes);
}

/* Nor is a window fresh that lies where something was given back before. */
static void what_was_used_before_is_not_fresh(void **state)
{
    struct blk_queue *queue;
    struct blk *blk = make_device(&queue, "cluster_size=64k");
    uint64_t old = 3 * apart + 16 * CLUSTER, place;

    (void)state;
    write_bytes(blk, old, EACH * CLUSTER, 0xaa);
    place = host_of(blk, old);
    assert_int_equal(blk_pdiscard(blk, old, EACH * CLUSTER), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_flush(blk), 0);
    fill_host(place, EACH);
    for (uint64_t i = 0; i < 8; i++) {
        for (unsigned s = 0; s < 2; s++)
            write_bytes(blk, s * apart + i * CLUSTER, BLOCK, 3);
    }
    assert_in_range(host_of(blk, 7 * CLUSTER), place, place + EACH * CLUSTER);
    for (uint64_t i = 0; i < 8; i++) {
        for (unsigned s = 0; s < 2; s++)
            assert_bytes(blk, s * apart + i * CLUSTER + BLOCK, CLUSTER - BLOCK, 0);
    }
    close_device(blk, queue);
}

/* Bytes of a part that nobody wrote: zeros, though a stream goes on in clusters that look free and held something. */
static void what_was_used_meanwhile_is_not_fresh(void **state)
{
    struct blk_queue *queue;
    struct blk *blk = make_device(&queue, "cluster_size=64k");
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_windows kept;
    uint64_t place;

    (void)state;
    for (uint64_t i = 0; i < 4; i++) {
        for (unsigned s = 0; s < 2; s++)
            write_bytes(blk, s * apart + i * CLUSTER, CLUSTER, (uint8_t)(s + 2));
    }
    place = host_of(blk, 3 * CLUSTER) + CLUSTER;
    /* As if somebody had needed these very clusters: the window does not hear of it. */
    kept = q->windows;
    assert_true(qcow2_windows_drop(q));
    for (uint64_t i = 0; i < 2 * KEPT; i++)
        write_bytes(blk, 2 * apart + 2 * i * CLUSTER, CLUSTER, 0xaa);
    assert_int_equal(blk_pdiscard(blk, 2 * apart, 4 * KEPT * CLUSTER), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_flush(blk), 0);
    fill_host(place, KEPT);
    q->windows = kept;
    write_bytes(blk, 4 * CLUSTER + BLOCK, BLOCK, 5);
    assert_int_equal(host_of(blk, 4 * CLUSTER), place);
    assert_bytes(blk, 4 * CLUSTER, BLOCK, 0);
    assert_bytes(blk, 4 * CLUSTER + BLOCK, BLOCK, 5);
    assert_bytes(blk, 4 * CLUSTER + 2 * BLOCK, CLUSTER - 2 * BLOCK, 0);
    close_device(blk, queue);
}

static uint64_t bytes_written;

static void count_bytes(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    (void)trace;
    (void)offset;
    bytes_written += kind == TRACE_WRITE || kind == TRACE_ZERO ? length : 0;
}

/* A window above everything is known to read as zeros: nobody has to write them around a stream's data. */
static void zeros_in_a_window_are_not_written(void **state)
{
    struct blk_queue *queue;
    struct trace trace = {0};
    struct blk *blk;

    (void)state;
    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 t.qcow2 1G");
    blk = trace_open(&trace, "t.qcow2", 0);
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    trace.before = count_bytes;
    bytes_written = 0;
    for (uint64_t i = 0; i < EACH; i++) {
        for (unsigned s = 0; s < STREAMS; s++) {
            /* In two halves, so that the second finds a cluster in the stream's window. */
            write_bytes(blk, s * apart + i * CLUSTER, BLOCK, 3);
            write_bytes(blk, s * apart + i * CLUSTER + CLUSTER - BLOCK, BLOCK, 3);
        }
    }
    assert_in_range(bytes_written, 2 * EACH * STREAMS * BLOCK,
                    2 * EACH * STREAMS * BLOCK + 4 * CLUSTER);
    for (unsigned s = 0; s < STREAMS; s++)
        assert_in_range(pieces_of(blk, s), 1, EACH / KEPT + 1);
    trace.before = NULL;
    close_device(blk, queue);
}

static void other_cluster_sizes(void **state)
{
    static const char *const options[] = {"cluster_size=4k",   "cluster_size=512k",
                                          "cluster_size=2M",   "extended_l2=on,cluster_size=128k",
                                          "lazy_refcounts=on", "refcount_bits=1",
                                          "refcount_bits=64"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct blk_queue *queue;
        struct blk *blk = make_device(&queue, options[i]);

        write_in_turns(blk, STREAMS, CLUSTER);
        close_device(blk, queue);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_lie_in_long_pieces),
        cmocka_unit_test(tools_write_densely),
        cmocka_unit_test(one_stream_keeps_nothing),
        cmocka_unit_test(what_is_given_up_is_used),
        cmocka_unit_test(all_of_a_full_device_is_used),
        cmocka_unit_test(what_was_used_meanwhile_is_not_fresh),
        cmocka_unit_test(what_was_used_before_is_not_fresh),
        cmocka_unit_test(zeros_in_a_window_are_not_written),
        cmocka_unit_test(other_cluster_sizes),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
