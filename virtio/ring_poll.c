#include "ring_poll.h"

#include "checked.h"

enum {
    WINDOW_MIN = 2 * 1000,  /* less is not worth two looks at the clock */
    FIRST_WINDOW_SHARE = 4, /* of the largest: two failures lead there */
    CREDIT_START = 8,       /* four failures, enough to find the window */
    CREDIT_MAX = 16,        /* as many successes have to be seen to trust them */
    FAILURE_COST = 2,       /* more than one failure in three looks does not pay */
    REST_MIN = 1000 * 1000, /* a tenth of it goes into finding out */
    REST_MAX = 1000000000,
    WAKE_UP = 50 * 1000, /* from a doorbell to a thread that runs, on another processor of a VM */
    LATE = 5 * 1000,     /* nobody looks that much longer who has the processor */
};

void ring_poll_init(struct ring_poll *poll, uint64_t max)
{
    *poll = (struct ring_poll){.max = max, .credit = CREDIT_START, .rest = REST_MIN};
}

uint64_t ring_poll_begin(struct ring_poll *poll, uint64_t now)
{
    /* Woken for nothing: it is still the same pause. */
    if (poll->max == 0 || poll->is_asleep)
        return 0;
    poll->idle_since = now;
    if (poll->window == 0 || now < poll->rest_until) {
        poll->is_asleep = true;
        return 0;
    }
    poll->deadline = now + poll->window;
    return poll->deadline;
}

static void widen(struct ring_poll *poll)
{
    uint64_t first = max_u64(poll->max / FIRST_WINDOW_SHARE, 1);

    poll->window = min_u64(poll->window > 0 ? 2 * poll->window : first, poll->max);
}

static void narrow(struct ring_poll *poll)
{
    poll->window /= 2;
    if (poll->window < WINDOW_MIN)
        poll->window = 0;
}

void ring_poll_end(struct ring_poll *poll, bool found, uint64_t now)
{
    bool in_time = found && now <= poll->deadline + LATE;

    poll->is_asleep = !found;
    if (in_time) {
        widen(poll);
        if (poll->credit < CREDIT_MAX)
            poll->credit++;
        else
            poll->rest = REST_MIN;
        return;
    }
    poll->credit -= FAILURE_COST;
    if (poll->credit > 0)
        return;
    poll->window = 0;
    poll->credit = CREDIT_START;
    poll->rest_until = now + poll->rest;
    poll->rest = min_u64(2 * poll->rest, REST_MAX);
}

void ring_poll_woken(struct ring_poll *poll, uint64_t now)
{
    poll->is_asleep = false;
    if (now < poll->rest_until)
        return;
    if (now - poll->idle_since <= poll->max + WAKE_UP)
        widen(poll);
    else
        narrow(poll);
}
