/* mmio - memory-mapped accesses of every width, by plain and string instructions. */
#include "acpi.h"
#include "lib.h"
#include "pci.h"

/* In the PCI window of the machine, above every BAR (vmm/layout.h). */
#define NOBODY 0xdfffe000ULL

int main(void)
{
    uint64_t ecam = acpi_ecam(), line = ecam + 0x3c;
    uint32_t id = pci_read32(0, PCI_ID), header[4] = {0};
    void *to = header;
    const void *from = at(ecam);
    size_t count = 4;
    uint8_t saved;

    if (!check(ecam != 0, "the MCFG table says where ECAM is"))
        return 0;
    check(mmio_read32(ecam) == id, "a double word");
    check(mmio_read16(ecam) == (uint16_t)id && mmio_read16(ecam + 2) == (uint16_t)(id >> 16),
          "words");
    check(mmio_read8(ecam) == (uint8_t)id && mmio_read8(ecam + 1) == (uint8_t)(id >> 8) &&
              mmio_read8(ecam + 3) == (uint8_t)(id >> 24),
          "bytes");
    check((uint32_t)mmio_read64(ecam) == id, "a quad word");
    __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    check(header[0] == id && header[2] == pci_read32(0, PCI_CLASS), "rep movsl from a device");

    saved = mmio_read8(line);
    mmio_write8(line, 0x5a);
    check(mmio_read8(line) == 0x5a && pci_read8(0, 0x3c) == 0x5a, "a byte write");
    mmio_write16(line, 0x00a5);
    check(mmio_read8(line) == 0xa5, "a word write");
    mmio_write32(line, 0x3c);
    check(mmio_read8(line) == 0x3c, "a double word write");
    to = at(line);
    count = 1;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(0x77) : "memory");
    check(mmio_read8(line) == 0x77, "rep stosb to a device");
    __asm__ volatile("orb $0x88, (%0)" ::"r"(line) : "memory");
    check(mmio_read8(line) == 0xff, "a read-modify-write instruction");
    mmio_write8(line, saved);

    check(mmio_read8(NOBODY) == 0xff && mmio_read16(NOBODY) == 0xffff &&
              mmio_read32(NOBODY) == 0xffffffff && mmio_read64(NOBODY) == ~0ULL,
          "where nobody is, every width reads all ones");
    mmio_write8(NOBODY, 0);
    mmio_write64(NOBODY, 0);
    check(mmio_read32(NOBODY) == 0xffffffff, "and writes vanish");
    check(mmio_read32(NOBODY + 0xffe) == 0xffffffff, "an access across two pages of nobody");
    (void)mmio_read32(ecam + 2);
    mmio_write32(ecam + 0x3f, 0);
    check(mmio_read32(ecam) == id, "misaligned accesses do no harm");
    return 0;
}
