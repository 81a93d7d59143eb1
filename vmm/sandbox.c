/*
 * sandbox.c - the list of system calls, each with its reason.
 *
 * 1. Nothing here opens a file, makes a socket, runs a program, maps executable memory, makes a process
 *    or touches another one.
 * 2. A call that is not listed raises SIGSYS in the thread that made it, and is not carried out. The
 *    handler says which call it was, restores the terminal and lets the signal end the process. (A
 *    silent kill would leave the terminal raw and nothing to report.)
 */
#include "sandbox.h"

#include "checked.h"
#include "log.h"
#include "terminal.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <malloc.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* The type of every KVM ioctl: KVMIO of <linux/kvm.h>, which only the KVM files include. */
enum { KVM_IOCTL_TYPE = 0xae };

/* Calls that are allowed whatever their arguments. */
/* clang-format off */
static const int plain_calls[] = {
    SCMP_SYS(read),          /* eventfds, the console's input */
    SCMP_SYS(write),         /* eventfds, the console's output, messages */
    SCMP_SYS(sendto),        /* a console that is a socket */
    SCMP_SYS(poll),          /* the main and the console thread wait */
    SCMP_SYS(ppoll),         /* the same, as other C libraries do it */
    SCMP_SYS(epoll_create1), /* a queue starts when a driver activates its device */
    SCMP_SYS(epoll_ctl),     /* the same */
    SCMP_SYS(epoll_wait),    /* queue threads wait */
    SCMP_SYS(epoll_pwait),   /* the same, as other C libraries do it */
    SCMP_SYS(eventfd2),      /* a doorbell or an interrupt source comes into being */
    SCMP_SYS(close),         /* a queue stops; images are closed at the end */

    SCMP_SYS(pread64),    /* images, which are open */
    SCMP_SYS(preadv),     /* the same */
    SCMP_SYS(preadv2),    /* the same, without waiting */
    SCMP_SYS(io_uring_enter), /* the same: rings that were made before, for reads and writes alone */
    SCMP_SYS(pwrite64),   /* the same */
    SCMP_SYS(pwritev),    /* the same */
    SCMP_SYS(fdatasync),  /* a guest's flush */
    SCMP_SYS(fallocate),  /* discard, write-zeroes, growth */
    SCMP_SYS(ftruncate),  /* growth */
    SCMP_SYS(lseek),      /* the end of a file, holes */
    SCMP_SYS(fstat),      /* the size of a file */
    SCMP_SYS(newfstatat), /* the same: what the C library's fstat() is */
    SCMP_SYS(fcntl),      /* image locks */

    SCMP_SYS(brk),     /* heap */
    SCMP_SYS(munmap),  /* heap, stacks, guest memory at the end */
    SCMP_SYS(mremap),  /* heap */
    SCMP_SYS(madvise), /* stacks of threads that ended */

    SCMP_SYS(futex),             /* locks */
    SCMP_SYS(set_robust_list),   /* a thread starts */
    SCMP_SYS(rseq),              /* the same */
    SCMP_SYS(gettid),            /* pthread_kill(), abort() */
    SCMP_SYS(getpid),            /* the same */
    SCMP_SYS(sched_getaffinity), /* malloc() counts CPUs */
    SCMP_SYS(exit),              /* a thread ends */
    SCMP_SYS(exit_group),        /* the process ends */

    SCMP_SYS(rt_sigprocmask),  /* a thread starts; abort() */
    SCMP_SYS(rt_sigaction),    /* the same */
    SCMP_SYS(rt_sigreturn),    /* behind a kick of a vCPU */
    SCMP_SYS(restart_syscall), /* a wait that SIGSTOP and SIGCONT interrupted */

    SCMP_SYS(clock_gettime),   /* where the vDSO cannot */
    SCMP_SYS(getrandom),       /* the entropy device */
    SCMP_SYS(getpgrp),         /* whether the terminal is ours to restore */
};
/* clang-format on */

/* Calls that are allowed when an argument, masked, has a value. */
struct argument_rule {
    int call;
    unsigned argument;
    uint64_t mask, value;
};

static const struct argument_rule argument_rules[] = {
    /* Anything of KVM: running, interrupts, doorbells; a vCPU's registers for a report. */
    {SCMP_SYS(ioctl), 1, 0xff00, KVM_IOCTL_TYPE << 8},
    /* The terminal's modes and foreground job; never TIOCSTI, which types into the user's shell. */
    {SCMP_SYS(ioctl), 1, UINT32_MAX, TCGETS},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, TCSETS},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, TIOCGPGRP},
    /* Stacks and heap; no code. */
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    /* Files that were registered with a ring are given up with it. */
    {SCMP_SYS(io_uring_register), 1, UINT32_MAX, IORING_UNREGISTER_FILES},
    /* Threads, not processes. */
    {SCMP_SYS(clone), 0, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM},
    /* Names of threads. */
    {SCMP_SYS(prctl), 0, UINT32_MAX, PR_SET_NAME},
};

/* Async-signal-safe: no stdio. */
static void on_refused(int signal, siginfo_t *info, void *context)
{
    char text[128], digits[12];
    char *digit = digits + sizeof(digits) - 1;
    unsigned call = (unsigned)info->si_syscall;
    char *end;

    (void)context;
    *digit = '\0';
    do {
        *--digit = (char)('0' + call % 10);
        call /= 10;
    } while (call > 0);
    end = stpcpy(text, "minivmm: system call ");
    end = stpcpy(end, digit);
    end = stpcpy(end, " is not on the sandbox's list: this is a bug, or an attack; ending\n");

    terminal_restore();
    /* Nobody is left to tell when standard error fails. */
    if (write(STDERR_FILENO, text, (size_t)(end - text)) < 0)
        _exit(2);
    (void)raise(signal); /* SA_RESETHAND: this one ends the process */
}

static int add_rules(scmp_filter_ctx filter)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(plain_calls); i++)
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, plain_calls[i], 0, NULL);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(argument_rules); i++) {
        const struct argument_rule *rule = &argument_rules[i];
        struct scmp_arg_cmp match =
            SCMP_CMP64(rule->argument, SCMP_CMP_MASKED_EQ, rule->mask, rule->value);

        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, rule->call, 1, &match);
    }
    /* raise() and pthread_kill(), within this process. */
    if (rc == 0) {
        struct scmp_arg_cmp self = SCMP_CMP64(0, SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0);

        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, &self);
    }
    /* Its arguments lie in memory, where no filter can look: the C library falls back to clone. */
    if (rc == 0)
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, NULL);
    /* The one that a vCPU makes between any two exits is tested first. */
    return rc == 0 ? seccomp_syscall_priority(filter, SCMP_SYS(ioctl), UINT8_MAX) : rc;
}

int sandbox_enter(struct err *err)
{
#ifdef SANITIZED
    (void)err;
    (void)add_rules;
    (void)on_refused;
    log_debug("built with a sanitizer: no sandbox");
    return 0;
#else
    struct sigaction action = {.sa_sigaction = on_refused,
                               .sa_flags = SA_SIGINFO | (int)SA_RESETHAND | SA_NODEFER};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
    int rc = filter != NULL ? 0 : -ENOMEM;

    /* A heap of a thread is made smaller after a look into /proc/sys/vm/overcommit_memory; the process's own
     * without. Disks allocate little. */
    (void)mallopt(M_ARENA_MAX, 1);
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0)
        rc = add_rules(filter);
    if (rc == 0 && sigaction(SIGSYS, &action, NULL) < 0)
        rc = -errno;
    if (rc == 0)
        rc = seccomp_load(filter); /* sets no_new_privs too */
    seccomp_release(filter);
    if (rc < 0)
        return err_set_errno(err, rc,
                             "cannot enter the sandbox (--sandbox off runs the guest without)");
    return 0;
#endif
}
