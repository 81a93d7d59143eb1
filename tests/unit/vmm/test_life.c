/* The first event wins; every event has its exit status. */
#include "life.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static bool readable(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

static void each_event_has_its_exit_status(void **state)
{
    static const struct {
        enum life_event event;
        int detail, status;
    } rows[] = {
        {LIFE_POWEROFF, 0, 0},    {LIFE_FAILED, 0, 2},        {LIFE_REBOOT, 0, 10},
        {LIFE_PANIC, 0, 11},      {LIFE_TRIPLE_FAULT, 0, 12}, {LIFE_TEST_EXIT, 0, 0},
        {LIFE_TEST_EXIT, 77, 77}, {LIFE_TIMEOUT, 0, 124},     {LIFE_SIGNAL, 15, 143},
        {LIFE_SIGNAL, 64, 192},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct life life;

        assert_int_equal(life_init(&life), 0);
        assert_int_equal(life_event(&life), LIFE_RUNNING);
        assert_int_equal(life_exit_status(&life), 2);
        assert_false(readable(life_fd(&life)));
        life_post(&life, rows[i].event, rows[i].detail);
        assert_true(readable(life_fd(&life)));
        assert_int_equal(life_event(&life), rows[i].event);
        assert_int_equal(life_detail(&life), rows[i].detail);
        assert_int_equal(life_exit_status(&life), rows[i].status);
        life_destroy(&life);
    }
}

static void the_first_event_wins(void **state)
{
    struct life life;

    (void)state;
    assert_int_equal(life_init(&life), 0);
    life_post(&life, LIFE_PANIC, 0);
    life_post(&life, LIFE_REBOOT, 0);
    life_post(&life, LIFE_SIGNAL, 9);
    assert_int_equal(life_event(&life), LIFE_PANIC);
    assert_int_equal(life_detail(&life), 0);
    assert_int_equal(life_exit_status(&life), 11);
    life_destroy(&life);
}

static void *post_signal(void *opaque)
{
    life_post(opaque, LIFE_SIGNAL, 15);
    return NULL;
}

static void *post_status(void *opaque)
{
    life_post(opaque, LIFE_TEST_EXIT, 99);
    return NULL;
}

/* An event is never seen with the detail of another. */
static void racing_events_do_not_mix(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        struct life life;
        pthread_t a, b;

        assert_int_equal(life_init(&life), 0);
        assert_int_equal(pthread_create(&a, NULL, post_signal, &life), 0);
        assert_int_equal(pthread_create(&b, NULL, post_status, &life), 0);
        while (life_event(&life) == LIFE_RUNNING)
            ;
        if (life_event(&life) == LIFE_SIGNAL)
            assert_int_equal(life_exit_status(&life), 128 + 15);
        else
            assert_int_equal(life_exit_status(&life), 99);
        pthread_join(a, NULL);
        pthread_join(b, NULL);
        life_destroy(&life);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_event_has_its_exit_status),
        cmocka_unit_test(the_first_event_wins),
        cmocka_unit_test(racing_events_do_not_mix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
