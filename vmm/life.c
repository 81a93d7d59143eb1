#include "life.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { DETAIL_SHIFT = 8, DETAIL_MASK = 0x7f };

int life_init(struct life *life)
{
    atomic_init(&life->state, LIFE_RUNNING);
    life->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return life->fd >= 0 ? 0 : -errno;
}

void life_destroy(struct life *life)
{
    close(life->fd);
    life->fd = -1;
}

void life_post(struct life *life, enum life_event event, int detail)
{
    unsigned running = LIFE_RUNNING;
    unsigned state = (unsigned)event | ((unsigned)detail & DETAIL_MASK) << DETAIL_SHIFT;
    int saved_errno = errno; /* of what a signal handler interrupted */

    if (atomic_compare_exchange_strong(&life->state, &running, state)) {
        static const uint64_t one = 1;

        /* Cannot fail: this is the only write that the eventfd ever sees. */
        if (write(life->fd, &one, sizeof(one)) < 0)
            errno = saved_errno;
    }
}

enum life_event life_event(const struct life *life)
{
    return (enum life_event)(atomic_load(&life->state) & ((1u << DETAIL_SHIFT) - 1));
}

int life_detail(const struct life *life)
{
    return (int)(atomic_load(&life->state) >> DETAIL_SHIFT);
}

int life_fd(const struct life *life)
{
    return life->fd;
}

int life_exit_status(const struct life *life)
{
    switch (life_event(life)) {
    case LIFE_POWEROFF:
        return 0;
    case LIFE_RUNNING:
    case LIFE_FAILED:
        return 2;
    case LIFE_REBOOT:
        return 10;
    case LIFE_PANIC:
        return 11;
    case LIFE_TRIPLE_FAULT:
        return 12;
    case LIFE_TEST_EXIT:
        return life_detail(life);
    case LIFE_TIMEOUT:
        return 124;
    case LIFE_SIGNAL:
        return 128 + life_detail(life);
    }
    return 2;
}
