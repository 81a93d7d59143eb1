#include "terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static int terminal_fd = -1;
static atomic_bool noted; /* `saved` and `terminal_fd` are valid */
static bool hooked;

/* Faults, and what a program does to end itself. */
static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};

/* A terminal that is not our session's has no job control for us. */
bool terminal_is_foreground(int fd)
{
    pid_t job = tcgetpgrp(fd);

    return job < 0 || job == getpgrp();
}

/* SA_RESETHAND has put the default action back: raising the signal again ends the process with it.
 */
static void restore_and_die(int sig)
{
    terminal_restore();
    (void)raise(sig);
}

/* A handler that stands already (a sanitizer's, the machine's report of a lost page) stays. */
static void hook_fatal_signals(void)
{
    for (unsigned i = 0; i < sizeof(fatal_signals) / sizeof(fatal_signals[0]); i++) {
        struct sigaction action = {.sa_handler = restore_and_die, .sa_flags = (int)SA_RESETHAND};
        struct sigaction old;

        if (sigaction(fatal_signals[i], NULL, &old) == 0 && (old.sa_flags & SA_SIGINFO) == 0 &&
            old.sa_handler == SIG_DFL)
            (void)sigaction(fatal_signals[i], &action, NULL);
    }
}

int terminal_remember(int fd)
{
    if (atomic_load(&noted))
        return 0;
    if (tcgetattr(fd, &saved) < 0)
        return -errno;
    terminal_fd = fd;
    atomic_store(&noted, true);
    return 0;
}

int terminal_set_raw(int fd)
{
    struct termios modes;
    int rc = terminal_remember(fd);

    if (rc < 0)
        return rc;
    if (!hooked) {
        hooked = true;
        hook_fatal_signals();
        (void)atexit(terminal_restore);
    }
    modes = saved;
    cfmakeraw(&modes);
    modes.c_oflag = saved.c_oflag;
    modes.c_cc[VMIN] = 0;
    modes.c_cc[VTIME] = 0;
    return tcsetattr(fd, TCSANOW, &modes) == 0 ? 0 : -errno;
}

/* In the background the terminal belongs to another job, which has set its own modes. */
void terminal_restore(void)
{
    int saved_errno = errno;

    if (atomic_exchange(&noted, false) && terminal_is_foreground(terminal_fd))
        (void)tcsetattr(terminal_fd, TCSANOW, &saved);
    errno = saved_errno;
}
