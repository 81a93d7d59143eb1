/* Guest memory: what is a pointer and what is not. */
#include "harness.h"

#include <errno.h>

static uint8_t low[0x1000], high[0x2000];

static void test_ranges_inside_one_region_only(void **state)
{
    struct guestmem mem = {0};

    (void)state;
    assert_int_equal(guestmem_add(&mem, 0, sizeof(low), low), 0);
    /* Right behind it, but other memory. */
    assert_int_equal(guestmem_add(&mem, sizeof(low), sizeof(high), high), 0);

    assert_ptr_equal(guestmem_ptr(&mem, 0, 1), low);
    assert_ptr_equal(guestmem_ptr(&mem, 0, sizeof(low)), low);
    assert_ptr_equal(guestmem_ptr(&mem, 0xfff, 1), low + 0xfff);
    assert_null(guestmem_ptr(&mem, 0xfff, 2));
    assert_ptr_equal(guestmem_ptr(&mem, 0x1000, 0x2000), high);
    assert_null(guestmem_ptr(&mem, 0x1000, 0x2001));
    assert_null(guestmem_ptr(&mem, 0x3000, 1));
    assert_null(guestmem_ptr(&mem, 0, 0));
    assert_null(guestmem_ptr(&mem, UINT64_MAX, 1));
    assert_null(guestmem_ptr(&mem, UINT64_MAX, UINT64_MAX));
    assert_null(guestmem_ptr(&mem, 1, UINT64_MAX));
}

static void test_bad_regions_are_refused(void **state)
{
    struct guestmem mem = {0};

    (void)state;
    assert_int_equal(guestmem_add(&mem, 0x1000, 0, low), -EINVAL);
    assert_int_equal(guestmem_add(&mem, UINT64_MAX - 1, 0x1000, low), -EINVAL);
    assert_int_equal(guestmem_add(&mem, 0x1000, 0x1000, low), 0);
    assert_int_equal(guestmem_add(&mem, 0x1fff, 0x1000, high), -EINVAL);
    assert_int_equal(guestmem_add(&mem, 0, 0x1001, high), -EINVAL);
    assert_int_equal(guestmem_add(&mem, 0x1000, 0x1000, high), -EINVAL);
    for (uint64_t i = 1; i < GUESTMEM_MAX_REGIONS; i++)
        assert_int_equal(guestmem_add(&mem, 0x100000 * i, 0x1000, high), 0);
    assert_int_equal(guestmem_add(&mem, 0x10000000, 0x1000, high), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges_inside_one_region_only),
        cmocka_unit_test(test_bad_regions_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
