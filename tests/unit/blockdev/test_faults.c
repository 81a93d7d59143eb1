/*
 * The promises about freed clusters and failed syncs, one at a time. Failing I/O everywhere is the crash
 * tests' (tests/crash).
 */
#include "trace.h"

enum { CLUSTER = 4096 };

static void make_image(void)
{
    shell("rm -f top.qcow2 base.raw; truncate -s 1M base.raw");
    shell("qemu-io -f raw -c 'write -P 9 0 1M' base.raw > /dev/null");
    shell("qemu-img create -q -f qcow2 -o cluster_size=4k -b base.raw -F raw top.qcow2");
}

static void after_a_failed_sync_no_flush_succeeds(void **state)
{
    struct trace trace = {0};
    struct blk *blk;
    struct err err = {""};

    (void)state;
    make_image();
    blk = trace_open(&trace, "top.qcow2", 0);
    write_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_flush(blk), 0);
    trace.fail_from = trace.operations + 1;
    trace.fail_count = 1;
    trace.fail_code = -EIO;
    assert_int_equal(blk_flush(blk), -EIO);
    assert_int_equal(blk_flush(blk), -EIO);
    assert_true(blk_problem(blk, &err));
    assert_says(&err, "top.qcow2");
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_close(blk, &err), -EIO);
    trace_free(&trace);
}

static uint64_t host_of(struct blk *blk, uint64_t offset)
{
    struct blk_extent extent;

    assert_int_equal(blk_map(blk, offset, 1, BLK_MAP_TOP_ONLY, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_DATA);
    return extent.host_offset;
}

static void freed_cluster_is_not_reused_before_a_flush(void **state)
{
    struct blk *blk;
    uint64_t host;

    (void)state;
    make_image();
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, CLUSTER, 1);
    host = host_of(blk, 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
    write_bytes(blk, 10 * CLUSTER, CLUSTER, 2);
    assert_int_not_equal(host_of(blk, 10 * CLUSTER), host);
    assert_int_equal(blk_flush(blk), 0);
    write_bytes(blk, 11 * CLUSTER, CLUSTER, 3);
    assert_int_equal(host_of(blk, 11 * CLUSTER), host);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

/* A gate in front of the file: the next I/O of a kind to an offset waits in it. */
struct gate {
    enum trace_kind kind;
    uint64_t offset;
    bool is_there, is_open;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void wait_in_gate(struct trace *trace, enum trace_kind kind, uint64_t offset,
                         uint64_t length)
{
    struct gate *gate = trace->opaque;

    (void)length;
    if (kind == gate->kind && offset == gate->offset) {
        pthread_mutex_lock(&gate->lock);
        gate->is_there = true;
        pthread_cond_broadcast(&gate->changed);
        while (!gate->is_open) {
            pthread_cond_wait(&gate->changed, &gate->lock);
        }
        pthread_mutex_unlock(&gate->lock);
    }
}

static void *read_first_cluster(void *opaque)
{
    assert_bytes(opaque, 0, CLUSTER, 1);
    return NULL;
}

static void *write_first_cluster(void *opaque)
{
    write_bytes(opaque, 0, CLUSTER, 4);
    return NULL;
}

/* An I/O that is still on its way to a cluster when that is freed keeps it from being reused. */
static void hold_test(enum trace_kind kind, void *(*work)(void *))
{
    struct gate gate = {
        .kind = kind, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct trace trace = {0};
    struct blk *blk;
    pthread_t thread;
    uint64_t host;

    make_image();
    blk = trace_open(&trace, "top.qcow2", 0);
    write_bytes(blk, 0, CLUSTER, 1);
    host = host_of(blk, 0);
    gate.offset = host;
    trace.opaque = &gate;
    trace.before = wait_in_gate;
    assert_int_equal(pthread_create(&thread, NULL, work, blk), 0);
    pthread_mutex_lock(&gate.lock);
    while (!gate.is_there) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    pthread_mutex_unlock(&gate.lock);

    assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
    for (unsigned i = 1; i < 6; i++) {
        assert_int_equal(blk_flush(blk), 0);
        write_bytes(blk, i * 2 * CLUSTER, CLUSTER, 2);
        assert_int_not_equal(host_of(blk, i * 2 * CLUSTER), host);
        /* Others come and go. */
        assert_bytes(blk, i * 2 * CLUSTER, CLUSTER, 2);
        assert_int_equal(blk_pdiscard(blk, i * 2 * CLUSTER, CLUSTER), 0);
    }
    pthread_mutex_lock(&gate.lock);
    gate.is_open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    pthread_join(thread, NULL);

    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_flush(blk), 0);
    write_bytes(blk, 40 * CLUSTER, CLUSTER, 3);
    assert_int_equal(host_of(blk, 40 * CLUSTER), host);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    trace_free(&trace);
}

static void freed_cluster_waits_for_a_read_on_its_way(void **state)
{
    (void)state;
    hold_test(TRACE_READ, read_first_cluster);
}

static void freed_cluster_waits_for_a_write_on_its_way(void **state)
{
    (void)state;
    hold_test(TRACE_WRITE, write_first_cluster);
}

/* A discard of a cluster that somebody is allocating waits until it is linked. */
static void *discard_first_cluster(void *opaque)
{
    assert_int_equal(blk_pdiscard(opaque, 0, CLUSTER), 0);
    return NULL;
}

static void discard_waits_for_an_allocating_write(void **state)
{
    struct gate gate = {.kind = TRACE_WRITE,
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .changed = PTHREAD_COND_INITIALIZER};
    struct trace trace = {0};
    pthread_t writer, discarder;
    struct blk *blk;

    (void)state;
    make_image();
    blk = trace_open(&trace, "top.qcow2", 0);
    write_bytes(blk, CLUSTER, CLUSTER, 1);
    gate.offset = host_of(blk, CLUSTER) + CLUSTER;
    trace.opaque = &gate;
    trace.before = wait_in_gate;
    assert_int_equal(pthread_create(&writer, NULL, write_first_cluster, blk), 0);
    pthread_mutex_lock(&gate.lock);
    while (!gate.is_there) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    pthread_mutex_unlock(&gate.lock);
    assert_int_equal(pthread_create(&discarder, NULL, discard_first_cluster, blk), 0);
    /* Neither a flush nor another cluster has to wait for the two. */
    assert_int_equal(blk_flush(blk), 0);
    write_bytes(blk, 9 * CLUSTER, CLUSTER, 2);
    pthread_mutex_lock(&gate.lock);
    gate.is_open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    pthread_join(writer, NULL);
    pthread_join(discarder, NULL);
    /* Whoever came last, the cluster is one or the other and its refcount is right. */
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    trace_free(&trace);
}

/* A larger L1 table needs two clusters in a row. There is one, inside; behind it the disk is full. */
static void a_run_that_was_too_short_is_given_back_once(void **state)
{
    struct trace trace = {0};
    struct blk *blk;
    struct err err = {""};

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=512 top.qcow2 1M");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 8 * 512, 1);
    assert_int_equal(blk_pdiscard(blk, 3 * 512, 512), 0);
    assert_int_equal(blk_flush(blk), 0);
    close_image(blk);
    blk = trace_open(&trace, "top.qcow2", 0);
    trace.fail_from = trace.operations + 1;
    trace.fail_count = 2; /* the file gets no longer, by however little */
    trace.fail_code = -ENOSPC;
    assert_int_equal(blk_resize(blk, 4 << 20, &err), -ENOSPC);
    assert_false(blk_problem(blk, &err));
    assert_int_equal(blk_resize(blk, 4 << 20, &err), 0);
    assert_int_equal(blk_close(blk, &err), 0);
    trace_free(&trace);
    shell("qemu-img check -q top.qcow2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_a_failed_sync_no_flush_succeeds),
        cmocka_unit_test(freed_cluster_is_not_reused_before_a_flush),
        cmocka_unit_test(freed_cluster_waits_for_a_read_on_its_way),
        cmocka_unit_test(freed_cluster_waits_for_a_write_on_its_way),
        cmocka_unit_test(discard_waits_for_an_allocating_write),
        cmocka_unit_test(a_run_that_was_too_short_is_given_back_once),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
