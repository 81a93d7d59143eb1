/*
 * pci.h - PCI configuration space of bus 0, by CF8/CFC; by ECAM where the caller knows its address.
 */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include <stdint.h>

enum {
    PCI_ID = 0x00,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_CLASS = 0x08,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_CAPABILITIES = 0x34,
    PCI_COMMAND_MEMORY = 2,
    PCI_COMMAND_MASTER = 4,
    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_MSIX = 0x11,
};

/* `device` is the device number 0..31; function 0. Registers are aligned to the access. */
uint32_t pci_read32(unsigned device, unsigned reg);
uint16_t pci_read16(unsigned device, unsigned reg);
uint8_t pci_read8(unsigned device, unsigned reg);
void pci_write32(unsigned device, unsigned reg, uint32_t value);
void pci_write16(unsigned device, unsigned reg, uint16_t value);
void pci_write8(unsigned device, unsigned reg, uint8_t value);

/* The register of the next capability with this ID behind `after` (0: the first), or 0. */
unsigned pci_find_capability(unsigned device, uint8_t id, unsigned after);
/* The address that memory BAR `bar` holds. */
uint64_t pci_bar_address(unsigned device, unsigned bar);
/* Its size, found out by writing ones, with memory decoding off meanwhile. 0: not there. */
uint64_t pci_bar_size(unsigned device, unsigned bar);

#endif
