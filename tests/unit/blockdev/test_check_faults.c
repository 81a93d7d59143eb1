/*
 * A repair whose reads fail, one at a time: what could not be read may refer to anything, so nothing that is in
 * use may be given up, and once the file can be read again the repair ends as it would have.
 */
#include "trace.h"

enum { CLUSTER = 4096, MIB = 1 << 20, MAX_READS = 400 };

struct failing {
    struct trace trace;
    uint64_t reads, fails_at; /* counted from 1; 0: none */
};

static void fail_one(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    struct failing *failing = trace->opaque;

    (void)offset;
    (void)length;
    if (kind == TRACE_READ)
        trace->read_fail_code = ++failing->reads == failing->fails_at ? -EIO : 0;
}

/* Data of several L2 tables, shared with a snapshot in part, a bitmap, and clusters that leaked. */
static void make_image(void)
{
    shell("rm -f a.qcow2; qemu-img create -q -f qcow2 -o cluster_size=4k a.qcow2 16M");
    shell("qemu-img bitmap --add a.qcow2 b0");
    shell("qemu-io -c 'write -q -P 1 0 1M' -c 'write -q -P 2 8M 512k' a.qcow2");
    shell("qemu-img snapshot -c s a.qcow2");
    shell("qemu-io -c 'write -q -P 3 512k 1M' -c 'write -q -P 4 15M 64k' a.qcow2");
    /* The last L1 entry is forgotten, and with it a table and its 16 clusters. */
    poke_be64("a.qcow2", peek_be64("a.qcow2", 40) + 7 * 8, 0);
}

static int repair(struct failing *failing, uint64_t fails_at, struct blk_check_result *result)
{
    const struct file_open_options file_options = {.writable = true};
    const struct blk_open_options options = {
        .path = "b.qcow2", .format = "qcow2", .writable = true, .for_check = true};
    struct trace *t = &failing->trace;
    struct err err = {""};
    struct blk *blk;
    int r;

    *failing = (struct failing){.fails_at = fails_at};
    assert_int_equal(file_open_posix("b.qcow2", &file_options, &t->below, &err), 0);
    pthread_mutex_init(&t->lock, NULL);
    t->before = fail_one;
    t->opaque = failing;
    t->file = (struct file){.ops = &trace_ops,
                            .path = t->below->path,
                            .fd = t->below->fd,
                            .writable = true,
                            .alignment = 1};
    r = blk_open_file(&t->file, &options, &blk, &err);
    if (r == 0) {
        r = blk_check(blk, BLK_FIX_LEAKS | BLK_FIX_ERRORS, NULL, NULL, result, &err);
        (void)blk_close(blk, NULL);
    }
    trace_free(t);
    return r;
}

static void expect_sound(const char *when, uint64_t n, bool leaks_allowed)
{
    int status = try_shell("qemu-img check -q b.qcow2 > log 2>&1");

    if (status != 0 && !(leaks_allowed && status == 3))
        fail_msg("%s %llu: qemu-img check says %d", when, (unsigned long long)n, status);
    shell("qemu-io -r -c 'read -q -P 1 0 512k' -c 'read -q -P 3 512k 1M' -c 'read -q -P 2 8M 512k' "
          "b.qcow2 | cmp - /dev/null");
    shell("qemu-img convert -l s -O raw b.qcow2 s.raw && "
          "qemu-io -f raw -r -c 'read -q -P 1 0 1M' -c 'read -q -P 2 8M 512k' s.raw | cmp - "
          "/dev/null");
}

static void no_failing_read_gives_up_what_is_in_use(void **state)
{
    struct blk_check_result result;
    struct failing failing;
    uint64_t n, failed = 0;
    bool is_over = false;

    (void)state;
    make_image();
    for (n = 1; n < MAX_READS && !is_over; n++) {
        int r;

        shell("cp a.qcow2 b.qcow2");
        result = (struct blk_check_result){0};
        r = repair(&failing, n, &result);
        is_over = failing.reads < n;
        if (!is_over) {
            failed += r != 0 || result.check_errors > 0;
            expect_sound("behind failing read", n, true);
        }
        result = (struct blk_check_result){0};
        assert_int_equal(repair(&failing, 0, &result), 0);
        expect_sound("once it can be read: read", n, false);
    }
    assert_true(is_over);
    print_message("# %llu reads, %llu of them told as failures\n", (unsigned long long)n - 2,
                  (unsigned long long)failed);
    assert_true(failed > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_failing_read_gives_up_what_is_in_use),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
