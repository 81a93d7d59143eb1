/* Configuration space: BARs, read-only bits, the capability list, accesses of any width anywhere.
 */
#include "harness.h"

#include "bytes.h"

#include <linux/pci_regs.h>
#include <string.h>

struct probe {
    struct pci_function fn; /* first */
    unsigned moves;
    unsigned last_bar;
};

static void bar_moved(struct pci_function *fn, unsigned bar)
{
    struct probe *probe = (struct probe *)fn;

    probe->moves++;
    probe->last_bar = bar;
}

static const struct pci_function_ops ops = {.bar_moved = bar_moved};

static void make(struct probe *probe)
{
    const struct pci_identity identity = {
        .vendor = 0x1af4,
        .device = 0x1042,
        .subsystem_vendor = 0x1af4,
        .subsystem = 0x1042,
        .revision = 1,
        .class_code = 0x018000,
    };

    *probe = (struct probe){0};
    pci_function_init(&probe->fn, &ops, &identity, "probe");
    pci_function_add_bar(&probe->fn, 0, 0x8000, false);
    pci_function_add_bar(&probe->fn, 2, 0x10000, true);
}

static uint32_t get(struct probe *probe, unsigned offset, unsigned len)
{
    return pci_function_config_read(&probe->fn, offset, len);
}

static void set(struct probe *probe, unsigned offset, uint32_t value, unsigned len)
{
    pci_function_config_write(&probe->fn, offset, value, len);
}

static void test_identity(void **state)
{
    struct probe p;

    (void)state;
    make(&p);
    assert_int_equal(get(&p, 0, 4), 0x10421af4);
    assert_int_equal(get(&p, 8, 4), 0x01800001);
    assert_int_equal(get(&p, 0x2c, 4), 0x10421af4);
    assert_int_equal(get(&p, PCI_HEADER_TYPE, 1), 0);
    assert_int_equal(get(&p, PCI_INTERRUPT_PIN, 1), 0);
    assert_int_equal(get(&p, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, 0);
}

static void test_identity_and_status_are_read_only(void **state)
{
    struct probe p;

    (void)state;
    make(&p);
    for (unsigned offset = 0; offset < PCI_CONFIG_SIZE; offset += 4) {
        if (offset != PCI_COMMAND)
            set(&p, offset, 0xffffffff, 4);
    }
    assert_int_equal(get(&p, 0, 4), 0x10421af4);
    assert_int_equal(get(&p, 8, 4), 0x01800001);
    assert_int_equal(get(&p, 0x2c, 4), 0x10421af4);
    set(&p, PCI_COMMAND, 0xffffffff, 4);
    assert_int_equal(get(&p, PCI_COMMAND, 4),
                     PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
}

static void test_bar_sizing(void **state)
{
    struct probe p;

    (void)state;
    make(&p);
    set(&p, PCI_BASE_ADDRESS_0, 0xffffffff, 4);
    assert_int_equal(get(&p, PCI_BASE_ADDRESS_0, 4), 0xffff8000);
    set(&p, PCI_BASE_ADDRESS_1, 0xffffffff, 4);
    assert_int_equal(get(&p, PCI_BASE_ADDRESS_1, 4), 0);
    set(&p, PCI_BASE_ADDRESS_2, 0xffffffff, 4);
    set(&p, PCI_BASE_ADDRESS_3, 0xffffffff, 4);
    assert_int_equal(get(&p, PCI_BASE_ADDRESS_2, 4), 0xffff0000 | PCI_BASE_ADDRESS_MEM_TYPE_64);
    assert_int_equal(get(&p, PCI_BASE_ADDRESS_3, 4), 0xffffffff);
    set(&p, PCI_ROM_ADDRESS, 0xffffffff, 4);
    assert_int_equal(get(&p, PCI_ROM_ADDRESS, 4), 0);
    assert_int_equal(p.moves, 0);
}

static void test_sizing_with_decoding_on_maps_nothing_at_the_top(void **state)
{
    struct probe p;
    uint64_t offset;

    (void)state;
    make(&p);
    pci_function_place_bar(&p.fn, 0, 0xc0000000);
    assert_int_equal(p.moves, 1);
    set(&p, PCI_BASE_ADDRESS_0, 0xffffffff, 4);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xffff8000, 4, &offset), -1);
    assert_false(p.fn.bar[0].mapped);
    assert_int_equal(p.moves, 2);
    set(&p, PCI_BASE_ADDRESS_0, 0xc0000000, 4);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xc0000000, 4, &offset), 0);
    assert_int_equal(p.moves, 3);
}

static void test_bar_moves_with_address_and_decoding(void **state)
{
    struct probe p;
    uint64_t offset = 0;

    (void)state;
    make(&p);
    set(&p, PCI_BASE_ADDRESS_0, 0xc0000000, 4);
    assert_int_equal(p.moves, 0);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xc0000000, 4, &offset), -1);
    set(&p, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(p.moves, 1);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xc0000000, 4, &offset), 0);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xc0007ffc, 4, &offset), 0);
    assert_int_equal(offset, 0x7ffc);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xc0007ffd, 4, &offset), -1);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xbfffffff, 4, &offset), -1);
    /* A byte of the register is enough to move it. */
    set(&p, PCI_BASE_ADDRESS_0 + 2, 0x10, 1);
    assert_int_equal(p.moves, 2);
    assert_int_equal(p.fn.bar[0].address, 0xc0100000);
    set(&p, PCI_INTERRUPT_LINE, 7, 1);
    assert_int_equal(p.moves, 2);
    set(&p, PCI_COMMAND, 0, 2);
    assert_int_equal(p.moves, 3);
    assert_int_equal(pci_function_bar_at(&p.fn, 0xc0100000, 4, &offset), -1);
    set(&p, PCI_BASE_ADDRESS_0, 0, 4);
    set(&p, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_false(p.fn.bar[0].mapped);
}

static void test_64_bit_bar(void **state)
{
    struct probe p;
    uint64_t offset = 0;

    (void)state;
    make(&p);
    set(&p, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    set(&p, PCI_BASE_ADDRESS_2, 0x40000000, 4);
    set(&p, PCI_BASE_ADDRESS_3, 0x10, 4);
    assert_int_equal(pci_function_bar_at(&p.fn, 0x1040000008ULL, 8, &offset), 2);
    assert_int_equal(offset, 8);
    set(&p, PCI_BASE_ADDRESS_2, 0xffffffff, 4);
    set(&p, PCI_BASE_ADDRESS_3, 0xffffffff, 4);
    assert_false(p.fn.bar[2].mapped);
    pci_function_place_bar(&p.fn, 2, 0x2000000000ULL);
    assert_int_equal(get(&p, PCI_BASE_ADDRESS_2, 4), PCI_BASE_ADDRESS_MEM_TYPE_64);
    assert_int_equal(get(&p, PCI_BASE_ADDRESS_3, 4), 0x20);
    assert_true(p.fn.bar[2].mapped);
}

static void test_capability_list(void **state)
{
    struct probe p;
    const uint8_t body[3] = {1, 2, 3};
    unsigned first, second, third;

    (void)state;
    make(&p);
    first = pci_function_add_capability(&p.fn, PCI_CAP_ID_VNDR, body, 5);
    second = pci_function_add_capability(&p.fn, PCI_CAP_ID_MSIX, body, 4);
    third = pci_function_add_capability(&p.fn, PCI_CAP_ID_PM, body, 2);
    assert_int_equal(first, 0x40);
    assert_int_equal(second, 0x48);
    assert_int_equal(third, 0x4c);
    assert_true(get(&p, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
    assert_int_equal(get(&p, PCI_CAPABILITY_LIST, 1), first);
    assert_int_equal(get(&p, first, 4), PCI_CAP_ID_VNDR | second << 8 | 0x0201 << 16);
    assert_int_equal(get(&p, first + 4, 1), 3);
    assert_int_equal(get(&p, second, 2), PCI_CAP_ID_MSIX | third << 8);
    assert_int_equal(get(&p, third, 2), PCI_CAP_ID_PM);
    set(&p, first, 0xffffffff, 4);
    assert_int_equal(get(&p, first, 2), PCI_CAP_ID_VNDR | second << 8);
}

static void test_accesses_of_any_width_anywhere(void **state)
{
    struct probe p;
    uint64_t seed = test_seed();

    (void)state;
    make(&p);
    set(&p, 0xfe, 0xffffffff, 4);
    assert_int_equal(get(&p, 0xff, 4), 0);
    assert_int_equal(get(&p, 0x100, 4), 0);
    assert_int_equal(get(&p, 0xffc, 4), 0);
    assert_int_equal(get(&p, 0xfffffffe, 4), 0);
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t r = test_random(&seed);
        unsigned offset = (unsigned)(r >> 8) % 0x140, len = 1u << (r % 3);

        if (r & 0x80) {
            set(&p, offset, (uint32_t)test_random(&seed), len);
        } else {
            uint32_t whole = get(&p, offset, len), bytes = 0;

            for (unsigned b = 0; b < len; b++)
                bytes |= get(&p, offset + b, 1) << (8 * b);
            assert_int_equal(whole, bytes);
        }
        for (unsigned b = 0; b < PCI_BAR_COUNT; b++)
            assert_true(!p.fn.bar[b].mapped || (p.fn.bar[b].size && p.fn.bar[b].address));
    }
    assert_int_equal(get(&p, 0, 4), 0x10421af4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_identity_and_status_are_read_only),
        cmocka_unit_test(test_bar_sizing),
        cmocka_unit_test(test_sizing_with_decoding_on_maps_nothing_at_the_top),
        cmocka_unit_test(test_bar_moves_with_address_and_decoding),
        cmocka_unit_test(test_64_bit_bar),
        cmocka_unit_test(test_capability_list),
        cmocka_unit_test(test_accesses_of_any_width_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
