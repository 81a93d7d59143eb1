/*
 * Resizing, emptying, renaming the backing file; what discards and write-zeroes leave in the tables;
 * queues; cache modes; maps.
 */
#include "fixture.h"

#include "iov.h"
#include <poll.h>

enum { CLUSTER = 65536 };

static void make_overlay(const char *options, const char *size)
{
    shell("rm -f top.qcow2 base.raw; truncate -s 1M base.raw");
    shell("qemu-io -f raw -c 'write -P 9 0 1M' base.raw > /dev/null");
    shell("qemu-img create -q -f qcow2 -o %s -b base.raw -F raw top.qcow2 %s", options, size);
}

static struct blk_extent map_top(struct blk *blk, uint64_t offset)
{
    struct blk_extent extent;

    assert_int_equal(blk_map(blk, offset, 1, BLK_MAP_TOP_ONLY, &extent), 0);
    return extent;
}

static void growing_does_not_expose_a_larger_backing_file(void **state)
{
    static const char *const options[] = {"cluster_size=64k", "cluster_size=512",
                                          "cluster_size=64k,compat=0.10"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct blk *blk;

        make_overlay(options[i], "100352");
        blk = open_image("top.qcow2", true);
        write_bytes(blk, 5000, 100, 1);
        assert_int_equal(blk_resize(blk, 3 << 20, NULL), 0);
        assert_int_equal(blk_length(blk), 3 << 20);
        assert_bytes(blk, 5000, 100, 1);
        assert_bytes(blk, 5100, 100352 - 5100, 9);
        assert_bytes(blk, 100352, (3 << 20) - 100352, 0);
        close_image(blk);
        shell("qemu-img check -q top.qcow2");
        blk = open_image("top.qcow2", true);
        assert_bytes(blk, 100352, (3 << 20) - 100352, 0);
        close_image(blk);
    }
}

static void growing_needs_a_long_l1_table(void **state)
{
    struct blk *blk;

    (void)state;
    make_overlay("cluster_size=512", "1M");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 1000, 300000, 3);
    assert_int_equal(blk_resize(blk, UINT64_C(3) << 30, NULL), 0);
    write_bytes(blk, UINT64_C(2) << 30, 100000, 4);
    assert_int_equal(blk_resize(blk, UINT64_C(1) << 60, NULL), -EFBIG);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    blk = open_image("top.qcow2", false);
    assert_bytes(blk, 1000, 300000, 3);
    assert_bytes(blk, 301000, 100000, 9);
    assert_bytes(blk, UINT64_C(2) << 30, 100000, 4);
    close_image(blk);
}

static void the_refcount_table_grows(void **state)
{
    struct blk *blk;

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=512 top.qcow2 40M");
    blk = open_image("top.qcow2", true);
    for (uint64_t at = 0; at < 40 << 20; at += 1 << 20) {
        write_bytes(blk, at, 1 << 20, (uint8_t)(1 + (at >> 20)));
    }
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    blk = open_image("top.qcow2", false);
    for (uint64_t at = 0; at < 40 << 20; at += 1 << 20) {
        assert_bytes(blk, at, 1 << 20, (uint8_t)(1 + (at >> 20)));
    }
    close_image(blk);
}

static void emptying_gives_everything_back(void **state)
{
    struct blk_info info;
    struct blk *blk;

    (void)state;
    make_overlay("cluster_size=4k", "2M");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 2 << 20, 5);
    assert_int_equal(blk_pwrite_zeroes(blk, 0, 100000, BLK_REQ_MAY_UNMAP), 0);
    assert_int_equal(blk_make_empty(blk, NULL), 0);
    assert_bytes(blk, 0, 1 << 20, 9);
    assert_bytes(blk, 1 << 20, 1 << 20, 0);
    write_bytes(blk, 0, 10000, 6);
    assert_bytes(blk, 0, 10000, 6);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    blk = open_image("top.qcow2", true);
    assert_int_equal(blk_make_empty(blk, NULL), 0);
    assert_int_equal(blk_get_info(blk, &info, NULL), 0);
    assert_true(info.disk_size < 100000);
    close_image(blk);
    shell("qemu-img check -q top.qcow2 && test $(stat -c %%s top.qcow2) -lt 100000");
}

static void renaming_the_backing_file_keeps_unknown_extensions(void **state)
{
    struct blk_info info;
    struct blk *blk;
    struct err err;
    char name[1100];

    (void)state;
    make_overlay("cluster_size=64k", "1M");
    shell("cp base.raw other.raw");
    /* The backing format becomes an unknown extension; header bytes 105 to 111 become unknown. */
    assert_int_equal(peek_be64("top.qcow2", 112) >> 32, QCOW2_EXT_BACKING_FORMAT);
    poke_be32("top.qcow2", 112, 0x600df00d);
    poke("top.qcow2", 105, "unknown", 7);
    blk = open_image("top.qcow2", true);
    assert_int_equal(blk_set_backing(blk, "other.raw", "raw", &err), 0);
    assert_int_equal(blk_get_info(blk, &info, NULL), 0);
    assert_string_equal(info.backing_name, "other.raw");
    assert_string_equal(info.backing_path, "other.raw");
    assert_bytes(blk, 0, 1 << 20, 9);
    close_image(blk);
    shell("qemu-img info top.qcow2 | grep -q 'backing file: other.raw'");
    shell("qemu-img info top.qcow2 | grep -q 'backing file format: raw'");
    shell("head -c 65536 top.qcow2 | grep -qa unknown");
    assert_int_equal(peek_be64("top.qcow2", 112 + 16), UINT64_C(0x600df00d00000003));

    blk = open_image("top.qcow2", true);
    memset(name, 'a', sizeof(name));
    name[1024] = '\0';
    assert_int_equal(blk_set_backing(blk, name, "raw", &err), -EINVAL);
    assert_int_equal(blk_set_backing(blk, NULL, NULL, &err), 0);
    close_image(blk);
    shell("qemu-img info top.qcow2 | grep -c backing | grep -q 0");
    assert_int_equal(peek_be64("top.qcow2", 112), UINT64_C(0x600df00d00000003));
    shell("qemu-img check -q top.qcow2");
}

static void backing_name_must_fit_into_the_header(void **state)
{
    struct blk *blk;
    struct err err;
    char name[500];

    (void)state;
    make_overlay("cluster_size=512", "1M");
    blk = open_image("top.qcow2", true);
    memset(name, 'a', sizeof(name));
    name[499] = '\0';
    assert_int_equal(blk_set_backing(blk, name, "raw", &err), -ENOSPC);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

static void discards_hide_the_backing_file_or_do_nothing(void **state)
{
    struct blk *blk;

    (void)state;
    make_overlay("cluster_size=64k", "1M");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 4 * CLUSTER, 1);
    /* Parts of clusters stay. */
    assert_int_equal(blk_pdiscard(blk, 100, 2 * CLUSTER), 0);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_bytes(blk, CLUSTER, CLUSTER, 0);
    assert_bytes(blk, 2 * CLUSTER, CLUSTER, 1);
    assert_int_equal(map_top(blk, CLUSTER).kind, BLK_EXTENT_ZERO);
    assert_false(map_top(blk, CLUSTER).has_host_offset);
    close_image(blk);

    make_overlay("cluster_size=64k,compat=0.10", "1M");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 4 * CLUSTER, 1);
    assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, BLK_REQ_MAY_UNMAP), 0);
    assert_bytes(blk, 0, CLUSTER, 0);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

static void write_zeroes_keeps_or_frees_space(void **state)
{
    struct blk *blk;
    uint64_t host;

    (void)state;
    make_overlay("cluster_size=64k", "1M");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 2 * CLUSTER, 1);
    host = map_top(blk, 0).host_offset;
    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, 0), 0);
    assert_int_equal(map_top(blk, 0).kind, BLK_EXTENT_ZERO);
    assert_true(map_top(blk, 0).has_host_offset);
    assert_int_equal(map_top(blk, 0).host_offset, host);
    write_bytes(blk, 1000, 100, 2);
    assert_int_equal(map_top(blk, 0).host_offset, host);
    assert_bytes(blk, 0, 1000, 0);
    assert_bytes(blk, 1000, 100, 2);
    assert_bytes(blk, 1100, CLUSTER - 1100, 0);
    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, BLK_REQ_MAY_UNMAP), 0);
    assert_false(map_top(blk, 0).has_host_offset);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

static void discarding_shrinks_the_file(void **state)
{
    struct blk_info info;
    struct blk *blk;

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 top.qcow2 64M");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 32 << 20, 1);
    assert_int_equal(blk_pdiscard(blk, 0, 32 << 20), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_get_info(blk, &info, NULL), 0);
    assert_true(info.disk_size < 2 << 20);
    /* A crash now leaks nothing: the lowered refcounts are in the file. */
    shell("qemu-img check -q -U top.qcow2");
    close_image(blk);
}

static void without_the_option_a_discard_does_nothing(void **state)
{
    const struct blk_open_options options = {
        .path = "top.qcow2", .writable = true, .trust_probe = true};
    struct blk *blk;

    (void)state;
    make_overlay("cluster_size=64k", "1M");
    blk = open_with(&options);
    write_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, BLK_REQ_MAY_UNMAP), 0);
    assert_true(map_top(blk, 0).has_host_offset);
    close_image(blk);
}

static void whole_clusters_are_not_read_and_holes_are_not_filled(void **state)
{
    struct blk_info before, after;
    struct blk *blk;

    (void)state;
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=2M top.qcow2 1G");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 0, 4096, 1);
    assert_int_equal(blk_get_info(blk, &before, NULL), 0);
    for (uint64_t i = 1; i < 100; i++) {
        write_bytes(blk, (i << 21) + 8192, 4096, 1);
    }
    assert_int_equal(blk_get_info(blk, &after, NULL), 0);
    assert_true(after.disk_size - before.disk_size < 2 << 20);
    assert_bytes(blk, 1 << 21, 8192, 0);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
}

/* ---- queues ---- */

struct chain_of_requests {
    struct blk_queue *queue;
    struct blk_request requests[5];
    unsigned completed;
    int results[5], flushed;
};

static void count_done(struct blk_request *request, int result)
{
    struct chain_of_requests *all = request->opaque;

    all->completed++;
    if (request->op == BLK_FLUSH) {
        all->flushed = result;
        return;
    }
    all->results[request - all->requests] = result;
    if (all->completed == 5) {
        /* done() may submit again: the same request, as a flush. */
        request->op = BLK_FLUSH;
        blk_submit(all->queue, request);
    }
}

static void complete_all(struct blk_queue *queue)
{
    struct pollfd poll_fd = {.fd = blk_queue_fd(queue), .events = POLLIN};

    while (blk_queue_complete(queue), blk_queue_in_flight(queue) > 0) {
        assert_int_equal(poll(&poll_fd, 1, 60000), 1);
    }
}

static void requests_complete_once_errors_included(void **state)
{
    uint8_t data[512] = {1}, back[512], beyond[1024];
    struct iovec iov = {data, sizeof(data)}, one = {back, sizeof(back)},
                 two = {beyond, sizeof(beyond)};
    struct chain_of_requests all = {
        .flushed = 1,
        .requests = {
            {.op = BLK_WRITE, .offset = 512, .length = 512, .iov = &iov, .iovcnt = 1},
            {.op = BLK_READ, .offset = 0, .length = 512, .iov = &one, .iovcnt = 1},
            {.op = BLK_READ, .offset = (4 << 20) - 512, .length = 1024, .iov = &two, .iovcnt = 1},
            {.op = BLK_WRITE, .offset = UINT64_MAX - 100, .length = 512, .iov = &iov, .iovcnt = 1},
            {.op = BLK_WRITE, .offset = 0, .length = 1024, .iov = &iov, .iovcnt = 1},
        }};
    struct blk *blk;

    (void)state;
    make_overlay("cluster_size=64k", "4M");
    blk = open_image("top.qcow2", true);
    assert_int_equal(blk_queue_create(blk, &all.queue, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(all.requests); i++) {
        all.requests[i].done = count_done;
        all.requests[i].opaque = &all;
        blk_submit(all.queue, &all.requests[i]);
    }
    assert_int_equal(all.completed, 0);
    assert_int_equal(blk_queue_in_flight(all.queue), 5);
    complete_all(all.queue);
    assert_int_equal(all.completed, 6);
    assert_int_equal(blk_queue_in_flight(all.queue), 0);
    assert_int_equal(all.results[0], 0);
    assert_int_equal(all.results[1], 0);
    assert_int_equal(all.results[2], -EINVAL);
    assert_int_equal(all.results[3], -EINVAL);
    assert_int_equal(all.results[4], -EINVAL);
    assert_int_equal(all.flushed, 0);
    assert_int_equal(back[0], 9);
    assert_bytes(blk, 512, 1, 1);
    blk_queue_destroy(all.queue);
    close_image(blk);
}

static void a_read_only_image_refuses_changes(void **state)
{
    struct blk *blk;

    (void)state;
    make_overlay("cluster_size=64k", "1M");
    blk = open_image("top.qcow2", false);
    assert_int_equal(blk_pwrite(blk, 0, "x", 1), -EROFS);
    assert_int_equal(blk_pwrite_zeroes(blk, 0, 1, 0), -EROFS);
    assert_int_equal(blk_pdiscard(blk, 0, 1), -EROFS);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_resize(blk, 2 << 20, NULL), -EROFS);
    assert_int_equal(blk_make_empty(blk, NULL), -EROFS);
    assert_int_equal(blk_set_backing(blk, NULL, NULL, NULL), -EROFS);
    close_image(blk);
}

/* ---- cache modes ---- */

static void direct_io_takes_any_offset_length_and_memory(void **state)
{
    static const char *const formats[] = {"raw", "qcow2"};
    uint64_t seed = 12345;

    (void)state;
    for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
        struct blk_open_options options = {
            .path = "direct", .format = formats[f], .writable = true, .cache = BLK_CACHE_DIRECT};
        enum { SIZE = 1000448 }; /* qemu-img rounds up to 512 */
        static uint8_t flat[SIZE], buffer[SIZE + 64];
        struct blk *blk;
        struct err err;

        shell("rm -f direct; qemu-img create -q -f %s direct %d", formats[f], SIZE);
        if (blk_open(&options, &blk, &err) != 0) {
            print_message("no O_DIRECT here: %s\n", err.text);
            skip();
        }
        memset(flat, 0, sizeof(flat));
        for (unsigned i = 0; i < 300; i++) {
            uint64_t offset, length, shift;

            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407U;
            offset = (seed >> 20) % SIZE;
            shift = seed >> 60;
            if (i % 3 == 0) {
                offset = align_down(offset, 4096);
                shift = 0;
            }
            length = min_u64(SIZE - offset, 1 + (seed >> 40) % 20000);
            memset(buffer + shift, (int)i, length);
            assert_int_equal(blk_pwrite(blk, offset, buffer + shift, length), 0);
            memset(flat + offset, (int)i, length);
            if (i % 5 == 0) {
                assert_int_equal(blk_pread(blk, 0, buffer + shift, SIZE), 0);
                assert_memory_equal(buffer + shift, flat, SIZE);
            }
        }
        close_image(blk);
        options.cache = BLK_CACHE_WRITEBACK;
        blk = open_with(&options);
        assert_int_equal(blk_length(blk), SIZE);
        assert_int_equal(blk_pread(blk, 0, buffer, SIZE), 0);
        assert_memory_equal(buffer, flat, SIZE);
        close_image(blk);
    }
}

static void maps_tell_where_things_lie(void **state)
{
    struct blk_extent extent;
    struct blk *blk;

    (void)state;
    make_overlay("cluster_size=64k", "2M");
    shell("truncate -s 0 base.raw; truncate -s 1M base.raw");
    shell("qemu-io -f raw -c 'write -P 9 256k 256k' base.raw > /dev/null");
    blk = open_image("top.qcow2", true);
    write_bytes(blk, 2 * CLUSTER, CLUSTER, 1);
    assert_int_equal(blk_map(blk, 0, 2 << 20, 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_ZERO);
    assert_int_equal(extent.depth, 1);
    assert_int_equal(extent.length, 2 * CLUSTER);
    assert_int_equal(blk_map(blk, 2 * CLUSTER, 1 << 20, 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_DATA);
    assert_int_equal(extent.depth, 0);
    assert_int_equal(extent.length, CLUSTER);
    assert_int_equal(blk_map(blk, 256 << 10, 1 << 20, 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_DATA);
    assert_int_equal(extent.depth, 1);
    assert_int_equal(extent.host_offset, 256 << 10);
    assert_int_equal(blk_map(blk, 1 << 20, 1 << 20, 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_UNALLOCATED);
    assert_int_equal(extent.length, 1 << 20);
    assert_int_equal(extent.depth, 0);
    assert_int_equal(blk_map(blk, 0, 2 << 20, BLK_MAP_TOP_ONLY, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_UNALLOCATED);
    assert_int_equal(extent.length, 2 * CLUSTER);
    assert_int_equal(blk_map(blk, 2 << 20, 1, 0, &extent), -EINVAL);
    close_image(blk);
}

static void chain_of_300_opens_and_reads(void **state)
{
    struct blk *blk;
    FILE *f;
    uint8_t buffer[4096];

    (void)state;
    if (try_shell("test $(ulimit -n) -gt 400") != 0) {
        skip();
    }
    shell("truncate -s 1M c0; printf deep | dd of=c0 conv=notrunc status=none");
    shell("qemu-img create -q -f qcow2 -b c0 -F raw c1");
    /* The others are copies of the first with another backing name of the same length. */
    shell("qemu-img create -q -u -f qcow2 -b c001 -F qcow2 c002 1M");
    for (unsigned i = 3; i <= 300; i++) {
        char name[16], below[16];

        snprintf(name, sizeof(name), "c%03u", i);
        snprintf(below, sizeof(below), "c%03u", i - 1);
        f = fopen("c002", "r");
        assert_non_null(f);
        size_t n = fread(buffer, 1, sizeof(buffer), f);
        fclose(f);
        memcpy((uint8_t *)memmem(buffer, n, "c001", 4), below, 4);
        shell("cp --sparse=always c002 %s", name);
        poke(name, 0, buffer, n);
    }
    shell("mv c1 c001");
    blk = open_image("c300", true);
    assert_int_equal(blk_pread(blk, 0, buffer, 4), 0);
    assert_memory_equal(buffer, "deep", 4);
    write_bytes(blk, 100, 100, 7);
    assert_int_equal(blk_pread(blk, 0, buffer, 4), 0);
    assert_memory_equal(buffer, "deep", 4);
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growing_does_not_expose_a_larger_backing_file),
        cmocka_unit_test(growing_needs_a_long_l1_table),
        cmocka_unit_test(the_refcount_table_grows),
        cmocka_unit_test(emptying_gives_everything_back),
        cmocka_unit_test(renaming_the_backing_file_keeps_unknown_extensions),
        cmocka_unit_test(backing_name_must_fit_into_the_header),
        cmocka_unit_test(discards_hide_the_backing_file_or_do_nothing),
        cmocka_unit_test(write_zeroes_keeps_or_frees_space),
        cmocka_unit_test(discarding_shrinks_the_file),
        cmocka_unit_test(without_the_option_a_discard_does_nothing),
        cmocka_unit_test(whole_clusters_are_not_read_and_holes_are_not_filled),
        cmocka_unit_test(requests_complete_once_errors_included),
        cmocka_unit_test(a_read_only_image_refuses_changes),
        cmocka_unit_test(direct_io_takes_any_offset_length_and_memory),
        cmocka_unit_test(maps_tell_where_things_lie),
        cmocka_unit_test(chain_of_300_opens_and_reads),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
