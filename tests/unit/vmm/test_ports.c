/* The small platform devices: ACPI PM1, i8042, pvpanic, the reset port and the test exit port. */
#include "acpi_pm.h"
#include "i8042.h"
#include "platform.h"
#include "pvpanic.h"
#include "reset_port.h"
#include "test_exit.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct life life;

static int setup(void **state)
{
    (void)state;
    return life_init(&life);
}

static int teardown(void **state)
{
    (void)state;
    life_destroy(&life);
    return 0;
}

static uint32_t get(const struct bus_ops *ops, void *device, uint64_t offset, unsigned len)
{
    uint32_t value = 0xeeeeeeee;

    ops->read(device, offset, &value, len);
    return len == 4 ? value : value & ((1u << (8 * len)) - 1);
}

static void put(const struct bus_ops *ops, void *device, uint64_t offset, uint32_t value,
                unsigned len)
{
    ops->write(device, offset, &value, len);
}

/* ---- ACPI PM1 ---- */

static void pm1_powers_off_for_s5_only(void **state)
{
    struct acpi_pm pm;

    (void)state;
    acpi_pm_init(&pm, &life);
    for (uint32_t type = 0; type < 8; type++) {
        put(&acpi_pm_bus_ops, &pm, 4, type << 10, 2); /* without SLP_EN */
        assert_int_equal(life_event(&life), LIFE_RUNNING);
        if (type == 5)
            continue;
        put(&acpi_pm_bus_ops, &pm, 4, type << 10 | 1 << 13, 2);
        assert_int_equal(life_event(&life), LIFE_RUNNING);
    }
    put(&acpi_pm_bus_ops, &pm, 4, 5 << 10 | 1 << 13, 2);
    assert_int_equal(life_event(&life), LIFE_POWEROFF);
    assert_int_equal(life_exit_status(&life), 0);
    /* SLP_EN is write-only. */
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 4, 2), 5 << 10 | 1);
}

static void pm1_powers_off_by_a_byte_write(void **state)
{
    struct acpi_pm pm;

    (void)state;
    acpi_pm_init(&pm, &life);
    put(&acpi_pm_bus_ops, &pm, 5, 0x34, 1);
    assert_int_equal(life_event(&life), LIFE_POWEROFF);
}

static void pm1_registers(void **state)
{
    struct acpi_pm pm;

    (void)state;
    acpi_pm_init(&pm, &life);
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 0, 4), 0);
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 4, 2), 1); /* ACPI mode from the start */
    put(&acpi_pm_bus_ops, &pm, 4, 0, 2);
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 4, 2), 1);
    put(&acpi_pm_bus_ops, &pm, 2, 0x0120, 2);
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 2, 2), 0x0120);
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 3, 1), 0x01);
    put(&acpi_pm_bus_ops, &pm, 0, 0xffff, 2); /* write 1 to clear: never sets */
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 0, 2), 0);
    put(&acpi_pm_bus_ops, &pm, 0, 0xabcd0000, 4);
    assert_int_equal(get(&acpi_pm_bus_ops, &pm, 0, 4), 0xabcd0000);
    assert_int_equal(life_event(&life), LIFE_RUNNING);
}

/* ---- i8042 ---- */

static uint8_t status(struct i8042 *i8042)
{
    return (uint8_t)get(&i8042_command_bus_ops, i8042, 0, 1);
}

static void command(struct i8042 *i8042, uint8_t byte)
{
    put(&i8042_command_bus_ops, i8042, 0, byte, 1);
}

/* What every driver waits for: input buffer empty always, output full exactly when data waits. */
static uint8_t answer(struct i8042 *i8042)
{
    uint8_t byte;

    assert_int_equal(status(i8042) & 0x03, 0x01);
    byte = (uint8_t)get(&i8042_data_bus_ops, i8042, 0, 1);
    assert_int_equal(status(i8042) & 0x03, 0x00);
    return byte;
}

static void i8042_answers_a_probe_at_once(void **state)
{
    struct i8042 i8042;
    uint8_t config;

    (void)state;
    i8042_init(&i8042, &life);
    assert_int_equal(status(&i8042), 0x14); /* nothing to flush, not locked */
    command(&i8042, 0x20);
    config = answer(&i8042);
    command(&i8042, 0x60);
    put(&i8042_data_bus_ops, &i8042, 0, config ^ 0x40u, 1);
    assert_int_equal(status(&i8042) & 0x01, 0);
    command(&i8042, 0x20);
    assert_int_equal(answer(&i8042), config ^ 0x40);
    command(&i8042, 0xaa);
    assert_int_equal(answer(&i8042), 0x55);
    command(&i8042, 0xad);
    command(&i8042, 0x20);
    assert_int_equal(answer(&i8042) & 0x10, 0x10);
    command(&i8042, 0xae);
    command(&i8042, 0x20);
    assert_int_equal(answer(&i8042) & 0x10, 0x00);
    command(&i8042, 0xd3); /* the auxiliary loop does not close ... */
    put(&i8042_data_bus_ops, &i8042, 0, 0x5a, 1);
    assert_int_not_equal(answer(&i8042), 0x5a);
    command(&i8042, 0xa9); /* ... and its test says what Linux takes for "no port" */
    config = answer(&i8042);
    assert_true(config != 0 && config != 0xfa && config != 0xff);
    put(&i8042_data_bus_ops, &i8042, 0, 0xff, 1); /* keyboard reset: nobody there */
    assert_int_equal(status(&i8042) & 0x03, 0);
    assert_int_equal(life_event(&life), LIFE_RUNNING);
    i8042_destroy(&i8042);
}

static void i8042_resets(void **state)
{
    static const struct {
        int cmd, data;
        enum life_event event;
    } rows[] = {
        {0xfe, -1, LIFE_REBOOT},
        {0xf0, -1, LIFE_REBOOT},
        {0xff, -1, LIFE_RUNNING},
        {0xfd, -1, LIFE_RUNNING},
        {0xd1, 0x02, LIFE_REBOOT},
        {0xd1, 0xdf, LIFE_RUNNING},
        {0xd1, 0x01, LIFE_RUNNING},
        /* data without its command, and a command that takes the parameter's place */
        {-1, 0xfe, LIFE_RUNNING},
        {-1, 0x00, LIFE_RUNNING},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct i8042 i8042;
        struct life own;

        assert_int_equal(life_init(&own), 0);
        i8042_init(&i8042, &own);
        if (rows[i].cmd >= 0)
            command(&i8042, (uint8_t)rows[i].cmd);
        if (rows[i].data >= 0)
            put(&i8042_data_bus_ops, &i8042, 0, (uint8_t)rows[i].data, 1);
        if (life_event(&own) != rows[i].event)
            fail_msg("row %zu", i);
        i8042_destroy(&i8042);
        life_destroy(&own);
    }
}

static void i8042_a20_stays_open(void **state)
{
    struct i8042 i8042;

    (void)state;
    i8042_init(&i8042, &life);
    command(&i8042, 0xd1);
    put(&i8042_data_bus_ops, &i8042, 0, 0x01, 1);
    command(&i8042, 0xd0);
    assert_int_equal(answer(&i8042) & 0x03, 0x03);
    i8042_destroy(&i8042);
}

/* ---- pvpanic ---- */

static void pvpanic_events(void **state)
{
    static const struct {
        uint8_t value;
        enum life_event event;
    } rows[] = {
        {0, LIFE_RUNNING}, {1, LIFE_PANIC},      {2, LIFE_RUNNING},
        {3, LIFE_PANIC},   {0xfc, LIFE_RUNNING}, {0xff, LIFE_PANIC},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct pvpanic pvpanic;
        struct life own;

        assert_int_equal(life_init(&own), 0);
        pvpanic_init(&pvpanic, &own);
        assert_int_equal(get(&pvpanic_bus_ops, &pvpanic, 0, 1), 3);
        put(&pvpanic_bus_ops, &pvpanic, 0, rows[i].value, 1);
        assert_int_equal(life_event(&own), rows[i].event);
        life_destroy(&own);
    }
}

/* ---- reset port ---- */

static void reset_port_resets_with_bit_2(void **state)
{
    struct reset_port port;

    (void)state;
    reset_port_init(&port, &life);
    assert_int_equal(reset_port_read(&port), 0);
    /* What Linux's reboot=pci does. */
    reset_port_write(&port, 0x02);
    assert_int_equal(life_event(&life), LIFE_RUNNING);
    assert_int_equal(reset_port_read(&port), 0x02);
    reset_port_write(&port, 0xf9);
    assert_int_equal(reset_port_read(&port), 0x08);
    assert_int_equal(life_event(&life), LIFE_RUNNING);
    reset_port_write(&port, 0x0e);
    assert_int_equal(life_event(&life), LIFE_REBOOT);
    assert_int_equal(reset_port_read(&port), 0x0a);
}

/* ---- test exit ---- */

static void test_exit_carries_seven_bits(void **state)
{
    static const struct {
        uint32_t value;
        unsigned len;
        int status;
    } rows[] = {{0, 1, 0}, {77, 1, 77}, {0x1ff, 2, 0x7f}, {0x12345678, 4, 0x78}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct life own;

        assert_int_equal(life_init(&own), 0);
        put(&test_exit_bus_ops, &own, 1, 0x55, 1); /* not the port itself */
        assert_int_equal(life_event(&own), LIFE_RUNNING);
        assert_int_equal(get(&test_exit_bus_ops, &own, 0, rows[i].len), 0);
        put(&test_exit_bus_ops, &own, 0, rows[i].value, rows[i].len);
        assert_int_equal(life_event(&own), LIFE_TEST_EXIT);
        assert_int_equal(life_exit_status(&own), rows[i].status);
        life_destroy(&own);
    }
}

/* ---- the platform on its bus ---- */

static void no_irq(void *controller, unsigned gsi, bool level)
{
    (void)controller;
    (void)gsi;
    (void)level;
}

static uint8_t port_in(const struct bus *bus, uint16_t port)
{
    uint8_t value = 0;

    bus_read(bus, port, &value, 1);
    return value;
}

static void port_out(const struct bus *bus, uint16_t port, uint8_t value)
{
    bus_write(bus, port, &value, 1);
}

static void platform_claims_its_ports(void **state)
{
    struct bus pio = {.count = 0};
    const struct platform_options options = {
        .pio = &pio, .life = &life, .com1 = {.set = no_irq, .gsi = 4}};
    struct platform *platform;
    struct err err;

    (void)state;
    assert_int_equal(platform_create(&options, &platform, &err), 0);
    assert_non_null(platform_com1(platform));
    port_out(&pio, 0x3ff, 0x5c);
    assert_int_equal(port_in(&pio, 0x3ff), 0x5c);
    assert_int_equal(port_in(&pio, 0x64), 0x14);
    assert_int_equal(port_in(&pio, 0x60), 0x00);
    assert_int_equal(port_in(&pio, 0x505), 0x03);
    assert_int_equal(port_in(&pio, 0x604), 0x01);
    /* No clock, no POST port, no exit port unless asked for. */
    port_out(&pio, 0x70, 0x0a);
    assert_int_equal(port_in(&pio, 0x70), 0xff);
    assert_int_equal(port_in(&pio, 0x71), 0xff);
    port_out(&pio, 0x80, 0x55);
    port_out(&pio, 0xf4, 0x05);
    assert_int_equal(life_event(&life), LIFE_RUNNING);
    platform_reset_port_write(platform, 0x02);
    assert_int_equal(platform_reset_port_read(platform), 0x02);
    port_out(&pio, 0x64, 0xfe);
    assert_int_equal(life_event(&life), LIFE_REBOOT);
    platform_destroy(platform);
}

static void platform_with_the_test_device(void **state)
{
    struct bus pio = {.count = 0};
    const struct platform_options options = {
        .pio = &pio, .life = &life, .com1 = {.set = no_irq, .gsi = 4}, .test_device = true};
    struct platform *platform, *again;
    struct err err;

    (void)state;
    assert_int_equal(platform_create(&options, &platform, &err), 0);
    assert_int_equal(platform_create(&options, &again, &err), -EEXIST);
    port_out(&pio, 0xf4, 0x05);
    assert_int_equal(life_event(&life), LIFE_TEST_EXIT);
    assert_int_equal(life_exit_status(&life), 5);
    platform_destroy(platform);
    platform_destroy(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pm1_powers_off_for_s5_only),
        TEST(pm1_powers_off_by_a_byte_write),
        TEST(pm1_registers),
        TEST(i8042_answers_a_probe_at_once),
        TEST(i8042_resets),
        TEST(i8042_a20_stays_open),
        TEST(pvpanic_events),
        TEST(reset_port_resets_with_bit_2),
        TEST(test_exit_carries_seven_bits),
        TEST(platform_claims_its_ports),
        TEST(platform_with_the_test_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
