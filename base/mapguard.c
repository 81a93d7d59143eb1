/*
 * The table of guarded mappings is read by a signal handler, in any thread, while others change it: an
 * entry counts while its start is not 0, and that is stored last and cleared first.
 */
#include "mapguard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

struct guard {
    _Atomic uintptr_t start; /* 0: the entry is free */
    _Atomic size_t length;
    atomic_bool *_Atomic lost;
    atomic_int event;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* who changes the table */
static struct guard guards[MAPGUARD_MAX];

/* All that it calls is safe in a handler: mmap(2) is a system call and nothing else. */
static bool replace(uintptr_t address)
{
    static const uint64_t one = 1;

    for (unsigned i = 0; i < MAPGUARD_MAX; i++) {
        const struct guard *guard = &guards[i];
        uintptr_t start = atomic_load(&guard->start);
        size_t length = atomic_load(&guard->length);

        /* Who touches a mapping keeps its entry as it is; others may come and go meanwhile. */
        if (start == 0 || address < start || address - start >= length ||
            atomic_load(&guard->start) != start)
            continue;
        /* First, so that whoever finds zeros and then looks is told. */
        atomic_store(guard->lost, true);
        /* NOLINTNEXTLINE(performance-no-int-to-ptr): it was a pointer. */
        if (mmap((void *)start, length, PROT_READ | PROT_WRITE,
                 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            return false;
        if (guard->event >= 0)
            (void)!write(guard->event, &one, sizeof(one));
        return true;
    }
    return false;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    int saved = errno;

    (void)context;
    /* Without a guard the access is made again, and ends the process. */
    if (info->si_code <= 0 || !replace((uintptr_t)info->si_addr))
        (void)signal(number, SIG_DFL);
    errno = saved;
}

/* Each time: somebody else may have set a handler since. */
static int install(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_RESTART};

    sigfillset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

int mapguard_add(void *start, size_t length, atomic_bool *lost, int event)
{
    int ret;

    pthread_mutex_lock(&lock);
    ret = install();
    for (unsigned i = 0; ret == 0; i++) {
        struct guard *guard = &guards[i];

        if (i == MAPGUARD_MAX) {
            ret = -ENOSPC;
        } else if (atomic_load(&guard->start) == 0) {
            guard->length = length;
            guard->lost = lost;
            guard->event = event;
            atomic_store(&guard->start, (uintptr_t)start);
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return ret;
}

void mapguard_remove(void *start)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < MAPGUARD_MAX; i++) {
        if (atomic_load(&guards[i].start) == (uintptr_t)start)
            atomic_store(&guards[i].start, 0);
    }
    pthread_mutex_unlock(&lock);
}
