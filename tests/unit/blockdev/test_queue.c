/*
 * A queue's thread does not wait: what would is carried out by the kernel or by the queue's workers, and comes
 * back through the queue's descriptor.
 */
#include "queue_helpers.h"

#include <sys/mman.h>

enum { CLUSTER = 65536, MANY = 200, FEW = 60 };

/* `op` at `offset` waits for the file; a read of other data, asked for later, comes back before. */
static void others_overtake(enum blk_op op, uint64_t offset, enum trace_kind kind, uint64_t where)
{
    struct asked first, second;
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    struct blk_queue *queue;

    if (where == UINT64_MAX)
        where = host_of(blk, offset);
    else
        write_bytes(blk, 0, 512, 1); /* so that a flush has something to do */
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    close_gate(&slow, kind, where);
    ask(queue, &first, op, offset);
    assert_int_equal(blk_queue_complete(queue), 0);
    wait_for_somebody(&slow);
    ask(queue, &second, BLK_READ, 1 << 20);
    complete_one(queue);
    assert_int_equal(second.result, 0);
    assert_int_equal(second.bytes[511], 2);
    assert_int_equal(first.result, 1);
    assert_int_equal(blk_queue_in_flight(queue), 1);
    open_gate(&slow);
    complete_one(queue);
    assert_int_equal(first.result, 0);
    if (op == BLK_READ)
        assert_int_equal(first.bytes[511], 1);
    assert_int_equal(blk_queue_in_flight(queue), 0);
    finish(&slow, blk, queue);
}

static void a_read_that_waits_holds_nobody_up(void **state)
{
    (void)state;
    others_overtake(BLK_READ, 0, TRACE_READ, UINT64_MAX);
}

static void a_flush_that_waits_holds_nobody_up(void **state)
{
    (void)state;
    others_overtake(BLK_FLUSH, 0, TRACE_SYNC, 0);
}

/* More than there are workers; each answer is the right one, and comes once. */
static void many_requests_all_come_back(void **state)
{
    static struct asked asked[MANY];
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    struct blk_queue *queue;

    (void)state;
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    for (unsigned i = 0; i < MANY; i++)
        ask(queue, &asked[i], BLK_READ, i % 2 == 0 ? (i % 3) << 20 : (2 << 20) + i * CLUSTER);
    complete_all(queue);
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(asked[i].result, 0);
        assert_int_equal(asked[i].bytes[0], i % 2 == 0 ? i % 3 + 1 : 3);
    }
    finish(&slow, blk, queue);
}

static void read_few(struct blk_queue *queue, struct asked *asked)
{
    for (unsigned i = 0; i < FEW; i++)
        ask(queue, &asked[i], BLK_READ, (2 << 20) + i * CLUSTER);
    complete_all(queue);
    for (unsigned i = 0; i < FEW; i++) {
        assert_int_equal(asked[i].result, 0);
        assert_int_equal(asked[i].bytes[0], 3);
        assert_int_equal(asked[i].bytes[511], 3);
    }
}

/* Through io_uring, if this host has it to give. `works`: with what the image lies in, or a file that is
 * empty, as if all were cut short. Returns how many reads the workers made. */
static unsigned reads_of_workers(bool works)
{
    static struct asked asked[FEW];
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    struct blk_queue *queue;
    bool has_ring;
    unsigned reads;

    assert_bytes(blk, 2 << 20, CLUSTER, 3); /* its tables are in memory from now on */
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    has_ring = strcmp(blk_queue_engine(queue), "io_uring") == 0;
    slow.plain_fd = works ? slow.trace.below->fd : memfd_create("empty", MFD_CLOEXEC);
    atomic_store(&slow.reads, 0);
    read_few(queue, asked);
    reads = atomic_load(&slow.reads);
    if (!works)
        close(slow.plain_fd);
    finish(&slow, blk, queue);
    if (!has_ring)
        skip();
    return reads;
}

static void simple_reads_are_the_kernels(void **state)
{
    (void)state;
    assert_int_equal(reads_of_workers(true), 0);
}

static void reads_that_are_cut_short_begin_anew(void **state)
{
    (void)state;
    assert_int_equal(reads_of_workers(false), FEW);
}

/* More than the ring holds, past the page cache, some to memory that is not aligned. */
static void reads_past_the_page_cache_are_right(void **state)
{
    const struct blk_open_options options = {
        .path = "a.qcow2", .format = "qcow2", .writable = true, .cache = BLK_CACHE_DIRECT};
    static uint8_t memory[(MANY + 1) * 8192];
    static struct asked asked[MANY];
    struct blk_queue *queue;
    struct blk *blk;
    uint8_t *start = memory + (4096 - (uintptr_t)memory % 4096);
    struct err err = {""};

    (void)state;
    shell("qemu-img create -q -f qcow2 a.qcow2 64M");
    shell("qemu-io -c 'write -q -P 3 2M 16M' a.qcow2");
    if (blk_open(&options, &blk, &err) != 0) {
        print_message("# %s\n", err.text);
        skip();
    }
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    for (unsigned i = 0; i < MANY; i++) {
        ask(queue, &asked[i], BLK_READ, (2 << 20) + i * CLUSTER + i % 3 * 4096);
        asked[i].iov = (struct iovec){start + i * 8192 + (i % 5 == 0), 4096};
        asked[i].request.length = 4096;
    }
    complete_all(queue);
    for (unsigned i = 0; i < MANY; i++) {
        const uint8_t *bytes = asked[i].iov.iov_base;

        assert_int_equal(asked[i].result, 0);
        assert_int_equal(bytes[0], 3);
        assert_memory_equal(bytes, bytes + 1, 4095);
    }
    blk_queue_destroy(queue);
    assert_int_equal(blk_close(blk, NULL), 0);
}

static void after_slow_writes_others_are_the_workers(void **state)
{
    struct asked asked;
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    struct blk_queue *queue;
    unsigned here = 0;

    (void)state;
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    slow.trace.before = write_slowly;
    for (unsigned i = 0; i < 10; i++) {
        ask(queue, &asked, BLK_WRITE, 0);
        complete_one(queue);
        assert_int_equal(asked.result, 0);
        here += pthread_equal(slow.writer, pthread_self()) != 0;
        assert_true(i > 1 || here == i + 1);
    }
    assert_int_equal(here, 2);
    finish(&slow, blk, queue);
}

/* What fails at the workers' is told like everything else. */
static void a_worker_reports_what_fails(void **state)
{
    struct asked asked;
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    struct blk_queue *queue;

    (void)state;
    assert_bytes(blk, 0, 512, 1);
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    slow.trace.read_fail_code = -EIO;
    ask(queue, &asked, BLK_READ, 0);
    complete_one(queue);
    assert_int_equal(asked.result, -EIO);
    slow.trace.read_fail_code = 0;
    ask(queue, &asked, BLK_READ, 0);
    complete_one(queue);
    assert_int_equal(asked.result, 0);
    assert_int_equal(asked.bytes[0], 1);
    finish(&slow, blk, queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_that_waits_holds_nobody_up),
        cmocka_unit_test(a_flush_that_waits_holds_nobody_up),
        cmocka_unit_test(many_requests_all_come_back),
        cmocka_unit_test(a_worker_reports_what_fails),
        cmocka_unit_test(after_slow_writes_others_are_the_workers),
        cmocka_unit_test(simple_reads_are_the_kernels),
        cmocka_unit_test(reads_that_are_cut_short_begin_anew),
        cmocka_unit_test(reads_past_the_page_cache_are_right),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
