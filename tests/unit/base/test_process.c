/* What a program does before anything else: descriptors, limits, and how large stacks are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "process.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

static void *look_at_stack(void *size)
{
    pthread_attr_t attr;

    assert_int_equal(pthread_getattr_np(pthread_self(), &attr), 0);
    assert_int_equal(pthread_attr_getstacksize(&attr, size), 0);
    pthread_attr_destroy(&attr);
    return NULL;
}

/* Less than a huge page, which would be memory of each thread. */
static void stacks_are_small(void **state)
{
    pthread_t thread;
    size_t size = 0;

    (void)state;
    process_prepare();
    assert_int_equal(pthread_create(&thread, NULL, look_at_stack, &size), 0);
    pthread_join(thread, NULL);
    assert_in_range(size, 128 << 10, 512 << 10);
}

static void open_files_are_as_many_as_may_be(void **state)
{
    struct rlimit files;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = 64;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    process_prepare();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    assert_true(files.rlim_cur == files.rlim_max);
}

static void standard_descriptors_are_filled(void **state)
{
    int saved = dup(STDIN_FILENO);

    (void)state;
    close(STDIN_FILENO);
    process_prepare();
    assert_true(fcntl(STDIN_FILENO, F_GETFD) >= 0);
    assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stacks_are_small),
        cmocka_unit_test(open_files_are_as_many_as_may_be),
        cmocka_unit_test(standard_descriptors_are_filled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
