/*
 * Files that are registered with a queue's io_uring: reads come out right from every layer, and are reads of them; what
 * is written is not theirs; they hold no lock, and are given up with the queue.
 */
#include "queue_helpers.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { BLOCK = 4096, ROUNDS = 200, KILLS = 30, CANNOT = 77 };

static const uint64_t length = 4 << 20;
static _Alignas(4096) uint8_t block[BLOCK];

/* NULL: the host has no io_uring to give. */
static struct blk_queue *try_files(struct blk *blk)
{
    const struct blk_fixed fixed = {.files = true};
    struct blk_queue *queue = NULL;
    struct err err = {""};
    int r = blk_queue_create_fixed(blk, &fixed, &queue, &err);

    if (r != 0)
        print_message("# %s\n", err.text);
    assert_true(r == 0 || r == -EPERM || r == -ENOSYS);
    return queue;
}

static int transfer(struct blk_queue *queue, enum blk_op op, uint64_t offset)
{
    struct asked asked;

    ask_for(queue, &asked, op, offset, block, sizeof(block));
    complete_all(queue);
    return asked.result;
}

/* What is in memory of them is read by the thread itself. */
static void forget_pages(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    (void)close(fd);
}

static const char *const layers[] = {"base.raw", "middle.qcow2", "middle.data", "top.qcow2"};

/* Three layers, the middle one with a data file of its own; 64 KiB of each in turn. */
static void make_chain(void)
{
    shell("rm -f base.* middle.* top.*");
    shell(
        "qemu-img create -q -f raw base.raw 4M && qemu-io -f raw -c 'write -q -P 1 0 4M' base.raw");
    shell("qemu-img create -q -f qcow2 -o data_file=middle.data -b base.raw -F raw middle.qcow2");
    shell("qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2");
    for (unsigned i = 0; i < 64; i++)
        if (i % 3 != 0)
            shell("qemu-io -c 'write -q -P %u %uk 64k' %s", 1 + i % 3, i * 64,
                  i % 3 == 1 ? "middle.qcow2" : "top.qcow2");
}

static void all_layers_read_right(void **state)
{
    uint8_t *expected = malloc(length);
    unsigned seed = 5;
    struct blk_queue *queue;
    struct blk *blk;

    (void)state;
    assert_non_null(expected);
    make_chain();
    for (uint64_t i = 0; i < length; i++)
        expected[i] = (uint8_t)(1 + i / 65536 % 3);
    blk = open_past_cache("top.qcow2", BLK_AIO_AUTO);
    queue = try_files(blk);
    print_message("# seed %u\n", seed);
    for (unsigned i = 0; i < ROUNDS && queue != NULL; i++) {
        uint64_t offset = (uint64_t)rand_r(&seed) % (length / BLOCK) * BLOCK;

        if (i % 20 == 0)
            for (size_t l = 0; l < ARRAY_LEN(layers); l++)
                forget_pages(layers[l]);
        assert_int_equal(transfer(queue, BLK_READ, offset), 0);
        assert_memory_equal(block, expected + offset, BLOCK);
        memset(block, (int)i, BLOCK);
        memset(expected + offset, (int)i, BLOCK);
        assert_int_equal(transfer(queue, BLK_WRITE, offset), 0);
    }
    if (queue != NULL)
        blk_queue_destroy(queue);
    close_image(blk);
    shell("qemu-img check -q top.qcow2");
    free(expected);
    if (queue == NULL)
        skip();
}

/* Another file takes the descriptor's place after it was registered: reads go on as if it had not, and writes go
 * there. (Nobody is to do that.) */
static void reads_alone_are_registered(void **state)
{
    const uint64_t offset = 2 << 20; /* open_slow() wrote threes there */
    struct slow_file slow;
    struct blk *blk = open_slow(&slow);
    int other = memfd_create("other", MFD_CLOEXEC), fd = dup(slow.trace.below->fd);
    struct blk_queue *queue;
    uint64_t host;
    uint8_t byte;

    (void)state;
    assert_true(other >= 0 && fd >= 0);
    assert_int_equal(ftruncate(other, 64 << 20), 0);
    assert_bytes(blk, offset, BLOCK, 3); /* its tables are in memory from now on */
    host = host_of(blk, offset);
    slow.trace.file.alignment = BLOCK;
    slow.plain_fd = fd;
    queue = try_files(blk);
    if (queue == NULL) {
        close_image(blk);
        skip();
    }
    assert_int_equal(dup2(other, fd), fd);
    memset(block, 0xee, BLOCK);
    assert_int_equal(transfer(queue, BLK_READ, offset), 0);
    assert_int_equal(block[0], 3);
    assert_int_equal(block[BLOCK - 1], 3);
    memset(block, 9, BLOCK);
    assert_int_equal(transfer(queue, BLK_WRITE, offset), 0);
    assert_bytes(blk, offset, BLOCK, 3);
    assert_int_equal(pread(other, &byte, 1, (off_t)host), 1);
    assert_int_equal(byte, 9);
    assert_int_equal(atomic_load(&slow.reads) + atomic_load(&slow.writes), 0);
    finish(&slow, blk, queue);
    (void)close(other);
    (void)close(fd);
}

/* Uses a registered queue, says so and waits to be killed. */
static void be_killed(int told)
{
    struct blk *blk = open_past_cache("killed.qcow2", BLK_AIO_AUTO);
    struct blk_queue *queue = try_files(blk);
    uint8_t answer = queue != NULL;

    if (queue != NULL && (transfer(queue, BLK_WRITE, 0) != 0 || transfer(queue, BLK_READ, 0) != 0))
        _exit(1);
    if (write(told, &answer, 1) == 1)
        (void)pause();
    _exit(1);
}

static bool is_locked(const char *path)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 104};
    int fd = open(path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
    (void)close(fd);
    return lock.l_type != F_UNLCK;
}

/* Not even for the time that file_lock() waits. */
static void no_lock_outlives_its_process(void **state)
{
    (void)state;
    shell("qemu-img create -q -f qcow2 killed.qcow2 1M");
    for (unsigned i = 0; i < KILLS; i++) {
        int told[2], status;
        uint8_t has_ring;
        pid_t pid;

        assert_int_equal(pipe2(told, O_CLOEXEC), 0);
        pid = fork();
        if (pid == 0)
            be_killed(told[1]);
        assert_int_equal(read(told[0], &has_ring, 1), 1);
        assert_true(is_locked("killed.qcow2"));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_false(is_locked("killed.qcow2"));
        (void)close(told[0]);
        (void)close(told[1]);
        if (!has_ring)
            skip();
    }
    shell("qemu-img check -q -r leaks killed.qcow2");
}

/* In a process of its own that may mount. */
static int in_a_namespace(int (*work)(void))
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount("none", ".", "tmpfs", 0, "size=16m") != 0 || chdir("..") != 0)
            _exit(CANNOT);
        _exit(work());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static char mounted[PATH_MAX];

static int use_and_unmount(void)
{
    char path[PATH_MAX + 8];

    (void)snprintf(path, sizeof(path), "%s/a.qcow2", mounted);
    for (unsigned i = 0; i < KILLS; i++) {
        struct blk *blk;
        struct blk_queue *queue;

        shell("qemu-img create -q -f qcow2 %s 1M", path);
        blk = open_past_cache(path, BLK_AIO_AUTO);
        queue = try_files(blk);
        if (queue == NULL)
            return CANNOT;
        assert_int_equal(transfer(queue, BLK_WRITE, 0), 0);
        assert_int_equal(transfer(queue, BLK_READ, 0), 0);
        blk_queue_destroy(queue);
        close_image(blk);
        if (umount2(mounted, 0) != 0 || mount("none", mounted, "tmpfs", 0, "size=16m") != 0)
            return 1;
    }
    return 0;
}

static void files_are_given_up_with_the_queue(void **state)
{
    int status;

    (void)state;
    assert_non_null(getcwd(mounted, sizeof(mounted)));
    status = in_a_namespace(use_and_unmount);
    if (status == CANNOT) {
        print_message("# no namespace of mounts, or no io_uring, here\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* The errno value with which it fails, naming the image; 0 or 1: anything else. */
static int refusal_of_files(struct blk *blk)
{
    const struct blk_fixed fixed = {.files = true};
    struct blk_queue *queue = NULL;
    struct err err = {""};
    int r = blk_queue_create_fixed(blk, &fixed, &queue, &err);

    if (r == -EPERM || r == -ENOSYS)
        return CANNOT;
    return r < 0 && queue == NULL && strstr(err.text, "'a.qcow2'") != NULL ? -r : 1;
}

static int create_without_proc(void)
{
    struct blk_queue *queue = NULL;
    struct blk *blk;
    int r;

    if (chdir(mounted) != 0)
        return CANNOT;
    shell("qemu-img create -q -f qcow2 a.qcow2 1M");
    blk = open_past_cache("a.qcow2", BLK_AIO_AUTO);
    if (umount2("/proc", MNT_DETACH) != 0)
        return CANNOT;
    r = refusal_of_files(blk);
    return r != ENOENT ? r : -blk_queue_create(blk, &queue, NULL);
}

/* Where other files stand under those names. */
static int create_with_another_proc(void)
{
    struct blk *blk;

    if (chdir(mounted) != 0)
        return CANNOT;
    shell("qemu-img create -q -f qcow2 a.qcow2 1M");
    blk = open_past_cache("a.qcow2", BLK_AIO_AUTO);
    if (mount("none", "/proc", "tmpfs", 0, "size=1m") != 0)
        return CANNOT;
    shell("mkdir -p /proc/self/fd; for i in $(seq 0 99); do echo x >/proc/self/fd/$i; done");
    return refusal_of_files(blk);
}

static void what_cannot_be_is_said(void **state)
{
    struct blk_open_options options = {
        .path = "killed.qcow2", .format = "qcow2", .aio = BLK_AIO_THREADS};
    const struct blk_fixed fixed = {.files = true};
    struct blk_queue *queue = NULL;
    struct err err = {""};
    struct blk *blk = open_with(&options);

    (void)state;
    assert_int_equal(blk_queue_create_fixed(blk, &fixed, &queue, &err), -EINVAL);
    assert_says(&err, "io_uring");
    assert_null(queue);
    close_image(blk);
}

static void it_is_these_files_or_none(void **state)
{
    int without, another;

    (void)state;
    assert_non_null(getcwd(mounted, sizeof(mounted)));
    without = in_a_namespace(create_without_proc);
    another = in_a_namespace(create_with_another_proc);
    if (without == CANNOT || another == CANNOT) {
        print_message("# no namespace of mounts, or no io_uring, here\n");
        skip();
    }
    assert_int_equal(without, 0);
    assert_int_equal(another, ESTALE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_layers_read_right),
        cmocka_unit_test(reads_alone_are_registered),
        cmocka_unit_test(no_lock_outlives_its_process),
        cmocka_unit_test(files_are_given_up_with_the_queue),
        cmocka_unit_test(what_cannot_be_is_said),
        cmocka_unit_test(it_is_these_files_or_none),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
