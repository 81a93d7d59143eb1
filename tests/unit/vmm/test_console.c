/*
 * The console between a UART that this program drives and a named pipe or pseudo-terminal: nothing is
 * lost or doubled, nobody waits for ever. The escape keys, byte by byte.
 */
#include "console.h"
#include "console_escape.h"
#include "halt.h"
#include "serial.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* More than the console's ring and a pipe of one page hold. */
enum { MANY = 100000, RING_SIZE = 16384, LIMIT_MS = 60000 };

struct bench {
    char folder[64], path[96];
    struct vm_config config;
    struct console *console;
    struct serial *serial;
    struct life life;
    struct halt halt;
    int far_end; /* a pipe's reading end, or a pseudo-terminal's slave */
    atomic_uint written;
    atomic_bool enough;
};

static void ignore_irq(void *controller, unsigned gsi, bool level)
{
    (void)controller;
    (void)gsi;
    (void)level;
}

static int setup(void **state)
{
    const struct irq_line irq = {.set = ignore_irq};
    struct bench *bench = calloc(1, sizeof(*bench));

    assert_non_null(bench);
    strcpy(bench->folder, "/tmp/minivmm-console.XXXXXX");
    assert_non_null(mkdtemp(bench->folder));
    (void)snprintf(bench->path, sizeof(bench->path), "%s/pipe", bench->folder);
    bench->serial = serial_create(&irq);
    assert_non_null(bench->serial);
    assert_int_equal(life_init(&bench->life), 0);
    assert_int_equal(halt_init(&bench->halt), 0);
    bench->far_end = -1;
    bench->config.quiet = true;
    *state = bench;
    return 0;
}

static int teardown(void **state)
{
    struct bench *bench = *state;

    console_close(bench->console);
    if (bench->far_end >= 0)
        close(bench->far_end);
    serial_destroy(bench->serial);
    life_destroy(&bench->life);
    halt_destroy(&bench->halt);
    (void)unlink(bench->path);
    (void)rmdir(bench->folder);
    free(bench);
    return 0;
}

static void start_on_pipe(struct bench *bench)
{
    struct err err;

    assert_int_equal(mkfifo(bench->path, 0600), 0);
    bench->far_end = open(bench->path, O_RDONLY | O_NONBLOCK);
    assert_true(bench->far_end >= 0);
    assert_true(fcntl(bench->far_end, F_SETPIPE_SZ, 4096) >= 4096);
    bench->config.console = CONSOLE_FILE;
    bench->config.console_path = bench->path;
    assert_int_equal(console_open(&bench->config, &bench->console, &err), 0);
    assert_int_equal(console_start(bench->console, bench->serial, &bench->life, &bench->halt, &err),
                     0);
}

static uint8_t pattern(unsigned i)
{
    return (uint8_t)(i % 251);
}

static void send(struct bench *bench, unsigned i)
{
    uint8_t byte = pattern(i);

    serial_bus_ops.write(bench->serial, 0, &byte, 1);
}

/* Stands for a vCPU. */
static void *send_many(void *opaque)
{
    struct bench *bench = opaque;

    for (unsigned i = 0; i < MANY; i++)
        send(bench, i);
    return NULL;
}

static void *send_until_enough(void *opaque)
{
    struct bench *bench = opaque;

    while (!atomic_load(&bench->enough))
        send(bench, atomic_fetch_add(&bench->written, 1));
    return NULL;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Reads `length` bytes in small pieces and compares them with the pattern from `first` on. */
static void expect_pattern(int fd, unsigned first, unsigned length)
{
    for (unsigned at = 0; at < length;) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        uint8_t piece[777];
        size_t want = length - at < sizeof(piece) ? length - at : sizeof(piece);
        ssize_t n;

        assert_int_equal(poll(&pfd, 1, LIMIT_MS), 1);
        n = read(fd, piece, want);
        assert_true(n > 0);
        for (unsigned i = 0; i < (unsigned)n; i++)
            assert_int_equal(piece[i], pattern(first + at + i));
        at += (unsigned)n;
    }
}

static void expect_end(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    uint8_t byte;

    assert_int_equal(poll(&pfd, 1, LIMIT_MS), 1);
    assert_int_equal(read(fd, &byte, 1), 0);
}

static void a_slow_reader_gets_every_byte(void **state)
{
    struct bench *bench = *state;
    pthread_t vcpu;

    start_on_pipe(bench);
    assert_int_equal(pthread_create(&vcpu, NULL, send_many, bench), 0);
    expect_pattern(bench->far_end, 0, MANY);
    pthread_join(vcpu, NULL);
    console_release(bench->console);
    console_stop(bench->console);
    console_close(bench->console);
    bench->console = NULL;
    expect_end(bench->far_end);
}

static void *stop(void *opaque)
{
    console_release(opaque);
    console_stop(opaque);
    return NULL;
}

static void what_the_ring_holds_is_written_at_the_end(void **state)
{
    struct bench *bench = *state;
    pthread_t stopper;

    start_on_pipe(bench);
    for (unsigned i = 0; i < RING_SIZE; i++)
        send(bench, i);
    assert_int_equal(pthread_create(&stopper, NULL, stop, bench->console), 0);
    expect_pattern(bench->far_end, 0, RING_SIZE);
    pthread_join(stopper, NULL);
}

static void a_blocked_reader_holds_up_neither_vcpu_nor_end(void **state)
{
    struct bench *bench = *state;
    uint64_t before;
    unsigned held;
    pthread_t vcpu;

    start_on_pipe(bench);
    assert_int_equal(pthread_create(&vcpu, NULL, send_until_enough, bench), 0);
    while (atomic_load(&bench->written) < RING_SIZE)
        ;
    console_release(bench->console);
    held = atomic_load(&bench->written);
    while (atomic_load(&bench->written) < held + 2 * RING_SIZE)
        ; /* the vCPU runs on */
    atomic_store(&bench->enough, true);
    pthread_join(vcpu, NULL);
    before = now_ms();
    console_stop(bench->console);
    assert_true(now_ms() - before < 30000);
}

static void a_reader_that_goes_away_frees_the_vcpu(void **state)
{
    struct bench *bench = *state;
    pthread_t vcpu;

    start_on_pipe(bench);
    (void)signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pthread_create(&vcpu, NULL, send_until_enough, bench), 0);
    while (atomic_load(&bench->written) < RING_SIZE)
        ;
    close(bench->far_end);
    bench->far_end = -1;
    while (atomic_load(&bench->written) < 4 * RING_SIZE)
        ;
    atomic_store(&bench->enough, true);
    pthread_join(vcpu, NULL);
    console_stop(bench->console);
}

static void start_on_pty(struct bench *bench, char *path, size_t size)
{
    char line[256] = "";
    int saved = dup(STDERR_FILENO), ends[2];
    struct err err;
    char *at;

    /* The path is said on standard error. */
    assert_int_equal(pipe(ends), 0);
    (void)dup2(ends[1], STDERR_FILENO);
    bench->config.console = CONSOLE_PTY;
    assert_int_equal(console_open(&bench->config, &bench->console, &err), 0);
    (void)dup2(saved, STDERR_FILENO);
    assert_true(read(ends[0], line, sizeof(line) - 1) > 0);
    close(ends[0]);
    close(ends[1]);
    close(saved);
    at = strstr(line, "/dev/pts/");
    assert_non_null(at);
    at[strcspn(at, "\n")] = '\0';
    (void)snprintf(path, size, "%s", at);
    assert_int_equal(console_start(bench->console, bench->serial, &bench->life, &bench->halt, &err),
                     0);
}

static void a_pty_nobody_has_open_keeps_the_newest_bytes(void **state)
{
    struct bench *bench = *state;
    char path[64];

    start_on_pty(bench, path, sizeof(path));
    for (unsigned i = 0; i < MANY; i++)
        send(bench, i);
    bench->far_end = open(path, O_RDWR | O_NOCTTY);
    assert_true(bench->far_end >= 0);
    expect_pattern(bench->far_end, MANY - RING_SIZE, RING_SIZE);

    /* Closed and opened again, in both directions. */
    close(bench->far_end);
    for (unsigned i = 0; i < 100; i++)
        send(bench, i);
    bench->far_end = open(path, O_RDWR | O_NOCTTY);
    expect_pattern(bench->far_end, 0, 100);
    assert_int_equal(write(bench->far_end, "k", 1), 1);
    for (uint8_t status = 0; (status & 1) == 0;)
        serial_bus_ops.read(bench->serial, 5, &status, 1);
    console_release(bench->console);
    console_stop(bench->console);
}

static void a_machine_that_never_started_can_be_closed(void **state)
{
    struct bench *bench = *state;
    struct err err;

    bench->config.console = CONSOLE_NULL;
    assert_int_equal(console_open(&bench->config, &bench->console, &err), 0);
    console_release(bench->console);
    console_stop(bench->console);
    console_close(bench->console);
    bench->console = NULL;
    bench->config.console = CONSOLE_FILE;
    bench->config.console_path = bench->folder;
    assert_int_equal(console_open(&bench->config, &bench->console, &err), -EISDIR);
    assert_null(bench->console);
}

/* ---- the escape keys ---- */

static void escape_keys(void **state)
{
    static const struct {
        const char *typed;
        const char *sent;
        bool quit, help, go_on;
    } rows[] = {
        {"hello x h a ?", "hello x h a ?", false, false, false},
        {"\x01x", "", true, false, false},
        {"\x01\x01", "\x01", false, false, false},
        {"\x01"
         "a",
         "\x01", false, false, false},
        {"\x01\x01x", "\x01x", false, false, false},
        {"\x01\x01\x01x", "\x01", true, false, false},
        {"\x01h", "", false, true, false},
        {"\x01?", "", false, true, false},
        {"1\x01"
         "q2",
         "12", false, false, false}, /* swallowed with the key */
        {"\x01X", "", false, false, false},
        {"\x01"
         "cc",
         "c", false, false, true},
        {"\x01", "", false, false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct console_escape escape = {.enabled = true}, off = {.enabled = false};
        bool quit = false, help = false, go_on = false;
        char sent[32] = "";
        size_t n = 0;

        for (const char *p = rows[i].typed; *p != '\0'; p++) {
            uint8_t byte = (uint8_t)*p, same = byte;
            enum console_key key = console_escape_feed(&escape, &byte);

            quit = quit || key == CONSOLE_KEY_QUIT;
            help = help || key == CONSOLE_KEY_HELP;
            go_on = go_on || key == CONSOLE_KEY_CONTINUE;
            if (key == CONSOLE_KEY_BYTE)
                sent[n++] = (char)byte;
            assert_int_equal(console_escape_feed(&off, &same), CONSOLE_KEY_BYTE);
            assert_int_equal(same, (uint8_t)*p);
        }
        assert_string_equal(sent, rows[i].sent);
        assert_int_equal(quit, rows[i].quit);
        assert_int_equal(go_on, rows[i].go_on);
        assert_int_equal(help, rows[i].help);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escape_keys),
        TEST(a_slow_reader_gets_every_byte),
        TEST(what_the_ring_holds_is_written_at_the_end),
        TEST(a_blocked_reader_holds_up_neither_vcpu_nor_end),
        TEST(a_reader_that_goes_away_frees_the_vcpu),
        TEST(a_pty_nobody_has_open_keeps_the_newest_bytes),
        TEST(a_machine_that_never_started_can_be_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
