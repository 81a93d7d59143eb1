/*
 * trace.h - a file layer over a real file that can fail the n-th operation, and call the test before an
 * operation (to hold it up). Any thread.
 */
#ifndef TESTS_BLOCKDEV_TRACE_H
#define TESTS_BLOCKDEV_TRACE_H

#include "fixture.h"
#include "iov.h"

#include <pthread.h>

enum trace_kind { TRACE_READ, TRACE_WRITE, TRACE_SYNC, TRACE_TRUNCATE, TRACE_ZERO };

struct trace {
    struct file file;
    struct file *below;
    pthread_mutex_t lock;
    uint64_t operations; /* so far, but for reads */
    uint64_t fail_from;  /* operations with this number, counted from 1, ... */
    uint64_t fail_count; /* ... and so many in all fail */
    int fail_code;
    int read_fail_code; /* of every read, when not 0 */
    void (*before)(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length);
    void *opaque;
};

static inline struct trace *trace_of(struct file *file)
{
    return (struct trace *)(void *)file;
}

static inline int trace_begin(struct trace *t, enum trace_kind kind, uint64_t offset,
                              uint64_t length)
{
    int r = 0;

    if (t->before != NULL) {
        t->before(t, kind, offset, length);
    }
    pthread_mutex_lock(&t->lock);
    if (kind == TRACE_READ) {
        r = t->read_fail_code;
    } else {
        t->operations++;
        if (t->fail_from != 0 && t->operations >= t->fail_from &&
            t->operations < t->fail_from + t->fail_count) {
            r = t->fail_code;
        }
    }
    pthread_mutex_unlock(&t->lock);
    return r;
}

static inline int trace_preadv(struct file *file, uint64_t offset, const struct iovec *iov,
                               int count)
{
    struct trace *t = trace_of(file);
    int r = trace_begin(t, TRACE_READ, offset, iov_length(iov, count));

    return r != 0 ? r : file_preadv(t->below, offset, iov, count);
}

static inline int trace_pwritev(struct file *file, uint64_t offset, const struct iovec *iov,
                                int count)
{
    struct trace *t = trace_of(file);
    int r = trace_begin(t, TRACE_WRITE, offset, iov_length(iov, count));

    return r != 0 ? r : file_pwritev(t->below, offset, iov, count);
}

static inline int trace_sync(struct file *file)
{
    return trace_begin(trace_of(file), TRACE_SYNC, 0, 0);
}

static inline int trace_size(struct file *file, uint64_t *bytes)
{
    return trace_of(file)->below->ops->size(trace_of(file)->below, bytes);
}

static inline int trace_truncate(struct file *file, uint64_t bytes)
{
    struct trace *t = trace_of(file);
    int r = trace_begin(t, TRACE_TRUNCATE, bytes, 0);

    return r != 0 ? r : t->below->ops->truncate(t->below, bytes);
}

static inline int trace_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    struct trace *t = trace_of(file);
    int r = trace_begin(t, TRACE_ZERO, offset, length);

    return r != 0 ? r : t->below->ops->zero(t->below, offset, length, punch);
}

static inline int trace_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    return trace_of(file)->below->ops->allocate(trace_of(file)->below, offset, length);
}

static inline int trace_extent(struct file *file, uint64_t offset, bool *is_data, uint64_t *end)
{
    return trace_of(file)->below->ops->extent(trace_of(file)->below, offset, is_data, end);
}

/* The trace itself lives on, for the test to look at. */
static inline void trace_close(struct file *file)
{
    file_close(trace_of(file)->below);
    trace_of(file)->below = NULL;
}

static const struct file_ops trace_ops = {
    .preadv = trace_preadv,
    .pwritev = trace_pwritev,
    .sync = trace_sync,
    .size = trace_size,
    .truncate = trace_truncate,
    .zero = trace_zero,
    .allocate = trace_allocate,
    .extent = trace_extent,
    .close = trace_close,
};

static inline void trace_free(struct trace *t)
{
    pthread_mutex_destroy(&t->lock);
}

/* Opens `path` writable as qcow2 through a trace. */
static inline int trace_try_open(struct trace *t, const char *path, uint64_t cache,
                                 struct blk **blk, struct err *err)
{
    const struct file_open_options file_options = {.writable = true};
    const struct blk_open_options options = {
        .path = path,
        .format = "qcow2",
        .writable = true,
        .discard = true,
        .metadata_cache = cache,
    };
    int r = file_open_posix(path, &file_options, &t->below, err);

    assert_int_equal(r, 0);
    pthread_mutex_init(&t->lock, NULL);
    t->file = (struct file){
        .ops = &trace_ops,
        .path = t->below->path,
        .fd = t->below->fd,
        .writable = true,
        .alignment = 1,
    };
    return blk_open_file(&t->file, &options, blk, err);
}

static inline struct blk *trace_open(struct trace *t, const char *path, uint64_t cache)
{
    struct err err = {""};
    struct blk *blk = NULL;

    if (trace_try_open(t, path, cache, &blk, &err) != 0) {
        fail_msg("%s", err.text);
    }
    return blk;
}

#endif
