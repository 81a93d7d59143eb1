/*
 * layout.h - the guest-physical and port address map of the machine. docs/architecture.md draws it.
 */
#ifndef VMM_LAYOUT_H
#define VMM_LAYOUT_H

/* RAM fills [0, LAYOUT_HOLE_START) and goes on at 4 GiB. */
#define LAYOUT_HOLE_START 0xc0000000ULL
#define LAYOUT_HOLE_END   0x100000000ULL
/* PCI memory window for BARs. */
#define LAYOUT_PCI_START 0xc0000000ULL
#define LAYOUT_PCI_END   0xe0000000ULL
/* Enhanced configuration access: bus 0 alone, 32 devices of 8 functions of 4 KiB. */
#define LAYOUT_ECAM_START 0xe0000000ULL
#define LAYOUT_ECAM_SIZE  0x00100000ULL
#define LAYOUT_IOAPIC     0xfec00000ULL
#define LAYOUT_LAPIC      0xfee00000ULL
/* Pages that KVM wants on Intel hosts, below the BIOS area that this machine does not have. */
#define LAYOUT_IDENTITY_MAP 0xfffbc000ULL
#define LAYOUT_TSS          0xfffbd000ULL
#define LAYOUT_TSS_SIZE     0x3000ULL
/* Below 1 MiB: the extended BIOS data area (empty), and the area of the ACPI tables, where an RSDP is
 * looked for. */
#define LAYOUT_EBDA       0x0009fc00ULL
#define LAYOUT_EBDA_END   0x000a0000ULL
#define LAYOUT_ACPI_START 0x000e0000ULL
#define LAYOUT_ACPI_END   0x00100000ULL

/* Interrupt lines (GSI) */
#define LAYOUT_GSI_COM1 4
#define LAYOUT_GSI_SCI  9

/* Ports */
#define LAYOUT_PORT_COM1     0x3f8 /* 8 ports, 16550A */
#define LAYOUT_PORT_I8042    0x60  /* 0x60 data, 0x64 command and status */
#define LAYOUT_PORT_PVPANIC  0x505
#define LAYOUT_PORT_ACPI_PM1 0x600 /* event block 4 ports, control block 2 ports at +4 */
#define LAYOUT_PORT_RESET    0xcf9 /* inside the ports of PCI_ADDR */
#define LAYOUT_PORT_PCI_ADDR 0xcf8
#define LAYOUT_PORT_PCI_DATA 0xcfc
/* What bare-metal test guests use to end with a result: a write of v ends the guest as v says. */
#define LAYOUT_PORT_TEST_EXIT 0xf4

#endif
