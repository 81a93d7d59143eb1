/* The sandbox: what a machine needs goes on, what it does not need ends the process with SIGSYS. */
#include "blockdev.h"
#include "checked.h"
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { DONE = 33 };

/* The wait status of a process that enters the sandbox and then runs `attempt`. */
static int in_sandbox(void (*attempt)(void))
{
    int status;
    pid_t child;

    (void)fflush(stdout);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct err err;
        int null = open("/dev/null", O_WRONLY);

        (void)dup2(null, STDERR_FILENO);
        if (sandbox_enter(&err) < 0)
            _exit(1);
        attempt();
        _exit(DONE);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void *thread_main(void *opaque)
{
    (void)prctl(PR_SET_NAME, "worker");
    free(malloc(300000));
    return opaque;
}

/* As many as wait for a disk at once, each with as much memory as the C library gives back to the kernel. */
enum { MANY_THREADS = 40, PIECES = 30, PIECE = 100000 };
static pthread_barrier_t all_are_there;

static void *allocate_among_many(void *opaque)
{
    void *memory[PIECES];

    for (unsigned i = 0; i < PIECES; i++)
        memory[i] = malloc(PIECE);
    (void)pthread_barrier_wait(&all_are_there);
    for (unsigned i = 0; i < PIECES; i++)
        free(memory[i]);
    return opaque;
}

static void use_many_threads(void)
{
    pthread_t threads[MANY_THREADS];

    (void)pthread_barrier_init(&all_are_there, NULL, MANY_THREADS);
    for (unsigned i = 0; i < MANY_THREADS; i++) {
        if (pthread_create(&threads[i], NULL, allocate_among_many, NULL) != 0)
            _exit(3);
    }
    for (unsigned i = 0; i < MANY_THREADS; i++)
        (void)pthread_join(threads[i], NULL);
}

static void use_what_is_allowed(void)
{
    pthread_t thread;
    uint64_t one = 1;
    int fd = eventfd(0, EFD_CLOEXEC);
    void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED || fd < 0 || write(fd, &one, sizeof(one)) != sizeof(one) ||
        pthread_create(&thread, NULL, thread_main, memory) != 0 ||
        pthread_join(thread, NULL) != 0 || munmap(memory, 1 << 20) != 0 || close(fd) != 0)
        _exit(2);
    use_many_threads();
}

static void open_a_file(void)
{
    (void)open("/etc/passwd", O_RDONLY);
}

static void make_a_socket(void)
{
    (void)socket(AF_UNIX, SOCK_STREAM, 0);
}

static void run_a_program(void)
{
    (void)execl("/bin/true", "true", (char *)NULL);
}

static void make_a_process(void)
{
    (void)fork();
}

static void signal_another_process(void)
{
    (void)kill(getppid(), 0);
}

static void map_code(void)
{
    (void)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void make_memory_code(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)mprotect(memory, 4096, PROT_READ | PROT_EXEC);
}

static void type_into_the_terminal(void)
{
    (void)ioctl(STDIN_FILENO, TIOCSTI, "x");
}

static void trace_a_process(void)
{
    (void)prctl(PR_SET_DUMPABLE, 1);
}

static void *open_in_thread(void *opaque)
{
    open_a_file();
    return opaque;
}

static void open_a_file_in_a_thread(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, open_in_thread, NULL) == 0)
        pthread_join(thread, NULL);
}

static void what_a_machine_needs_is_allowed(void **state)
{
    int status = in_sandbox(use_what_is_allowed);

    (void)state;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), DONE);
}

static void anything_else_ends_the_process(void **state)
{
    static const struct {
        const char *name;
        void (*attempt)(void);
    } rows[] = {
        {"open", open_a_file},
        {"socket", make_a_socket},
        {"exec", run_a_program},
        {"fork", make_a_process},
        {"kill", signal_another_process},
        {"mmap", map_code},
        {"mprotect", make_memory_code},
        {"TIOCSTI", type_into_the_terminal},
        {"prctl", trace_a_process},
        {"thread", open_a_file_in_a_thread},
    };

    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();
#endif
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int status = in_sandbox(rows[i].attempt);

        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
            fail_msg("%s was not refused: wait status %#x", rows[i].name, (unsigned)status);
    }
}

/* Opened before, as a machine's disks are. */
static struct blk *encrypted;

static void *use_encrypted_disk(void *opaque)
{
    enum { BYTES = 300000 };
    uint8_t *bytes = malloc(BYTES), *back = malloc(BYTES);

    if (bytes == NULL || back == NULL)
        _exit(1);
    memset(bytes, 0x5a, BYTES);
    for (uint64_t at = 0; at < 3; at++) {
        if (blk_pwrite(encrypted, at * 1000, bytes, BYTES) != 0 || blk_flush(encrypted) != 0 ||
            blk_pread(encrypted, at * 1000, back, BYTES) != 0 || memcmp(bytes, back, BYTES) != 0)
            _exit(1);
    }
    free(bytes);
    free(back);
    return opaque;
}

static void use_and_close_encrypted_disk(void)
{
    pthread_t threads[2];

    for (int i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, use_encrypted_disk, NULL) != 0)
            _exit(1);
    }
    for (int i = 0; i < 2; i++)
        (void)pthread_join(threads[i], NULL);
    if (blk_close(encrypted, NULL) != 0)
        _exit(1);
}

static void encryption_needs_no_further_calls(void **state)
{
    const struct blk_key key = {.bytes = "key", .length = 3};
    const struct blk_luks_options luks = {.key = key, .iter_time = 1};
    char path[] = "/tmp/minivmm-sandbox.XXXXXX";
    int fd = mkstemp(path), status;
    struct err err = {.text = ""};

    (void)state;
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(blk_create(
                         &(struct blk_create_options){
                             .path = path, .format = "qcow2", .size = 1 << 20, .luks = &luks},
                         &err),
                     0);
    assert_int_equal(
        blk_open(
            &(struct blk_open_options){
                .path = path, .format = "qcow2", .writable = true, .keys = &key, .key_count = 1},
            &encrypted, &err),
        0);
    (void)unlink(path);
    status = in_sandbox(use_and_close_encrypted_disk);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != DONE)
        fail_msg("wait status %#x", (unsigned)status);
    (void)blk_close(encrypted, NULL);
}

/* Opened before, as above, with the queue of a disk. */
static struct blk *disk;
static struct blk_queue *queue;

static void exit_on_failure(struct blk_request *request, int result)
{
    if (result != 0)
        _exit(1);
    *(bool *)request->opaque = true;
}

/* Past the page cache everything waits: reads are the kernel's, or workers', all else is workers'. */
static void use_a_queue(void)
{
    static const enum blk_op ops[] = {BLK_WRITE,        BLK_FLUSH,   BLK_READ, BLK_READ,
                                      BLK_WRITE_ZEROES, BLK_DISCARD, BLK_FLUSH};
    static _Alignas(4096) uint8_t bytes[4096];
    struct iovec iov = {bytes, sizeof(bytes)};
    struct pollfd poll_fd = {.fd = blk_queue_fd(queue), .events = POLLIN};

    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        bool has_data = ops[i] == BLK_READ || ops[i] == BLK_WRITE, is_done = false;
        struct blk_request request = {.op = ops[i],
                                      .offset = 65536,
                                      .length = ops[i] == BLK_FLUSH ? 0 : sizeof(bytes),
                                      .iov = &iov,
                                      .iovcnt = has_data,
                                      .done = exit_on_failure,
                                      .opaque = &is_done};

        blk_submit(queue, &request);
        while (blk_queue_complete(queue), !is_done)
            (void)poll(&poll_fd, 1, -1);
    }
    blk_queue_destroy(queue);
    if (blk_close(disk, NULL) != 0)
        _exit(1);
}

static void waiting_for_a_disk_needs_no_further_calls(void **state)
{
    static const enum blk_aio aios[] = {BLK_AIO_AUTO, BLK_AIO_AUTO, BLK_AIO_THREADS};
    static const struct blk_fixed fixed[] = {{.files = false}, {.files = true}, {.files = false}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(aios); i++) {
        char path[] = "/var/tmp/minivmm-sandbox.XXXXXX";
        int fd = mkstemp(path), status;
        struct blk_open_options options = {.path = path,
                                           .format = "qcow2",
                                           .writable = true,
                                           .discard = true,
                                           .aio = aios[i],
                                           .cache = BLK_CACHE_DIRECT};
        struct err err = {.text = ""};

        assert_true(fd >= 0);
        (void)close(fd);
        assert_int_equal(
            blk_create(
                &(struct blk_create_options){.path = path, .format = "qcow2", .size = 1 << 20},
                &err),
            0);
        if (blk_open(&options, &disk, &err) != 0) {
            options.cache = BLK_CACHE_WRITEBACK; /* the file system has no O_DIRECT */
            assert_int_equal(blk_open(&options, &disk, &err), 0);
        }
        if (blk_queue_create_fixed(disk, &fixed[i], &queue, &err) != 0)
            assert_int_equal(blk_queue_create(disk, &queue, &err), 0); /* no io_uring */
        (void)unlink(path);
        status = in_sandbox(use_a_queue);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != DONE)
            fail_msg("wait status %#x", (unsigned)status);
        blk_queue_destroy(queue);
        (void)blk_close(disk, NULL);
    }
}

/* Both opened before; the descriptor is one that can shorten the base. */
static struct blk *base;
static int base_fd;

static void read_a_base_that_is_shortened(void)
{
    uint8_t bytes[512];

    if (blk_pread(base, 0, bytes, sizeof(bytes)) != 0 || bytes[0] != 0x5a)
        _exit(1);
    if (ftruncate(base_fd, 4096) != 0 || blk_pread(base, 512, bytes, sizeof(bytes)) != -EIO)
        _exit(2);
    if (blk_close(base, NULL) != 0)
        _exit(3);
}

static void a_mapped_base_needs_no_further_calls(void **state)
{
    const struct blk_open_options options = {.format = "qcow2"};
    struct blk_open_options writable = options, reading = options;
    char path[] = "/tmp/minivmm-sandbox.XXXXXX";
    int status;
    uint8_t bytes[512];
    struct err err = {.text = ""};

    (void)state;
    base_fd = mkstemp(path);
    assert_true(base_fd >= 0);
    memset(bytes, 0x5a, sizeof(bytes));
    assert_int_equal(
        blk_create(&(struct blk_create_options){.path = path, .format = "qcow2", .size = 1 << 20},
                   &err),
        0);
    writable.path = reading.path = path;
    writable.writable = true;
    assert_int_equal(blk_open(&writable, &base, &err), 0);
    assert_int_equal(blk_pwrite(base, 0, bytes, sizeof(bytes)), 0);
    assert_int_equal(blk_close(base, &err), 0);
    assert_int_equal(blk_open(&reading, &base, &err), 0);
    (void)unlink(path);

    status = in_sandbox(read_a_base_that_is_shortened);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), DONE);
    assert_int_equal(blk_close(base, NULL), 0);
    (void)close(base_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_machine_needs_is_allowed),
        cmocka_unit_test(anything_else_ends_the_process),
        cmocka_unit_test(encryption_needs_no_further_calls),
        cmocka_unit_test(a_mapped_base_needs_no_further_calls),
        cmocka_unit_test(waiting_for_a_disk_needs_no_further_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
