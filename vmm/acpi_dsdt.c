/*
 * acpi_dsdt.c - the devices that a guest cannot find by itself: the PCI root, what of the address map is
 * taken, the serial port, pvpanic; and the sleep type that switches the machine off.
 */
#include "acpi_private.h"

#include "acpi_pm.h"
#include "layout.h"

static void sleep_states(struct aml *aml)
{
    aml_mark package;

    aml_name(aml, "\\_S5_");
    package = aml_open_package(aml, 4);
    aml_integer(aml, ACPI_PM_SLEEP_TYPE_S5); /* PM1a */
    aml_integer(aml, 0);                     /* PM1b, which is not there */
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_close(aml, package);
}

/* No _PRT: functions interrupt by MSI-X alone. */
static void pci_root(struct aml *aml)
{
    aml_mark device = aml_open_device(aml, "PCI0");
    struct aml_resources resources;

    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A08");
    aml_name(aml, "_CID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name_integer(aml, "_SEG", 0);
    aml_name_integer(aml, "_BBN", 0);
    aml_name_integer(aml, "_UID", 0);
    aml_name(aml, "_CRS");
    resources = aml_open_resources(aml);
    aml_bus_window(aml, 0, 0);
    aml_io(aml, LAYOUT_PORT_PCI_ADDR, 8);
    aml_io_window(aml, 0, LAYOUT_PORT_PCI_ADDR - 1);
    aml_io_window(aml, LAYOUT_PORT_PCI_ADDR + 8, 0xffff);
    aml_memory_window(aml, (uint32_t)LAYOUT_PCI_START, (uint32_t)(LAYOUT_PCI_END - 1));
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

/* Motherboard resources: Linux uses ECAM only when somebody has reserved it. */
static void board(struct aml *aml)
{
    aml_mark device = aml_open_device(aml, "MBRD");
    struct aml_resources resources;

    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0C02");
    aml_name_integer(aml, "_UID", 0);
    aml_name(aml, "_CRS");
    resources = aml_open_resources(aml);
    aml_memory32_fixed(aml, (uint32_t)LAYOUT_ECAM_START, (uint32_t)LAYOUT_ECAM_SIZE);
    aml_io(aml, LAYOUT_PORT_ACPI_PM1, ACPI_PM_SIZE);
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

static void com1(struct aml *aml)
{
    aml_mark device = aml_open_device(aml, "COM1");
    struct aml_resources resources;

    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0501");
    aml_name_integer(aml, "_UID", 1);
    aml_name(aml, "_CRS");
    resources = aml_open_resources(aml);
    aml_io(aml, LAYOUT_PORT_COM1, 8);
    aml_irq(aml, LAYOUT_GSI_COM1);
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

/* The interface of QEMU's docs/specs/pvpanic.txt. */
static void pvpanic(struct aml *aml)
{
    enum { OP_STORE = 0x70, OP_ARG0 = 0x68, OP_RETURN = 0xa4 };
    aml_mark device = aml_open_device(aml, "PEVT"), method;
    struct aml_resources resources;

    aml_name(aml, "_HID");
    aml_string(aml, "QEMU0001");
    aml_name_integer(aml, "_STA", 0xf); /* present, enabled, shown, working */
    aml_name(aml, "_CRS");
    resources = aml_open_resources(aml);
    aml_io(aml, LAYOUT_PORT_PVPANIC, 1);
    aml_close_resources(aml, resources);
    aml_port_field(aml, "PEOR", "PEPT", LAYOUT_PORT_PVPANIC, 1);
    method = aml_open_method(aml, "RDPT", 0);
    aml_byte(aml, OP_RETURN);
    aml_bytes(aml, "PEPT", 4);
    aml_close(aml, method);
    method = aml_open_method(aml, "WRPT", 1);
    aml_byte(aml, OP_STORE);
    aml_byte(aml, OP_ARG0);
    aml_bytes(aml, "PEPT", 4);
    aml_close(aml, method);
    aml_close(aml, device);
}

void acpi_dsdt(struct aml *aml)
{
    aml_mark scope;

    sleep_states(aml);
    scope = aml_open_scope(aml, "\\_SB_");
    pci_root(aml);
    board(aml);
    com1(aml);
    pvpanic(aml);
    aml_close(aml, scope);
}
