#include "events.h"

#include "console.h"
#include "halt.h"
#include "machine.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { NS_PER_SECOND = 1000000000 };

sigset_t events_signals(void)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCONT, SIGUSR1};
    sigset_t set;

    sigemptyset(&set);
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaddset(&set, signals[i]);
    return set;
}

void events_block_signals(void)
{
    static const int ignored[] = {SIGPIPE, SIGTTIN, SIGTTOU};
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t set = events_signals();

    for (unsigned i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
        (void)sigaction(ignored[i], &ignore, NULL);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
}

uint64_t events_deadline(unsigned seconds)
{
    struct timespec now;

    if (seconds == 0)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return ((uint64_t)now.tv_sec + seconds) * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

int events_open(struct events *events, uint64_t deadline, struct err *err)
{
    const struct itimerspec at = {.it_value = {.tv_sec = (time_t)(deadline / NS_PER_SECOND),
                                               .tv_nsec = (long)(deadline % NS_PER_SECOND)}};
    sigset_t set = events_signals();
    int rc = 0;

    events->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    events->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    /* A deadline of 0 leaves the timer off. */
    if (events->signal_fd < 0 || events->timer_fd < 0 ||
        timerfd_settime(events->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) < 0) {
        rc = err_set_errno(err, -errno, "cannot wait for signals and time");
        events_close(events);
    }
    return rc;
}

void events_close(struct events *events)
{
    if (events->signal_fd >= 0)
        close(events->signal_fd);
    if (events->timer_fd >= 0)
        close(events->timer_fd);
}

/* What the main thread acts on. */
struct targets {
    struct life *life;
    struct halt *halt;
    struct machine *machine;
    struct console *console;
};

static void take_signal(int fd, const struct targets *targets)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo == SIGCONT) {
        console_resume(targets->console);
        machine_resume(targets->machine);
    } else if (info.ssi_signo == SIGUSR1) {
        machine_write_stats(targets->machine);
    } else {
        life_post(targets->life, LIFE_SIGNAL, (int)info.ssi_signo);
    }
}

static void take_halt(const struct targets *targets)
{
    unsigned posted = halt_take(targets->halt);

    /* In this order: who says that the machine shall go on has not seen the halt that came with it,
     * and a disk that still cannot go on halts again. */
    if (posted & HALT_WANTED)
        machine_pause(targets->machine, console_has_keys(targets->console));
    if (posted & HALT_OVER)
        machine_resume(targets->machine);
}

void events_wait(const struct events *events, struct life *life, struct halt *halt,
                 struct machine *machine, struct console *console)
{
    const struct targets targets = {life, halt, machine, console};
    enum { END, SIGNAL, TIMER, HALT, COUNT };
    struct pollfd fds[COUNT] = {
        [END] = {.fd = life_fd(life), .events = POLLIN},
        [SIGNAL] = {.fd = events->signal_fd, .events = POLLIN},
        [TIMER] = {.fd = events->timer_fd, .events = POLLIN},
        [HALT] = {.fd = halt_fd(halt), .events = POLLIN},
    };

    while (life_event(life) == LIFE_RUNNING) {
        if (poll(fds, COUNT, -1) <= 0)
            continue;
        if (fds[SIGNAL].revents)
            take_signal(events->signal_fd, &targets);
        if (fds[TIMER].revents)
            life_post(life, LIFE_TIMEOUT, 0);
        if (fds[HALT].revents)
            take_halt(&targets);
    }
}
