/*
 * How long a queue looks at its empty ring, with a clock of the test's own: what is learned from
 * requests that come early, late, never, and only once the thread sleeps.
 */
#include "ring_poll.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
/* after the headers that it needs */
#include <cmocka.h>

#define US     UINT64_C(1000)
#define SECOND UINT64_C(1000000000)
#define MAX    (32 * US)
#define WAKE   (20 * US) /* what a wake-up takes */

struct queue {
    struct ring_poll poll;
    uint64_t now;
    uint64_t looked;        /* nanoseconds */
    unsigned found, failed; /* looks */
    unsigned slept;
};

static void start(struct queue *queue, uint64_t max)
{
    *queue = (struct queue){.now = 5 * SECOND};
    ring_poll_init(&queue->poll, max);
}

/* The ring is empty, and the next request comes after `pause`. `is_in_the_way`: not while the queue looks,
 * but that much after the queue sleeps. */
static void idle(struct queue *queue, uint64_t pause, bool is_in_the_way)
{
    uint64_t begin = queue->now, deadline = ring_poll_begin(&queue->poll, begin);

    if (deadline > 0 && !is_in_the_way && begin + pause <= deadline) {
        queue->now = begin + pause;
        queue->looked += pause;
        queue->found++;
        ring_poll_end(&queue->poll, true, queue->now);
        assert_false(queue->poll.is_asleep);
        return;
    }
    if (deadline > 0) {
        assert_true(deadline - begin <= queue->poll.max);
        queue->looked += deadline - begin;
        queue->failed++;
        ring_poll_end(&queue->poll, false, deadline);
    }
    queue->slept++;
    queue->now = (is_in_the_way && deadline > 0 ? deadline : begin) + pause + WAKE;
    if (queue->poll.max > 0) {
        assert_true(queue->poll.is_asleep);
        ring_poll_woken(&queue->poll, queue->now);
    }
}

static void run(struct queue *queue, unsigned times, uint64_t pause)
{
    queue->looked = queue->found = queue->failed = queue->slept = 0;
    for (unsigned i = 0; i < times; i++)
        idle(queue, pause, false);
}

static void requests_that_come_soon_are_waited_for(void **state)
{
    static const uint64_t pauses[] = {0, 1 * US, 5 * US, 12 * US, 25 * US, MAX};

    (void)state;
    for (size_t i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++) {
        struct queue queue;

        start(&queue, MAX);
        run(&queue, 1000, pauses[i]);
        assert_true(queue.slept <= 4);
        run(&queue, 1000, pauses[i]);
        assert_int_equal(queue.slept, 0);
    }
}

static void requests_that_come_late_are_not_waited_for(void **state)
{
    static const uint64_t pauses[] = {100 * US, 5000 * US, SECOND};

    (void)state;
    for (size_t i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++) {
        struct queue queue;

        start(&queue, MAX);
        run(&queue, 1000, pauses[i]);
        assert_int_equal(queue.found + queue.failed, 0);

        /* Nor after requests that came soon; and these are then waited for again. */
        run(&queue, 100, 5 * US);
        assert_true(queue.found > 90);
        run(&queue, 1000, pauses[i]);
        assert_true(queue.failed > 0 && queue.looked <= 2 * MAX);
        run(&queue, 100, 5 * US);
        assert_true(queue.found > 80);
    }
}

static void one_that_comes_late_changes_little(void **state)
{
    struct queue queue;

    (void)state;
    start(&queue, MAX);
    run(&queue, 100, 25 * US);
    for (unsigned i = 0; i < 100; i++) {
        run(&queue, 1, SECOND);
        run(&queue, 20, 25 * US);
        assert_true(queue.slept <= 1);
    }
}

/* One look, however often the thread is woken for nothing. */
static void a_queue_without_requests_does_not_look(void **state)
{
    struct queue queue;
    uint64_t deadline;

    (void)state;
    start(&queue, MAX);
    run(&queue, 100, 5 * US);
    deadline = ring_poll_begin(&queue.poll, queue.now);
    assert_int_equal(deadline, queue.now + MAX);
    ring_poll_end(&queue.poll, false, deadline);
    for (unsigned i = 1; i < 1000; i++)
        assert_int_equal(ring_poll_begin(&queue.poll, deadline + i * US), 0);
}

/* The vCPU that makes the next request has only the processor that the queue looks from. */
static void a_look_that_is_in_the_way_is_given_up(void **state)
{
    struct queue queue;
    uint64_t begin;

    (void)state;
    start(&queue, MAX);
    begin = queue.now;
    while (queue.now - begin < 10 * SECOND)
        idle(&queue, 5 * US, true);
    assert_int_equal(queue.found, 0);
    assert_true(queue.failed > 0);
    assert_true(queue.looked < (queue.now - begin) / 1000);

    /* Once there is another one, looking comes back within a second. */
    begin = queue.now;
    while (queue.now - begin < SECOND + SECOND / 10)
        idle(&queue, 5 * US, false);
    run(&queue, 100, 5 * US);
    assert_int_equal(queue.slept, 0);
}

/* The thread lost the processor while it looked, and found the request when it came back. */
static void what_is_found_too_late_is_a_failure(void **state)
{
    struct queue queue;
    unsigned looks = 0;

    (void)state;
    start(&queue, MAX);
    run(&queue, 100, 5 * US);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t deadline = ring_poll_begin(&queue.poll, queue.now);

        queue.now += 4000 * US;
        if (deadline > 0) {
            ring_poll_end(&queue.poll, true, queue.now);
            looks++;
        } else {
            ring_poll_woken(&queue.poll, queue.now);
        }
    }
    assert_in_range(looks, 1, 10);
}

static void looks_that_fail_half_of_the_time_do_not_pay(void **state)
{
    struct queue queue;

    (void)state;
    start(&queue, MAX);
    for (unsigned i = 0; i < 100000; i++)
        idle(&queue, 5 * US, i % 2);
    assert_true(queue.found + queue.failed < 1000);
    start(&queue, MAX);
    for (unsigned i = 0; i < 100000; i++)
        idle(&queue, 5 * US, i % 10 == 0);
    assert_true(queue.found > 85000);
}

static void the_limit_is_kept(void **state)
{
    struct queue queue;

    (void)state;
    start(&queue, 0);
    run(&queue, 1000, 0);
    assert_int_equal(queue.found + queue.failed, 0);
    start(&queue, 1 * US);
    run(&queue, 1000, 1 * US);
    assert_true(queue.found > 990);
    run(&queue, 1000, 2 * US);
    assert_int_equal(queue.found, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_that_come_soon_are_waited_for),
        cmocka_unit_test(requests_that_come_late_are_not_waited_for),
        cmocka_unit_test(one_that_comes_late_changes_little),
        cmocka_unit_test(a_queue_without_requests_does_not_look),
        cmocka_unit_test(a_look_that_is_in_the_way_is_given_up),
        cmocka_unit_test(what_is_found_too_late_is_a_failure),
        cmocka_unit_test(looks_that_fail_half_of_the_time_do_not_pay),
        cmocka_unit_test(the_limit_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
