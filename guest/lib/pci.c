/* pci.c - PCI configuration space of bus 0. */
#include "pci.h"
#include "lib.h"

#define PORT_ADDRESS 0xcf8
#define PORT_DATA    0xcfc

static uint16_t select_register(unsigned device, unsigned reg)
{
    out32(PORT_ADDRESS, 0x80000000u | device << 11 | (reg & 0xfcu));
    return (uint16_t)(PORT_DATA + (reg & 3));
}

uint32_t pci_read32(unsigned device, unsigned reg)
{
    return in32(select_register(device, reg));
}

uint16_t pci_read16(unsigned device, unsigned reg)
{
    return in16(select_register(device, reg));
}

uint8_t pci_read8(unsigned device, unsigned reg)
{
    return in8(select_register(device, reg));
}

void pci_write32(unsigned device, unsigned reg, uint32_t value)
{
    out32(select_register(device, reg), value);
}

void pci_write16(unsigned device, unsigned reg, uint16_t value)
{
    out16(select_register(device, reg), value);
}

void pci_write8(unsigned device, unsigned reg, uint8_t value)
{
    out8(select_register(device, reg), value);
}

unsigned pci_find_capability(unsigned device, uint8_t id, unsigned after)
{
    unsigned reg = after ? pci_read8(device, after + 1) : pci_read8(device, PCI_CAPABILITIES);

    /* A list that fits 256 bytes has at most 48 entries: a longer one is a loop. */
    for (unsigned i = 0; i < 48 && reg; i++) {
        if (pci_read8(device, reg) == id)
            return reg;
        reg = pci_read8(device, reg + 1);
    }
    return 0;
}

static bool bar_is_64bit(uint32_t low)
{
    return (low & 6) == 4;
}

uint64_t pci_bar_address(unsigned device, unsigned bar)
{
    unsigned reg = PCI_BAR0 + bar * 4;
    uint32_t low = pci_read32(device, reg);
    uint64_t high = bar_is_64bit(low) ? pci_read32(device, reg + 4) : 0;

    return high << 32 | (low & ~0xfu);
}

uint64_t pci_bar_size(unsigned device, unsigned bar)
{
    unsigned reg = PCI_BAR0 + bar * 4;
    uint16_t command = pci_read16(device, PCI_COMMAND);
    uint32_t low = pci_read32(device, reg), high = 0;
    uint64_t mask;

    pci_write16(device, PCI_COMMAND, (uint16_t)(command & ~PCI_COMMAND_MEMORY));
    pci_write32(device, reg, 0xffffffff);
    mask = 0xffffffff00000000 | (pci_read32(device, reg) & ~0xfu);
    pci_write32(device, reg, low);
    if (bar_is_64bit(low)) {
        high = pci_read32(device, reg + 4);
        pci_write32(device, reg + 4, 0xffffffff);
        mask = (uint64_t)pci_read32(device, reg + 4) << 32 | (uint32_t)mask;
        pci_write32(device, reg + 4, high);
    }
    pci_write16(device, PCI_COMMAND, command);
    return (uint32_t)mask ? ~mask + 1 : 0;
}
