/*
 * Several threads on one image, each with a queue of its own: writes, discards, write-zeroes, flushes
 * and reads that meet in the same clusters. Each thread knows what its own bytes must be; afterwards
 * qemu-img must find every refcount right (a discard that races an allocating write leaves a
 * referenced cluster with refcount 0, or two references to one).
 */
#include "fixture.h"

#include <pthread.h>

enum { THREADS = 4, SECTOR = 512 };

struct worker {
    struct blk *blk;
    unsigned id, rounds;
    uint64_t size;
    uint64_t grain;  /* bytes of one unit; unit u belongs to thread u % THREADS */
    bool shares_all; /* no owners: anybody writes anywhere, nothing is compared */
    uint64_t seed;
    uint8_t *expected; /* one byte a unit: what it is filled with */
    unsigned failures;
};

static uint64_t next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void on_done(struct blk_request *request, int result)
{
    *(int *)request->opaque = result;
}

static int run_request(struct blk_queue *queue, enum blk_op op, unsigned flags, uint64_t offset,
                       uint8_t *buffer, uint64_t length)
{
    int result = 1;
    struct iovec iov = {.iov_base = buffer, .iov_len = length};
    struct blk_request request = {
        .op = op,
        .flags = flags,
        .offset = offset,
        .length = length,
        .iov = &iov,
        .iovcnt = 1,
        .done = on_done,
        .opaque = &result,
    };

    blk_submit(queue, &request);
    while (result == 1) {
        blk_queue_complete(queue);
    }
    return result;
}

static bool is_filled(const uint8_t *buffer, uint64_t length, uint8_t byte)
{
    for (uint64_t i = 0; i < length; i++) {
        if (buffer[i] != byte) {
            return false;
        }
    }
    return true;
}

static void one_round(struct worker *w, struct blk_queue *queue, uint8_t *buffer)
{
    uint64_t units = w->size / w->grain;
    uint64_t unit = next(&w->seed) % units;
    uint64_t offset;
    uint8_t fill = (uint8_t)(1 + next(&w->seed) % 255);
    int r = 0;

    if (!w->shares_all) {
        unit = (unit - unit % THREADS + w->id) % units;
        if (unit % THREADS != w->id) {
            return;
        }
    }
    offset = unit * w->grain;
    switch (next(&w->seed) % 8) {
    case 0:
        r = run_request(queue, BLK_FLUSH, 0, 0, NULL, 0);
        break;
    case 1:
    case 2:
        r = run_request(queue, BLK_WRITE_ZEROES, BLK_REQ_MAY_UNMAP, offset, NULL, w->grain);
        w->expected[unit] = 0;
        break;
    case 3:
        r = run_request(queue, BLK_DISCARD, 0, offset, NULL, w->grain);
        /* Ignored for parts of clusters; whole ones read as zeros. */
        if (r == 0 && !w->shares_all) {
            r = run_request(queue, BLK_READ, 0, offset, buffer, w->grain);
            if (!is_filled(buffer, w->grain, 0) &&
                !is_filled(buffer, w->grain, w->expected[unit])) {
                w->failures++;
            }
            w->expected[unit] = buffer[0];
        }
        break;
    case 4:
    case 5:
        r = run_request(queue, BLK_READ, 0, offset, buffer, w->grain);
        if (!w->shares_all && !is_filled(buffer, w->grain, w->expected[unit])) {
            w->failures++;
        }
        break;
    default:
        memset(buffer, fill, w->grain);
        r = run_request(queue, BLK_WRITE, 0, offset, buffer, w->grain);
        w->expected[unit] = fill;
        break;
    }
    if (r != 0) {
        w->failures++;
    }
}

static void *work(void *opaque)
{
    struct worker *w = opaque;
    uint8_t *buffer = malloc(w->grain);
    struct blk_queue *queue;

    if (blk_queue_create(w->blk, &queue, NULL) != 0) {
        w->failures++;
        free(buffer);
        return NULL;
    }
    for (unsigned i = 0; i < w->rounds; i++) {
        one_round(w, queue, buffer);
    }
    blk_queue_destroy(queue);
    free(buffer);
    return NULL;
}

static void race(uint64_t grain, bool shares_all, uint64_t cache)
{
    const struct blk_open_options options = {
        .path = "top.qcow2",
        .format = "qcow2",
        .writable = true,
        .discard = true,
        .cache = BLK_CACHE_UNSAFE, /* the same commits, without the wait */
        .metadata_cache = cache,
    };
    struct blk *blk = open_with(&options);
    uint64_t size = blk_length(blk), units = size / grain;
    uint8_t *expected = calloc(units, 1), *buffer = malloc(grain);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    for (uint64_t u = 0; u < units; u++) {
        assert_int_equal(blk_pread(blk, u * grain, &expected[u], 1), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t] = (struct worker){
            .blk = blk,
            .id = t,
            .rounds = 3000,
            .size = size,
            .grain = grain,
            .shares_all = shares_all,
            .seed = 0x1234567 + t * 77777 + grain,
            .expected = shares_all ? calloc(units, 1) : expected,
        };
        assert_int_equal(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        assert_int_equal(workers[t].failures, 0);
        if (shares_all) {
            free(workers[t].expected);
        }
    }
    for (uint64_t u = 0; u < units && !shares_all; u++) {
        assert_int_equal(blk_pread(blk, u * grain, buffer, grain), 0);
        assert_true(is_filled(buffer, grain, expected[u]));
    }
    free(expected);
    free(buffer);
    close_image(blk);
    shell("qemu-img check -q -f qcow2 top.qcow2");
}

static void make_overlay(const char *cluster_size)
{
    shell("rm -f top.qcow2 base.raw; truncate -s 2M base.raw");
    shell("qemu-io -f raw -c 'write -P 99 0 1M' base.raw > /dev/null");
    shell("qemu-img create -q -f qcow2 -o cluster_size=%s -b base.raw -F raw top.qcow2",
          cluster_size);
}

static void parts_of_one_cluster_keep_apart(void **state)
{
    (void)state;
    make_overlay("64k");
    race(SECTOR, false, 0);
    make_overlay("2M");
    race(4096, false, 0);
}

static void reused_clusters_never_show_others_data(void **state)
{
    (void)state;
    make_overlay("4k");
    race(4096, false, 0);
    make_overlay("64k");
    race(65536, false, 0);
    make_overlay("512");
    race(1024, false, 1);
}

static void discard_racing_an_allocating_write_leaves_refcounts_right(void **state)
{
    (void)state;
    make_overlay("64k");
    race(65536, true, 0);
    race(131072, true, 0);
    make_overlay("512");
    race(512, true, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_of_one_cluster_keep_apart),
        cmocka_unit_test(reused_clusters_never_show_others_data),
        cmocka_unit_test(discard_racing_an_allocating_write_leaves_refcounts_right),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
