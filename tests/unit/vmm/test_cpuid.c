/* CPUID: the machine's topology replaces the host's in every leaf that speaks of it. */
#include "checked.h"
#include "kvm_cpuid.h"

#include <asm/kvm_para.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A host as strange as can be: every topology field is full of ones. */
static const struct kvm_cpuid_entry2 host_entries[] = {
    {.function = 0, .eax = 0x1f, .ebx = 0x12345678},
    {.function = 1, .eax = 0x800f12, .ebx = 0xffffff08, .ecx = 0x7ed8320b, .edx = 0xffffffff},
    {.function = 4, .index = 0, .flags = 1, .eax = 0xffffc121},
    {.function = 4, .index = 1, .flags = 1, .eax = 0xffffc122},
    {.function = 4, .index = 2, .flags = 1, .eax = 0xffffc143},
    {.function = 4, .index = 3, .flags = 1, .eax = 0xffffc163},
    {.function = 4, .index = 4, .flags = 1, .eax = 0},
    {.function = 7, .flags = 1, .ebx = 0x209c01a9},
    {.function = 0xb, .index = 0, .flags = 1, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 0x55},
    {.function = 0xb, .index = 1, .flags = 1, .eax = 7, .ebx = 128, .ecx = 0x201, .edx = 0x55},
    {.function = 0x1f, .index = 0, .flags = 1, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 0x55},
    {.function = KVM_CPUID_SIGNATURE, .eax = 0, .ebx = 0x4b4d564b},
    {.function = KVM_CPUID_FEATURES, .eax = 0x1000007b},
    {.function = 0x80000001, .ecx = 0x4003f3},
    {.function = 0x80000008, .eax = 0x3030, .ecx = 0x707f},
    {.function = 0x8000001d, .index = 0, .flags = 1, .eax = 0xffffc121},
    {.function = 0x8000001d, .index = 3, .flags = 1, .eax = 0xffffc163},
    {.function = 0x80000026, .index = 0, .flags = 1, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 0x55},
    {.function = 0x8000001e, .eax = 0x55, .ebx = 0x1ff, .ecx = 0x3ff},
};

static struct kvm_cpuid2 *make_host(size_t count)
{
    struct kvm_cpuid2 *host = calloc(1, sizeof(*host) + count * sizeof(host_entries[0]));

    assert_non_null(host);
    host->nent = (uint32_t)count;
    memcpy(host->entries, host_entries, count * sizeof(host_entries[0]));
    return host;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *table, uint32_t function,
                                           uint32_t index)
{
    const struct kvm_cpuid_entry2 *found = NULL;

    for (uint32_t i = 0; i < table->nent; i++) {
        if (table->entries[i].function == function && table->entries[i].index == index) {
            assert_null(found); /* once */
            found = &table->entries[i];
        }
    }
    return found;
}

static void every_topology_leaf_tells_the_same_story(void **state)
{
    static const struct {
        unsigned cpus, bits;
    } rows[] = {{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {8, 3}, {63, 6}, {64, 6}};
    struct kvm_cpuid2 *host = make_host(ARRAY_LEN(host_entries));

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (unsigned id = 0; id < rows[i].cpus; id++) {
            const struct cpuid_topology topology = {
                .apic_id = id, .cpus = rows[i].cpus, .tsc_deadline = true};
            struct kvm_cpuid2 *table = kvm_cpuid_for(host, &topology);
            const struct kvm_cpuid_entry2 *e;
            uint32_t ids = 1U << rows[i].bits;

            assert_non_null(table);
            e = find(table, 1, 0);
            assert_int_equal(e->ebx >> 24, id);
            assert_int_equal(e->ebx >> 16 & 0xff, ids);
            assert_int_equal(e->ebx & 0xffff, 0xff08);
            assert_int_equal(e->edx >> 28 & 1, rows[i].cpus > 1);
            assert_true(e->ecx >> 31);
            assert_true(e->ecx & 1U << 24);

            assert_int_equal(find(table, 4, 0)->eax, (ids - 1) << 26 | 0x121);
            assert_int_equal(find(table, 4, 3)->eax, (ids - 1) << 26 | (ids - 1) << 14 | 0x163);
            assert_int_equal(find(table, 4, 4)->eax, 0);
            assert_int_equal(find(table, 7, 0)->ebx, 0x209c01a9);

            for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x14) {
                e = find(table, leaf, 0);
                assert_int_equal(e->eax, 0);
                assert_int_equal(e->ebx, 1);
                assert_int_equal(e->ecx, 0x100);
                assert_int_equal(e->edx, id);
                e = find(table, leaf, 1);
                assert_int_equal(e->eax, rows[i].bits);
                assert_int_equal(e->ebx, rows[i].cpus);
                assert_int_equal(e->ecx, 0x201);
                assert_int_equal(e->edx, id);
                e = find(table, leaf, 2);
                assert_int_equal(e->ecx, 2);
                assert_int_equal(e->edx, id);
            }

            assert_int_equal(find(table, 0x80000008, 0)->ecx,
                             rows[i].bits << 12 | (rows[i].cpus - 1));
            assert_int_equal(find(table, 0x80000008, 0)->eax, 0x3030);
            assert_int_equal(find(table, 0x80000001, 0)->ecx >> 1 & 1, rows[i].cpus > 1);
            assert_int_equal(find(table, 0x8000001d, 3)->eax >> 14 & 0xfff, ids - 1);
            assert_null(find(table, 0x80000026, 0));
            assert_int_equal(find(table, 0x8000001e, 0)->eax, id);
            assert_int_equal(find(table, 0x8000001e, 0)->ebx, id);
            assert_int_equal(find(table, 0x8000001e, 0)->ecx, 0);
            assert_int_equal(find(table, KVM_CPUID_SIGNATURE, 0)->eax, KVM_CPUID_FEATURES);
            assert_int_equal(find(table, KVM_CPUID_FEATURES, 0)->eax, 0x1000007b);
            free(table);
        }
    }
    free(host);
}

static void leaves_that_the_host_lacks_are_not_invented(void **state)
{
    const struct cpuid_topology topology = {.apic_id = 1, .cpus = 2};
    struct kvm_cpuid2 *host = make_host(2);
    struct kvm_cpuid2 *table = kvm_cpuid_for(host, &topology);

    (void)state;
    assert_non_null(table);
    assert_int_equal(table->nent, 2);
    assert_false(find(table, 1, 0)->ecx & 1U << 24);
    free(table);
    free(host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_topology_leaf_tells_the_same_story),
        cmocka_unit_test(leaves_that_the_host_lacks_are_not_invented),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
