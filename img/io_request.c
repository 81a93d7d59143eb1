/*
 * io_request.c - requests that are waited for, and those that are not.
 *
 * All go through the one queue of the open file. An asynchronous one is started at once and reports
 * whenever somebody looks at the queue: at the latest in aio_flush, or when the file is closed.
 */
#include "checked.h"
#include "io.h"
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* Lets the queue do what it can, or waits until there is something that it can do. */
static void wait_for_queue(struct io *io)
{
    struct pollfd fd = {.fd = blk_queue_fd(io->queue), .events = POLLIN};

    if (blk_queue_complete(io->queue) == 0 && fd.fd >= 0)
        (void)poll(&fd, 1, -1);
}

static void submit(struct io *io, struct io_job *job)
{
    struct blk_request *request = &job->request;

    request->opaque = job;
    if (io->settings.writethrough && (request->op == BLK_WRITE || request->op == BLK_WRITE_ZEROES))
        request->flags |= BLK_REQ_FUA;
    if (job->buffer != NULL) {
        request->length = job->buffer->length;
        request->iov = job->buffer->iov;
        request->iovcnt = job->buffer->count;
    }
    clock_gettime(CLOCK_MONOTONIC, &job->begun);
    blk_submit(io->queue, request);
}

/* To QEMU, a request that reaches behind the device is an I/O error. */
static bool is_outside(const struct io *io, const struct io_job *job)
{
    uint64_t length = job->buffer != NULL ? job->buffer->length : job->request.length;

    return !range_within(job->request.offset, length, blk_length(io->blk));
}

/* 0 when the request can be made. */
static int prepare(struct io *io, const struct io_job *job)
{
    if (job->request.op == BLK_FLUSH)
        return 0;
    if (is_outside(io, job))
        return -EIO;
    return job->request.op == BLK_READ && io->settings.copy_on_read
               ? io_copy_on_read(io, job->request.offset, job->buffer->length)
               : 0;
}

static void end_of_run(struct blk_request *request, int result)
{
    struct io_job *job = request->opaque;

    job->status = result;
    job->is_done = true;
}

int io_run(struct io *io, struct io_job *job)
{
    int rc = prepare(io, job);

    if (rc < 0)
        return rc;
    job->request.done = end_of_run;
    submit(io, job);
    while (!job->is_done)
        wait_for_queue(io);
    return job->status;
}

static void end_of_start(struct blk_request *request, int result)
{
    struct io_job *job = request->opaque;

    (void)io_finish(job, result); /* the command itself was over when it had been started */
    io_buffer_free(job->buffer);
    free(job);
}

int io_start(struct io *io, const struct io_job *job)
{
    struct io_job *copy = malloc(sizeof(*copy));
    int rc;

    if (copy == NULL) {
        log_error("out of memory");
        return -ENOMEM;
    }
    *copy = *job;
    copy->request.done = end_of_start;
    rc = prepare(io, copy);
    if (rc < 0) {
        end_of_start(&(struct blk_request){.opaque = copy}, rc);
        return 0;
    }
    submit(io, copy);
    (void)blk_queue_complete(io->queue);
    return 0;
}

void io_drain(struct io *io)
{
    while (io->queue != NULL && blk_queue_in_flight(io->queue) > 0)
        wait_for_queue(io);
}

/* Whether the bytes are what they were said to be; says where they are not. */
static bool verify(const struct io_job *job)
{
    const unsigned char *data = job->buffer->data + job->verify_from;

    for (uint64_t i = 0; i < job->verify_length; i++) {
        if (data[i] != job->pattern) {
            printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n",
                   job->request.offset + job->verify_from, job->verify_length);
            return false;
        }
    }
    return true;
}

int io_finish(struct io_job *job, int result)
{
    uint64_t length = job->buffer != NULL ? job->buffer->length : job->request.length;
    int status = 0;

    if (result < 0) {
        printf("%s: %s\n", job->failed, strerror(-result));
        return result;
    }
    if (job->verify && !verify(job))
        status = -EINVAL;
    if (job->dump && !job->report.quiet)
        io_dump(job->buffer->data, job->request.offset, length);
    io_print_report(&job->report, job->verb, &job->begun, job->request.offset, length);
    return status;
}
