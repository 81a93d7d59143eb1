/*
 * outlive - a front end that outlives its servers: it starts `IMG serve`, writes at random with up to
 * FRONT_END_SLOTS requests at once, kills the server at a random moment, starts the next one, gives it the
 * memory with what was in flight, and goes on. In the end each byte has to be what was written last. Not
 * installed.
 *
 *   outlive IMG SOCKET IMAGE MIB SEED KILLS FLAT
 *
 * IMAGE, with the option discard=on, has at least MIB mebibytes, all zeros. FLAT becomes a file with what
 * the disk must hold. Exit status: 0; 1 with a line on standard error; 2 usage.
 */
#include "tests/tools/front_end.h"

#include "tests/diff/rng.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECTOR = 512, BLOCK = 4096, MAX_BLOCKS = 8, MAX_COMPLETIONS = 400 };

/* Of one request. */
struct pending {
    bool is_used;
    uint32_t type;
    uint64_t offset, length;
    uint8_t byte;
};

struct run {
    const char *img, *socket, *image;
    uint64_t size;
    struct rng rng;
    pid_t server;
    struct front_end fe;
    struct vu_inflight inflight;
    int inflight_fd; /* -1: not yet */
    struct pending pending[FRONT_END_SLOTS];
    uint8_t *flat;
};

static int fail(const struct run *run, const char *what)
{
    fprintf(stderr, "outlive: %s (server %d)\n", what, (int)run->server);
    return 1;
}

/* Waits until the server listens. */
static int start_server(struct run *run)
{
    (void)unlink(run->socket);
    run->server = fork();
    if (run->server == 0) {
        execl(run->img, "minivmm-img", "serve", "--vhost-user-blk", run->socket, run->image,
              (char *)NULL);
        _exit(127);
    }
    for (;;) {
        int fd = run->server > 0 ? front_end_connect(run->socket) : -1;

        if (fd >= 0) {
            return fd;
        }
        if (run->server < 0 || waitpid(run->server, NULL, WNOHANG) != 0) {
            return -1;
        }
        (void)poll(NULL, 0, 1); /* nothing says when it will */
    }
}

static bool begin(struct run *run, int fd, uint16_t base)
{
    struct front_end *fe = &run->fe;

    if (run->inflight_fd < 0) {
        if (!front_end_open(fe, fd)) {
            return false;
        }
    } else {
        close(fe->socket);
        fe->socket = fd;
    }
    if (!front_end_negotiate(fe, 1ULL << VIRTIO_BLK_F_FLUSH | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES)) {
        return false;
    }
    if (run->inflight_fd < 0) {
        run->inflight = (struct vu_inflight){.queues = 1, .queue_size = FRONT_END_RING_SIZE};
        if (!front_end_ask(fe, VU_GET_INFLIGHT_FD, &run->inflight, VU_INFLIGHT_SIZE,
                           &run->inflight_fd)) {
            return false;
        }
    }
    return front_end_tell(fe, VU_SET_INFLIGHT_FD, &run->inflight, VU_INFLIGHT_SIZE,
                          &run->inflight_fd, 1) &&
           front_end_share_memory(fe) && front_end_start_ring(fe, 0, base);
}

static bool overlaps(const struct run *run, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < FRONT_END_SLOTS; i++) {
        const struct pending *p = &run->pending[i];

        if (p->is_used && offset < p->offset + p->length && p->offset < offset + length) {
            return true;
        }
    }
    return false;
}

/* A write, mostly; of zeros, or a flush, once in a while. No two at once to the same place. */
static void submit(struct run *run, unsigned slot)
{
    struct pending *p = &run->pending[slot];
    uint32_t bytes;

    *p = (struct pending){.type = VIRTIO_BLK_T_OUT, .byte = (uint8_t)rng_next(&run->rng)};
    do {
        p->length = rng_between(&run->rng, 1, MAX_BLOCKS) * BLOCK;
        p->offset = rng_below(&run->rng, (run->size - p->length) / SECTOR) * SECTOR;
    } while (overlaps(run, p->offset, p->length));
    bytes = (uint32_t)p->length;
    if (rng_one_in(&run->rng, 8)) {
        const struct virtio_blk_discard_write_zeroes range = {
            .sector = p->offset / SECTOR,
            .num_sectors = bytes / SECTOR,
            .flags = rng_one_in(&run->rng, 2) ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0,
        };

        p->type = VIRTIO_BLK_T_WRITE_ZEROES;
        p->byte = 0;
        bytes = sizeof(range);
        memcpy(front_end_data(&run->fe, 0, slot), &range, sizeof(range));
    } else if (rng_one_in(&run->rng, 64)) {
        p->type = VIRTIO_BLK_T_FLUSH;
        p->length = bytes = 0;
    } else {
        memset(front_end_data(&run->fe, 0, slot), p->byte, p->length);
    }
    p->is_used = true;
    front_end_prepare(&run->fe, 0, slot, p->type,
                      p->type == VIRTIO_BLK_T_OUT ? p->offset / SECTOR : 0, bytes);
    front_end_offer(&run->fe, 0, slot);
}

/* Takes one completion; false when none came, or it is an error. */
static bool complete(struct run *run)
{
    int slot = front_end_wait(&run->fe, 0);
    struct pending *p;

    if (slot < 0 || slot >= FRONT_END_SLOTS || !run->pending[slot].is_used ||
        *front_end_status(&run->fe, 0, (unsigned)slot) != VIRTIO_BLK_S_OK) {
        return false;
    }
    p = &run->pending[slot];
    memset(run->flat + p->offset, p->byte, p->length);
    p->is_used = false;
    return true;
}

static void fill_slots(struct run *run)
{
    for (unsigned i = 0; i < FRONT_END_SLOTS; i++) {
        if (!run->pending[i].is_used) {
            submit(run, i);
        }
    }
    front_end_kick(&run->fe, 0);
}

static unsigned outstanding(const struct run *run)
{
    unsigned n = 0;

    for (unsigned i = 0; i < FRONT_END_SLOTS; i++) {
        n += run->pending[i].is_used;
    }
    return n;
}

static bool verify(struct run *run)
{
    for (uint64_t at = 0; at < run->size; at += FRONT_END_DATA) {
        if (front_end_request(&run->fe, 0, VIRTIO_BLK_T_IN, at / SECTOR, FRONT_END_DATA) !=
                VIRTIO_BLK_S_OK ||
            memcmp(front_end_data(&run->fe, 0, 0), run->flat + at, FRONT_END_DATA) != 0) {
            fprintf(stderr, "outlive: the 64 KiB at %#llx are not what was written\n",
                    (unsigned long long)at);
            return false;
        }
    }
    return true;
}

/* One server's life, but for the last. */
static bool live_and_die(struct run *run)
{
    for (uint64_t left = rng_between(&run->rng, 1, MAX_COMPLETIONS); left > 0; left--) {
        fill_slots(run);
        if (!complete(run)) {
            return false;
        }
    }
    fill_slots(run); /* it dies with these on their way */
    return kill(run->server, SIGKILL) == 0 && waitpid(run->server, NULL, 0) == run->server;
}

static int play(struct run *run, unsigned long kills)
{
    for (unsigned long i = 0; i <= kills; i++) {
        int fd = start_server(run);
        int status;

        if (fd < 0 || !begin(run, fd, i == 0 ? 0 : run->fe.rings[0].used->idx)) {
            return fail(run, "no server answers");
        }
        if (i < kills && !live_and_die(run)) {
            return fail(run, "a request failed");
        }
        if (i < kills) {
            continue;
        }
        while (outstanding(run) > 0) {
            if (!complete(run)) {
                return fail(run, "what was in flight was not carried out");
            }
        }
        if (!verify(run)) {
            return 1;
        }
        if (kill(run->server, SIGTERM) < 0 || waitpid(run->server, &status, 0) < 0 || status != 0) {
            return fail(run, "the last server did not end well");
        }
    }
    return 0;
}

static int save(const struct run *run, const char *path)
{
    FILE *f = fopen(path, "w");

    return f && fwrite(run->flat, 1, run->size, f) == run->size && fclose(f) == 0
               ? 0
               : fail(run, "cannot write what is expected");
}

int main(int argc, char **argv)
{
    struct run run = {.server = -1, .inflight_fd = -1};
    int status;

    if (argc != 8) {
        fputs("usage: outlive IMG SOCKET IMAGE MIB SEED KILLS FLAT\n", stderr);
        return 2;
    }
    run.img = argv[1];
    run.socket = argv[2];
    run.image = argv[3];
    run.size = strtoull(argv[4], NULL, 10) << 20;
    run.rng.state = strtoull(argv[5], NULL, 10);
    run.flat = calloc(1, run.size);
    (void)signal(SIGPIPE, SIG_IGN);
    status = run.flat ? play(&run, strtoul(argv[6], NULL, 10)) : fail(&run, "no memory");
    if (status == 0) {
        status = save(&run, argv[7]);
    } else if (run.server > 0) {
        (void)kill(run.server, SIGKILL);
    }
    free(run.flat);
    return status;
}
