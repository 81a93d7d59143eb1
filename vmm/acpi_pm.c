#include "acpi_pm.h"

#include <stdint.h>

enum {
    ENABLE = 2,
    CONTROL_LOW = 4,
    CONTROL_HIGH = 5,

    SCI_ENABLE = 0x01,         /* of CONTROL_LOW */
    SLEEP_TYPE_SHIFT = 10 - 8, /* of CONTROL_HIGH */
    SLEEP_TYPE_MASK = 7,
    SLEEP_ENABLE = 1 << (13 - 8),
};

void acpi_pm_init(struct acpi_pm *pm, struct life *life)
{
    pm->life = life;
    for (unsigned i = 0; i < ACPI_PM_SIZE; i++)
        atomic_init(&pm->bytes[i], 0);
    atomic_init(&pm->bytes[CONTROL_LOW], SCI_ENABLE);
}

static void read_registers(void *device, uint64_t offset, void *data, unsigned len)
{
    struct acpi_pm *pm = device;
    uint8_t *out = data;

    for (unsigned i = 0; i < len; i++)
        out[i] = atomic_load(&pm->bytes[offset + i]);
}

static void write_byte(struct acpi_pm *pm, uint64_t at, uint8_t value)
{
    if (at < ENABLE)
        return;
    if (at == CONTROL_LOW)
        value |= SCI_ENABLE;
    if (at == CONTROL_HIGH && (value & SLEEP_ENABLE) != 0) {
        if (((value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK) == ACPI_PM_SLEEP_TYPE_S5)
            life_post(pm->life, LIFE_POWEROFF, 0);
        value &= (uint8_t)~SLEEP_ENABLE;
    }
    atomic_store(&pm->bytes[at], value);
}

static void write_registers(void *device, uint64_t offset, const void *data, unsigned len)
{
    const uint8_t *in = data;

    for (unsigned i = 0; i < len; i++)
        write_byte(device, offset + i, in[i]);
}

const struct bus_ops acpi_pm_bus_ops = {.read = read_registers, .write = write_registers};
