/*
 * kvm_cpuid.c - CPUID: host features, our topology.
 *
 * A field that speaks of the host's sockets, cores, threads or of the processor that happens to run
 * the question is replaced; everything else passes as KVM offers it. Leaves that the host has not are
 * not invented. Sources: Intel SDM volume 2A (CPUID), AMD APM volume 3 appendix E,
 * Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "kvm_cpuid.h"

#include "kvm_private.h"
#include "log.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BIT(n) (1U << (n))

static size_t table_size(unsigned entries)
{
    return sizeof(struct kvm_cpuid2) + entries * sizeof(struct kvm_cpuid_entry2);
}

struct kvm_cpuid2 *kvm_cpuid_supported(int kvm_fd, struct err *err)
{
    struct kvm_cpuid2 *table = calloc(1, table_size(KVM_CPUID_MAX_ENTRIES));
    int r;

    if (!table) {
        err_set_errno(err, -ENOMEM, "CPUID table");
        return NULL;
    }
    table->nent = KVM_CPUID_MAX_ENTRIES;
    r = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, table);
    if (r < 0) {
        err_set_errno(err, r, "KVM_GET_SUPPORTED_CPUID");
        free(table);
        return NULL;
    }
    return table;
}

/* Bits that an APIC id needs within `count` of them. */
static unsigned id_bits(unsigned count)
{
    unsigned bits = 0;

    while ((1U << bits) < count)
        bits++;
    return bits;
}

static uint32_t with_field(uint32_t value, unsigned low, unsigned bits, uint32_t field)
{
    uint32_t mask = (BIT(bits) - 1) << low;

    return (value & ~mask) | (field << low & mask);
}

static uint32_t with_bit(uint32_t value, unsigned bit, bool set)
{
    return set ? value | BIT(bit) : value & ~BIT(bit);
}

/* Leaf 4 and 0x8000001d: the last level is shared by all, the others belong to one core. */
static void fix_cache(struct kvm_cpuid_entry2 *entry, const struct cpuid_topology *topology,
                      bool intel)
{
    unsigned level = entry->eax >> 5 & 7, type = entry->eax & 0x1f;
    uint32_t cores = BIT(id_bits(topology->cpus)) - 1;

    if (type == 0)
        return;
    entry->eax = with_field(entry->eax, 14, 12, level >= 3 ? cores : 0);
    if (intel)
        entry->eax = with_field(entry->eax, 26, 6, cores);
}

static void fix_entry(struct kvm_cpuid_entry2 *entry, const struct cpuid_topology *topology)
{
    unsigned bits = id_bits(topology->cpus);
    bool many = topology->cpus > 1;

    switch (entry->function) {
    case 1:
        entry->ebx = with_field(entry->ebx, 24, 8, topology->apic_id);
        entry->ebx = with_field(entry->ebx, 16, 8, BIT(bits));
        entry->edx = with_bit(entry->edx, 28, many); /* HTT: the field above counts */
        entry->ecx = with_bit(entry->ecx, 24, topology->tsc_deadline);
        entry->ecx |= BIT(31); /* a hypervisor is there */
        break;
    case 4:
        fix_cache(entry, topology, true);
        break;
    case 0x8000001d:
        fix_cache(entry, topology, false);
        break;
    case 0x80000001:
        entry->ecx = with_bit(entry->ecx, 1, many && (entry->ecx & BIT(1))); /* CmpLegacy */
        break;
    case 0x80000008:
        entry->ecx = with_field(entry->ecx, 0, 8, topology->cpus - 1);
        entry->ecx = with_field(entry->ecx, 12, 4, bits);
        break;
    case 0x8000001e:
        entry->eax = topology->apic_id;
        entry->ebx = topology->apic_id; /* core id; one thread a core */
        entry->ecx = 0;                 /* one node, number 0 */
        break;
    case KVM_CPUID_SIGNATURE:
        /* Zero on old kernels, which means the same. */
        if (entry->eax < KVM_CPUID_FEATURES)
            entry->eax = KVM_CPUID_FEATURES;
        break;
    }
}

/* Leaves that are left out, to be written anew; AMD's 0x80000026 says what 0xb says, at more length. */
static bool is_topology_leaf(uint32_t function)
{
    return function == 0xb || function == 0x1f || function == 0x80000026;
}

/* Leaves 0xb and 0x1f: a level of threads, one a core; a level of cores; the end. */
static void add_topology_leaf(struct kvm_cpuid2 *table, uint32_t function,
                              const struct cpuid_topology *topology)
{
    enum { LEVELS = 3 };
    const struct {
        uint32_t shift, count, type;
    } levels[LEVELS] = {{0, 1, 1}, {id_bits(topology->cpus), topology->cpus, 2}, {0, 0, 0}};

    for (uint32_t i = 0; i < LEVELS; i++) {
        table->entries[table->nent++] = (struct kvm_cpuid_entry2){
            .function = function,
            .index = i,
            .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            .eax = levels[i].shift,
            .ebx = levels[i].count,
            .ecx = levels[i].type << 8 | i,
            .edx = topology->apic_id,
        };
    }
}

struct kvm_cpuid2 *kvm_cpuid_for(const struct kvm_cpuid2 *host,
                                 const struct cpuid_topology *topology)
{
    /* Two topology leaves of three entries may be more than the host's. */
    struct kvm_cpuid2 *table = calloc(1, table_size(host->nent + 6));
    bool has_0xb = false, has_0x1f = false;

    if (!table)
        return NULL;
    for (uint32_t i = 0; i < host->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &host->entries[i];

        has_0xb |= entry->function == 0xb;
        has_0x1f |= entry->function == 0x1f;
        if (is_topology_leaf(entry->function))
            continue;
        table->entries[table->nent] = *entry;
        fix_entry(&table->entries[table->nent++], topology);
    }
    if (has_0xb)
        add_topology_leaf(table, 0xb, topology);
    if (has_0x1f)
        add_topology_leaf(table, 0x1f, topology);
    return table;
}
