/* port_io - port accesses of every width, alone and by string instructions in both directions. */
#include "lib.h"

enum { SCRATCH = PORT_COM1 + 7, FIFO_CONTROL = PORT_COM1 + 2, NOBODY = 0x5670 };

#define PCI_ADDRESS 0xcf8
#define PCI_DATA    0xcfc
#define HOST_BRIDGE 0x80000000u

static void rep_ins(unsigned width, uint16_t port, void *to, size_t count)
{
    if (width == 1)
        __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(port) : "memory");
    else if (width == 2)
        __asm__ volatile("rep insw" : "+D"(to), "+c"(count) : "d"(port) : "memory");
    else
        __asm__ volatile("rep insl" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

static void rep_outs(unsigned width, uint16_t port, const void *from, size_t count)
{
    if (width == 1)
        __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory");
    else if (width == 2)
        __asm__ volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory");
    else
        __asm__ volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

int main(void)
{
    static const uint8_t bytes[] = {0x11, 0x22, 0x33};
    static const uint32_t addresses[] = {HOST_BRIDGE | 0x10, HOST_BRIDGE | 0x20, HOST_BRIDGE};
    uint8_t in[16], *page = allocate(8192, 4096), *crossing = page + 4096 - 6;
    uint32_t id, words[3] = {0};
    void *backwards = in + 3;
    size_t count = 4;

    out8(SCRATCH, 0x5a);
    check(in8(SCRATCH) == 0x5a, "a byte that is written to a port reads back");

    check(in8(NOBODY) == 0xff, "a byte from a port that nobody holds is all ones");
    check(in16(NOBODY) == 0xffff, "so is a word");
    check(in32(NOBODY) == 0xffffffff, "so is a double word");
    out8(NOBODY, 1);
    out16(NOBODY, 1);
    out32(NOBODY, 1);
    check(true, "writes to it vanish");

    out32(PCI_ADDRESS, HOST_BRIDGE);
    check(in32(PCI_ADDRESS) == HOST_BRIDGE, "a double word reads back");
    id = in32(PCI_DATA);
    check(id != 0xffffffff && in16(PCI_DATA) == (uint16_t)id &&
              in16(PCI_DATA + 2) == (uint16_t)(id >> 16),
          "words are the halves of a double word");
    check(in8(PCI_DATA) == (uint8_t)id && in8(PCI_DATA + 3) == (uint8_t)(id >> 24),
          "bytes are its quarters");

    rep_outs(1, SCRATCH, bytes, 3);
    check(in8(SCRATCH) == 0x33, "rep outsb leaves its last byte");
    rep_ins(1, SCRATCH, in, 8);
    check(in[0] == 0x33 && in[7] == 0x33, "rep insb fills every byte");
    rep_outs(4, PCI_ADDRESS, addresses, 3);
    rep_ins(4, PCI_DATA, words, 3);
    check(words[0] == id && words[2] == id, "rep outsl and rep insl carry double words");
    rep_ins(2, PCI_DATA, in, 2);
    check(memcmp(in, in + 2, 2) == 0 && memcmp(in, &id, 2) == 0, "rep insw carries words");
    rep_ins(4, PCI_DATA, crossing, 3);
    check(memcmp(crossing, &id, 4) == 0 && memcmp(crossing + 8, &id, 4) == 0,
          "a string crosses pages");
    memset(in, 0, sizeof(in));
    __asm__ volatile("std; rep insb; cld" : "+D"(backwards), "+c"(count) : "d"(SCRATCH) : "memory");
    check(in[0] == 0x33 && in[3] == 0x33 && in[4] == 0, "a string runs backwards");
    rep_ins(1, NOBODY, in, sizeof(in));
    check(in[0] == 0xff && in[15] == 0xff, "a string from a port that nobody holds is all ones");

    out8(FIFO_CONTROL, 1);
    rep_outs(1, PORT_COM1, "in one string\n", 14);
    return 0;
}
