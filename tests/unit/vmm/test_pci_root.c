/* PCI configuration by ports and ECAM, BAR placement and dispatch, and every strange access to them. */
#include "bytes.h"
#include "checked.h"
#include "layout.h"
#include "pci_root.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { INNER_VALUE = 0x77 };

struct probe {
    struct pci_function fn; /* first */
    unsigned bar, len, reads, writes, resets;
    uint64_t offset;
};

struct fixture {
    struct bus pio, mmio;
    struct pci_host host;
    struct pci_root *root;
    unsigned inner_reads, inner_writes, destroyed;
};

static struct fixture *current;

static void probe_read(struct pci_function *fn, unsigned bar, uint64_t offset, void *data,
                       unsigned len)
{
    struct probe *probe = (struct probe *)fn;

    assert_true(range_within(offset, len, fn->bar[bar].size));
    probe->bar = bar;
    probe->offset = offset;
    probe->len = len;
    probe->reads++;
    memset(data, (int)fn->device, len);
}

static void probe_write(struct pci_function *fn, unsigned bar, uint64_t offset, const void *data,
                        unsigned len)
{
    struct probe *probe = (struct probe *)fn;

    (void)data;
    assert_true(range_within(offset, len, fn->bar[bar].size));
    probe->bar = bar;
    probe->offset = offset;
    probe->len = len;
    probe->writes++;
}

static void probe_reset(struct pci_function *fn)
{
    ((struct probe *)fn)->resets++;
}

static void probe_destroy(struct pci_function *fn)
{
    current->destroyed++;
    free(fn);
}

static const struct pci_function_ops probe_ops = {
    .bar_read = probe_read,
    .bar_write = probe_write,
    .reset = probe_reset,
    .destroy = probe_destroy,
};

static struct probe *make_probe(uint64_t bar0, uint64_t bar2)
{
    static const struct pci_identity identity = {
        .vendor = 0x1af4, .device = 0x1042, .class_code = 0x018000};
    struct probe *probe = calloc(1, sizeof(*probe));

    assert_non_null(probe);
    pci_function_init(&probe->fn, &probe_ops, &identity, "probe");
    if (bar0)
        pci_function_add_bar(&probe->fn, 0, bar0, false);
    if (bar2)
        pci_function_add_bar(&probe->fn, 2, bar2, true);
    return probe;
}

static void inner_read(void *device, uint64_t offset, void *data, unsigned len)
{
    struct fixture *f = device;

    assert_int_equal(offset, 0);
    assert_int_equal(len, 1);
    f->inner_reads++;
    *(uint8_t *)data = INNER_VALUE;
}

static void inner_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct fixture *f = device;

    (void)data;
    assert_int_equal(offset, 0);
    assert_int_equal(len, 1);
    f->inner_writes++;
}

static void build(struct fixture *f)
{
    static const struct bus_ops inner_ops = {.read = inner_read, .write = inner_write};
    struct err err;

    memset(f, 0, sizeof(*f));
    current = f;
    const struct pci_root_options options = {
        .host = &f->host,
        .pio = &f->pio,
        .mmio = &f->mmio,
        .inner_port = LAYOUT_PORT_RESET,
        .inner_ops = &inner_ops,
        .inner_device = f,
    };

    assert_int_equal(pci_root_create(&options, &f->root, &err), 0);
}

static uint64_t in(const struct bus *bus, uint64_t address, unsigned len)
{
    uint8_t data[16] = {0};

    memset(data + len, 0xa5, sizeof(data) - len);
    bus_read(bus, address, data, len);
    for (unsigned i = len; i < sizeof(data); i++)
        assert_int_equal(data[i], 0xa5);
    memset(data + len, 0, sizeof(data) - len);
    return load_le64(data);
}

static void out(const struct bus *bus, uint64_t address, uint64_t value, unsigned len)
{
    uint8_t data[8];

    store_le64(data, value);
    bus_write(bus, address, data, len);
}

static uint64_t ones(unsigned len)
{
    return len == 8 ? UINT64_MAX : (1ULL << (8 * len)) - 1;
}

static uint64_t port_config(struct fixture *f, unsigned devfn, unsigned offset, unsigned len)
{
    out(&f->pio, 0xcf8, 0x80000000U | devfn << 8 | (offset & 0xfc), 4);
    return in(&f->pio, 0xcfc + (offset & 3), len);
}

static uint64_t ecam(unsigned devfn, unsigned offset)
{
    return LAYOUT_ECAM_START + devfn * 4096ULL + offset;
}

static void ports_and_ecam_show_the_same_registers(void **state)
{
    struct fixture f;
    struct err err;

    (void)state;
    build(&f);
    assert_int_equal(pci_root_add(f.root, &make_probe(4096, 0)->fn, &err), 0);
    assert_int_equal(pci_root_add(f.root, &make_probe(0, 8192)->fn, &err), 0);
    for (unsigned device = 0; device < 32; device++) {
        for (unsigned offset = 0; offset < 256; offset++) {
            for (unsigned len = 1; len <= 4; len *= 2) {
                uint64_t value;

                if (offset % len)
                    continue;
                value = port_config(&f, device * 8, offset, len);
                assert_int_equal(value, in(&f.mmio, ecam(device * 8, offset), len));
                if (device > 2)
                    assert_int_equal(value, ones(len));
            }
        }
    }
    assert_int_equal(port_config(&f, 0, PCI_CLASS_DEVICE, 2), 0x0600);
    assert_int_equal(port_config(&f, 8, 0, 4), 0x10421af4);
    /* Two registers at once. */
    assert_int_equal(in(&f.mmio, ecam(8, 0), 8), port_config(&f, 8, 4, 4) << 32 | 0x10421af4);
    /* Beyond 256 bytes: a function without extended capabilities. */
    assert_int_equal(in(&f.mmio, ecam(8, 0x100), 4), 0);
    pci_root_destroy(f.root);
    assert_int_equal(f.destroyed, 2);
}

static void writes_by_either_way_arrive(void **state)
{
    struct fixture f;
    struct err err;

    (void)state;
    build(&f);
    assert_int_equal(pci_root_add(f.root, &make_probe(4096, 0)->fn, &err), 0);
    out(&f.mmio, ecam(8, PCI_INTERRUPT_LINE), 0x5a, 1);
    assert_int_equal(port_config(&f, 8, PCI_INTERRUPT_LINE, 1), 0x5a);
    out(&f.pio, 0xcf8, 0x80000000U | 8 << 8 | 0x3c, 4);
    out(&f.pio, 0xcfc, 0xffffffa5, 4);
    assert_int_equal(in(&f.mmio, ecam(8, PCI_INTERRUPT_LINE), 4), 0xa5);
    /* An eight-byte write is two registers: BAR 0 and the one behind it. */
    out(&f.mmio, ecam(8, PCI_BASE_ADDRESS_0), UINT64_MAX, 8);
    assert_int_equal(in(&f.mmio, ecam(8, PCI_BASE_ADDRESS_0), 8), 0xfffff000);
    pci_root_destroy(f.root);
}

static void nobody_answers_for_what_is_not_there(void **state)
{
    static const uint32_t addresses[] = {
        0x00000800,             /* not enabled */
        0x80000900,             /* function 1 */
        0x80000f00,             /* function 7 */
        0x80001000,             /* device 2 */
        0x8000f800,             /* device 31 */
        0x80010800, 0x80ff0800, /* other buses */
        0xff000000,             /* reserved bits are none of the address */
    };
    struct fixture f;
    struct err err;

    (void)state;
    build(&f);
    assert_int_equal(pci_root_add(f.root, &make_probe(4096, 0)->fn, &err), 0);
    for (size_t i = 0; i + 1 < ARRAY_LEN(addresses); i++) {
        for (unsigned len = 1; len <= 4; len *= 2) {
            out(&f.pio, 0xcf8, addresses[i], 4);
            out(&f.pio, 0xcfc, 0x12345678, len);
            assert_int_equal(in(&f.pio, 0xcfc, len), ones(len));
        }
    }
    out(&f.pio, 0xcf8, 0xffffffff, 4);
    assert_int_equal(in(&f.pio, 0xcf8, 4), 0x80fffffc);
    out(&f.pio, 0xcf8, addresses[ARRAY_LEN(addresses) - 1], 4);
    assert_int_equal(in(&f.pio, 0xcfc, 4), 0x0d578086);
    assert_int_equal(in(&f.mmio, ecam(9, 0), 4), 0xffffffff);
    out(&f.mmio, ecam(9, 0), 0, 4);
    pci_root_destroy(f.root);
}

static void the_reset_port_sits_inside_the_address_register(void **state)
{
    struct fixture f;

    (void)state;
    build(&f);
    out(&f.pio, 0xcf8, 0x80001234, 4);
    assert_int_equal(in(&f.pio, 0xcf9, 1), INNER_VALUE);
    out(&f.pio, 0xcf9, 6, 1);
    assert_int_equal(f.inner_reads, 1);
    assert_int_equal(f.inner_writes, 1);
    assert_int_equal(in(&f.pio, 0xcf8, 4), 0x80001234);
    /* Only one byte wide; the other narrow accesses are nobody's and change nothing. */
    assert_int_equal(in(&f.pio, 0xcf9, 2), 0xffff);
    assert_int_equal(in(&f.pio, 0xcf8, 1), 0xff);
    assert_int_equal(in(&f.pio, 0xcf8, 2), 0xffff);
    out(&f.pio, 0xcf8, 0, 1);
    out(&f.pio, 0xcf8, 0, 2);
    out(&f.pio, 0xcfa, 0, 2);
    assert_int_equal(in(&f.pio, 0xcf8, 4), 0x80001234);
    assert_int_equal(f.inner_reads, 1);
    assert_int_equal(f.inner_writes, 1);
    pci_root_destroy(f.root);
}

/* Every address, width and offset of the ports, and every page end of ECAM: no access may reach
 * beyond a register file, and the sanitizers watch. */
static void misaligned_and_straddling_accesses_do_no_harm(void **state)
{
    struct fixture f;
    struct err err;

    (void)state;
    build(&f);
    assert_int_equal(pci_root_add(f.root, &make_probe(4096, 8192)->fn, &err), 0);
    for (uint32_t low = 0; low < 256; low++) {
        for (unsigned devfn = 0; devfn < 24; devfn++) {
            for (uint64_t port = 0xcf8; port <= 0xcff; port++) {
                for (unsigned len = 1; len <= 4; len *= 2) {
                    if (port == 0xcf9 && len == 1)
                        continue;
                    out(&f.pio, 0xcf8, 0x80000000U | devfn << 8 | low, 4);
                    in(&f.pio, port, len);
                    out(&f.pio, port, 0xffffffff, len);
                }
            }
        }
    }
    for (unsigned devfn = 0; devfn < 24; devfn++) {
        for (unsigned offset = 0; offset < 4096; offset += offset < 264 || offset > 4080 ? 1 : 8) {
            for (unsigned len = 1; len <= 8; len *= 2) {
                in(&f.mmio, ecam(devfn, offset), len);
                out(&f.mmio, ecam(devfn, offset), UINT64_MAX, len);
                out(&f.mmio, ecam(devfn, offset), 0, len);
            }
        }
    }
    /* The last bytes of a function do not run into the next one. */
    assert_int_equal(in(&f.mmio, ecam(8, 4095), 2), 0x0000);
    assert_int_equal(in(&f.mmio, ecam(255, 4092), 8), UINT64_MAX);
    assert_int_equal(port_config(&f, 8, 0, 4), 0x10421af4);
    assert_int_equal(f.inner_reads, 0);
    pci_root_destroy(f.root);
}

static void bars_are_aligned_disjoint_and_inside_the_window(void **state)
{
    struct probe *probes[31];
    struct fixture f;
    struct err err;

    (void)state;
    build(&f);
    for (unsigned i = 0; i < 31; i++) {
        probes[i] = make_probe(4096ULL << (i % 5), i % 3 ? 65536 : 0);
        assert_int_equal(pci_root_add(f.root, &probes[i]->fn, &err), 0);
        assert_int_equal(probes[i]->fn.device, i + 1);
        assert_ptr_equal(probes[i]->fn.host, &f.host);
    }
    for (unsigned i = 0; i < 31; i++) {
        for (unsigned b = 0; b < PCI_BAR_COUNT; b++) {
            const struct pci_bar *bar = &probes[i]->fn.bar[b];

            if (bar->size == 0)
                continue;
            assert_true(bar->mapped);
            assert_true(is_aligned(bar->address, bar->size));
            assert_true(bar->address >= LAYOUT_PCI_START);
            assert_true(bar->address + bar->size <= LAYOUT_PCI_END);
            for (unsigned j = 0; j < 31; j++) {
                for (unsigned c = 0; c < PCI_BAR_COUNT; c++) {
                    const struct pci_bar *other = &probes[j]->fn.bar[c];

                    assert_true(other == bar || !ranges_overlap(bar->address, bar->size,
                                                                other->address, other->size));
                }
            }
            assert_int_equal(in(&f.mmio, bar->address + 8, 4), (i + 1) * 0x01010101U);
            assert_int_equal(probes[i]->bar, b);
            assert_int_equal(probes[i]->offset, 8);
        }
    }
    assert_int_equal(pci_root_add(f.root, &make_probe(4096, 0)->fn, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "31 devices"));
    assert_int_equal(f.destroyed, 1);
    pci_root_reset(f.root);
    for (unsigned i = 0; i < 31; i++)
        assert_int_equal(probes[i]->resets, 1);
    pci_root_destroy(f.root);
    assert_int_equal(f.destroyed, 32);
}

static void a_bar_larger_than_the_window_is_refused(void **state)
{
    static const uint64_t sizes[] = {1ULL << 30, 1ULL << 31, 1ULL << 40, 1ULL << 63};
    struct fixture f;
    struct err err;

    (void)state;
    build(&f);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        assert_int_equal(pci_root_add(f.root, &make_probe(0, sizes[i])->fn, &err), -ENOSPC);
    assert_int_equal(pci_root_add(f.root, &make_probe(1U << 28, 1U << 28)->fn, &err), 0);
    assert_int_equal(pci_root_add(f.root, &make_probe(4096, 0)->fn, &err), -ENOSPC);
    pci_root_destroy(f.root);
    assert_int_equal(f.destroyed, 6);
}

static void a_bar_answers_where_the_guest_moved_it_and_only_while_decoding_is_on(void **state)
{
    const uint64_t moved = LAYOUT_PCI_START + 0x100000;
    struct probe *probe = make_probe(4096, 0);
    struct fixture f;
    struct err err;

    (void)state;
    build(&f);
    assert_int_equal(pci_root_add(f.root, &probe->fn, &err), 0);
    out(&f.mmio, ecam(8, PCI_BASE_ADDRESS_0), moved, 4);
    assert_int_equal(in(&f.mmio, LAYOUT_PCI_START, 4), 0xffffffff);
    assert_int_equal(in(&f.mmio, moved, 8), 0x0101010101010101);
    assert_int_equal(probe->len, 8);
    /* Across its end, and right behind it. */
    assert_int_equal(in(&f.mmio, moved + 4094, 4), 0xffffffff);
    assert_int_equal(in(&f.mmio, moved + 4096, 1), 0xff);
    assert_int_equal(probe->reads, 1);
    out(&f.mmio, moved + 16, 1, 2);
    assert_int_equal(probe->writes, 1);
    assert_int_equal(probe->offset, 16);

    out(&f.mmio, ecam(8, PCI_COMMAND), 0, 2);
    assert_int_equal(in(&f.mmio, moved, 4), 0xffffffff);
    out(&f.mmio, moved, 1, 4);
    assert_int_equal(probe->writes, 1);
    pci_root_destroy(f.root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_and_ecam_show_the_same_registers),
        cmocka_unit_test(writes_by_either_way_arrive),
        cmocka_unit_test(nobody_answers_for_what_is_not_there),
        cmocka_unit_test(the_reset_port_sits_inside_the_address_register),
        cmocka_unit_test(misaligned_and_straddling_accesses_do_no_harm),
        cmocka_unit_test(bars_are_aligned_disjoint_and_inside_the_window),
        cmocka_unit_test(a_bar_larger_than_the_window_is_refused),
        cmocka_unit_test(a_bar_answers_where_the_guest_moved_it_and_only_while_decoding_is_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
