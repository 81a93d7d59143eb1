/* pci_bar_move - moves a device's BAR to another address and back: registers and doorbells follow. */
#include "blk.h"
#include "lib.h"
#include "pci.h"

/* In the PCI window of the machine, away from where devices are placed (vmm/layout.h). */
#define ELSEWHERE 0xd8000000ULL

static struct virtio v;

static void place(unsigned bar, uint64_t address)
{
    uint16_t command = pci_read16(v.device, PCI_COMMAND);

    pci_write16(v.device, PCI_COMMAND, (uint16_t)(command & ~PCI_COMMAND_MEMORY));
    pci_write32(v.device, PCI_BAR0 + bar * 4, (uint32_t)address);
    if (pci_read32(v.device, PCI_BAR0 + bar * 4) & 4)
        pci_write32(v.device, PCI_BAR0 + bar * 4 + 4, (uint32_t)(address >> 32));
    pci_write16(v.device, PCI_COMMAND, command);
}

static bool works(void)
{
    return virtio_start(&v, FEATURES_BLK_ALL, 1) && blk_fill(&v, 0, 7, 1, 0x29) &&
           blk_verify(&v, 0, 7, 1, 0x29);
}

int main(void)
{
    unsigned bar = 0;
    uint64_t home, status;

    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device"))
        return 0;
    while (bar < 6 && (v.common < pci_bar_address(v.device, bar) ||
                       v.common >= pci_bar_address(v.device, bar) + pci_bar_size(v.device, bar)))
        bar++;
    home = pci_bar_address(v.device, bar);
    check(works(), "works at %lx", home);

    status = v.common + COMMON_STATUS;
    place(bar, ELSEWHERE);
    check(mmio_read8(status) == 0xff, "nothing is left where it was");
    check(virtio_find(VIRTIO_BLOCK, 0, &v) && v.common >= ELSEWHERE && works(),
          "works at its new address");
    pci_write16(v.device, PCI_COMMAND, 0);
    check(mmio_read8(v.common + COMMON_STATUS) == 0xff, "is gone when memory decoding is off");
    pci_write16(v.device, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    place(bar, home);
    check(virtio_find(VIRTIO_BLOCK, 0, &v) && works(), "works back home");
    return 0;
}
