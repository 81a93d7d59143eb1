/*
 * restart.c - see restart.h.
 *
 * The parent keeps the standard descriptors, the console's backend and the deadline; everything else
 * is the child's, and a child that crashes takes nothing else with it. The child says "rebooted"
 * through a shared page, because a test guest may choose any exit status.
 */
#include "restart.h"

#include "events.h"
#include "log.h"
#include "terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FAILED = 2 };

static int exit_status(int wait_status)
{
    if (WIFEXITED(wait_status))
        return WEXITSTATUS(wait_status);
    terminal_restore();
    log_error("the machine's process was ended by signal %d (%s)", WTERMSIG(wait_status),
              strsignal(WTERMSIG(wait_status)));
    return FAILED;
}

/* Waits for the child and passes signals on to it. *ended_by is the first that ends a machine: a child
 * that was rebooting anyway does not notice it. */
static int attend(pid_t child, int *ended_by)
{
    sigset_t set = events_signals();

    sigaddset(&set, SIGCHLD);
    for (;;) {
        int wait_status, sig;

        if (waitpid(child, &wait_status, WNOHANG) == child)
            return exit_status(wait_status);
        sig = sigwaitinfo(&set, NULL);
        if (sig <= 0 || sig == SIGCHLD)
            continue;
        (void)kill(child, sig);
        if (sig != SIGCONT && sig != SIGUSR1 && *ended_by == 0)
            *ended_by = sig;
    }
}

/* The child must not outlive the parent, which the user sees as the machine. */
static void tie_to_parent(pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        exit(FAILED);
}

int restart_loop(int (*life)(void *opaque, bool *rebooted), void *opaque)
{
    sigset_t child_exit, before;
    bool *rebooted =
        mmap(NULL, sizeof(*rebooted), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t parent = getpid();
    int status = FAILED, ended_by = 0;

    if (rebooted == MAP_FAILED) {
        log_error("cannot map a page: %s", strerror(errno));
        return FAILED;
    }
    (void)terminal_remember(STDIN_FILENO); /* if it is one */
    sigemptyset(&child_exit);
    sigaddset(&child_exit, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &child_exit, &before);
    do {
        pid_t child;

        *rebooted = false;
        child = fork();
        if (child == 0) {
            (void)sigprocmask(SIG_SETMASK, &before, NULL);
            tie_to_parent(parent);
            exit(life(opaque, rebooted));
        }
        if (child < 0) {
            log_error("cannot start a process for the machine: %s", strerror(errno));
            status = FAILED;
            break;
        }
        status = attend(child, &ended_by);
        if (*rebooted && ended_by != 0)
            status = 128 + ended_by;
    } while (*rebooted && ended_by == 0);
    munmap(rebooted, sizeof(*rebooted));
    return status;
}
