/*
 * console.c - see console.h.
 *
 * Output: vCPU thread -> ring -> console thread -> descriptor. Input: descriptor -> `typed` ->
 * UART.
 *
 * 1. `used` counts the bytes in the ring. The console thread removes bytes only after they were
 *    written, so a failed write loses none.
 * 2. A vCPU wakes the console thread only when it finds the ring empty: at any other time the
 * thread knows that there is something to write and looks again before it sleeps.
 * 3. A vCPU waits for room only while somebody can make room: not once the console is released or
 * its descriptor is broken, and not for a pseudo-terminal that nobody has open, where the ring
 * keeps the newest bytes.
 * 4. Input that the UART refuses stays in `typed`. A pipe or file is not read further until it is
 * gone; a terminal is, so that the escape keys always work, and drops what is typed beyond it.
 * 5. The UART's lock is taken with the console's lock not held, and the other way round.
 */
#include "console.h"

#include "console_backend.h"
#include "console_escape.h"
#include "halt.h"
#include "log.h"
#include "serial.h"
#include "terminal.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    RING_SIZE = 16384,
    TYPED_MAX_TERMINAL = 4096,
    TYPED_MAX = 16, /* what a FIFO takes: the rest stays in the pipe */
    STALL_MS = 5000,
    ASK_AGAIN_MS = 200, /* for what the kernel has no event for */
};

struct console {
    struct console_backend backend;
    bool say_escape;
    struct serial *serial;
    struct life *life;
    struct halt *halt;
    int wake_fd;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock; /* everything down to the next heading */
    pthread_cond_t room;
    unsigned waiting; /* vCPUs that wait for room */
    uint8_t ring[RING_SIZE];
    size_t first, used;
    uint64_t lost;
    bool released, broken, disconnected;
    bool stopping, resumed;

    /* the console thread's own */
    struct console_escape escape;
    bool input_over;
    bool terminal_ours; /* raw, and we are in its foreground */
    uint8_t typed[TYPED_MAX_TERMINAL];
    size_t typed_count;
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void wake(struct console *console)
{
    static const uint64_t one = 1;

    /* Fails only when it is signalled 2^64 - 2 times over: awake anyway. */
    if (write(console->wake_fd, &one, sizeof(one)) < 0)
        return;
}

static void clear_event(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0)
        return; /* somebody else's signal, cleared before */
}

/* ---- output: vCPU threads ---- */

static bool may_wait(const struct console *console)
{
    return !console->released && !console->broken && !console->disconnected;
}

static void take_output(void *opaque, uint8_t byte)
{
    struct console *console = opaque;
    bool was_empty;

    pthread_mutex_lock(&console->lock);
    console->waiting++;
    while (console->used == RING_SIZE && may_wait(console))
        pthread_cond_wait(&console->room, &console->lock);
    console->waiting--;
    if (console->used == RING_SIZE && console->disconnected) {
        console->first = (console->first + 1) % RING_SIZE;
        console->used--;
    }
    was_empty = console->used == 0;
    if (console->broken || console->used == RING_SIZE) {
        console->lost++;
        was_empty = false;
    } else {
        console->ring[(console->first + console->used) % RING_SIZE] = byte;
        console->used++;
    }
    pthread_mutex_unlock(&console->lock);
    if (was_empty)
        wake(console);
}

/* ---- output: the console thread ---- */

static void set_disconnected(struct console *console, bool disconnected)
{
    pthread_mutex_lock(&console->lock);
    console->disconnected = disconnected;
    pthread_cond_broadcast(&console->room);
    pthread_mutex_unlock(&console->lock);
}

static void break_output(struct console *console, int error)
{
    log_warn("console: output is lost from now on: %s", strerror(error));
    pthread_mutex_lock(&console->lock);
    console->broken = true;
    console->lost += console->used;
    console->used = 0;
    pthread_cond_broadcast(&console->room);
    pthread_mutex_unlock(&console->lock);
}

/* Writes one piece of the ring; true when bytes went out. Producers leave [first, first + used)
 * alone: they drop the oldest only while disconnected, and then this is not called. */
static bool write_some(struct console *console)
{
    size_t first, length;
    ssize_t n;

    pthread_mutex_lock(&console->lock);
    first = console->first;
    length = console->used < RING_SIZE - first ? console->used : RING_SIZE - first;
    pthread_mutex_unlock(&console->lock);
    if (length == 0)
        return false;

    n = console_backend_write(&console->backend, console->ring + first, length);
    if (n == -EAGAIN)
        return false;
    if (n < 0) {
        break_output(console, (int)-n);
        return false;
    }
    pthread_mutex_lock(&console->lock);
    console->first = (first + (size_t)n) % RING_SIZE;
    console->used -= (size_t)n;
    if (console->waiting > 0)
        pthread_cond_broadcast(&console->room);
    pthread_mutex_unlock(&console->lock);
    return true;
}

/* ---- input: the console thread ---- */

static void deliver(struct console *console)
{
    size_t taken;

    if (console->typed_count == 0)
        return;
    taken = serial_input(console->serial, console->typed, console->typed_count);
    console->typed_count -= taken;
    memmove(console->typed, console->typed + taken, console->typed_count);
}

static void print_keys(void)
{
    static const char text[] = "\nminivmm keys: Ctrl-A x  end the machine\n"
                               "              Ctrl-A c  let a paused machine go on\n"
                               "              Ctrl-A a  send Ctrl-A (also Ctrl-A Ctrl-A)\n"
                               "              Ctrl-A h  this list\n";

    /* Nobody is left to tell when standard error fails. */
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
        return;
}

static void take_typed(struct console *console, uint8_t byte)
{
    switch (console_escape_feed(&console->escape, &byte)) {
    case CONSOLE_KEY_NONE:
        break;
    case CONSOLE_KEY_BYTE:
        if (console->typed_count < sizeof(console->typed))
            console->typed[console->typed_count++] = byte;
        break;
    case CONSOLE_KEY_QUIT:
        life_post(console->life, LIFE_SIGNAL, SIGINT);
        break;
    case CONSOLE_KEY_CONTINUE:
        halt_post(console->halt, HALT_OVER);
        break;
    case CONSOLE_KEY_HELP:
        print_keys();
        break;
    }
}

static void read_some(struct console *console, bool hung_up)
{
    uint8_t bytes[256];
    size_t room = console->backend.terminal ? sizeof(bytes) : TYPED_MAX - console->typed_count;
    ssize_t n = console_backend_read(&console->backend, bytes, room);

    if (n == -EAGAIN && !hung_up)
        return;
    if (n == -EIO && console->backend.pty)
        return; /* closed this moment: the next poll says so */
    if (n == -EIO && console->backend.terminal && !hung_up) {
        console->terminal_ours = false; /* in the background: until SIGCONT */
        return;
    }
    if (n <= 0)
        console->input_over = true;
    for (ssize_t i = 0; i < n; i++)
        take_typed(console, bytes[i]);
    deliver(console);
}

static bool wants_input(const struct console *console)
{
    if (console->backend.in_fd < 0 || console->input_over)
        return false;
    return console->backend.terminal ? console->terminal_ours : console->typed_count < TYPED_MAX;
}

static bool in_background(const struct console *console)
{
    return console->backend.terminal && !console->input_over && !console->terminal_ours;
}

/* Raw mode and reading are for the foreground job: another job's terminal is left alone. */
static void claim_terminal(struct console *console)
{
    int fd = console->backend.in_fd;

    console->terminal_ours = terminal_is_foreground(fd) && terminal_set_raw(fd) == 0;
    if (console->terminal_ours && console->say_escape) {
        console->say_escape = false;
        dprintf(STDERR_FILENO, "%s: Ctrl-A x ends the machine, Ctrl-A h lists more keys\n",
                log_program_name());
    }
}

/* ---- the console thread ---- */

enum { FD_WAKE, FD_ROOM, FD_IN, FD_OUT, FD_COUNT };

struct view {
    bool stopping, disconnected;
    size_t used;
};

/* What the other threads want, and what SIGCONT asked for. */
static struct view look(struct console *console)
{
    struct view view;
    bool resumed;

    pthread_mutex_lock(&console->lock);
    view = (struct view){console->stopping, console->disconnected, console->used};
    resumed = console->resumed;
    console->resumed = false;
    pthread_mutex_unlock(&console->lock);
    if (console->backend.terminal && (resumed || in_background(console)) && !view.stopping)
        claim_terminal(console);
    return view;
}

/* A pseudo-terminal that nobody has open polls as hung up all the time: it is asked now and then. */
static bool still_disconnected(struct console *console)
{
    struct pollfd pfd = {.fd = console->backend.out_fd};

    if (poll(&pfd, 1, 0) > 0 && (pfd.revents & POLLHUP) != 0)
        return true;
    set_disconnected(console, false);
    return false;
}

static void wait_and_move(struct console *console, const struct view *view, int timeout,
                          uint64_t *progress)
{
    bool connected = !view->disconnected || !still_disconnected(console);
    bool in = connected && !view->stopping && wants_input(console);
    bool out = connected && view->used > 0;
    struct pollfd fds[FD_COUNT] = {
        [FD_WAKE] = {.fd = console->wake_fd, .events = POLLIN},
        [FD_ROOM] = {.fd = serial_room_fd(console->serial), .events = POLLIN},
        [FD_IN] = {.fd = in ? console->backend.in_fd : -1, .events = POLLIN},
        [FD_OUT] = {.fd = out ? console->backend.out_fd : -1, .events = POLLOUT},
    };

    if ((!connected || in_background(console)) && (timeout < 0 || timeout > ASK_AGAIN_MS))
        timeout = ASK_AGAIN_MS;
    if (poll(fds, FD_COUNT, timeout) <= 0)
        return;
    if (fds[FD_WAKE].revents)
        clear_event(console->wake_fd);
    if (console->backend.pty && ((fds[FD_IN].revents | fds[FD_OUT].revents) & POLLHUP) != 0) {
        set_disconnected(console, true);
        return;
    }
    if (fds[FD_OUT].revents && write_some(console))
        *progress = now_ms();
    if (fds[FD_IN].revents)
        read_some(console, (fds[FD_IN].revents & (POLLHUP | POLLERR)) != 0);
    if (fds[FD_ROOM].revents) {
        clear_event(serial_room_fd(console->serial));
        deliver(console);
    }
}

static void *console_thread(void *opaque)
{
    struct console *console = opaque;
    uint64_t progress = now_ms();

    (void)pthread_setname_np(pthread_self(), "console");
    for (;;) {
        struct view view = look(console);
        int timeout = -1;

        if (view.stopping) {
            uint64_t waited = now_ms() - progress;

            if (view.used == 0 || view.disconnected || waited >= STALL_MS)
                return NULL;
            timeout = (int)(STALL_MS - waited);
        } else {
            progress = now_ms();
        }
        wait_and_move(console, &view, timeout, &progress);
    }
}

/* ---- life ---- */

int console_open(const struct vm_config *config, struct console **out, struct err *err)
{
    struct console *console = calloc(1, sizeof(*console));
    int rc;

    if (console == NULL)
        return err_set(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&console->lock, NULL);
    pthread_cond_init(&console->room, NULL);
    console->backend.in_fd = console->backend.out_fd = -1;
    console->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (console->wake_fd < 0)
        rc = err_set_errno(err, -errno, "cannot create an eventfd");
    else
        rc = console_backend_open(config, &console->backend, err);
    if (rc < 0) {
        console_close(console);
        return rc;
    }
    console->disconnected = console->backend.pty;
    console->escape.enabled = config->console_escape && console->backend.terminal;
    console->say_escape = console->escape.enabled && !config->quiet;
    *out = console;
    return 0;
}

bool console_has_keys(const struct console *console)
{
    return console->escape.enabled;
}

int console_start(struct console *console, struct serial *serial, struct life *life,
                  struct halt *halt, struct err *err)
{
    int rc;

    if (console->backend.out_fd < 0)
        return 0;
    console->serial = serial;
    console->life = life;
    console->halt = halt;
    rc = pthread_create(&console->thread, NULL, console_thread, console);
    if (rc != 0)
        return err_set_errno(err, -rc, "cannot start the console thread");
    console->started = true;
    serial_set_output(serial, take_output, console);
    return 0;
}

/* Sets one of the flags for the console thread and for whoever waits. */
static void tell(struct console *console, bool *flag)
{
    pthread_mutex_lock(&console->lock);
    *flag = true;
    pthread_cond_broadcast(&console->room);
    pthread_mutex_unlock(&console->lock);
    wake(console);
}

void console_resume(struct console *console)
{
    tell(console, &console->resumed);
}

void console_release(struct console *console)
{
    tell(console, &console->released);
}

void console_stop(struct console *console)
{
    if (!console->started)
        return;
    console->started = false;
    tell(console, &console->stopping);
    pthread_join(console->thread, NULL);
    serial_set_output(console->serial, NULL, NULL);
    terminal_restore();
    console->lost += console->used;
    if (console->lost > 0 && !console->broken && !console->disconnected)
        log_warn("console: %" PRIu64 " bytes of output were lost: nobody took them", console->lost);
}

void console_close(struct console *console)
{
    if (console == NULL)
        return;
    console_backend_close(&console->backend);
    if (console->wake_fd >= 0)
        close(console->wake_fd);
    pthread_cond_destroy(&console->room);
    pthread_mutex_destroy(&console->lock);
    free(console);
}
