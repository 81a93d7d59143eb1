/*
 * A host that has no io_uring to give, or gives it to others: threads carry out what waits, and whoever asks why is told.
 */
#include "queue_helpers.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { BLOCK = 4096, FEW = 40 };

static const uint64_t length = 1 << 20;
static struct asked asked[FEW];
static _Alignas(4096) uint8_t memory[FEW][BLOCK];

/* io_uring_setup() fails with `error` in this process from now on, as container runtimes have it. */
static void take_io_uring_away(int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};

    assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void ask_all(struct blk_queue *queue, enum blk_op op)
{
    for (unsigned i = 0; i < FEW; i++)
        ask_for(queue, &asked[i], op, (uint64_t)i * BLOCK, memory[i], BLOCK);
    complete_all(queue);
    for (unsigned i = 0; i < FEW; i++)
        assert_int_equal(asked[i].result, 0);
}

static void threads_do_it_all(int error)
{
    struct blk *blk = open_past_cache("a.qcow2", BLK_AIO_AUTO);
    struct blk_queue *queue;

    assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
    assert_string_equal(blk_queue_engine(queue), "threads");
    assert_int_equal(blk_queue_engine_error(queue), -error);
    for (unsigned i = 0; i < FEW; i++)
        memset(memory[i], 100 + (int)i, BLOCK);
    ask_all(queue, BLK_WRITE);
    memset(memory, 0, sizeof(memory));
    ask_all(queue, BLK_READ);
    for (unsigned i = 0; i < FEW; i++)
        assert_int_equal(memory[i][BLOCK - 1], 100 + i);
    blk_queue_destroy(queue);
    close_image(blk);
}

static void who_insists_is_refused(int error)
{
    const struct iovec region = {memory, sizeof(memory)};
    const struct blk_fixed rows[] = {
        {.files = true}, {.regions = &region, .region_count = 1}, {.files = false}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        bool is_plain = i == ARRAY_LEN(rows) - 1;
        struct blk *blk = open_past_cache("a.qcow2", is_plain ? BLK_AIO_IO_URING : BLK_AIO_AUTO);
        struct blk_queue *queue = NULL;
        struct err err = {""};

        assert_int_equal(blk_queue_create_fixed(blk, &rows[i], &queue, &err), -error);
        assert_says(&err, "'a.qcow2': could not set up io_uring");
        assert_null(queue);
        close_image(blk);
    }
}

static void without(int error)
{
    int status;
    pid_t pid;

    shell("qemu-img create -q -f qcow2 a.qcow2 %d && qemu-io -c 'write -q 0 1M' a.qcow2",
          (int)length);
    (void)fflush(stdout);
    pid = fork();
    if (pid == 0) {
        take_io_uring_away(error);
        threads_do_it_all(error);
        who_insists_is_refused(error);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    shell("qemu-img check -q a.qcow2");
}

static void not_permitted(void **state)
{
    (void)state;
    without(EPERM);
}

static void not_there(void **state)
{
    (void)state;
    without(ENOSYS);
}

static void with_it_or_by_choice_there_is_no_error(void **state)
{
    static const enum blk_aio aios[] = {BLK_AIO_AUTO, BLK_AIO_THREADS};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(aios); i++) {
        struct blk *blk = open_past_cache("a.qcow2", aios[i]);
        struct blk_queue *queue;
        bool is_ring;

        assert_int_equal(blk_queue_create(blk, &queue, NULL), 0);
        is_ring = strcmp(blk_queue_engine(queue), "io_uring") == 0;
        assert_true(!is_ring || aios[i] == BLK_AIO_AUTO);
        assert_int_equal(blk_queue_engine_error(queue) != 0, !is_ring && aios[i] == BLK_AIO_AUTO);
        blk_queue_destroy(queue);
        close_image(blk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(not_permitted),
        cmocka_unit_test(not_there),
        cmocka_unit_test(with_it_or_by_choice_there_is_no_error),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
