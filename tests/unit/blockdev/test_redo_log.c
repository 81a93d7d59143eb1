/*
 * A redo log: processes that die in the middle of random requests, each at a random write to the file, on one
 * image with one log. What they had completed is there for the next one, and qemu-img finds no corruption.
 * And logs that somebody has tampered with.
 */
#include "tests/diff/rng.h"
#include "trace.h"

#include <sys/mman.h>

enum {
    DISK = 3 << 20,
    MAX_LENGTH = 48 << 10,
    MANY = 1 << 20, /* bytes of a log that is never full */
    GENERATIONS = 12,
    HEADER = 64, /* of a log: see redo_log.c */
    ENTRY = 24
};

/* What all generations share. */
struct shared {
    uint64_t log[MANY / 8];
    uint8_t flat[DISK];                      /* what the disk holds */
    uint64_t pending_offset, pending_length; /* but for this, which may be either */
    uint64_t completed;                      /* requests, */
    uint64_t waited;                         /* and those of them that the log had no room for */
};

static struct shared *shared;

static struct shared *new_shared(void)
{
    struct shared *s =
        mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(s != MAP_FAILED);
    return s;
}

static void die_at(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    uint64_t *left = trace->opaque;

    (void)offset;
    (void)length;
    if (kind != TRACE_READ && --*left == 0) {
        _exit(0);
    }
}

#define check_that(condition, ...)                                                                 \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void compare(struct blk *blk)
{
    static uint8_t now[DISK];
    uint64_t end = shared->pending_offset + shared->pending_length;

    check_that(blk_pread(blk, 0, now, DISK) == 0, "cannot read\n");
    for (uint64_t i = 0; i < DISK; i++) {
        check_that(now[i] == shared->flat[i] || (i >= shared->pending_offset && i < end),
                   "byte %#jx is %#x, not %#x\n", (uintmax_t)i, now[i], shared->flat[i]);
    }
    memcpy(shared->flat, now, DISK);
    shared->pending_length = 0;
}

static void request(struct blk *blk, struct rng *rng)
{
    static uint8_t data[MAX_LENGTH];
    uint64_t length = rng_between(rng, 1, MAX_LENGTH), offset = rng_below(rng, DISK - length);
    uint64_t kind = rng_below(rng, 8);
    int r;

    if (rng_one_in(rng, 2)) {
        offset = align_down(offset, 4096);
        length = align_up(length, 4096);
        length = min_u64(length, MAX_LENGTH);
    }
    shared->pending_offset = offset;
    shared->pending_length = length;
    memset(data, (int)rng_next(rng), length);
    switch (kind) {
    case 0:
        r = blk_pdiscard(blk, offset, length);
        break;
    case 1:
        memset(data, 0, length);
        r = blk_pwrite_zeroes(blk, offset, length, rng_one_in(rng, 2) ? BLK_REQ_MAY_UNMAP : 0);
        break;
    case 2:
        r = rng_one_in(rng, 4) ? blk_flush(blk) : 0;
        length = 0;
        break;
    default:
        r = blk_pwrite(blk, offset, data, length);
        break;
    }
    check_that(r == 0, "a request failed: %d\n", r);
    if (blk_unsettled(blk)) {
        shared->waited++;
        r = blk_run(blk, BLK_FLUSH, BLK_REQ_TO_FILE, 0, 0, NULL, 0);
        check_that(r == 0, "what was done did not get into the file: %d\n", r);
    }
    if (kind == 0) {
        check_that(blk_pread(blk, offset, data, length) == 0, "cannot read\n");
    }
    memcpy(shared->flat + offset, data, length);
    shared->pending_length = 0;
    shared->completed++;
}

/* Opens, looks, carries out requests, and dies at some operation on the file. */
static void live(uint64_t seed, size_t log_bytes)
{
    struct rng rng = {seed};
    uint64_t left = rng_between(&rng, 1, 160);
    struct trace trace = {.before = die_at, .opaque = &left};
    struct err err = {""};
    struct blk *blk = NULL;
    int r = trace_try_open(&trace, "top.qcow2", 0, &blk, &err);

    check_that(r == 0, "%s\n", err.text);
    r = blk_redo_log(blk, shared->log, log_bytes, &err);
    check_that(r == 0, "%s\n", err.text);
    compare(blk);
    for (;;) {
        request(blk, &rng);
    }
}

static void run(const char *options, const char *prepare, size_t log_bytes, uint64_t seed)
{
    struct err err = {""};
    struct blk *blk;

    print_message("# SEED=%llu, %s, a log of %zu bytes\n", (unsigned long long)seed, options,
                  log_bytes);
    shared = new_shared();
    shell("rm -f *.qcow2 *.raw; qemu-img create -q -f raw base.raw %d; "
          "qemu-io -f raw -c 'write -P 7 0 2M' base.raw >/dev/null",
          DISK);
    shell("qemu-img create -q -f qcow2 -o %s top.qcow2 %d%s", options, DISK, prepare);
    shared->pending_length = DISK; /* whatever it holds is right */
    blk = open_image("top.qcow2", false);
    compare(blk);
    close_image(blk);
    for (unsigned i = 0; i < GENERATIONS; i++) {
        pid_t child = fork();
        int status;

        assert_true(child >= 0);
        if (child == 0) {
            live(seed * 1000 + i, log_bytes);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (status != 0) {
            fail_msg("generation %u", i);
        }
        /* While refcounts are lazy they may be anything. */
        if (i % 4 == 3 && strstr(options, "lazy") == NULL) {
            assert_int_not_equal(try_shell("qemu-img check -q top.qcow2 >/dev/null"), 2);
        }
    }
    blk = open_image("top.qcow2", true);
    if (blk_redo_log(blk, shared->log, log_bytes, &err) != 0) {
        fail_msg("%s", err.text);
    }
    compare(blk);
    close_image(blk);
    assert_int_not_equal(try_shell("qemu-img check -q top.qcow2 >/dev/null"), 2);
    assert_true(shared->completed > GENERATIONS);
    munmap(shared, sizeof(*shared));
}

static void what_was_completed_is_never_lost(void **state)
{
    static const struct {
        const char *options, *prepare;
    } images[] = {
        {"cluster_size=64k", ""},
        {"cluster_size=512", ""},
        {"cluster_size=4k,backing_file=base.raw,backing_fmt=raw", ""},
        {"cluster_size=4k,compat=0.10", ""},
        {"cluster_size=64k,extended_l2=on,backing_file=base.raw,backing_fmt=raw", ""},
        {"cluster_size=4k,lazy_refcounts=on", ""},
        {"cluster_size=4k,data_file=data.raw", ""},
        {"cluster_size=1k,refcount_bits=1", ""},
        {"cluster_size=4k",
         "; qemu-io -c 'write -P 3 1M 1M' top.qcow2 >/dev/null; qemu-img snapshot -c s top.qcow2"},
        {"cluster_size=16k",
         "; rm top.qcow2; qemu-img convert -c -f raw -O qcow2 base.raw top.qcow2"},
    };
    static const size_t logs[] = {MANY, HEADER + 40 * ENTRY, HEADER + ENTRY, HEADER};
    const char *given = getenv("SEED");
    uint64_t first = given != NULL ? strtoull(given, NULL, 10) : 1;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(images); i++) {
        for (size_t l = 0; l < ARRAY_LEN(logs); l++) {
            run(images[i].options, images[i].prepare, logs[l], first + i * ARRAY_LEN(logs) + l);
        }
    }
}

/* ---- logs that are not what was left there ---- */

enum { CLUSTER = 64 << 10, AT_VERSION = 8, AT_COUNT = 12, AT_INODE = 24, AT_TAIL = 48 };
enum { GUEST, HOST, MASKS };

/* An image with data at its beginning, and a log of two clusters more. */
static void leave_two_clusters(void)
{
    pid_t child;

    shared = new_shared();
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o cluster_size=64k top.qcow2 1M; "
          "qemu-io -c 'write -P 1 0 64k' top.qcow2 >/dev/null");
    child = fork();
    if (child == 0) {
        struct blk *blk = open_image("top.qcow2", true);
        struct err err;

        check_that(blk_redo_log(blk, shared->log, MANY, &err) == 0, "%s\n", err.text);
        write_bytes(blk, 2 * CLUSTER, CLUSTER, 2);
        write_bytes(blk, 3 * CLUSTER, CLUSTER, 3);
        check_that(!blk_unsettled(blk), "a new cluster has to be waited for\n");
        _exit(0);
    }
    assert_int_equal(waitpid(child, &(int){0}, 0), child);
    assert_int_equal(shared->log[AT_TAIL / 8], 2);
}

static uint64_t *entry(unsigned n)
{
    return &shared->log[(HEADER + n * ENTRY) / 8];
}

static void assert_is_refused(const char *what, const char *words)
{
    struct blk *blk = open_image("top.qcow2", true);
    struct err err = {""};

    print_message("# %s\n", what);
    assert_int_equal(blk_redo_log(blk, shared->log, MANY, &err), -EINVAL);
    assert_says(&err, words);
    assert_int_equal(shared->log[AT_TAIL / 8], 2);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_bytes(blk, 2 * CLUSTER, 2 * CLUSTER, 0);
    close_image(blk);
    assert_int_not_equal(try_shell("qemu-img check -q top.qcow2 >/dev/null"), 2);
}

static void what_was_tampered_with_is_refused(void **state)
{
    static const struct {
        const char *what;
        unsigned field;
        uint64_t value;
    } entries[] = {
        {"behind the disk", GUEST, 1 << 20},
        {"no cluster of the guest", GUEST, 2 * CLUSTER + 512},
        {"no host cluster", HOST, QCOW2_ENTRY_COPIED | (5 * CLUSTER + 512)},
        {"not ours alone", HOST, 8 * CLUSTER},
        {"the header", HOST, QCOW2_ENTRY_COPIED},
        {"the refcount table", HOST, QCOW2_ENTRY_COPIED | CLUSTER},
        {"a refcount block", HOST, QCOW2_ENTRY_COPIED | (2 * CLUSTER)},
        {"the L1 table", HOST, QCOW2_ENTRY_COPIED | (3 * CLUSTER)},
        {"an L2 table", HOST, QCOW2_ENTRY_COPIED | (4 * CLUSTER)},
        {"the data of another cluster", HOST, QCOW2_ENTRY_COPIED | (5 * CLUSTER)},
        {"behind the file", HOST, QCOW2_ENTRY_COPIED | (UINT64_C(1) << 40)},
        {"an offset that is too large", HOST, ~UINT64_C(0xffff)},
        {"a bit of no subcluster", MASKS, 2},
        {"data that is zero", MASKS, UINT64_C(1) << 32 | 1},
    };
    struct err err = {""};
    struct blk *blk;

    (void)state;
    leave_two_clusters();
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        uint64_t *field = entry(0) + entries[i].field, old = *field;

        *field = entries[i].value;
        assert_is_refused(entries[i].what, "does not fit the image");
        *field = old;
    }
    shared->log[AT_INODE / 8]++;
    assert_is_refused("another file", "of another image");
    shared->log[AT_INODE / 8]--;
    shared->log[AT_VERSION / 8]++;
    assert_is_refused("another version", "damaged");
    shared->log[AT_VERSION / 8]--;
    shared->log[0]++;
    assert_is_refused("no log", "damaged");
    shared->log[0]--;
    entry(1)[HOST] = entry(0)[HOST];
    assert_is_refused("one cluster twice", "does not fit the image");
    entry(1)[HOST] += CLUSTER;

    blk = open_image("top.qcow2", true);
    assert_int_equal(blk_redo_log(blk, shared->log, MANY, &err), 0);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_bytes(blk, 2 * CLUSTER, CLUSTER, 2);
    assert_bytes(blk, 3 * CLUSTER, CLUSTER, 3);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    munmap(shared, sizeof(*shared));
}

static void more_entries_than_there_is_room_for_are_refused(void **state)
{
    struct err err = {""};
    struct blk *blk;

    (void)state;
    leave_two_clusters();
    shared->log[AT_TAIL / 8] = UINT64_C(1) << 32;
    blk = open_image("top.qcow2", true);
    assert_int_equal(blk_redo_log(blk, shared->log, MANY, &err), -EINVAL);
    assert_says(&err, "damaged");
    close_image(blk);
    munmap(shared, sizeof(*shared));
}

/* What found no room is in memory alone until a commit has succeeded. */
static void a_commit_that_fails_settles_nothing(void **state)
{
    struct trace trace = {.fail_code = -EIO, .fail_count = 1};
    struct err err = {""};
    struct blk *blk;

    (void)state;
    shared = new_shared();
    shell("rm -f top.qcow2; qemu-img create -q -f qcow2 top.qcow2 1M");
    blk = trace_open(&trace, "top.qcow2", 0);
    assert_int_equal(blk_redo_log(blk, shared->log, HEADER + ENTRY, &err), 0);
    write_bytes(blk, 0, CLUSTER, 1);
    assert_false(blk_unsettled(blk));
    write_bytes(blk, 2 * CLUSTER, 2 * CLUSTER, 1);
    assert_true(blk_unsettled(blk));
    trace.fail_from = trace.operations + 1;
    assert_int_not_equal(blk_run(blk, BLK_FLUSH, BLK_REQ_TO_FILE, 0, 0, NULL, 0), 0);
    assert_true(blk_unsettled(blk));
    trace.fail_from = 0;
    assert_int_equal(blk_run(blk, BLK_FLUSH, BLK_REQ_TO_FILE, 0, 0, NULL, 0), 0);
    assert_false(blk_unsettled(blk));
    close_image(blk);
    trace_free(&trace);
    munmap(shared, sizeof(*shared));
}

/* It can be read, and has no use for a log; but what was left to be done cannot be done. */
static void a_broken_image_has_no_log(void **state)
{
    struct err err = {""};
    struct blk *blk;

    (void)state;
    leave_two_clusters();
    blk = open_image("top.qcow2", true);
    qcow2_break(qcow2_of(blk), -EIO);
    assert_int_equal(blk_redo_log(blk, shared->log, MANY, &err), -EIO);
    assert_says(&err, "cannot be done");
    memset(shared->log, 0, MANY);
    assert_int_equal(blk_redo_log(blk, shared->log, MANY, &err), 0);
    assert_int_equal(shared->log[0], 0);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_close(blk, NULL), -EIO);
    munmap(shared, sizeof(*shared));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_completed_is_never_lost),
        cmocka_unit_test(what_was_tampered_with_is_refused),
        cmocka_unit_test(more_entries_than_there_is_room_for_are_refused),
        cmocka_unit_test(a_commit_that_fails_settles_nothing),
        cmocka_unit_test(a_broken_image_has_no_log),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
