/*
 * enginebench - the engine's side of `make bench`: the same requests that `qemu-img bench` makes,
 * through one queue. Prints the seconds from the first request to the last completion.
 *
 *   enginebench [-f FORMAT] [-w] [-n] [-t] [-e on|ram] [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP] IMAGE
 *   enginebench --limit [-w] ... FILE    pread or pwrite in a loop, for what the machine can do at
 * all
 *
 * -e: on a throwaway overlay over the image, in TMPDIR or in memory. -n: past the page cache. -t: without io_uring. Request i lies at i * STEP modulo the size of the image, as in qemu-img bench.
 */
#include "blockdev.h"
#include "checked.h"
#include "log.h"
#include "size.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct bench {
    uint64_t count, size, step, length; /* length: of the device */
    uint64_t submitted, offset;
    unsigned depth;
    bool write;
    int result;
    struct blk_queue *queue;
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

static uint64_t next_offset(struct bench *bench)
{
    uint64_t offset = bench->offset;

    bench->submitted++;
    bench->offset = (bench->offset + bench->step) % bench->length;
    return offset;
}

static void submit_next(struct bench *bench, struct slot *slot)
{
    slot->request.offset = next_offset(bench);
    blk_submit(bench->queue, &slot->request);
}

static void request_done(struct blk_request *request, int result)
{
    struct bench *bench = request->opaque;

    if (result < 0) {
        bench->result = result;
    }
    if (bench->submitted < bench->count && bench->result == 0) {
        submit_next(bench, (struct slot *)(void *)request);
    }
}

static int run_queue(struct bench *bench, struct slot *slots)
{
    struct pollfd poll_fd = {.fd = blk_queue_fd(bench->queue), .events = POLLIN};

    for (unsigned i = 0; i < bench->depth && bench->submitted < bench->count; i++) {
        void *memory;

        if (posix_memalign(&memory, 4096, bench->size)) {
            return -ENOMEM;
        }
        memset(memory, 0, bench->size);
        slots[i].iov = (struct iovec){.iov_base = memory, .iov_len = bench->size};
        slots[i].request = (struct blk_request){
            .op = bench->write ? BLK_WRITE : BLK_READ,
            .length = bench->size,
            .iov = &slots[i].iov,
            .iovcnt = 1,
            .done = request_done,
            .opaque = bench,
        };
        submit_next(bench, &slots[i]);
    }
    while (blk_queue_in_flight(bench->queue) > 0) {
        if (blk_queue_complete(bench->queue) == 0 && poll_fd.fd >= 0) {
            poll(&poll_fd, 1, -1);
        }
    }
    return bench->result;
}

static int run_engine(struct bench *bench, const struct blk_open_options *options, double *seconds)
{
    struct slot *slots = calloc(bench->depth, sizeof(*slots));
    struct err err = {0};
    struct blk *blk;
    double start;
    int ret = slots ? blk_open(options, &blk, &err) : -ENOMEM;

    if (ret < 0) {
        log_error("%s", err.text);
        free(slots);
        return ret;
    }
    bench->length = blk_length(blk);
    ret = blk_queue_create(blk, &bench->queue, &err);
    if (ret == 0) {
        start = now();
        ret = run_queue(bench, slots);
        *seconds = now() - start;
        blk_queue_destroy(bench->queue);
    }
    blk_close(blk, NULL);
    for (unsigned i = 0; i < bench->depth; i++) {
        free(slots[i].iov.iov_base);
    }
    free(slots);
    return ret;
}

static int run_limit(struct bench *bench, const char *path, double *seconds)
{
    void *memory = NULL;
    int fd = open(path, (bench->write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    double start;
    int ret = 0;

    if (end <= 0 || posix_memalign(&memory, 4096, bench->size)) {
        return end <= 0 ? -errno : -ENOMEM;
    }
    memset(memory, 0, bench->size);
    bench->length = (uint64_t)end;
    start = now();
    while (bench->submitted < bench->count && ret == 0) {
        off_t offset = (off_t)next_offset(bench);
        ssize_t did = bench->write ? pwrite(fd, memory, bench->size, offset)
                                   : pread(fd, memory, bench->size, offset);

        ret = did < 0 ? -errno : 0;
    }
    *seconds = now() - start;
    close(fd);
    free(memory);
    return ret;
}

static int usage(void)
{
    fputs("usage: enginebench [--limit] [-f FORMAT] [-w] [-n] [-t] [-e on|ram] [-c COUNT] [-d "
          "DEPTH] [-s "
          "SIZE] [-S STEP] "
          "IMAGE\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {{"limit", no_argument, NULL, 'L'},
                                                 {NULL, 0, NULL, 0}};
    struct bench bench = {.count = 75000, .size = 4096, .depth = 64};
    struct blk_open_options options = {.format = "qcow2"};
    bool limit = false;
    double seconds = 0;
    uint64_t value;
    int option, ret;

    log_init(argv[0]);
    while ((option = getopt_long(argc, argv, "f:e:wntc:d:s:S:", long_options, NULL)) != -1) {
        value = 0;
        if (strchr("fewntL", option) == NULL &&
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
            break;
        case 't':
            options.aio = BLK_AIO_THREADS;
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
        case 'S':
            bench.step = value;
            break;
        default:
            limit = true;
        }
    }
    if (optind + 1 != argc || bench.depth == 0 || bench.size == 0) {
        return usage();
    }
    bench.step = bench.step ? bench.step : bench.size;
    options.path = argv[optind];
    ret =
        limit ? run_limit(&bench, argv[optind], &seconds) : run_engine(&bench, &options, &seconds);
    if (ret < 0) {
        log_error("%s: %s", argv[optind], strerror(-ret));
        return 1;
    }
    printf("%.6f\n", seconds);
    return 0;
}
