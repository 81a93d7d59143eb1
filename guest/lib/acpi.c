/* acpi.c - finding ACPI tables. */
#include "acpi.h"
#include "lib.h"

enum {
    RSDP_REVISION = 15,
    RSDP_RSDT = 16,
    RSDP_XSDT = 24,
    FADT_DSDT = 40,
    FADT_X_DSDT = 140,
    MCFG_BASE = 44,
    PARAMS_RSDP = 0x70
};

bool acpi_checksum_ok(const void *table, uint32_t length)
{
    const uint8_t *byte = table;
    uint8_t sum = 0;

    while (length--)
        sum = (uint8_t)(sum + *byte++);
    return sum == 0;
}

uint32_t acpi_load32(const void *table, unsigned offset)
{
    uint32_t value;

    __builtin_memcpy(&value, (const uint8_t *)table + offset, sizeof(value));
    return value;
}

uint64_t acpi_load64(const void *table, unsigned offset)
{
    return (uint64_t)acpi_load32(table, offset + 4) << 32 | acpi_load32(table, offset);
}

const uint8_t *acpi_rsdp(void)
{
    uint64_t address = 0;

    if (boot_start_info)
        address = boot_start_info->rsdp;
    else if (boot_params)
        address = acpi_load64(boot_params, PARAMS_RSDP);
    if (!address || memcmp(at(address), "RSD PTR ", 8) != 0)
        return NULL;
    return at(address);
}

static const struct acpi_header *find_in(const struct acpi_header *root, unsigned entry_size,
                                         const char *signature)
{
    for (unsigned i = sizeof(*root); i + entry_size <= root->length; i += entry_size) {
        uint64_t address = entry_size == 8 ? acpi_load64(root, i) : acpi_load32(root, i);

        if (memcmp(at(address), signature, 4) == 0)
            return at(address);
    }
    return NULL;
}

const struct acpi_header *acpi_find(const char *signature)
{
    const uint8_t *rsdp = acpi_rsdp();
    uint64_t xsdt;

    if (!rsdp)
        return NULL;
    if (memcmp(signature, "DSDT", 4) == 0) {
        const struct acpi_header *fadt = acpi_find("FACP");
        uint64_t dsdt = 0;

        if (fadt && fadt->length >= FADT_X_DSDT + 8)
            dsdt = acpi_load64(fadt, FADT_X_DSDT);
        if (fadt && !dsdt)
            dsdt = acpi_load32(fadt, FADT_DSDT);
        return at(dsdt);
    }
    xsdt = rsdp[RSDP_REVISION] >= 2 ? acpi_load64(rsdp, RSDP_XSDT) : 0;
    if (xsdt)
        return find_in(at(xsdt), 8, signature);
    return find_in(at(acpi_load32(rsdp, RSDP_RSDT)), 4, signature);
}

uint64_t acpi_ecam(void)
{
    const struct acpi_header *mcfg = acpi_find("MCFG");

    return mcfg ? acpi_load64(mcfg, MCFG_BASE) : 0;
}
