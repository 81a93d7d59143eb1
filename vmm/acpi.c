/*
 * acpi.c - RSDP, XSDT, FADT, FACS, MADT, MCFG and the frame of the DSDT.
 *
 * The machine is not "hardware-reduced": with that flag Linux gives up the PIC and PIT, and the serial
 * port its interrupt. It has the PM1a block in ACPI mode from the start (no SMI command port), no PM
 * timer and no general-purpose events.
 *
 * All tables lie one behind the other from LAYOUT_ACPI_START on, the RSDP first, where a search
 * finds it as well.
 */
#include "acpi.h"

#include "acpi_private.h"
#include "bytes.h"
#include "checked.h"
#include "layout.h"

#include <errno.h>

enum {
    HEADER_SIZE = 36,
    RSDP_SIZE = 36,
    FADT_SIZE = 276, /* revision 6 */
    FACS_SIZE = 64,
    MCFG_SIZE = HEADER_SIZE + 8 + 16,
};

#define OEM_ID "MINIVM"

/* Byte offsets in the FADT (section 5.2.9). */
enum {
    FADT_FIRMWARE_CTRL = 36,
    FADT_DSDT = 40,
    FADT_SCI_INT = 46,
    FADT_PM1A_EVT_BLK = 56,
    FADT_PM1A_CNT_BLK = 64,
    FADT_PM1_EVT_LEN = 88,
    FADT_PM1_CNT_LEN = 89,
    FADT_P_LVL2_LAT = 96,
    FADT_P_LVL3_LAT = 98,
    FADT_IAPC_BOOT_ARCH = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REG = 116,
    FADT_RESET_VALUE = 128,
    FADT_MINOR_VERSION = 131,
    FADT_X_DSDT = 140,
    FADT_X_PM1A_EVT_BLK = 148,
    FADT_X_PM1A_CNT_BLK = 172,
};

enum {
    BOOT_ARCH_8042 = 1 << 1,
    BOOT_ARCH_NO_VGA = 1 << 2,
    BOOT_ARCH_NO_CMOS_RTC = 1 << 5,

    FADT_FLAG_WBINVD = 1 << 0,
    FADT_FLAG_PROC_C1 = 1 << 2,
    FADT_FLAG_NO_POWER_BUTTON = 1 << 4, /* as a fixed event */
    FADT_FLAG_NO_SLEEP_BUTTON = 1 << 5,
    FADT_FLAG_NO_RTC_WAKE = 1 << 6,
    FADT_FLAG_RESET_REG = 1 << 10,
    FADT_FLAG_HEADLESS = 1 << 12,

    RESET_VALUE = 6, /* of port 0xcf9: a full reset */

    POLARITY_HIGH = 1, /* MPS INTI flags of the MADT */
    TRIGGER_LEVEL = 3 << 2,
};

struct tables {
    uint8_t *base; /* of the ACPI area */
    size_t used;
    bool overflow;
};

static uint64_t gpa_of(const struct tables *tables, const uint8_t *table)
{
    return LAYOUT_ACPI_START + (uint64_t)(table - tables->base);
}

static uint8_t *reserve(struct tables *tables, size_t size, size_t align)
{
    size_t at = (size_t)align_up(tables->used, align);

    if (!range_within(at, size, LAYOUT_ACPI_END - LAYOUT_ACPI_START)) {
        tables->overflow = true;
        at = 0;
    } else {
        tables->used = at + size;
    }
    return tables->base + at;
}

static uint8_t checksum(const uint8_t *bytes, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

static uint8_t *begin(struct tables *tables, size_t size)
{
    return reserve(tables, size, 16);
}

/* Text of a fixed length, without a NUL. */
static void put_text(uint8_t *at, const char *text)
{
    while (*text)
        *at++ = (uint8_t)*text++;
}

/* Fills the common header (section 5.2.6) of a table that is complete otherwise. */
static void finish(uint8_t *table, const char *signature, uint8_t revision, size_t size)
{
    put_text(table, signature);
    store_le32(table + 4, (uint32_t)size);
    table[8] = revision;
    put_text(table + 10, OEM_ID);
    put_text(table + 16, "MINIVMM "); /* OEM table ID */
    store_le32(table + 24, 1);        /* OEM revision */
    put_text(table + 28, "MVMM");     /* creator */
    store_le32(table + 32, 1);
    table[9] = 0;
    table[9] = checksum(table, size);
}

static void put_gas_port(uint8_t *at, uint16_t port, unsigned bytes)
{
    at[0] = 1; /* system I/O */
    at[1] = (uint8_t)(bytes * 8);
    at[3] = (uint8_t)(bytes == 1 ? 1 : bytes == 2 ? 2 : 3); /* access size */
    store_le64(at + 4, port);
}

static uint8_t *put_dsdt(struct tables *tables)
{
    size_t room = LAYOUT_ACPI_END - LAYOUT_ACPI_START, at = (size_t)align_up(tables->used, 16);
    struct aml aml = {.bytes = tables->base + at, .used = HEADER_SIZE, .size = room - at};

    acpi_dsdt(&aml);
    tables->overflow |= aml.overflow;
    tables->used = at + aml.used;
    finish(aml.bytes, "DSDT", 2, aml.used);
    return aml.bytes;
}

static uint8_t *put_facs(struct tables *tables)
{
    uint8_t *facs = reserve(tables, FACS_SIZE, 64);

    put_text(facs, "FACS");
    store_le32(facs + 4, FACS_SIZE);
    facs[32] = 2; /* version */
    return facs;
}

static uint8_t *put_fadt(struct tables *tables, const uint8_t *facs, const uint8_t *dsdt)
{
    uint8_t *fadt = begin(tables, FADT_SIZE);
    const uint16_t event = LAYOUT_PORT_ACPI_PM1, control = LAYOUT_PORT_ACPI_PM1 + 4;

    store_le32(fadt + FADT_FIRMWARE_CTRL, (uint32_t)gpa_of(tables, facs));
    store_le32(fadt + FADT_DSDT, (uint32_t)gpa_of(tables, dsdt));
    store_le64(fadt + FADT_X_DSDT, gpa_of(tables, dsdt));
    store_le16(fadt + FADT_SCI_INT, LAYOUT_GSI_SCI);
    store_le32(fadt + FADT_PM1A_EVT_BLK, event);
    store_le32(fadt + FADT_PM1A_CNT_BLK, control);
    fadt[FADT_PM1_EVT_LEN] = 4;
    fadt[FADT_PM1_CNT_LEN] = 2;
    put_gas_port(fadt + FADT_X_PM1A_EVT_BLK, event, 4);
    put_gas_port(fadt + FADT_X_PM1A_CNT_BLK, control, 2);
    /* Above 100 and 1000: no C2 and no C3. */
    store_le16(fadt + FADT_P_LVL2_LAT, 101);
    store_le16(fadt + FADT_P_LVL3_LAT, 1001);
    store_le16(fadt + FADT_IAPC_BOOT_ARCH,
               BOOT_ARCH_8042 | BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS_RTC);
    store_le32(fadt + FADT_FLAGS, FADT_FLAG_WBINVD | FADT_FLAG_PROC_C1 | FADT_FLAG_NO_POWER_BUTTON |
                                      FADT_FLAG_NO_SLEEP_BUTTON | FADT_FLAG_NO_RTC_WAKE |
                                      FADT_FLAG_RESET_REG | FADT_FLAG_HEADLESS);
    put_gas_port(fadt + FADT_RESET_REG, LAYOUT_PORT_RESET, 1);
    fadt[FADT_RESET_VALUE] = RESET_VALUE;
    fadt[FADT_MINOR_VERSION] = 3;
    finish(fadt, "FACP", 6, FADT_SIZE);
    return fadt;
}

static uint8_t *put_override(uint8_t *at, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    at[0] = 2; /* interrupt source override */
    at[1] = 10;
    at[2] = 0; /* ISA */
    at[3] = irq;
    store_le32(at + 4, gsi);
    store_le16(at + 8, flags);
    return at + at[1];
}

static uint8_t *put_madt(struct tables *tables, unsigned cpus)
{
    const size_t size = HEADER_SIZE + 8 + cpus * 8 + 12 + 2 * 10 + 6;
    uint8_t *madt = begin(tables, size), *at = madt + HEADER_SIZE;

    if (tables->overflow)
        return madt;
    store_le32(at, (uint32_t)LAYOUT_LAPIC);
    store_le32(at + 4, 1); /* a PIC is there too */
    at += 8;
    for (unsigned i = 0; i < cpus; i++, at += 8) {
        at[0] = 0; /* local APIC */
        at[1] = 8;
        at[2] = (uint8_t)i;    /* processor UID */
        at[3] = (uint8_t)i;    /* APIC id */
        store_le32(at + 4, 1); /* enabled */
    }
    at[0] = 1; /* IOAPIC 0, from GSI 0 on */
    at[1] = 12;
    store_le32(at + 4, (uint32_t)LAYOUT_IOAPIC);
    at += at[1];
    at = put_override(at, 0, 2, 0); /* the PIT, on pin 2 (kvm_irq.c) */
    at = put_override(at, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, POLARITY_HIGH | TRIGGER_LEVEL);
    at[0] = 4; /* NMI on LINT1 of every processor */
    at[1] = 6;
    at[2] = 0xff;
    at[5] = 1;
    finish(madt, "APIC", 5, size);
    return madt;
}

static uint8_t *put_mcfg(struct tables *tables)
{
    uint8_t *mcfg = begin(tables, MCFG_SIZE);

    /* One window: segment 0, buses 0 to 0. */
    store_le64(mcfg + HEADER_SIZE + 8, LAYOUT_ECAM_START);
    finish(mcfg, "MCFG", 1, MCFG_SIZE);
    return mcfg;
}

static void put_rsdp(uint8_t *rsdp, uint64_t xsdt)
{
    put_text(rsdp, "RSD PTR ");
    put_text(rsdp + 9, OEM_ID);
    rsdp[15] = 2; /* revision: with an XSDT */
    store_le32(rsdp + 20, RSDP_SIZE);
    store_le64(rsdp + 24, xsdt);
    rsdp[8] = checksum(rsdp, 20);
    rsdp[32] = checksum(rsdp, RSDP_SIZE);
}

int acpi_write_tables(const struct guestmem *mem, unsigned cpus, uint64_t *rsdp, struct err *err)
{
    struct tables tables = {
        .base = guestmem_ptr(mem, LAYOUT_ACPI_START, LAYOUT_ACPI_END - LAYOUT_ACPI_START)};
    const uint8_t *listed[3];
    uint8_t *root, *xsdt, *facs, *dsdt;

    if (!tables.base)
        return err_set(err, -ENOMEM, "no guest memory for the ACPI tables");
    root = reserve(&tables, RSDP_SIZE, 16);
    dsdt = put_dsdt(&tables);
    facs = put_facs(&tables);
    listed[0] = put_fadt(&tables, facs, dsdt);
    listed[1] = put_madt(&tables, cpus);
    listed[2] = put_mcfg(&tables);
    xsdt = begin(&tables, HEADER_SIZE + sizeof(uint64_t) * ARRAY_LEN(listed));
    if (tables.overflow)
        return err_set(err, -ENOSPC, "the ACPI tables of %u CPUs do not fit", cpus);
    for (size_t i = 0; i < ARRAY_LEN(listed); i++)
        store_le64(xsdt + HEADER_SIZE + 8 * i, gpa_of(&tables, listed[i]));
    finish(xsdt, "XSDT", 1, HEADER_SIZE + sizeof(uint64_t) * ARRAY_LEN(listed));
    put_rsdp(root, gpa_of(&tables, xsdt));
    *rsdp = gpa_of(&tables, root);
    return 0;
}
