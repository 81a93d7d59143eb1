#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "optstr.h"

static void splits_items_and_undoubles_commas(void **state)
{
    struct optstr opts;
    struct err err;

    (void)state;
    assert_int_equal(optstr_parse(&opts, "a,,b=c.qcow2,format=raw,readonly", "path", &err), 0);
    assert_int_equal(opts.count, 3);
    assert_string_equal(optstr_get(&opts, "path"), "a,b=c.qcow2");
    assert_string_equal(optstr_get(&opts, "format"), "raw");
    assert_string_equal(optstr_get(&opts, "readonly"), "on");
    assert_null(optstr_get(&opts, "missing"));
    optstr_free(&opts);
}

static void first_item_with_a_key_is_not_the_implied_value(void **state)
{
    struct optstr opts;
    struct err err;

    (void)state;
    assert_int_equal(optstr_parse(&opts, "path=/x=y,serial=", "path", &err), 0);
    assert_string_equal(optstr_get(&opts, "path"), "/x=y");
    assert_string_equal(optstr_get(&opts, "serial"), "");
    optstr_free(&opts);

    assert_int_equal(optstr_parse(&opts, "/dir/a=b", "path", &err), 0);
    assert_string_equal(optstr_get(&opts, "path"), "/dir/a=b");
    optstr_free(&opts);
}

static void malformed_items_are_refused(void **state)
{
    static const char *const bad[] = {"=x", "a=b,,c=d,=", "a=b,c d"};
    struct optstr opts;
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(optstr_parse(&opts, bad[i], NULL, &err), -EINVAL);
}

static void the_last_of_repeated_keys_counts(void **state)
{
    struct optstr opts;
    struct err err;
    uint64_t size = 0;

    (void)state;
    assert_int_equal(optstr_parse(&opts, "size=1K,size=2M", NULL, &err), 0);
    assert_int_equal(optstr_get_size(&opts, "size", &size, &err), 0);
    assert_int_equal(size, 2 << 20);
    assert_int_equal(optstr_reject_unused(&opts, (const char *const[]){"size", NULL}, &err), 0);
    optstr_free(&opts);
}

static void typed_values_are_checked(void **state)
{
    struct optstr opts;
    struct err err;
    uint64_t number = 7;
    bool flag = true;

    (void)state;
    assert_int_equal(
        optstr_parse(&opts, "n=65,b=maybe,c=off,m=-1,o=99999999999999999999", NULL, &err), 0);
    assert_int_equal(optstr_get_number(&opts, "n", 1, 64, &number, &err), -EINVAL);
    assert_string_equal(err.text, "n=65: expected a number from 1 to 64");
    assert_int_equal(optstr_get_number(&opts, "m", 0, 64, &number, &err), -EINVAL);
    assert_int_equal(optstr_get_number(&opts, "o", 0, UINT64_MAX, &number, &err), -EINVAL);
    assert_int_equal(optstr_get_number(&opts, "absent", 1, 64, &number, &err), 0);
    assert_int_equal(number, 7);
    assert_int_equal(optstr_get_bool(&opts, "b", &flag, &err), -EINVAL);
    assert_int_equal(optstr_get_bool(&opts, "c", &flag, &err), 0);
    assert_false(flag);
    optstr_free(&opts);
}

static void unknown_keys_get_a_suggestion(void **state)
{
    static const char *const known[] = {"format", "readonly", NULL};
    struct optstr opts;
    struct err err;

    (void)state;
    assert_int_equal(optstr_parse(&opts, "fromat=raw", NULL, &err), 0);
    assert_int_equal(optstr_reject_unused(&opts, known, &err), -EINVAL);
    assert_string_equal(err.text, "unknown key 'fromat' (did you mean 'format'?)");
    optstr_free(&opts);
    assert_int_equal(optstr_parse(&opts, "zzzzzzzz=1", NULL, &err), 0);
    assert_int_equal(optstr_reject_unused(&opts, known, &err), -EINVAL);
    assert_string_equal(err.text, "unknown key 'zzzzzzzz'");
    optstr_free(&opts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_items_and_undoubles_commas),
        cmocka_unit_test(first_item_with_a_key_is_not_the_implied_value),
        cmocka_unit_test(malformed_items_are_refused),
        cmocka_unit_test(the_last_of_repeated_keys_counts),
        cmocka_unit_test(typed_values_are_checked),
        cmocka_unit_test(unknown_keys_get_a_suggestion),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
