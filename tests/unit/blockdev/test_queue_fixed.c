/*
 * Memory that is registered with a queue's io_uring: all requests come out right wherever their memory lies, and those
 * that lie in it in one piece use it.
 */
#include "queue_helpers.h"

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum {
    BLOCK = 4096,
    REGION = 2 << 20,
    SLACK = 65536,
    ROUNDS = 300,
    MOST_PIECES = 3,
    MOST_BLOCKS = 8,
    NO_MEMORY = 3,
};

static const char *const image = "fixed.qcow2";
static const uint64_t data_start = 2 << 20, data_length = 16 << 20; /* open_slow() wrote there */

static struct blk *open_cached(enum blk_cache cache, enum blk_aio aio)
{
    const struct blk_open_options options = {
        .path = image, .writable = true, .trust_probe = true, .cache = cache, .aio = aio};
    struct blk *blk = NULL;
    struct err err = {""};

    if (blk_open(&options, &blk, &err) != 0) {
        print_message("# %s\n", err.text);
        skip();
    }
    return blk;
}

static void make_image(void)
{
    shell("rm -f %s; qemu-img create -q -f qcow2 %s 32M; qemu-io -c 'write -q -P 1 0 32M' %s",
          image, image, image);
}

/* NULL: the host has no io_uring to give. */
static struct blk_queue *try_fixed(struct blk *blk, const struct iovec *regions, unsigned count)
{
    struct blk_queue *queue = NULL;
    struct err err = {""};
    const struct blk_fixed fixed = {.regions = regions, .region_count = count};
    int r = blk_queue_create_fixed(blk, &fixed, &queue, &err);

    if (r != 0)
        print_message("# %s\n", err.text);
    assert_true(r == 0 || r == -EPERM || r == -ENOSYS);
    return queue;
}

static void finish_fixed(struct blk *blk, struct blk_queue *queue)
{
    bool is_there = queue != NULL;

    if (is_there)
        blk_queue_destroy(queue);
    close_image(blk);
    shell("qemu-img check -q %s", image);
    if (!is_there)
        skip();
}

static uint8_t *map_bytes(size_t length)
{
    uint8_t *memory =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

struct transfer {
    struct blk_request request;
    struct iovec iov[MOST_PIECES];
    int result;
};

static void transfer_done(struct blk_request *request, int result)
{
    ((struct transfer *)request->opaque)->result = result;
}

/* One request in `count` equal pieces, each at its place in memory, carried out to its end. */
static void carry_out(struct blk_queue *queue, enum blk_op op, uint64_t offset,
                      uint8_t *const *places, int count, size_t piece)
{
    struct transfer t = {.result = 1};

    for (int i = 0; i < count; i++)
        t.iov[i] = (struct iovec){places[i], piece};
    t.request = (struct blk_request){
        .op = op,
        .offset = offset,
        .length = (size_t)count * piece,
        .iov = t.iov,
        .iovcnt = count,
        .done = transfer_done,
        .opaque = &t,
    };
    blk_submit(queue, &t.request);
    complete_all(queue);
    assert_int_equal(t.result, 0);
}

/* What a round writes and reads: pieces at places in, beside and across the ends of two regions. */
struct round {
    int count;
    size_t piece;
    uint64_t offset;
    uint8_t *places[MOST_PIECES];
};

static void pick_round(struct round *round, unsigned *seed, uint8_t *const memory[2])
{
    round->count = 1 + rand_r(seed) % MOST_PIECES;
    round->piece = BLOCK * (1 + (size_t)rand_r(seed) % MOST_BLOCKS);
    round->offset = data_start + (uint64_t)rand_r(seed) %
                                     (data_length / BLOCK - MOST_PIECES * MOST_BLOCKS) * BLOCK;
    for (int p = 0; p < round->count; p++) {
        /* The ends more often than not. */
        const uint64_t ends[] = {0,
                                 SLACK - BLOCK,
                                 SLACK,
                                 REGION + SLACK - BLOCK,
                                 REGION + SLACK,
                                 (uint64_t)rand_r(seed) % (REGION / BLOCK) * BLOCK};
        uint64_t at = ends[(unsigned)rand_r(seed) % ARRAY_LEN(ends)];

        round->places[p] = memory[p % 2] + min_u64(at, REGION + 2 * SLACK - round->piece);
    }
}

static void write_and_read(struct blk_queue *queue, const struct round *round, uint8_t first_byte,
                           uint8_t *back)
{
    uint8_t *expected = malloc((size_t)round->count * round->piece);

    assert_non_null(expected);
    for (int p = 0; p < round->count; p++)
        memset(round->places[p], first_byte + p, round->piece);
    /* Pieces may lie in each other: what stands there in the end is written. */
    for (int p = 0; p < round->count; p++)
        memcpy(expected + (size_t)p * round->piece, round->places[p], round->piece);
    carry_out(queue, BLK_WRITE, round->offset, round->places, round->count, round->piece);
    for (int p = 0; p < round->count; p++) {
        memset(back, 0xee, round->piece);
        carry_out(queue, BLK_READ, round->offset + (size_t)p * round->piece, &back, 1,
                  round->piece);
        assert_memory_equal(back, expected + (size_t)p * round->piece, round->piece);
    }
    free(expected);
}

static void right_wherever_the_memory_lies(struct blk_queue *queue, uint8_t *const memory[2])
{
    unsigned seed = 11;

    print_message("# seed %u\n", seed);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct round round;

        pick_round(&round, &seed, memory);
        write_and_read(queue, &round, (uint8_t)i, memory[i % 2] + SLACK);
    }
}

static void with_cache(enum blk_cache cache)
{
    uint8_t *const memory[] = {map_bytes(SLACK + REGION + SLACK),
                               map_bytes(SLACK + REGION + SLACK)};
    const struct iovec regions[] = {{memory[0] + SLACK, REGION}, {memory[1] + SLACK, REGION}};
    struct blk_queue *queue;
    struct blk *blk;

    make_image();
    blk = open_cached(cache, BLK_AIO_AUTO);
    queue = try_fixed(blk, regions, ARRAY_LEN(regions));
    if (queue != NULL)
        right_wherever_the_memory_lies(queue, memory);
    munmap(memory[0], SLACK + REGION + SLACK);
    munmap(memory[1], SLACK + REGION + SLACK);
    finish_fixed(blk, queue);
}

static void past_the_page_cache(void **state)
{
    (void)state;
    with_cache(BLK_CACHE_DIRECT);
}

static void through_the_page_cache(void **state)
{
    (void)state;
    with_cache(BLK_CACHE_WRITEBACK);
}

static atomic_uint begun_anew;

static void count_transfers(struct trace *trace, enum trace_kind kind, uint64_t offset,
                            uint64_t length)
{
    (void)trace;
    (void)offset;
    (void)length;
    if (kind == TRACE_READ || kind == TRACE_WRITE)
        atomic_fetch_add(&begun_anew, 1);
}

/* An image in a file that always waits: all is the ring's, and what that cannot do is seen to begin anew. */
static struct blk_queue *open_waiting(struct slow_file *slow, const struct iovec *regions,
                                      unsigned count, struct blk **blk)
{
    struct blk_queue *queue;

    *blk = open_slow(slow);
    assert_bytes(*blk, data_start, data_length, 3); /* the tables are in memory from now on */
    queue = try_fixed(*blk, regions, count);
    slow->plain_fd = slow->trace.below->fd;
    slow->trace.file.alignment = BLOCK;
    slow->trace.before = count_transfers;
    atomic_store(&begun_anew, 0);
    return queue;
}

static void close_waiting(struct slow_file *slow, struct blk *blk, struct blk_queue *queue)
{
    bool is_there = queue != NULL;

    assert_int_equal(begun_anew, 0);
    if (is_there)
        finish(slow, blk, queue);
    else
        close_image(blk);
    if (!is_there)
        skip();
}

static void the_kernel_refuses_none(void **state)
{
    uint8_t *const memory[] = {map_bytes(SLACK + REGION + SLACK),
                               map_bytes(SLACK + REGION + SLACK)};
    const struct iovec regions[] = {{memory[0] + SLACK, REGION}, {memory[1] + SLACK, REGION}};
    struct slow_file slow;
    struct blk *blk;
    struct blk_queue *queue = open_waiting(&slow, regions, ARRAY_LEN(regions), &blk);

    (void)state;
    if (queue != NULL)
        right_wherever_the_memory_lies(queue, memory);
    close_waiting(&slow, blk, queue);
    munmap(memory[0], SLACK + REGION + SLACK);
    munmap(memory[1], SLACK + REGION + SLACK);
}

/* A buffer has 1 GiB at most: what lies across the end of one is an ordinary transfer. The region is one small file
 * over and over, so that it takes little memory. */
static uint8_t *map_over_and_over(int fd, uint64_t length)
{
    uint8_t *memory =
        mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    assert_int_equal(ftruncate(fd, REGION), 0);
    for (uint64_t at = 0; at < length; at += REGION)
        assert_ptr_not_equal(
            mmap(memory + at, REGION, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0),
            MAP_FAILED);
    return memory;
}

static void more_than_a_gigabyte(void **state)
{
    const uint64_t gib = UINT64_C(1) << 30, length = gib + 2 * REGION;
    int fd = memfd_create("region", MFD_CLOEXEC);
    uint8_t *memory = map_over_and_over(fd, length);
    const struct iovec region = {memory, length};
    struct slow_file slow;
    struct blk *blk;
    struct blk_queue *queue = open_waiting(&slow, &region, 1, &blk);

    (void)state;
    for (uint64_t at = gib - 3 * BLOCK; at <= gib + BLOCK && queue != NULL; at += BLOCK) {
        const struct round round = {
            .count = 1, .piece = 2 * BLOCK, .offset = data_start, .places = {memory + at}};

        write_and_read(queue, &round, (uint8_t)(at / BLOCK) | 1, memory + at);
    }
    close_waiting(&slow, blk, queue);
    munmap(memory, length);
    close(fd);
}

/* Pages that were taken away after they were registered are what such a transfer goes to all the same: so one can see
 * that it was one. (Nobody is to do that.) */
static void registered_memory_is_used(void **state)
{
    uint8_t *memory = map_bytes(REGION), *place = memory + BLOCK, *places[2];
    const struct iovec region = {memory, REGION};
    struct blk_queue *queue;
    struct blk *blk;

    (void)state;
    make_image();
    blk = open_cached(BLK_CACHE_DIRECT, BLK_AIO_AUTO);
    assert_bytes(blk, 0, BLOCK, 1);
    queue = try_fixed(blk, &region, 1);
    if (queue != NULL) {
        memset(memory, 5, REGION);
        assert_ptr_equal(mmap(memory, REGION, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                         memory);
        carry_out(queue, BLK_READ, 0, &place, 1, BLOCK);
        assert_int_equal(place[0], 0);
        carry_out(queue, BLK_WRITE, 0, &place, 1, BLOCK); /* what was just read */
        assert_bytes(blk, 0, BLOCK, 1);
        /* In two pieces it is an ordinary one. */
        places[0] = memory;
        places[1] = memory + 2 * BLOCK;
        carry_out(queue, BLK_READ, 0, places, 2, BLOCK);
        assert_int_equal(memory[0], 1);
        assert_int_equal(memory[2 * BLOCK], 1);
    }
    munmap(memory, REGION);
    finish_fixed(blk, queue);
}

static void what_cannot_be_is_said(void **state)
{
    uint8_t *memory = map_bytes(REGION);
    struct iovec regions[5];
    struct blk_fixed fixed = {.regions = regions, .region_count = 1};
    struct blk_queue *queue = NULL;
    struct err err = {""};
    struct blk *blk;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(regions); i++)
        regions[i] = (struct iovec){memory + i * BLOCK, BLOCK};
    make_image();
    blk = open_cached(BLK_CACHE_WRITEBACK, BLK_AIO_THREADS);
    assert_int_equal(blk_queue_create_fixed(blk, &fixed, &queue, &err), -EINVAL);
    assert_says(&err, "io_uring");
    assert_null(queue);
    close_image(blk);
    blk = open_cached(BLK_CACHE_WRITEBACK, BLK_AIO_AUTO);
    fixed.region_count = ARRAY_LEN(regions);
    assert_int_equal(blk_queue_create_fixed(blk, &fixed, &queue, &err), -EINVAL);
    assert_null(queue);
    finish_fixed(blk, try_fixed(blk, regions, 4));
    munmap(memory, REGION);
}

/* As a user without privileges, in a process that may lock less than the region. */
static int create_beyond_the_limit(struct blk *blk, const struct iovec *region)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    const struct rlimit limit = {BLOCK, BLOCK};
    const struct blk_fixed fixed = {.regions = region, .region_count = 1};
    struct blk_queue *queue = NULL;
    struct err err = {""};
    int r;

    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || syscall(SYS_capset, &header, none) != 0)
        return 1;
    r = blk_queue_create_fixed(blk, &fixed, &queue, &err);
    if (r != -ENOMEM)
        return r == -EPERM || r == -ENOSYS ? NO_MEMORY : 1; /* no io_uring: nothing to say */
    return strstr(err.text, "ulimit -l") != NULL ? NO_MEMORY : 1;
}

static void a_limit_of_locked_memory_is_named(void **state)
{
    uint8_t *memory = map_bytes(REGION);
    const struct iovec region = {memory, REGION};
    struct blk *blk;
    int status;
    pid_t pid;

    (void)state;
    make_image();
    blk = open_cached(BLK_CACHE_WRITEBACK, BLK_AIO_AUTO);
    pid = fork();
    if (pid == 0)
        _exit(create_beyond_the_limit(blk, &region));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), NO_MEMORY);
    munmap(memory, REGION);
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(past_the_page_cache),
        cmocka_unit_test(through_the_page_cache),
        cmocka_unit_test(the_kernel_refuses_none),
        cmocka_unit_test(more_than_a_gigabyte),
        cmocka_unit_test(registered_memory_is_used),
        cmocka_unit_test(what_cannot_be_is_said),
        cmocka_unit_test(a_limit_of_locked_memory_is_named),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
