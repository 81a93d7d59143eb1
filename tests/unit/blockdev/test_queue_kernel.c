/*
 * Overwrites that wait are the kernel's where it has an io_uring to give: those that change data in place and
 * nothing else. Everything that is more than that has to come out as if a thread had written it.
 */
#include "bitmap_helpers.h"
#include "clock.h"
#include "qcow2/qcow2.h"
#include "queue_helpers.h"

#include <fcntl.h>
#include <unistd.h>

enum { CLUSTER = 65536, MANY = 200, FEW = 60, SECTOR = 512, BLOCK = 4096 };

static uint8_t memory[(MANY + 1) * BLOCK * 2];

/* Memory that O_DIRECT takes. */
static uint8_t *block_memory(unsigned i)
{
    return memory + (BLOCK - (uintptr_t)memory % BLOCK) + (size_t)i * BLOCK;
}

static bool has_ring(const struct blk_queue *queue)
{
    return strcmp(blk_queue_engine(queue), "io_uring") == 0;
}

static void write_few(struct blk_queue *queue, uint8_t byte)
{
    static struct asked asked[FEW];

    for (unsigned i = 0; i < FEW; i++) {
        memset(asked[i].bytes, byte, sizeof(asked[i].bytes));
        ask(queue, &asked[i], BLK_WRITE, (2 << 20) + i * CLUSTER);
    }
    complete_all(queue);
    for (unsigned i = 0; i < FEW; i++)
        assert_int_equal(asked[i].result, 0);
}

static void assert_no_holds(struct blk *blk)
{
    assert_int_equal(qcow2_holds_count(qcow2_of(blk)), 0);
}

/* Overwrites in a file that always waits. `fd`: what the kernel is to write to; -1: the image itself. Returns
 * how many writes the workers made. */
static unsigned writes_of_workers(int fd)
{
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    struct blk_queue *queue;
    bool is_ring;
    unsigned writes;

    slow.trace.file.alignment = BLOCK;
    assert_bytes(blk, 2 << 20, CLUSTER, 3); /* its tables are in memory from now on */
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    is_ring = has_ring(queue);
    slow.plain_fd = fd >= 0 ? fd : slow.trace.below->fd;
    write_few(queue, 7);
    writes = atomic_load(&slow.writes);
    assert_no_holds(blk);
    for (unsigned i = 0; i < FEW; i++) {
        assert_bytes(blk, (2 << 20) + i * CLUSTER, SECTOR, 7);
        assert_bytes(blk, (2 << 20) + i * CLUSTER + SECTOR, SECTOR, 3);
    }
    finish(&slow, blk, queue);
    if (!is_ring)
        skip();
    return writes;
}

static void simple_overwrites_are_the_kernels(void **state)
{
    (void)state;
    assert_int_equal(writes_of_workers(-1), 0);
}

static void overwrites_that_fail_begin_anew(void **state)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    (void)state;
    assert_int_equal(writes_of_workers(fd), FEW);
    close(fd);
}

/* The host's disk is slow, so writes that the page cache takes are given away. */
static void after_slow_writes_others_are_the_kernels(void **state)
{
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    struct blk_queue *queue;
    struct asked asked;
    bool is_ring;

    (void)state;
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    is_ring = has_ring(queue);
    slow.plain_fd = slow.trace.below->fd;
    slow.trace.before = write_slowly;
    for (unsigned i = 0; i < 10; i++) {
        ask(queue, &asked, BLK_WRITE, 2 << 20);
        complete_one(queue);
        assert_int_equal(asked.result, 0);
    }
    assert_int_equal(atomic_load(&slow.writes), is_ring ? 2 : 10);
    finish(&slow, blk, queue);
}

/* ---- past the page cache ---- */

/* NULL: the file system has no O_DIRECT. */
static struct blk *open_direct(const char *path, const char *format)
{
    const struct blk_open_options options = {.path = path,
                                             .format = format,
                                             .writable = true,
                                             .trust_probe = true,
                                             .cache = BLK_CACHE_DIRECT};
    struct blk *blk = NULL;
    struct err err = {""};

    if (blk_open(&options, &blk, &err) != 0) {
        print_message("# %s\n", err.text);
        skip();
    }
    return blk;
}

static void close_direct(struct blk *blk, struct blk_queue *queue)
{
    blk_queue_destroy(queue);
    close_image(blk);
}

/* More than the ring holds; some to memory that is not aligned, some to clusters that are new. */
static void overwrites_past_the_page_cache_are_right(void **state)
{
    static struct asked asked[MANY];
    struct blk_queue *queue;
    struct blk *blk;

    (void)state;
    shell("qemu-img create -q -f qcow2 a.qcow2 64M");
    shell("qemu-io -c 'write -q -P 3 2M 8M' a.qcow2");
    blk = open_direct("a.qcow2", "qcow2");
    assert_bytes(blk, 2 << 20, CLUSTER, 3);
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    for (unsigned i = 0; i < MANY; i++) {
        uint8_t *bytes = block_memory(2 * i) + (i % 5 == 0);

        memset(bytes, (int)i + 1, BLOCK);
        ask_for(queue, &asked[i], BLK_WRITE, (2 << 20) + i * CLUSTER + i % 3 * BLOCK, bytes, BLOCK);
    }
    complete_all(queue);
    for (unsigned i = 0; i < MANY; i++) {
        uint64_t at = (2 << 20) + i * CLUSTER + i % 3 * BLOCK;

        assert_int_equal(asked[i].result, 0);
        assert_bytes(blk, at, BLOCK, (uint8_t)(i + 1));
        assert_bytes(blk, at + BLOCK, BLOCK, at + BLOCK < 10 << 20 ? 3 : 0);
    }
    assert_no_holds(blk);
    close_direct(blk, queue);
    shell("qemu-img check -q a.qcow2");
}

static int write_blocks(struct blk_queue *queue, uint64_t offset, unsigned count, uint8_t byte)
{
    struct asked asked;

    memset(block_memory(0), byte, (size_t)count * BLOCK);
    ask_for(queue, &asked, BLK_WRITE, offset, block_memory(0), (size_t)count * BLOCK);
    complete_all(queue);
    return asked.result;
}

static int write_block(struct blk_queue *queue, uint64_t offset, uint8_t byte)
{
    return write_blocks(queue, offset, 1, byte);
}

/* The tables of what is written are in memory before. */
static struct blk *open_warm(const char *path, struct blk_queue **queue)
{
    struct blk *blk = open_direct(path, "qcow2");

    assert_bytes(blk, 0, BLOCK, 1);
    assert_int_equal(blk_queue_create(blk, queue, NULL), 0);
    return blk;
}

/* What a snapshot shares is copied. */
static void a_snapshot_keeps_what_it_has(void **state)
{
    struct blk_queue *queue;
    struct blk *blk;
    struct asked asked;

    (void)state;
    shell("qemu-img create -q -f qcow2 a.qcow2 1M");
    shell("qemu-io -c 'write -q -P 1 0 512k' a.qcow2; qemu-img snapshot -c one a.qcow2");
    blk = open_warm("a.qcow2", &queue);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(write_block(queue, 0, (uint8_t)(i + 2)), 0);
        memset(block_memory(0), (int)i + 2, 2 * BLOCK);
        ask_for(queue, &asked, BLK_WRITE, 2 * CLUSTER - BLOCK, block_memory(0), 2 * BLOCK);
        complete_all(queue);
        assert_int_equal(asked.result, 0);
    }
    close_direct(blk, queue);
    shell("qemu-io -c 'read -q -P 4 0 4k' -c 'read -q -P 1 4k 60k' -c 'read -q -P 4 124k 8k' "
          "a.qcow2");
    shell("qemu-img check -q a.qcow2 && qemu-img snapshot -a one a.qcow2");
    shell("qemu-io -c 'read -q -P 1 0 512k' a.qcow2");
}

/* Clusters that lie the other way round in the file, and two that lie together. */
static void a_write_to_two_places_goes_to_both(void **state)
{
    struct blk_queue *queue;
    struct blk *blk;

    (void)state;
    shell("qemu-img create -q -f qcow2 a.qcow2 1M");
    shell("qemu-io -c 'write -q -P 1 64k 128k' -c 'write -q -P 1 0 64k' a.qcow2");
    blk = open_warm("a.qcow2", &queue);
    assert_int_equal(write_blocks(queue, CLUSTER - BLOCK, 2, 6), 0);
    assert_int_equal(write_blocks(queue, 2 * CLUSTER - BLOCK, 2, 7), 0);
    close_direct(blk, queue);
    shell(
        "qemu-io -c 'read -q -P 1 0 60k' -c 'read -q -P 6 60k 8k' -c 'read -q -P 1 68k 56k' "
        "-c 'read -q -P 7 124k 8k' -c 'read -q -P 1 132k 60k' -c 'read -q -P 0 192k 832k' a.qcow2");
    shell("qemu-img check -q a.qcow2");
}

/* A write to a subcluster without data is more than data. */
static void a_subcluster_that_is_new_is_noted(void **state)
{
    struct blk_queue *queue;
    struct blk *blk;

    (void)state;
    shell(
        "qemu-img create -q -f raw base.raw 1M && qemu-io -f raw -c 'write -q -P 5 0 1M' base.raw");
    shell("qemu-img create -q -f qcow2 -o extended_l2=on -b base.raw -F raw a.qcow2");
    shell("qemu-io -c 'write -q -P 1 0 4k' a.qcow2");
    blk = open_warm("a.qcow2", &queue);
    assert_int_equal(write_block(queue, 0, 6), 0);
    assert_int_equal(write_blocks(queue, 0, 2, 8), 0); /* half of it */
    assert_int_equal(write_block(queue, 4 * BLOCK, 7), 0);
    close_direct(blk, queue);
    shell("qemu-io -c 'read -q -P 8 0 8k' -c 'read -q -P 5 8k 8k' -c 'read -q -P 7 16k 4k' "
          "-c 'read -q -P 5 20k 44k' a.qcow2");
    shell("qemu-img check -q a.qcow2");
}

static void a_bitmap_hears_of_it(void **state)
{
    struct blk_queue *queue;
    struct blk *blk;

    (void)state;
    shell("qemu-img create -q -f qcow2 a.qcow2 1M && qemu-io -c 'write -q -P 1 0 1M' a.qcow2");
    shell("qemu-img bitmap --add a.qcow2 b");
    blk = open_warm("a.qcow2", &queue);
    assert_int_equal(write_block(queue, 5 * CLUSTER, 6), 0);
    close_direct(blk, queue);
    blk = open_image("a.qcow2", true);
    assert_dirty(blk, "b", "327680+65536");
    close_image(blk);
}

/* The kernel goes on writing for a process that was killed: until that is over nobody else gets the image. */
static void locks_last_as_long_as_writes(void **state)
{
    const struct blk_open_options options = {
        .path = "a.qcow2", .format = "qcow2", .writable = true, .cache = BLK_CACHE_DIRECT};
    struct blk *blk;
    uint64_t begin;
    int fd;

    (void)state;
    shell("qemu-img create -q -f qcow2 a.qcow2 1M");
    blk = open_direct("a.qcow2", "qcow2");
    fd = dup(blk->file->ops->plain_fd(blk->file, 0, NULL, 0)); /* as a write under way holds it */
    assert_true(fd >= 0);
    close_image(blk);
    begin = clock_ns();
    (void)refuse_with(&options, -EAGAIN);
    assert_true(clock_ns() - begin > 80 * 1000 * 1000);
    close(fd);
    close_image(open_with(&options));
}

/* A raw image whose format was guessed does not become a qcow2 image. */
static void a_guessed_raw_image_stays_one(void **state)
{
    struct blk_queue *queue;
    struct asked asked;
    struct blk *blk;

    (void)state;
    shell("qemu-img create -q -f raw a.raw 1M");
    blk = open_direct("a.raw", NULL);
    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    assert_int_equal(write_block(queue, BLOCK, 6), 0);
    memcpy(block_memory(0), "QFI\xfb", 4);
    ask_for(queue, &asked, BLK_WRITE, 0, block_memory(0), BLOCK);
    complete_all(queue);
    assert_int_equal(asked.result, -EPERM);
    close_direct(blk, queue);
    shell("qemu-io -f raw -c 'read -q -P 0 0 4k' -c 'read -q -P 6 4k 4k' a.raw");
}

/* What a table has come to lie in since the entry was read. */
static void a_table_is_not_overwritten(void **state)
{
    struct blk_queue *queue;
    struct blk *blk;
    struct err err;

    (void)state;
    shell("qemu-img create -q -f qcow2 a.qcow2 1M && qemu-io -c 'write -q -P 1 0 1M' a.qcow2");
    blk = open_warm("a.qcow2", &queue);
    assert_int_equal(qcow2_metadata_add(qcow2_of(blk), host_of(blk, CLUSTER)), 0);
    assert_int_equal(write_block(queue, CLUSTER, 6), -EIO);
    blk_queue_destroy(queue);
    assert_true(blk_close(blk, &err) < 0);
    shell("qemu-io -r -c 'read -q -P 1 0 1M' a.qcow2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_overwrites_are_the_kernels),
        cmocka_unit_test(overwrites_that_fail_begin_anew),
        cmocka_unit_test(after_slow_writes_others_are_the_kernels),
        cmocka_unit_test(overwrites_past_the_page_cache_are_right),
        cmocka_unit_test(a_snapshot_keeps_what_it_has),
        cmocka_unit_test(a_write_to_two_places_goes_to_both),
        cmocka_unit_test(a_subcluster_that_is_new_is_noted),
        cmocka_unit_test(a_bitmap_hears_of_it),
        cmocka_unit_test(locks_last_as_long_as_writes),
        cmocka_unit_test(a_guessed_raw_image_stays_one),
        cmocka_unit_test(a_table_is_not_overwritten),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
