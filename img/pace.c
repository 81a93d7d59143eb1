#include "pace.h"

#include "clock.h"

#include <time.h>

#define NS_PER_SECOND UINT64_C(1000000000)

void pace_wait(struct pace *pace, uint64_t bytes)
{
    uint64_t now;

    if (pace->rate == 0)
        return;
    while ((now = clock_ns()) < pace->paid_until) {
        uint64_t left = pace->paid_until - now;
        struct timespec time = {.tv_sec = (time_t)(left / NS_PER_SECOND),
                                .tv_nsec = (long)(left % NS_PER_SECOND)};

        (void)nanosleep(&time, NULL); /* a signal, which asks for progress, ends it early */
    }
    pace->paid_until = now + bytes * NS_PER_SECOND / pace->rate;
}
