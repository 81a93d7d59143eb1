#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "checked.h"
#include "size.h"

static void sizes_are_parsed_as_qemu_does(void **state)
{
    static const struct {
        const char *text;
        char suffix;
        int rc;
        uint64_t bytes;
    } cases[] = {
        {"0", 'B', 0, 0},
        {"4096", 'B', 0, 4096},
        {"64k", 'B', 0, 65536},
        {"64K", 'B', 0, 65536},
        {"1.5M", 'B', 0, 3 << 19},
        {"10G", 'B', 0, UINT64_C(10) << 30},
        {"256", 'M', 0, UINT64_C(256) << 20},
        {"0x200", 'B', 0, 512},
        {"7E", 'B', 0, UINT64_C(7) << 60},
        {"8E", 'B', -ERANGE, 0},
        {"9223372036854775807", 'B', 0, INT64_MAX},
        {"9223372036854775808", 'B', -ERANGE, 0},
        {"99999999999999999999999", 'B', -ERANGE, 0},
        {"-1", 'B', -ERANGE, 0},
        {"1.5", 'B', -EINVAL, 0},
        {"1.", 'K', -EINVAL, 0},
        {"", 'B', -EINVAL, 0},
        {" 1", 'B', -EINVAL, 0},
        {"1x", 'B', -EINVAL, 0},
        {"1KB", 'B', -EINVAL, 0},
        {"K", 'B', -EINVAL, 0},
        {"nan", 'B', -EINVAL, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t bytes = 0;

        assert_int_equal(size_parse(cases[i].text, cases[i].suffix, &bytes), cases[i].rc);
        if (cases[i].rc == 0)
            assert_int_equal(bytes, cases[i].bytes);
    }
}

static void sizes_are_printed_as_qemu_does(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {512, "512 B"},
        {999, "999 B"},
        {1000, "0.977 KiB"},
        {196 * 1024, "196 KiB"},
        {UINT64_C(10) << 30, "10 GiB"},
        {1471026299, "1.37 GiB"},
        {UINT64_C(1) << 63, "8 EiB"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char out[SIZE_TEXT_MAX];

        assert_string_equal(size_format(cases[i].bytes, out), cases[i].text);
    }
}

static void checked_arithmetic_never_wraps(void **state)
{
    uint64_t out;

    (void)state;
    assert_false(add_u64(UINT64_MAX, 1, &out));
    assert_true(add_u64(UINT64_MAX, 0, &out));
    assert_false(mul_u64(UINT64_C(1) << 33, UINT64_C(1) << 31, &out));
    assert_true(range_within(10, 5, 15));
    assert_false(range_within(10, 6, 15));
    assert_false(range_within(16, 0, 15));
    assert_false(range_within(1, UINT64_MAX, 15));
    assert_true(ranges_overlap(0, 10, 9, 1));
    assert_false(ranges_overlap(0, 10, 10, 1));
    assert_false(ranges_overlap(5, 0, 0, 10));
    assert_int_equal(align_up(513, 512), 1024);
    assert_int_equal(align_up(512, 512), 512);
    assert_int_equal(align_down(1023, 512), 512);
    assert_int_equal(div_round_up(UINT64_MAX, 2), (UINT64_C(1) << 63));
    assert_false(is_power_of_2(0));
    assert_true(is_power_of_2(UINT64_C(1) << 63));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_parsed_as_qemu_does),
        cmocka_unit_test(sizes_are_printed_as_qemu_does),
        cmocka_unit_test(checked_arithmetic_never_wraps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
