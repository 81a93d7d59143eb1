/* smp_start - every CPU of the MADT starts by INIT and SIPI, and knows its own number. */
#include "lib.h"
#include "smp.h"

enum { MAX_CPUS = 64 };

static volatile unsigned finished;
static volatile uint8_t apic_id, cpuid_id;

static void on_cpu(void)
{
    apic_id = smp_apic_id();
    cpuid_id = smp_cpuid_id();
    fence();
    __atomic_fetch_add(&finished, 1, __ATOMIC_SEQ_CST);
}

int main(void)
{
    uint8_t ids[MAX_CPUS];
    unsigned count = smp_list_cpus(ids, MAX_CPUS), others = 0;

    check(count == argument("cpus", 1), "the MADT lists %u CPUs", count);
    check(smp_apic_id() == ids[0], "the first of them runs first");
    check(smp_cpuid_id() == smp_apic_id(), "CPUID and the local APIC agree about its number");
    for (unsigned i = 1; i < count && i < MAX_CPUS; i++) {
        others++;
        if (!check(smp_start_cpu(ids[i], on_cpu), "CPU %u starts", i))
            return 0;
        if (!check(WAIT_FOR(finished == others, LONG_WAIT), "and runs"))
            return 0;
        check(apic_id == ids[i] && cpuid_id == ids[i], "its number is %u by all accounts", ids[i]);
    }
    return 0;
}
