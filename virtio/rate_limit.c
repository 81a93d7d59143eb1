#include "rate_limit.h"

#include "checked.h"

#define NS_PER_SECOND UINT64_C(1000000000)

/* amount / per_second in nanoseconds, without a product of 128 bits that could wrap. */
static uint64_t time_of(const struct rate_limit *limit, uint64_t amount)
{
    uint64_t seconds = amount / limit->per_second, rest = amount % limit->per_second;

    /* Below 10^12 seconds and (rest < per_second) 10^9 nanoseconds. */
    return seconds * NS_PER_SECOND +
           (uint64_t)((unsigned __int128)rest * NS_PER_SECOND / limit->per_second);
}

void rate_limit_init(struct rate_limit *limit, uint64_t per_second, uint64_t burst)
{
    limit->per_second = per_second;
    limit->burst_time = 0;
    atomic_init(&limit->paid_until, 0);
    if (per_second > 0)
        limit->burst_time = time_of(limit, (burst > 0 ? burst : max_u64(per_second / 10, 1)) - 1);
}

uint64_t rate_limit_delay(const struct rate_limit *limit, uint64_t now)
{
    uint64_t paid_until;

    if (limit->per_second == 0)
        return 0;
    paid_until = atomic_load_explicit(&limit->paid_until, memory_order_relaxed);
    return paid_until > now + limit->burst_time ? paid_until - (now + limit->burst_time) : 0;
}

void rate_limit_take(struct rate_limit *limit, uint64_t amount, uint64_t now)
{
    uint64_t paid_until, next;

    if (limit->per_second == 0)
        return;
    paid_until = atomic_load_explicit(&limit->paid_until, memory_order_relaxed);
    do {
        if (!add_u64(max_u64(paid_until, now), time_of(limit, amount), &next))
            next = UINT64_MAX;
    } while (!atomic_compare_exchange_weak_explicit(&limit->paid_until, &paid_until, next,
                                                    memory_order_relaxed, memory_order_relaxed));
}
