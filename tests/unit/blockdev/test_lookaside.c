/*
 * Look-ups without the lock: what they say is what the tables say, after whatever changes those, and no
 * overwrite that goes by them meets metadata.
 */
#include "trace.h"

#include <pthread.h>
#include <semaphore.h>

enum { CLUSTER = 64 << 10, BLOCK = 4096, FAR = (1 << 30) + CLUSTER };

static uint64_t quick(struct blk *blk)
{
    return qcow2_quick_count(qcow2_of(blk));
}

static struct blk *make_overlay(const char *options)
{
    shell("rm -f *.qcow2; qemu-img create -q -f qcow2 base.qcow2 4M; "
          "qemu-io -c 'write -P 9 0 4M' base.qcow2 >/dev/null; "
          "qemu-img create -q -f qcow2 -o %s -b base.qcow2 -F qcow2 top.qcow2",
          options);
    return open_image("top.qcow2", true);
}

/* The second read of a block, which takes no lock, says what the first one does; so does one after it. */
static void reads_quickly(struct blk *blk, uint64_t offset, uint8_t byte)
{
    uint64_t before;

    assert_bytes(blk, offset, BLOCK, byte);
    before = quick(blk);
    assert_bytes(blk, offset, BLOCK, byte);
    assert_int_equal(quick(blk), before + 1);
}

static void what_changes_is_seen(void **state)
{
    static const char *const options[] = {"cluster_size=64k", "extended_l2=on"};
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct blk *blk = make_overlay(options[i]);
        uint64_t before;

        reads_quickly(blk, 0, 9); /* nothing in this layer */
        write_bytes(blk, 0, CLUSTER, 1);
        reads_quickly(blk, BLOCK, 1);
        before = quick(blk);
        write_bytes(blk, BLOCK, BLOCK, 2); /* in place */
        assert_int_equal(quick(blk), before + 1);
        reads_quickly(blk, BLOCK, 2);
        assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, BLK_REQ_MAY_UNMAP), 0);
        reads_quickly(blk, BLOCK, 0);
        write_bytes(blk, 0, CLUSTER, 3);
        assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
        reads_quickly(blk, 0, 0);
        assert_int_equal(blk_flush(blk), 0);
        write_bytes(blk, 2 * CLUSTER, CLUSTER, 4);
        reads_quickly(blk, 2 * CLUSTER, 4);
        assert_int_equal(blk_resize(blk, CLUSTER, &err), 0);
        assert_int_equal(blk_resize(blk, 4 * CLUSTER, &err), 0);
        assert_bytes(blk, 2 * CLUSTER, BLOCK, 0);
        close_image(blk);
        shell("qemu-img check -q top.qcow2");
    }
}

/* A snapshot takes the clusters: what is written afterwards must go somewhere else. */
static void snapshots_are_left_alone(void **state)
{
    struct blk_snapshot_info info = {.name = (char *)(uintptr_t) "first"};
    struct blk *blk = make_overlay("cluster_size=64k");
    struct err err = {""};

    (void)state;
    write_bytes(blk, 0, CLUSTER, 1);
    reads_quickly(blk, 0, 1);
    if (blk_snapshot_create(blk, &info, &err) != 0) {
        fail_msg("%s", err.text);
    }
    write_bytes(blk, 0, BLOCK, 2);
    reads_quickly(blk, 0, 2);
    if (blk_snapshot_apply(blk, 0, &err) != 0) {
        fail_msg("%s", err.text);
    }
    reads_quickly(blk, 0, 1);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

/* The refcount of a cluster in use says that it is free, and it becomes an L2 table. */
static void no_overwrite_meets_metadata(void **state)
{
    uint64_t refblock, table, data;
    struct blk *blk;

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=64k top.qcow2 2G; "
          "qemu-io -c 'write -P 1 0 64k' top.qcow2 >/dev/null");
    refblock = peek_be64("top.qcow2", peek_be64("top.qcow2", 48)) & QCOW2_OFFSET_MASK;
    table = peek_be64("top.qcow2", peek_be64("top.qcow2", 40)) & QCOW2_OFFSET_MASK;
    data = peek_be64("top.qcow2", table) & QCOW2_OFFSET_MASK;
    poke("top.qcow2", refblock + data / CLUSTER * 2, "\0", 2);
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, BLOCK, 2);
    write_bytes(blk, 0, BLOCK, 3);
    assert_true(quick(blk) > 0);
    write_bytes(blk, FAR, CLUSTER, 4); /* its table is where the data is */
    assert_true(qcow2_is_metadata(qcow2_of(blk), data));
    {
        uint8_t bytes[BLOCK] = {0};

        assert_int_equal(blk_pwrite(blk, 0, bytes, sizeof(bytes)), -EIO);
        assert_int_equal(blk_pwrite(blk, 0, bytes, sizeof(bytes)), -EIO);
        /* Nor is anything written any more, wherever. */
        assert_int_equal(blk_pwrite(blk, FAR, bytes, sizeof(bytes)), -EIO);
    }
    assert_int_equal(blk_close(blk, NULL), -EIO);
}

/* ---- threads ---- */

static atomic_bool is_over;
static atomic_uint wrong;

struct reader {
    struct blk *blk;
    uint64_t offset;
};

/* A cluster that another thread gives up and writes anew all the time never shows anybody else's bytes. */
static void *read_on(void *opaque)
{
    const struct reader *reader = opaque;
    uint8_t own = (uint8_t)(reader->offset / CLUSTER + 1), bytes[BLOCK];

    while (!atomic_load(&is_over)) {
        if (blk_pread(reader->blk, reader->offset, bytes, BLOCK) != 0) {
            atomic_fetch_add(&wrong, 1);
        }
        for (size_t i = 0; i < BLOCK; i++) {
            if (bytes[i] != own && bytes[i] != 0) {
                atomic_fetch_add(&wrong, 1);
                break;
            }
        }
    }
    return NULL;
}

/* The cluster is a thread's alone: what it has written is there. */
static void *overwrite(void *opaque)
{
    const struct reader *writer = opaque;
    uint8_t own = (uint8_t)(writer->offset / CLUSTER + 1), bytes[BLOCK], now[BLOCK];

    memset(bytes, own, BLOCK);
    while (!atomic_load(&is_over)) {
        if (blk_pwrite(writer->blk, writer->offset, bytes, BLOCK) != 0 ||
            blk_pread(writer->blk, writer->offset, now, BLOCK) != 0 ||
            memcmp(now, bytes, BLOCK) != 0) {
            atomic_fetch_add(&wrong, 1);
        }
    }
    return NULL;
}

static void a_cluster_is_never_somebody_elses(void **state)
{
    enum { CLUSTERS = 4, ROUNDS = 300 };
    struct blk *blk;
    struct reader places[CLUSTERS];
    pthread_t threads[CLUSTERS];

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=64k top.qcow2 4M");
    blk = open_image("top.qcow2", true);
    for (unsigned i = 0; i < CLUSTERS; i++) {
        places[i] = (struct reader){.blk = blk, .offset = (uint64_t)i * CLUSTER};
        write_bytes(blk, places[i].offset, CLUSTER, (uint8_t)(i + 1));
    }
    for (unsigned i = 0; i < CLUSTERS; i++) {
        pthread_create(&threads[i], NULL, i == CLUSTERS - 1 ? overwrite : read_on, &places[i]);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < CLUSTERS - 1; i++) {
            assert_int_equal(blk_pdiscard(blk, places[i].offset, CLUSTER), 0);
        }
        assert_int_equal(blk_flush(blk), 0); /* now they may change hands */
        for (unsigned i = 0; i < CLUSTERS - 1; i++) {
            unsigned other = (i + round) % (CLUSTERS - 1);

            write_bytes(blk, places[other].offset, CLUSTER, (uint8_t)(other + 1));
        }
    }
    atomic_store(&is_over, true);
    for (unsigned i = 0; i < CLUSTERS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(wrong, 0);
    assert_true(quick(blk) > 0);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

/* ---- a request that is held up ---- */

struct stop {
    enum trace_kind kind;
    uint64_t host_offset;
    sem_t arrived, go;
    atomic_bool is_armed;
};

static void stop_here(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    struct stop *stop = trace->opaque;

    (void)length;
    if (kind == stop->kind && offset == stop->host_offset &&
        atomic_exchange(&stop->is_armed, false)) {
        sem_post(&stop->arrived);
        sem_wait(&stop->go);
    }
}

static uint64_t host_of(struct blk *blk, uint64_t offset)
{
    struct blk_extent extent;

    assert_int_equal(blk_map(blk, offset, BLOCK, 0, &extent), 0);
    assert_true(extent.has_host_offset);
    return extent.host_offset;
}

struct request {
    struct blk *blk;
    bool is_write;
    uint8_t bytes[BLOCK];
};

static void *carry_out(void *opaque)
{
    struct request *request = opaque;

    if ((request->is_write ? blk_pwrite(request->blk, 0, request->bytes, BLOCK)
                           : blk_pread(request->blk, 0, request->bytes, BLOCK)) != 0) {
        atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

/* While a request is on its way to a cluster the cluster is given up, and that made durable: it has no other
 * use until the request has ended, and then it has. */
static void hold_up(bool is_write, bool is_quick)
{
    struct stop stop = {.kind = is_write ? TRACE_WRITE : TRACE_READ};
    struct trace trace = {.before = stop_here, .opaque = &stop};
    struct request request = {.is_write = is_write};
    pthread_t thread;
    struct blk *blk;
    uint64_t before;

    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=64k top.qcow2 4M");
    sem_init(&stop.arrived, 0, 0);
    sem_init(&stop.go, 0, 0);
    blk = request.blk = trace_open(&trace, "top.qcow2", 0);
    write_bytes(blk, 0, CLUSTER, 1);
    assert_bytes(blk, 0, BLOCK, 1);
    assert_int_equal(blk_flush(blk), 0);
    stop.host_offset = host_of(blk, 0);
    if (!is_quick) {
        pthread_mutex_lock(&qcow2_of(blk)->lock);
        qcow2_lookaside_clear(qcow2_of(blk));
        pthread_mutex_unlock(&qcow2_of(blk)->lock);
    }
    before = quick(blk);
    memset(request.bytes, 2, BLOCK);
    atomic_store(&stop.is_armed, true);
    pthread_create(&thread, NULL, carry_out, &request);
    sem_wait(&stop.arrived);
    assert_int_equal(quick(blk), before + is_quick);

    assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_flush(blk), 0);
    write_bytes(blk, 4 * CLUSTER, CLUSTER, 5);
    assert_int_not_equal(host_of(blk, 4 * CLUSTER), stop.host_offset);
    sem_post(&stop.go);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < BLOCK; i++) {
        assert_int_equal(request.bytes[i], is_write ? 2 : 1);
    }
    assert_bytes(blk, 4 * CLUSTER, CLUSTER, 5);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_flush(blk), 0);
    write_bytes(blk, 6 * CLUSTER, CLUSTER, 7);
    assert_int_equal(host_of(blk, 6 * CLUSTER), stop.host_offset);
    assert_int_equal(atomic_load(&wrong), 0);
    close_image(blk);
    trace_free(&trace);
    sem_destroy(&stop.arrived);
    sem_destroy(&stop.go);
    shell("qemu-img check -q top.qcow2");
}

static void a_cluster_with_a_request_on_its_way_is_not_reused(void **state)
{
    (void)state;
    hold_up(false, true);
    hold_up(true, true);
    hold_up(false, false);
    hold_up(true, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_changes_is_seen),
        cmocka_unit_test(snapshots_are_left_alone),
        cmocka_unit_test(no_overwrite_meets_metadata),
        cmocka_unit_test(a_cluster_is_never_somebody_elses),
        cmocka_unit_test(a_cluster_with_a_request_on_its_way_is_not_reused),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
