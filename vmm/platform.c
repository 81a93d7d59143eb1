/*
 * platform.c - see platform.h.
 *
 * Ports that nothing claims read as all ones and swallow writes (bus.h). That is all that the CMOS
 * clock (0x70, 0x71: the FADT says that there is none), the POST port (0x80) and the rest of a PC's
 * board need to be.
 */
#include "platform.h"

#include "acpi_pm.h"
#include "checked.h"
#include "i8042.h"
#include "layout.h"
#include "pvpanic.h"
#include "reset_port.h"
#include "serial.h"
#include "test_exit.h"

#include <errno.h>
#include <stdlib.h>

struct platform {
    struct serial *com1;
    struct i8042 i8042;
    struct pvpanic pvpanic;
    struct acpi_pm acpi_pm;
    struct reset_port reset_port;
};

static int add_to_bus(struct platform *platform, const struct platform_options *options)
{
    const struct bus_range ranges[] = {
        {LAYOUT_PORT_COM1, 8, &serial_bus_ops, platform->com1},
        {LAYOUT_PORT_I8042, 1, &i8042_data_bus_ops, &platform->i8042},
        {LAYOUT_PORT_I8042 + 4, 1, &i8042_command_bus_ops, &platform->i8042},
        {LAYOUT_PORT_PVPANIC, 1, &pvpanic_bus_ops, &platform->pvpanic},
        {LAYOUT_PORT_ACPI_PM1, ACPI_PM_SIZE, &acpi_pm_bus_ops, &platform->acpi_pm},
        {LAYOUT_PORT_TEST_EXIT, TEST_EXIT_SIZE, &test_exit_bus_ops, options->life},
    };
    unsigned count = ARRAY_LEN(ranges) - (options->test_device ? 0 : 1);

    for (unsigned i = 0; i < count; i++) {
        int rc =
            bus_add(options->pio, ranges[i].start, ranges[i].size, ranges[i].ops, ranges[i].device);

        if (rc < 0)
            return rc;
    }
    return 0;
}

int platform_create(const struct platform_options *options, struct platform **out, struct err *err)
{
    struct platform *platform = calloc(1, sizeof(*platform));
    int rc;

    if (platform == NULL)
        return err_set(err, -ENOMEM, "out of memory");
    i8042_init(&platform->i8042, options->life);
    pvpanic_init(&platform->pvpanic, options->life);
    acpi_pm_init(&platform->acpi_pm, options->life);
    reset_port_init(&platform->reset_port, options->life);
    platform->com1 = serial_create(&options->com1);
    rc = platform->com1 != NULL ? add_to_bus(platform, options) : -ENOMEM;
    if (rc < 0) {
        platform_destroy(platform);
        return err_set_errno(err, rc, "cannot set up the platform devices");
    }
    *out = platform;
    return 0;
}

void platform_destroy(struct platform *platform)
{
    if (platform == NULL)
        return;
    serial_destroy(platform->com1);
    i8042_destroy(&platform->i8042);
    free(platform);
}

struct serial *platform_com1(struct platform *platform)
{
    return platform->com1;
}

uint8_t platform_reset_port_read(struct platform *platform)
{
    return reset_port_read(&platform->reset_port);
}

void platform_reset_port_write(struct platform *platform, uint8_t value)
{
    reset_port_write(&platform->reset_port, value);
}
