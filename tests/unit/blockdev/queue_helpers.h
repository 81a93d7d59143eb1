/*
 * queue_helpers.h - what the tests of queue contexts share: a file that waits, and requests to it.
 */
#ifndef TESTS_BLOCKDEV_QUEUE_HELPERS_H
#define TESTS_BLOCKDEV_QUEUE_HELPERS_H

#include "trace.h"

#include <poll.h>
#include <stdatomic.h>
#include <time.h>

/* A file whose data is never in memory, and a gate in front of it: I/O of a kind to an offset waits there. */
struct slow_file {
    struct trace trace;
    struct file_ops ops;
    enum trace_kind kind;
    uint64_t offset;
    int plain_fd;              /* what the kernel may read from, or -1 */
    atomic_uint reads, writes; /* of data, but for the kernel's */
    bool is_closed, is_there;  /* the gate; somebody waits in it */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t writer; /* of the last slow write */
};

static inline int would_wait(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    (void)file;
    (void)offset;
    (void)iov;
    (void)count;
    return -EAGAIN;
}

static inline int plain_fd(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    (void)offset;
    (void)iov;
    (void)count;
    return ((struct slow_file *)(void *)file)->plain_fd;
}

static inline void pass_gate(struct trace *trace, enum trace_kind kind, uint64_t offset,
                             uint64_t length)
{
    struct slow_file *slow = trace->opaque;

    if (kind == TRACE_READ && length == 512)
        atomic_fetch_add(&slow->reads, 1);
    if (kind == TRACE_WRITE && length == 512)
        atomic_fetch_add(&slow->writes, 1);
    pthread_mutex_lock(&slow->lock);
    while (slow->is_closed && kind == slow->kind && offset == slow->offset) {
        slow->is_there = true;
        pthread_cond_broadcast(&slow->changed);
        pthread_cond_wait(&slow->changed, &slow->lock);
    }
    pthread_mutex_unlock(&slow->lock);
}

/* Instead of the gate: a disk. */
static inline void write_slowly(struct trace *trace, enum trace_kind kind, uint64_t offset,
                                uint64_t length)
{
    const struct timespec long_enough = {.tv_nsec = 5 * 1000 * 1000};
    struct slow_file *slow = trace->opaque;

    (void)offset;
    if (kind == TRACE_WRITE && length == 512) {
        atomic_fetch_add(&slow->writes, 1);
        slow->writer = pthread_self();
        (void)nanosleep(&long_enough, NULL);
    }
}

static inline void close_gate(struct slow_file *slow, enum trace_kind kind, uint64_t offset)
{
    pthread_mutex_lock(&slow->lock);
    slow->kind = kind;
    slow->offset = offset;
    slow->is_closed = true;
    slow->is_there = false;
    pthread_mutex_unlock(&slow->lock);
}

static inline void open_gate(struct slow_file *slow)
{
    pthread_mutex_lock(&slow->lock);
    slow->is_closed = false;
    pthread_cond_broadcast(&slow->changed);
    pthread_mutex_unlock(&slow->lock);
}

static inline void wait_for_somebody(struct slow_file *slow)
{
    pthread_mutex_lock(&slow->lock);
    while (!slow->is_there)
        pthread_cond_wait(&slow->changed, &slow->lock);
    pthread_mutex_unlock(&slow->lock);
}

static inline struct blk *open_slow(struct slow_file *slow)
{
    const struct file_open_options file_options = {.writable = true};
    const struct blk_open_options options = {
        .path = "a.qcow2", .format = "qcow2", .writable = true};
    struct trace *t = &slow->trace;
    struct blk *blk = NULL;

    shell("qemu-img create -q -f qcow2 a.qcow2 64M");
    shell("qemu-io -c 'write -q -P 1 0 64k' -c 'write -q -P 2 1M 64k' -c 'write -q -P 3 2M 16M' "
          "a.qcow2");
    *slow = (struct slow_file){.lock = PTHREAD_MUTEX_INITIALIZER,
                               .changed = PTHREAD_COND_INITIALIZER,
                               .ops = trace_ops,
                               .plain_fd = -1};
    slow->ops.try_preadv = would_wait;
    slow->ops.plain_fd = plain_fd;
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

/* A qcow2 image past the page cache, or, of a file system that has no O_DIRECT, through it. */
static inline struct blk *open_past_cache(const char *path, enum blk_aio aio)
{
    struct blk_open_options options = {
        .path = path, .format = "qcow2", .writable = true, .aio = aio, .cache = BLK_CACHE_DIRECT};
    struct blk *blk = NULL;

    if (blk_open(&options, &blk, NULL) != 0) {
        options.cache = BLK_CACHE_WRITEBACK;
        assert_int_equal(blk_open(&options, &blk, NULL), 0);
    }
    return blk;
}

struct asked {
    struct blk_request request;
    struct iovec iov;
    uint8_t bytes[512];
    int result; /* 1: not yet */
};

static inline void note_result(struct blk_request *request, int result)
{
    ((struct asked *)request->opaque)->result = result;
}

static inline void ask_for(struct blk_queue *queue, struct asked *asked, enum blk_op op,
                           uint64_t offset, void *memory, size_t length)
{
    bool has_data = op == BLK_READ || op == BLK_WRITE;

    asked->result = 1;
    asked->iov = (struct iovec){memory, length};
    asked->request = (struct blk_request){.op = op,
                                          .offset = offset,
                                          .length = has_data ? length : 0,
                                          .iov = &asked->iov,
                                          .iovcnt = has_data,
                                          .done = note_result,
                                          .opaque = asked};
    blk_submit(queue, &asked->request);
}

static inline void ask(struct blk_queue *queue, struct asked *asked, enum blk_op op,
                       uint64_t offset)
{
    ask_for(queue, asked, op, offset, asked->bytes, sizeof(asked->bytes));
}

static inline void complete_one(struct blk_queue *queue)
{
    struct pollfd poll_fd = {.fd = blk_queue_fd(queue), .events = POLLIN};

    while (blk_queue_complete(queue) == 0)
        assert_int_equal(poll(&poll_fd, 1, 60000), 1);
}

static inline void complete_all(struct blk_queue *queue)
{
    while (blk_queue_in_flight(queue) > 0)
        complete_one(queue);
}

static inline uint64_t host_of(struct blk *blk, uint64_t offset)
{
    struct blk_extent extent;

    assert_int_equal(blk_map(blk, offset, 1, BLK_MAP_TOP_ONLY, &extent), 0);
    return extent.host_offset;
}

static inline void finish(struct slow_file *slow, struct blk *blk, struct blk_queue *queue)
{
    blk_queue_destroy(queue);
    assert_int_equal(blk_close(blk, NULL), 0);
    trace_free(&slow->trace);
    shell("qemu-img check -q a.qcow2");
}

#endif
