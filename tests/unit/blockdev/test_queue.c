/*
 * A queue's thread does not wait: what would is carried out by the queue's workers, and comes back through
 * the queue's descriptor.
 */
#include "trace.h"

#include <poll.h>

enum { CLUSTER = 65536, MANY = 200 };

/* A file whose data is never in memory, and a gate in front of it: I/O of a kind to an offset waits there. */
struct slow_file {
    struct trace trace;
    struct file_ops ops;
    enum trace_kind kind;
    uint64_t offset;
    bool is_closed, is_there; /* the gate; somebody waits in it */
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static int would_wait(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    (void)file;
    (void)offset;
    (void)iov;
    (void)count;
    return -EAGAIN;
}

static void pass_gate(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    struct slow_file *slow = trace->opaque;

    (void)length;
    pthread_mutex_lock(&slow->lock);
    while (slow->is_closed && kind == slow->kind && offset == slow->offset) {
        slow->is_there = true;
        pthread_cond_broadcast(&slow->changed);
        pthread_cond_wait(&slow->changed, &slow->lock);
    }
    pthread_mutex_unlock(&slow->lock);
}

static void close_gate(struct slow_file *slow, enum trace_kind kind, uint64_t offset)
{
    pthread_mutex_lock(&slow->lock);
    slow->kind = kind;
    slow->offset = offset;
    slow->is_closed = true;
    slow->is_there = false;
    pthread_mutex_unlock(&slow->lock);
}

static void open_gate(struct slow_file *slow)
{
    pthread_mutex_lock(&slow->lock);
    slow->is_closed = false;
    pthread_cond_broadcast(&slow->changed);
    pthread_mutex_unlock(&slow->lock);
}

static void wait_for_somebody(struct slow_file *slow)
{
    pthread_mutex_lock(&slow->lock);
    while (!slow->is_there)
        pthread_cond_wait(&slow->changed, &slow->lock);
    pthread_mutex_unlock(&slow->lock);
}

static struct blk *open_slow(struct slow_file *slow)
{
    const struct file_open_options file_options = {.writable = true};
    const struct blk_open_options options = {
        .path = "a.qcow2", .format = "qcow2", .writable = true};
    struct trace *t = &slow->trace;
    struct blk *blk = NULL;

    shell("qemu-img create -q -f qcow2 a.qcow2 64M");
    shell("qemu-io -c 'write -q -P 1 0 64k' -c 'write -q -P 2 1M 64k' -c 'write -q -P 3 2M 16M' "
          "a.qcow2");
    *slow = (struct slow_file){
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .ops = trace_ops};
    slow->ops.try_preadv = would_wait;
    assert_int_equal(file_open_posix("a.qcow2", &file_options, &t->below, NULL), 0);
    pthread_mutex_init(&t->lock, NULL);
    t->before = pass_gate;
    t->opaque = slow;
    t->file = (struct file){.ops = &slow->ops,
                            .path = t->below->path,
                            .fd = t->below->fd,
                            .writable = true,
                            .alignment = 1};
    assert_int_equal(blk_open_file(&t->file, &options, &blk, NULL), 0);
    return blk;
}

struct asked {
    struct blk_request request;
    struct iovec iov;
    uint8_t bytes[512];
    int result; /* 1: not yet */
};

static void note_result(struct blk_request *request, int result)
{
    ((struct asked *)request->opaque)->result = result;
}

static void ask(struct blk_queue *queue, struct asked *asked, enum blk_op op, uint64_t offset)
{
    bool has_data = op == BLK_READ || op == BLK_WRITE;

    asked->result = 1;
    asked->iov = (struct iovec){asked->bytes, sizeof(asked->bytes)};
    asked->request = (struct blk_request){.op = op,
                                          .offset = offset,
                                          .length = has_data ? sizeof(asked->bytes) : 0,
                                          .iov = &asked->iov,
                                          .iovcnt = has_data,
                                          .done = note_result,
                                          .opaque = asked};
    blk_submit(queue, &asked->request);
}

static void complete_one(struct blk_queue *queue)
{
    struct pollfd poll_fd = {.fd = blk_queue_fd(queue), .events = POLLIN};

    while (blk_queue_complete(queue) == 0)
        assert_int_equal(poll(&poll_fd, 1, 60000), 1);
}

static uint64_t host_of(struct blk *blk, uint64_t offset)
{
    struct blk_extent extent;

    assert_int_equal(blk_map(blk, offset, 1, BLK_MAP_TOP_ONLY, &extent), 0);
    return extent.host_offset;
}

static void finish(struct slow_file *slow, struct blk *blk, struct blk_queue *queue)
{
    blk_queue_destroy(queue);
    assert_int_equal(blk_close(blk, NULL), 0);
    trace_free(&slow->trace);
    shell("qemu-img check -q a.qcow2");
}

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
    while (blk_queue_in_flight(queue) > 0)
        complete_one(queue);
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(asked[i].result, 0);
        assert_int_equal(asked[i].bytes[0], i % 2 == 0 ? i % 3 + 1 : 3);
    }
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
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
