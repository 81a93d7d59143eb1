/*
 * pci_discovery - what firmware and an operating system do first: enumerate, size BARs, walk
 * capability lists; by both ways into configuration space.
 */
#include "acpi.h"
#include "lib.h"
#include "pci.h"

enum { DEVICES = 32, MAX_RANGES = 64 };

struct range {
    uint64_t start, size;
};

static struct range ranges[MAX_RANGES];
static unsigned range_count;

static bool same_by_ecam(uint64_t ecam, unsigned device)
{
    for (unsigned reg = 0; reg < 256; reg += 4)
        if (mmio_read32(ecam + (device << 15) + reg) != pci_read32(device, reg))
            return false;
    return true;
}

static bool overlaps(const struct range *a)
{
    for (unsigned i = 0; i < range_count; i++)
        if (a->start < ranges[i].start + ranges[i].size && ranges[i].start < a->start + a->size)
            return true;
    return false;
}

static void check_bars(unsigned device)
{
    for (unsigned bar = 0; bar < 6; bar++) {
        uint32_t low = pci_read32(device, PCI_BAR0 + bar * 4);
        struct range range;

        if (low & 1)
            continue; /* ports: only other machines have them */
        range.size = pci_bar_size(device, bar);
        range.start = pci_bar_address(device, bar);
        if (range.size == 0)
            continue;
        check((range.size & (range.size - 1)) == 0 && range.size >= 4096,
              "device %u, BAR %u: size %lx is a power of two", device, bar, range.size);
        check(range.start != 0 && (range.start & (range.size - 1)) == 0,
              "device %u, BAR %u: address %lx is aligned to it", device, bar, range.start);
        check(!overlaps(&range), "device %u, BAR %u: overlaps no other", device, bar);
        ranges[range_count++ % MAX_RANGES] = range;
        check(pci_read32(device, PCI_BAR0 + bar * 4) == low, "and sizing left it as it was");
        if ((low & 6) == 4)
            bar++;
    }
}

static void check_capabilities(unsigned device)
{
    unsigned reg = pci_read8(device, PCI_CAPABILITIES), count = 0;
    bool sound = true, msix = false;

    while (reg && count < 48) {
        sound = sound && reg >= 0x40 && reg % 4 == 0;
        if (pci_read8(device, reg) == PCI_CAP_MSIX) {
            unsigned vectors = (pci_read16(device, reg + 2) & 0x7ffu) + 1;
            uint32_t table = pci_read32(device, reg + 4), pending = pci_read32(device, reg + 8);

            msix = (table & ~7u) + vectors * 16 <= pci_bar_size(device, table & 7) &&
                   (pending & ~7u) + (vectors + 63) / 64 * 8 <= pci_bar_size(device, pending & 7);
        }
        reg = pci_read8(device, reg + 1);
        count++;
    }
    check(sound && count < 48, "device %u: %u capabilities, aligned, in a list that ends", device,
          count);
    if ((pci_read32(device, PCI_ID) & 0xffff) == 0x1af4)
        check(msix, "device %u: MSI-X table and pending bits lie within their BARs", device);
}

static void check_device(unsigned device, uint64_t ecam)
{
    uint32_t id = pci_read32(device, PCI_ID);

    say("device %u: %x, class %x\n", device, id, pci_read32(device, PCI_CLASS) >> 8);
    pci_write32(device, PCI_ID, ~id);
    check(pci_read32(device, PCI_ID) == id, "device %u: its identity cannot be written", device);
    check_bars(device);
    if (pci_read16(device, PCI_STATUS) & 0x10)
        check_capabilities(device);
    if (ecam) {
        check(same_by_ecam(ecam, device), "device %u: ECAM and CF8/CFC agree", device);
        mmio_write8(ecam + (device << 15) + 0x3c, 0x5a);
        check(pci_read8(device, 0x3c) == 0x5a, "device %u: and so do writes", device);
        pci_write8(device, 0x3c, 0);
    }
}

int main(void)
{
    uint64_t ecam = acpi_ecam();
    unsigned found = 0;

    check(ecam != 0, "the MCFG table says where ECAM is");
    check((pci_read32(0, PCI_CLASS) >> 16) == 0x0600, "device 0 is a host bridge");
    for (unsigned device = 0; device < DEVICES; device++) {
        if (pci_read32(device, PCI_ID) == 0xffffffff) {
            if (ecam && mmio_read32(ecam + (device << 15)) != 0xffffffff)
                check(false, "device %u: ECAM shows what CF8/CFC does not", device);
            continue;
        }
        found++;
        check_device(device, ecam);
    }
    check(found == argument("devices", found), "%u devices", found);
    out32(0xcf8, 0x80010000);
    check(in32(0xcfc) == 0xffffffff, "there is no bus 1");
    out32(0xcf8, 0x80000700);
    check(in32(0xcfc) == 0xffffffff, "the host bridge has no function 7");
    out32(0xcf8, 0);
    check(in32(0xcfc) == 0xffffffff, "data without the enable bit is nobody's");
    return 0;
}
