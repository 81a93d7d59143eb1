/*
 * enginebench - the engine's side of `make bench`: the same requests that `qemu-img bench` makes,
 * through one queue or several. Prints the seconds from the first request to the last completion.
 *
 *   enginebench [-f FORMAT] [-w] [-n] [-t] [-p] [-F] [-e on|ram] [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP] [-q QUEUES]
 *               IMAGE
 *   enginebench --limit [-w] ... FILE    pread or pwrite in a loop, with -n an io_uring and nothing else, for what
 *                                        the machine can do at all
 *
 * -e: on a throwaway overlay over the image, in TMPDIR or in memory. -n: past the page cache. -t: without
 * io_uring. -F: files are registered. -q: so many queues of the one image, each with a thread and DEPTH requests at once; COUNT is of all
 * together. Request i lies at i * STEP modulo the size of the image, as in qemu-img bench; with -p that is so in each
 * queue's own part of the image.
 */
#include "blockdev.h"
#include "checked.h"
#include "log.h"
#include "size.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { QUEUES_MAX = 64 };

struct bench {
    uint64_t count, size, step, length; /* length: of the device */
    unsigned depth, queues;
    bool write, parts, direct, fixed_files;
    int fd; /* with --limit */
};

/* One queue's part: every queues-th request. */
struct lane {
    const struct bench *bench;
    unsigned index;
    uint64_t next; /* request */
    struct blk_queue *queue;
    struct slot *slots;
    int result;
    pthread_t thread;
};

struct slot {
    struct blk_request request;
    struct iovec iov;
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool is_over(const struct lane *lane)
{
    return lane->next >= lane->bench->count || lane->result != 0;
}

static uint64_t next_offset(struct lane *lane)
{
    const struct bench *bench = lane->bench;
    uint64_t part = align_down(bench->length / bench->queues, bench->size);
    uint64_t offset = bench->parts
                          ? lane->index * part + lane->next / bench->queues * bench->step % part
                          : lane->next * bench->step % bench->length;

    lane->next += bench->queues;
    return offset;
}

static void submit_next(struct lane *lane, struct slot *slot)
{
    slot->request.offset = next_offset(lane);
    blk_submit(lane->queue, &slot->request);
}

static void request_done(struct blk_request *request, int result)
{
    struct lane *lane = request->opaque;

    if (result < 0) {
        lane->result = result;
    }
    if (!is_over(lane)) {
        submit_next(lane, (struct slot *)(void *)request);
    }
}

static void *buffer_create(uint64_t size)
{
    void *memory;

    if (posix_memalign(&memory, 4096, size)) {
        return NULL;
    }
    memset(memory, 0, size);
    return memory;
}

static void *run_queue(void *arg)
{
    struct lane *lane = arg;
    struct pollfd poll_fd = {.fd = blk_queue_fd(lane->queue), .events = POLLIN};

    for (unsigned i = 0; i < lane->bench->depth && !is_over(lane); i++) {
        submit_next(lane, &lane->slots[i]);
    }
    while (blk_queue_in_flight(lane->queue) > 0) {
        if (blk_queue_complete(lane->queue) == 0 && poll_fd.fd >= 0) {
            poll(&poll_fd, 1, -1);
        }
    }
    return NULL;
}

static void *run_limit(void *arg)
{
    struct lane *lane = arg;
    const struct bench *bench = lane->bench;
    void *memory = lane->slots[0].iov.iov_base;

    while (!is_over(lane)) {
        off_t offset = (off_t)next_offset(lane);
        ssize_t did = bench->write ? pwrite(bench->fd, memory, bench->size, offset)
                                   : pread(bench->fd, memory, bench->size, offset);

        lane->result = did < 0 ? -errno : 0;
    }
    return NULL;
}

/* Requests of a raw io_uring that are given to the kernel at once: what was found best in ring.c. */
enum { RAW_BATCH = 8 };

struct raw {
    struct lane *lane;
    struct io_uring uring;
    unsigned prepared, in_flight;
};

static void raw_submit(struct raw *raw)
{
    int did = raw->prepared > 0 ? io_uring_submit(&raw->uring) : 0;

    raw->lane->result = did < 0 ? did : raw->lane->result;
    raw->prepared = 0;
}

static void raw_next(struct raw *raw, struct slot *slot)
{
    const struct bench *bench = raw->lane->bench;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->uring);
    uint64_t offset = next_offset(raw->lane);

    if (bench->write)
        io_uring_prep_writev(sqe, bench->fd, &slot->iov, 1, offset);
    else
        io_uring_prep_readv(sqe, bench->fd, &slot->iov, 1, offset);
    io_uring_sqe_set_data(sqe, slot);
    raw->in_flight++;
    if (++raw->prepared == RAW_BATCH)
        raw_submit(raw);
}

/* Waits for one if there is none. */
static void raw_take_back(struct raw *raw)
{
    struct io_uring_cqe *cqe;
    struct slot *slot;
    int ret = io_uring_peek_cqe(&raw->uring, &cqe);

    if (ret != 0) {
        raw_submit(raw);
        ret = io_uring_wait_cqe(&raw->uring, &cqe);
    }
    if (ret != 0 || cqe->res != (int)raw->lane->bench->size) {
        raw->lane->result = ret != 0 ? ret : cqe->res < 0 ? cqe->res : -EIO;
        raw->in_flight = 0;
        return;
    }
    slot = io_uring_cqe_get_data(cqe);
    io_uring_cqe_seen(&raw->uring, cqe);
    raw->in_flight--;
    if (!is_over(raw->lane))
        raw_next(raw, slot);
}

static void *run_raw(void *arg)
{
    struct raw raw = {.lane = arg};
    struct lane *lane = arg;

    lane->result = io_uring_queue_init(lane->bench->depth, &raw.uring, 0);
    if (lane->result != 0)
        return NULL;
    for (unsigned i = 0; i < lane->bench->depth && !is_over(lane); i++)
        raw_next(&raw, &lane->slots[i]);
    while (raw.in_flight > 0 && lane->result == 0)
        raw_take_back(&raw);
    io_uring_queue_exit(&raw.uring);
    return NULL;
}

static int lane_init(struct lane *lane, const struct bench *bench, unsigned index, struct blk *blk)
{
    const struct blk_fixed fixed = {.files = bench->fixed_files};
    struct err err = {0};
    int ret;

    *lane = (struct lane){.bench = bench, .index = index, .next = index};
    lane->slots = calloc(bench->depth, sizeof(*lane->slots));
    if (lane->slots == NULL) {
        return -ENOMEM;
    }
    ret = blk != NULL ? blk_queue_create_fixed(blk, &fixed, &lane->queue, &err) : 0;
    if (ret < 0) {
        return ret;
    }
    for (unsigned i = 0; i < bench->depth; i++) {
        struct slot *slot = &lane->slots[i];

        slot->iov = (struct iovec){.iov_base = buffer_create(bench->size), .iov_len = bench->size};
        slot->request = (struct blk_request){
            .op = bench->write ? BLK_WRITE : BLK_READ,
            .length = bench->size,
            .iov = &slot->iov,
            .iovcnt = 1,
            .done = request_done,
            .opaque = lane,
        };
        if (slot->iov.iov_base == NULL) {
            return -ENOMEM;
        }
    }
    return 0;
}

static void lane_destroy(struct lane *lane)
{
    if (lane->queue != NULL) {
        blk_queue_destroy(lane->queue);
    }
    for (unsigned i = 0; lane->slots != NULL && i < lane->bench->depth; i++) {
        free(lane->slots[i].iov.iov_base);
    }
    free(lane->slots);
}

static int run_lanes(struct lane *lanes, unsigned count, void *(*run)(void *))
{
    unsigned started = 0;
    int ret = 0;

    while (ret == 0 && started < count) {
        ret = -pthread_create(&lanes[started].thread, NULL, run, &lanes[started]);
        started += ret == 0;
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(lanes[i].thread, NULL);
        ret = ret < 0 ? ret : lanes[i].result;
    }
    return ret;
}

/* `blk`: NULL: the limit. */
static int run_bench(const struct bench *bench, struct blk *blk, double *seconds)
{
    struct lane lanes[QUEUES_MAX] = {0};
    unsigned made = 0;
    double start;
    int ret = 0;

    while (ret == 0 && made < bench->queues) {
        ret = lane_init(&lanes[made], bench, made, blk);
        made++;
    }
    if (ret == 0) {
        start = now();
        ret = run_lanes(lanes, bench->queues,
                        blk != NULL     ? run_queue
                        : bench->direct ? run_raw
                                        : run_limit);
        *seconds = now() - start;
    }
    while (made > 0) {
        lane_destroy(&lanes[--made]);
    }
    return ret;
}

static int bench_engine(struct bench *bench, const struct blk_open_options *options,
                        double *seconds)
{
    struct err err = {0};
    struct blk *blk;
    int ret = blk_open(options, &blk, &err);

    if (ret < 0) {
        log_error("%s", err.text);
        return ret;
    }
    bench->length = blk_length(blk);
    ret = run_bench(bench, blk, seconds);
    blk_close(blk, NULL);
    return ret;
}

static int bench_limit(struct bench *bench, const char *path, double *seconds)
{
    off_t end;
    int ret;

    bench->fd =
        open(path, (bench->write ? O_RDWR : O_RDONLY) | (bench->direct ? O_DIRECT : 0) | O_CLOEXEC);
    end = bench->fd < 0 ? -1 : lseek(bench->fd, 0, SEEK_END);
    if (end <= 0) {
        return -errno;
    }
    bench->length = (uint64_t)end;
    ret = run_bench(bench, NULL, seconds);
    close(bench->fd);
    return ret;
}

static int usage(void)
{
    fputs(
        "usage: enginebench [--limit] [-f FORMAT] [-w] [-n] [-t] [-p] [-F] [-e on|ram] [-c COUNT] "
        "[-d DEPTH] [-s SIZE] [-S STEP] [-q QUEUES] IMAGE\n",
        stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {{"limit", no_argument, NULL, 'L'},
                                                 {NULL, 0, NULL, 0}};
    struct bench bench = {.count = 75000, .size = 4096, .depth = 64, .queues = 1};
    struct blk_open_options options = {.format = "qcow2"};
    bool limit = false;
    double seconds = 0;
    uint64_t value;
    int option, ret;

    log_init(argv[0]);
    while ((option = getopt_long(argc, argv, "f:e:wntpFc:d:s:S:q:", long_options, NULL)) != -1) {
        value = 0;
        if (strchr("fewntpFL", option) == NULL &&
            (option == '?' || size_parse(optarg, 'B', &value) < 0)) {
            return usage();
        }
        switch (option) {
        case 'f':
            options.format = optarg;
            break;
        case 'e':
            options.ephemeral = strcmp(optarg, "ram") == 0 ? BLK_EPHEMERAL_RAM : BLK_EPHEMERAL_FILE;
            break;
        case 'w':
            bench.write = options.writable = true;
            break;
        case 'n':
            options.cache = BLK_CACHE_DIRECT;
            bench.direct = true;
            break;
        case 't':
            options.aio = BLK_AIO_THREADS;
            break;
        case 'F':
            bench.fixed_files = true;
            break;
        case 'p':
            bench.parts = true;
            break;
        case 'c':
            bench.count = value;
            break;
        case 'd':
            bench.depth = (unsigned)value;
            break;
        case 's':
            bench.size = value;
            break;
        case 'q':
            bench.queues = (unsigned)value;
            break;
        case 'S':
            bench.step = value;
            break;
        default:
            limit = true;
        }
    }
    if (optind + 1 != argc || bench.depth == 0 || bench.size == 0 || bench.queues == 0 ||
        bench.queues > QUEUES_MAX) {
        return usage();
    }
    bench.step = bench.step ? bench.step : bench.size;
    bench.depth = (unsigned)min_u64(bench.depth, max_u64(bench.count, 1));
    options.path = argv[optind];
    ret = limit ? bench_limit(&bench, argv[optind], &seconds)
                : bench_engine(&bench, &options, &seconds);
    if (ret < 0) {
        log_error("%s: %s", argv[optind], strerror(-ret));
        return 1;
    }
    printf("%.6f\n", seconds);
    return 0;
}
