/* Accesses reach the range that holds all of them, and nothing else. */
#include "bus.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

struct device {
    uint64_t offset, value;
    unsigned len, reads, writes;
};

static void device_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
    struct device *device = opaque;

    device->offset = offset;
    device->len = len;
    device->reads++;
    memset(data, 0x5a, len);
}

static void device_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
    struct device *device = opaque;

    device->offset = offset;
    device->len = len;
    device->value = 0;
    device->writes++;
    memcpy(&device->value, data, len);
}

static const struct bus_ops ops = {.read = device_read, .write = device_write};

static void ranges_are_added_in_any_order_and_refused_when_they_overlap(void **state)
{
    struct bus bus = {0};
    struct device device = {0};

    (void)state;
    assert_int_equal(bus_add(&bus, 0x300, 8, &ops, &device), 0);
    assert_int_equal(bus_add(&bus, 0x100, 0x10, &ops, &device), 0);
    assert_int_equal(bus_add(&bus, 0x200, 1, &ops, &device), 0);
    assert_int_equal(bus_add(&bus, 0x308, 8, &ops, &device), 0);
    assert_int_equal(bus_add(&bus, 0x2f8, 8, &ops, &device), 0);

    assert_int_equal(bus_add(&bus, 0x300, 8, &ops, &device), -EEXIST);
    assert_int_equal(bus_add(&bus, 0x10f, 2, &ops, &device), -EEXIST);
    assert_int_equal(bus_add(&bus, 0xff, 2, &ops, &device), -EEXIST);
    assert_int_equal(bus_add(&bus, 0, 0x1000, &ops, &device), -EEXIST);
    assert_int_equal(bus_add(&bus, 0x104, 2, &ops, &device), -EEXIST);
    assert_int_equal(bus_add(&bus, 0x500, 0, &ops, &device), -EINVAL);
    assert_int_equal(bus_add(&bus, UINT64_MAX, 2, &ops, &device), -EINVAL);

    assert_int_equal(bus.count, 5);
    for (unsigned i = 1; i < bus.count; i++)
        assert_true(bus.ranges[i - 1].start < bus.ranges[i].start);
}

static void a_full_table_refuses_one_more(void **state)
{
    struct bus bus = {0};

    (void)state;
    for (uint64_t i = 0; i < BUS_MAX_RANGES; i++)
        assert_int_equal(bus_add(&bus, i * 16, 1, &ops, NULL), 0);
    assert_int_equal(bus_add(&bus, 0x10000, 1, &ops, NULL), -ENOSPC);
}

static void an_access_goes_to_the_range_that_holds_all_of_it(void **state)
{
    static const struct {
        uint64_t address;
        unsigned len;
        int device; /* -1: nobody */
        uint64_t offset;
    } rows[] = {
        {0x100, 1, 0, 0}, {0x104, 4, 0, 4},       {0x107, 1, 0, 7},          {0x108, 4, 1, 0},
        {0x10f, 1, 1, 7}, {0x108, 8, 1, 0},       {0x106, 4, -1, 0}, /* across two ranges */
        {0xff, 1, -1, 0}, {0xff, 2, -1, 0},       {0x110, 1, -1, 0},         {0x10e, 4, -1, 0},
        {0, 8, -1, 0},    {UINT64_MAX, 8, -1, 0}, {UINT64_MAX - 7, 8, 2, 8},
    };
    struct device devices[3];
    struct bus bus = {0};

    (void)state;
    assert_int_equal(bus_add(&bus, 0x108, 8, &ops, &devices[1]), 0);
    assert_int_equal(bus_add(&bus, 0x100, 8, &ops, &devices[0]), 0);
    assert_int_equal(bus_add(&bus, UINT64_MAX - 15, 15, &ops, &devices[2]), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t value = 0x1122334455667788;
        bool held = rows[i].device >= 0 && rows[i].offset + rows[i].len <= 15;

        memset(devices, 0, sizeof(devices));
        assert_int_equal(bus_write(&bus, rows[i].address, &value, rows[i].len), held);
        assert_int_equal(bus_read(&bus, rows[i].address, &value, rows[i].len), held);
        assert_int_equal(value & 0xff, held ? 0x5a : 0xff);
        for (int d = 0; d < 3; d++) {
            assert_int_equal(devices[d].reads, held && d == rows[i].device);
            assert_int_equal(devices[d].writes, held && d == rows[i].device);
            if (devices[d].reads) {
                assert_int_equal(devices[d].offset, rows[i].offset);
                assert_int_equal(devices[d].len, rows[i].len);
            }
        }
    }
}

static void nobody_reads_as_all_ones_in_the_width_of_the_access(void **state)
{
    const struct bus bus = {0};

    (void)state;
    for (unsigned len = 1; len <= 8; len *= 2) {
        uint8_t data[9] = {0};

        assert_false(bus_read(&bus, 0x80, data, len));
        for (unsigned i = 0; i < 9; i++)
            assert_int_equal(data[i], i < len ? 0xff : 0);
        assert_false(bus_write(&bus, 0x80, data, len));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_added_in_any_order_and_refused_when_they_overlap),
        cmocka_unit_test(a_full_table_refuses_one_more),
        cmocka_unit_test(an_access_goes_to_the_range_that_holds_all_of_it),
        cmocka_unit_test(nobody_reads_as_all_ones_in_the_width_of_the_access),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
