/* interrupt.c - the IDT, the local APIC and the I/O APIC. */
#include "interrupt.h"
#include "lib.h"

#define LAPIC  0xfee00000ULL
#define IOAPIC 0xfec00000ULL

enum { LAPIC_ID = 0x20, LAPIC_EOI = 0xb0, LAPIC_SPURIOUS = 0xf0 };

struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

static struct gate idt[VECTOR_COUNT];
static void (*handlers[VECTOR_COUNT])(unsigned vector);
static volatile unsigned counts[VECTOR_COUNT];

extern char interrupt_stubs[];
/* Called by the stubs; frame: error code, rip, cs, rflags, rsp, ss. */
void interrupt_dispatch(uint64_t vector, const uint64_t *frame);

void interrupt_init(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, address_of(idt)};

    for (unsigned i = 0; i < VECTOR_COUNT; i++) {
        uint64_t stub = address_of(interrupt_stubs) + i * 16;

        idt[i].offset_low = (uint16_t)stub;
        idt[i].offset_middle = (uint16_t)(stub >> 16);
        idt[i].selector = 8;
        idt[i].type = 0x8e; /* present interrupt gate */
    }
    __asm__ volatile("lidt %0" ::"m"(pointer));
}

void interrupt_dispatch(uint64_t vector, const uint64_t *frame)
{
    counts[vector]++;
    if (vector < VECTOR_FIRST) {
        uint64_t cr2;

        __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
        say("exception %lu, error code %lx, at %lx, cr2 %lx\n", vector, frame[0], frame[1], cr2);
        finish(EXIT_EXCEPTION);
    }
    if (handlers[vector])
        handlers[vector]((unsigned)vector);
    lapic_write(LAPIC_EOI, 0);
}

uint32_t lapic_read(unsigned offset)
{
    return mmio_read32(LAPIC + offset);
}

void lapic_write(unsigned offset, uint32_t value)
{
    mmio_write32(LAPIC + offset, value);
}

void interrupt_enable(void)
{
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    lapic_write(LAPIC_SPURIOUS, 0x1ff);
    __asm__ volatile("sti" ::: "memory");
}

void interrupt_set_handler(unsigned vector, void (*handler)(unsigned vector))
{
    handlers[vector] = handler;
}

unsigned interrupt_count(unsigned vector)
{
    return counts[vector];
}

uint64_t interrupt_message_address(void)
{
    return LAPIC | (uint64_t)(lapic_read(LAPIC_ID) >> 24) << 12;
}

void ioapic_route(unsigned pin, unsigned vector)
{
    mmio_write32(IOAPIC, 0x10 + pin * 2 + 1);
    mmio_write32(IOAPIC + 0x10, lapic_read(LAPIC_ID) & 0xff000000);
    mmio_write32(IOAPIC, 0x10 + pin * 2);
    mmio_write32(IOAPIC + 0x10, vector);
}
