/* acpi_poweroff - finds the power management ports as an operating system does, and enters S5. */
#include "acpi.h"
#include "lib.h"

enum { FADT_PM1A_CONTROL = 64, SLEEP_ENABLE = 1 << 13 };

/* The sleep type of \_S5: Name (_S5, Package () {type, ...}), as AML encodes it. */
static int sleep_type(const struct acpi_header *dsdt)
{
    const uint8_t *p = (const uint8_t *)dsdt, *end = p + dsdt->length - 8;

    for (p += sizeof(*dsdt); p < end; p++) {
        if (p[0] != '_' || memcmp(p, "_S5_\x12", 5) != 0)
            continue;
        p += 5;
        p += (*p >> 6) + 2; /* package length, number of elements */
        return *p == 0x0a ? p[1] : *p == 0x01 ? 1 : 0;
    }
    return -1;
}

int main(void)
{
    const struct acpi_header *fadt = acpi_find("FACP"), *dsdt = acpi_find("DSDT");
    int type;

    if (!check(fadt && dsdt, "RSDP, FADT and DSDT are there"))
        return 0;
    check(acpi_checksum_ok(fadt, fadt->length), "the FADT's checksum");
    check(acpi_checksum_ok(dsdt, dsdt->length), "the DSDT's checksum");
    type = sleep_type(dsdt);
    check(type >= 0, "the DSDT names the sleep type of S5");
    if (failures())
        return 0;
    say("powering off\n");
    out16((uint16_t)acpi_load32(fadt, FADT_PM1A_CONTROL), (uint16_t)(type << 10 | SLEEP_ENABLE));
    (void)WAIT_FOR(false, SHORT_WAIT);
    check(false, "the machine is off");
    return 0;
}
