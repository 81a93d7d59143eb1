#include "halt.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int halt_init(struct halt *halt)
{
    atomic_init(&halt->posted, 0);
    halt->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return halt->fd >= 0 ? 0 : -errno;
}

void halt_destroy(struct halt *halt)
{
    close(halt->fd);
    halt->fd = -1;
}

void halt_post(struct halt *halt, unsigned what)
{
    static const uint64_t one = 1;

    /* What is posted comes before the signal, and halt_take() takes the signal first. */
    atomic_fetch_or(&halt->posted, what);
    /* Fails only when it is signalled 2^64 - 2 times over: awake anyway. */
    if (write(halt->fd, &one, sizeof(one)) < 0)
        return;
}

int halt_fd(const struct halt *halt)
{
    return halt->fd;
}

unsigned halt_take(struct halt *halt)
{
    uint64_t count;

    if (read(halt->fd, &count, sizeof(count)) < 0)
        return 0; /* not signalled */
    return atomic_exchange(&halt->posted, 0);
}
