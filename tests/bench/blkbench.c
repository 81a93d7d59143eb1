/*
 * blkbench - the client's side of `make bench` for disks that are served: random reads through a
 * vhost-user-blk socket, whoever serves it. Prints the seconds from the first request to the last
 * completion.
 *
 *   blkbench [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP] [-q QUEUES] [-w] [-i] SOCKET
 *
 * -i: the back end writes down what is in flight, so that the client could outlive it. -q: so many queues, each
 * with a thread of the client's and DEPTH requests at once; COUNT is of all together.
 * Request i lies at i * STEP modulo the size of the disk, as in enginebench. The client asks for
 * no notifications that it does not need, as a guest's driver does: it looks at the ring before it waits.
 */
#include "tests/tools/front_end.h"

#include "log.h"
#include "size.h"

#include <endian.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct bench {
    struct front_end fe;
    uint64_t count, size, step, length; /* length: of the disk */
    unsigned depth, queues;
    uint32_t type;
    bool is_recorded;
};

/* One queue's part: every queues-th request. */
struct lane {
    struct bench *bench;
    unsigned ring;
    uint64_t next; /* request */
    pthread_t thread;
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static _Noreturn void give_up(const char *what)
{
    log_error("%s", what);
    exit(1);
}

static void offer_next(struct lane *lane, unsigned slot)
{
    struct bench *bench = lane->bench;
    uint64_t offset = lane->next * bench->step % bench->length;

    front_end_prepare(&bench->fe, lane->ring, slot, bench->type, offset / 512,
                      (uint32_t)bench->size);
    front_end_offer(&bench->fe, lane->ring, slot);
    lane->next += bench->queues;
}

/* What is in flight is to be written down. */
static bool record(struct front_end *fe, unsigned queues)
{
    struct vu_inflight inflight = {.queues = (uint16_t)queues, .queue_size = FRONT_END_RING_SIZE};
    int fd;

    return front_end_ask(fe, VU_GET_INFLIGHT_FD, &inflight, sizeof(inflight), &fd) &&
           front_end_tell(fe, VU_SET_INFLIGHT_FD, &inflight, sizeof(inflight), &fd, 1);
}

static void set_up(struct bench *bench, const char *path)
{
    struct front_end *fe = &bench->fe;
    struct vu_config config = {.size =
                                   sizeof(uint64_t)}; /* the capacity: some refuse what they lack */
    uint64_t sectors;

    if (!front_end_open(fe, front_end_connect(path)) || fe->socket < 0)
        give_up("cannot connect");
    if (!front_end_negotiate(fe, 1ULL << VIRTIO_BLK_F_FLUSH) ||
        !front_end_ask(fe, VU_GET_CONFIG, &config, VU_CONFIG_HEADER + config.size, NULL) ||
        !front_end_share_memory(fe) || (bench->is_recorded && !record(fe, bench->queues)))
        give_up("the back end does not do as it should");
    for (unsigned i = 0; i < bench->queues; i++) {
        if (!front_end_start_ring(fe, i, 0))
            give_up("the back end has not so many queues");
    }
    memcpy(&sectors, config.bytes, sizeof(sectors));
    bench->length = le64toh(sectors) * 512 / bench->size * bench->size;
}

static void *run_lane(void *arg)
{
    struct lane *lane = arg;
    struct bench *bench = lane->bench;
    unsigned in_flight = 0;

    while (in_flight < bench->depth && lane->next < bench->count)
        offer_next(lane, in_flight++);
    front_end_kick(&bench->fe, lane->ring);
    while (in_flight > 0) {
        int slot = front_end_wait(&bench->fe, lane->ring);

        if (slot < 0 ||
            *front_end_status(&bench->fe, lane->ring, (unsigned)slot) != VIRTIO_BLK_S_OK)
            give_up("a request failed");
        if (lane->next < bench->count) {
            offer_next(lane, (unsigned)slot);
            front_end_kick(&bench->fe, lane->ring);
        } else {
            in_flight--;
        }
    }
    return NULL;
}

static void run(struct bench *bench)
{
    struct lane lanes[FRONT_END_RINGS];

    for (unsigned i = 0; i < bench->queues; i++) {
        lanes[i] = (struct lane){.bench = bench, .ring = i, .next = i};
        if (pthread_create(&lanes[i].thread, NULL, run_lane, &lanes[i]) != 0)
            give_up("cannot start a thread");
    }
    for (unsigned i = 0; i < bench->queues; i++)
        pthread_join(lanes[i].thread, NULL);
}

static uint64_t parse(const char *text)
{
    uint64_t value;

    if (size_parse(text, 'B', &value) < 0)
        give_up("not a number");
    return value;
}

int main(int argc, char **argv)
{
    struct bench bench = {
        .count = 75000, .size = 4096, .depth = 32, .queues = 1, .type = VIRTIO_BLK_T_IN};
    double start;
    int c;

    log_init(argv[0]);
    while ((c = getopt(argc, argv, "c:d:s:S:q:wi")) != -1) {
        switch (c) {
        case 'c':
            bench.count = parse(optarg);
            break;
        case 'd':
            bench.depth = (unsigned)parse(optarg);
            break;
        case 's':
            bench.size = parse(optarg);
            break;
        case 'S':
            bench.step = parse(optarg);
            break;
        case 'q':
            bench.queues = (unsigned)parse(optarg);
            break;
        case 'i':
            bench.is_recorded = true;
            break;
        case 'w':
            bench.type = VIRTIO_BLK_T_OUT;
            break;
        default:
            return 1;
        }
    }
    if (bench.step == 0)
        bench.step = bench.size;
    if (optind + 1 != argc || bench.depth < 1 || bench.depth > FRONT_END_SLOTS || bench.size == 0 ||
        bench.size % 512 != 0 || bench.size > FRONT_END_DATA || bench.queues < 1 ||
        bench.queues > FRONT_END_RINGS)
        give_up(
            "usage: blkbench [-c COUNT] [-d 1..32] [-s SIZE] [-S STEP] [-q 1..4] [-w] [-i] SOCKET");
    set_up(&bench, argv[optind]);
    start = now();
    run(&bench);
    printf("%.6f\n", now() - start);
    front_end_close(&bench.fe);
    return 0;
}
