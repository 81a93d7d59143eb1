/*
 * cmd_bench.c - `bench`: how long a number of equal requests take, through a queue of the engine.
 *
 * `depth` requests are kept in flight; each that completes submits the next one, until all have been
 * sent. A flush is sent after every so many writes: alone, with everything before it completed and
 * nothing after it sent, or (--no-drain) among the others.
 */
#include "checked.h"
#include "img.h"
#include "keys.h"
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OPT_FLUSH_INTERVAL = 0x200, OPT_NO_DRAIN, OPT_PATTERN, ALIGNMENT = 4096 };

struct bench_args {
    struct blk_open_options open;
    uint64_t count, depth, size, step, offset, flush_interval, pattern;
    bool has_step, no_drain, native;
};

struct bench;

struct slot {
    struct blk_request request;
    struct iovec iov;
    struct bench *bench;
    struct slot *next; /* free */
};

struct bench {
    const struct bench_args *args;
    uint64_t length; /* of the device */
    struct blk_queue *queue;
    struct slot *slots, *free;
    unsigned char *buffers; /* args->size bytes for each slot */
    uint64_t sent;          /* reads or writes */
    uint64_t offset;        /* of the next one */
    bool is_flush_due, is_draining;
    int error; /* the first one */
};

/* ---- command line ---- */

/* A plain number; false after a message. */
static bool parse_number(const char *text, const char *what, uint64_t min, uint64_t max,
                         uint64_t *number)
{
    char *end;

    errno = 0;
    *number = strtoull(text, &end, 0);
    if (errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == '\0' && *number >= min &&
        *number <= max)
        return true;
    log_error("Invalid %s specified", what);
    return false;
}

/* The names that qemu-img knows; native is the kernel's own, too. */
static bool parse_aio(struct bench_args *args, const char *text)
{
    args->native = strcmp(text, "native") == 0;
    args->open.aio = strcmp(text, "threads") == 0 ? BLK_AIO_THREADS : BLK_AIO_AUTO;
    if (args->native || strcmp(text, "threads") == 0 || strcmp(text, "io_uring") == 0)
        return true;
    log_error("Invalid aio option: %s", text);
    return false;
}

/* One option; false after a message. */
static bool parse_option(struct bench_args *args, int c)
{
    switch (c) {
    case 'c':
        return parse_number(optarg, "request count", 0, INT_MAX, &args->count);
    case 'd':
        return parse_number(optarg, "queue depth", 1, INT_MAX, &args->depth);
    case 'f':
        args->open.format = optarg;
        return true;
    case 'i':
        return parse_aio(args, optarg);
    case 'o':
        return img_parse_size(optarg, "offset", &args->offset);
    case 's':
        return img_parse_size_within(optarg, "buffer size", 0, INT_MAX, &args->size);
    case 'S':
        args->has_step = true;
        return img_parse_size_within(optarg, "step_size", 0, INT_MAX, &args->step);
    case 't':
        if (img_find_cache(optarg, &args->open.cache))
            return true;
        log_error("Invalid cache mode");
        return false;
    case 'w':
        args->open.writable = true;
        return true;
    case 'U':
        args->open.force_share = true;
        return true;
    case OPT_FLUSH_INTERVAL:
        return parse_number(optarg, "flush interval", 0, INT_MAX, &args->flush_interval);
    case OPT_NO_DRAIN:
        args->no_drain = true;
        return true;
    case OPT_PATTERN:
        return parse_number(optarg, "pattern byte", 0, 0xff, &args->pattern);
    case 'n':
        args->native = true;
        return true;
    default: /* 'q': there is nothing to leave out */
        return true;
    }
}

static bool parse_args(int argc, char **argv, struct bench_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"flush-interval", required_argument, NULL, OPT_FLUSH_INTERVAL},
        {"no-drain", no_argument, NULL, OPT_NO_DRAIN},
        {"pattern", required_argument, NULL, OPT_PATTERN},
        {"force-share", no_argument, NULL, 'U'},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hc:d:f:i:no:qs:S:t:wU", longopts, status)) != -1) {
        if (c == IMG_OPT_STOP || !parse_option(args, c))
            return false;
    }
    if (!img_take_image(argc, argv, &args->open.path, status))
        return false;
    if (!args->open.writable && args->flush_interval > 0) {
        log_error("--flush-interval is only available in write tests");
        return false;
    }
    if (args->flush_interval > 0 && args->flush_interval < args->depth) {
        log_error("Flush interval can't be smaller than depth");
        return false;
    }
    if (args->native && args->open.cache != BLK_CACHE_DIRECT) {
        log_error("Could not open '%s': aio=native was specified, but it requires cache.direct=on, "
                  "which was not specified.",
                  args->open.path);
        return false;
    }
    if (!args->has_step || args->step == 0)
        args->step = args->size;
    return true;
}

/* ---- requests ---- */

static void send_requests(struct bench *bench);

static void done(struct blk_request *request, int result)
{
    struct slot *slot = request->opaque;
    struct bench *bench = slot->bench;

    if (result < 0 && bench->error == 0)
        bench->error = result;
    slot->next = bench->free;
    bench->free = slot;
    if (blk_queue_in_flight(bench->queue) == 0)
        bench->is_draining = false;
    send_requests(bench);
}

static void send_one(struct bench *bench, enum blk_op op)
{
    struct slot *slot = bench->free;

    bench->free = slot->next;
    slot->request = (struct blk_request){.op = op, .done = done, .opaque = slot};
    if (op != BLK_FLUSH) {
        slot->request.offset = bench->offset;
        slot->request.length = bench->args->size;
        slot->request.iov = &slot->iov;
        slot->request.iovcnt = 1;
    }
    blk_submit(bench->queue, &slot->request);
}

/* Sends what may be sent now. */
static void send_requests(struct bench *bench)
{
    const struct bench_args *args = bench->args;

    while (bench->free != NULL && !bench->is_draining && bench->error == 0) {
        if (bench->is_flush_due) {
            /* Alone: what was sent before has to complete first, and then the flush. */
            if (!args->no_drain && blk_queue_in_flight(bench->queue) > 0) {
                bench->is_draining = true;
                return;
            }
            bench->is_flush_due = false;
            bench->is_draining = !args->no_drain;
            send_one(bench, BLK_FLUSH);
            continue;
        }
        if (bench->sent == args->count)
            return;
        send_one(bench, args->open.writable ? BLK_WRITE : BLK_READ);
        bench->sent++;
        bench->is_flush_due = args->flush_interval > 0 && bench->sent % args->flush_interval == 0;
        bench->offset += args->step;
        if (bench->length > 0 && bench->offset >= bench->length)
            bench->offset %= bench->length;
    }
}

/* Sends all requests and waits for them. */
static void run_requests(struct bench *bench)
{
    send_requests(bench);
    while (blk_queue_in_flight(bench->queue) > 0) {
        struct pollfd fd = {.fd = blk_queue_fd(bench->queue), .events = POLLIN};

        if (blk_queue_complete(bench->queue) == 0 && fd.fd >= 0)
            (void)poll(&fd, 1, -1);
    }
}

/* ---- the whole ---- */

static bool make_slots(struct bench *bench)
{
    const struct bench_args *args = bench->args;
    uint64_t count = max_u64(1, min_u64(args->depth, args->count)), bytes;

    if (!mul_u64(count, args->size, &bytes) || bytes > SIZE_MAX - ALIGNMENT)
        return false;
    bench->slots = calloc(count, sizeof(struct slot));
    bench->buffers = aligned_alloc(ALIGNMENT, align_up(max_u64(bytes, 1), ALIGNMENT));
    if (bench->slots == NULL || bench->buffers == NULL)
        return false;
    memset(bench->buffers, (int)args->pattern, bytes);
    for (uint64_t i = 0; i < count; i++) {
        bench->slots[i].bench = bench;
        bench->slots[i].iov = (struct iovec){bench->buffers + i * args->size, args->size};
        bench->slots[i].next = bench->free;
        bench->free = &bench->slots[i];
    }
    return true;
}

static double seconds_between(const struct timespec *from, const struct timespec *to)
{
    return (double)(to->tv_sec - from->tv_sec) + (double)(to->tv_nsec - from->tv_nsec) / 1e9;
}

static int measure(struct bench *bench)
{
    const struct bench_args *args = bench->args;
    struct timespec from, to;

    printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64
           " in parallel (starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
           args->count, args->open.writable ? "write" : "read", args->size, args->depth,
           args->offset, args->step);
    if (args->flush_interval > 0)
        printf("Sending flush every %" PRIu64 " requests\n", args->flush_interval);
    fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &from);
    run_requests(bench);
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (bench->error < 0) {
        /* To QEMU, a request behind the end of the device is an I/O error. */
        log_error("Failed request: %s", strerror(bench->error == -EINVAL ? EIO : -bench->error));
        return 1;
    }
    printf("Run completed in %3.3f seconds.\n", seconds_between(&from, &to));
    return 0;
}

int cmd_bench(int argc, char **argv)
{
    struct bench_args args = {.count = 75000, .depth = 64, .size = 4096};
    struct bench bench = {.args = &args};
    struct blk *blk;
    struct err err;
    int status;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    blk = img_open(&args.open);
    if (blk == NULL)
        return 1;
    status = 1;
    bench.length = blk_length(blk);
    bench.offset = args.offset;
    if (!make_slots(&bench)) {
        log_error("out of memory");
    } else if (blk_queue_create(blk, &bench.queue, &err) < 0) {
        log_error("%s", err.text);
    } else {
        status = measure(&bench);
        blk_queue_destroy(bench.queue);
    }
    free(bench.slots);
    free(bench.buffers);
    img_close(blk, &status);
    return status;
}
