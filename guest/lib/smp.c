/* smp.c - starting the other CPUs. */
#include "smp.h"
#include "acpi.h"
#include "interrupt.h"
#include "lib.h"

#define TRAMPOLINE 0x8000

enum {
    LAPIC_ID = 0x20,
    LAPIC_ICR = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    ICR_INIT = 0x4500,
    ICR_STARTUP = 0x4600,
    MADT_ENTRIES = 44,
    MADT_LAPIC = 0,
    STACK_SIZE = 4096,
};

extern const char ap_trampoline[], ap_trampoline_end[], ap_gdt_base[];
extern uint64_t ap_stack;
extern struct {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) gdt_pointer;

static void (*ap_run)(void);
static volatile bool ap_started;

/* Called by the trampoline on the stack that smp_start_cpu() made. */
void ap_main(void);

unsigned smp_list_cpus(uint8_t *ids, unsigned max)
{
    const struct acpi_header *madt = acpi_find("APIC");
    const uint8_t *table = (const uint8_t *)madt;
    unsigned count = 0;

    if (!madt)
        return 0;
    for (unsigned i = MADT_ENTRIES; i + 2 <= madt->length && table[i + 1]; i += table[i + 1]) {
        if (table[i] != MADT_LAPIC || !(table[i + 4] & 1))
            continue;
        if (count < max)
            ids[count] = table[i + 3];
        count++;
    }
    return count;
}

static void send(uint8_t id, uint32_t command)
{
    lapic_write(LAPIC_ICR_HIGH, (uint32_t)id << 24);
    lapic_write(LAPIC_ICR, command);
}

bool smp_start_cpu(uint8_t id, void (*run)(void))
{
    uint32_t gdt_base = (uint32_t)gdt_pointer.base;
    uint64_t size = address_of(ap_trampoline_end) - address_of(ap_trampoline);
    uint64_t base_offset = address_of(ap_gdt_base) - address_of(ap_trampoline);

    memcpy(at(TRAMPOLINE), ap_trampoline, size);
    memcpy(at(TRAMPOLINE + base_offset), &gdt_base, sizeof(gdt_base));
    ap_stack = address_of(allocate(STACK_SIZE, 16)) + STACK_SIZE;
    ap_run = run;
    ap_started = false;
    fence();
    send(id, ICR_INIT);
    for (unsigned try = 0; try < 2; try++) {
        send(id, ICR_STARTUP | TRAMPOLINE >> 12);
        if (WAIT_FOR(ap_started, try ? LONG_WAIT : SHORT_WAIT))
            return true;
    }
    return false;
}

uint8_t smp_apic_id(void)
{
    return (uint8_t)(lapic_read(LAPIC_ID) >> 24);
}

uint8_t smp_cpuid_id(void)
{
    uint32_t eax = 1, ebx, ecx = 0, edx;

    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return (uint8_t)(ebx >> 24);
}

void ap_main(void)
{
    void (*run)(void) = ap_run;

    ap_started = true;
    run();
}
