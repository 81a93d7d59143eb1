/* MSI-X: masked signals become pending bits, unmasked ones reach the host. */
#include "harness.h"

#include "msix.h"

#include <linux/pci_regs.h>
#include <string.h>

enum { VECTORS = 70, TABLE = 0x1000, PBA = 0x2000, DATA = 0x700 };

struct fixture {
    struct fake_host host;
    struct pci_function fn;
    struct msix *msix;
    unsigned cap;
};

static void start(struct fixture *f)
{
    static const struct pci_function_ops no_ops = {0};
    const struct pci_identity identity = {.vendor = 1};

    fake_host_init(&f->host);
    pci_function_init(&f->fn, &no_ops, &identity, "msix");
    pci_function_add_bar(&f->fn, 3, 0x4000, false);
    f->fn.host = &f->host.host;
    assert_int_equal(msix_create(&f->fn, VECTORS, 3, TABLE, PBA, &f->msix), 0);
    f->cap = f->fn.config[PCI_CAPABILITY_LIST];
}

static void stop(struct fixture *f)
{
    msix_destroy(f->msix);
    assert_int_equal(fake_host_msis(&f->host), 0);
}

static void set_flags(struct fixture *f, uint16_t flags)
{
    pci_function_config_write(&f->fn, f->cap + PCI_MSIX_FLAGS, flags, 2);
    msix_config_written(f->msix, f->cap + PCI_MSIX_FLAGS, 2);
}

static void table_set(struct fixture *f, unsigned vector, unsigned field, uint32_t value)
{
    msix_table_write(f->msix, vector * PCI_MSIX_ENTRY_SIZE + field, &value, 4);
}

static uint32_t table_get(struct fixture *f, unsigned vector, unsigned field)
{
    uint32_t value;

    msix_table_read(f->msix, vector * PCI_MSIX_ENTRY_SIZE + field, &value, 4);
    return value;
}

static void program(struct fixture *f, unsigned vector)
{
    table_set(f, vector, PCI_MSIX_ENTRY_LOWER_ADDR, 0xfee00000);
    table_set(f, vector, PCI_MSIX_ENTRY_UPPER_ADDR, 0);
    table_set(f, vector, PCI_MSIX_ENTRY_DATA, DATA + vector);
}

static bool pending(struct fixture *f, unsigned vector)
{
    uint64_t bits;

    msix_pba_read(f->msix, vector / 64 * 8ULL, &bits, 8);
    return bits >> (vector % 64) & 1;
}

static void test_capability(void **state)
{
    struct fixture f;

    (void)state;
    start(&f);
    assert_int_equal(pci_function_config_read(&f.fn, f.cap, 1), PCI_CAP_ID_MSIX);
    assert_int_equal(pci_function_config_read(&f.fn, f.cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
    assert_int_equal(pci_function_config_read(&f.fn, f.cap + PCI_MSIX_TABLE, 4), TABLE | 3);
    assert_int_equal(pci_function_config_read(&f.fn, f.cap + PCI_MSIX_PBA, 4), PBA | 3);
    set_flags(&f, 0xffff);
    assert_int_equal(pci_function_config_read(&f.fn, f.cap + PCI_MSIX_FLAGS, 2),
                     (VECTORS - 1) | PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    assert_int_equal(msix_table_size(f.msix), VECTORS * 16);
    assert_int_equal(msix_pba_size(f.msix), 16);
    assert_true(table_get(&f, VECTORS - 1, PCI_MSIX_ENTRY_VECTOR_CTRL) & 1);
    stop(&f);
}

static void test_unmasked_vector_is_delivered(void **state)
{
    struct fixture f;
    struct fake_msi *msi;

    (void)state;
    start(&f);
    program(&f, 5);
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE);
    assert_int_equal(fake_host_connected(&f.host), 0);
    table_set(&f, 5, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    assert_int_equal(fake_host_connected(&f.host), 1);
    msix_signal(f.msix, 5);
    assert_false(pending(&f, 5));
    fake_host_wait_interrupt(&f.host, DATA + 5);
    msi = fake_host_find_msi(&f.host, DATA + 5);
    assert_int_equal(msi->address, 0xfee00000);
    stop(&f);
}

static void test_masked_vector_is_pending_until_unmasked(void **state)
{
    struct fixture f;

    (void)state;
    start(&f);
    program(&f, 69);
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE);
    msix_signal(f.msix, 69);
    msix_signal(f.msix, 69);
    assert_true(pending(&f, 69));
    assert_false(pending(&f, 68));
    assert_false(fake_host_take_interrupt(&f.host, DATA + 69));
    table_set(&f, 69, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    assert_false(pending(&f, 69));
    assert_true(fake_host_take_interrupt(&f.host, DATA + 69));
    /* Two signals while masked are one message. */
    assert_false(fake_host_take_interrupt(&f.host, DATA + 69));
    table_set(&f, 69, PCI_MSIX_ENTRY_VECTOR_CTRL, 1);
    msix_signal(f.msix, 69);
    assert_true(pending(&f, 69));
    stop(&f);
}

static void test_function_mask(void **state)
{
    struct fixture f;

    (void)state;
    start(&f);
    for (unsigned v = 0; v < 3; v++) {
        program(&f, v);
        table_set(&f, v, PCI_MSIX_ENTRY_VECTOR_CTRL, v == 2);
    }
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    assert_int_equal(fake_host_connected(&f.host), 0);
    for (unsigned v = 0; v < 3; v++) {
        msix_signal(f.msix, v);
        assert_true(pending(&f, v));
    }
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE);
    assert_int_equal(fake_host_connected(&f.host), 2);
    assert_true(fake_host_take_interrupt(&f.host, DATA + 0));
    assert_true(fake_host_take_interrupt(&f.host, DATA + 1));
    assert_true(pending(&f, 2));
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    assert_int_equal(fake_host_connected(&f.host), 0);
    stop(&f);
}

static void test_signals_while_disabled_are_dropped(void **state)
{
    struct fixture f;

    (void)state;
    start(&f);
    program(&f, 0);
    table_set(&f, 0, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    msix_signal(f.msix, 0);
    assert_false(pending(&f, 0));
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE);
    assert_false(fake_host_take_interrupt(&f.host, DATA));
    set_flags(&f, 0);
    assert_int_equal(fake_host_connected(&f.host), 0);
    stop(&f);
}

static void test_new_message_reaches_the_host(void **state)
{
    struct fixture f;
    struct fake_msi *msi;

    (void)state;
    start(&f);
    program(&f, 0);
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE);
    table_set(&f, 0, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    msi = fake_host_find_msi(&f.host, DATA);
    table_set(&f, 0, PCI_MSIX_ENTRY_DATA, 0x1234);
    assert_int_equal(msi->data, 0x1234);
    assert_int_equal(msi->connected, 1);
    stop(&f);
}

static void test_a_host_that_refuses_is_asked_again(void **state)
{
    struct fixture f;

    (void)state;
    start(&f);
    f.host.refuse_msi = true;
    program(&f, 0);
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE);
    table_set(&f, 0, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    msix_signal(f.msix, 0);
    assert_true(pending(&f, 0));
    f.host.refuse_msi = false;
    table_set(&f, 0, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    assert_true(fake_host_take_interrupt(&f.host, DATA));
    stop(&f);
}

static void test_reset_masks_everything(void **state)
{
    struct fixture f;

    (void)state;
    start(&f);
    program(&f, 0);
    set_flags(&f, PCI_MSIX_FLAGS_ENABLE);
    table_set(&f, 0, PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    msix_reset(f.msix);
    assert_false(msix_enabled(f.msix));
    assert_int_equal(fake_host_connected(&f.host), 0);
    assert_int_equal(table_get(&f, 0, PCI_MSIX_ENTRY_DATA), 0);
    assert_int_equal(table_get(&f, 0, PCI_MSIX_ENTRY_VECTOR_CTRL), 1);
    assert_int_equal(pci_function_config_read(&f.fn, f.cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
    stop(&f);
}

static void test_table_accesses_of_any_width_anywhere(void **state)
{
    struct fixture f;
    uint64_t seed = test_seed();

    (void)state;
    start(&f);
    for (unsigned i = 0; i < 50000; i++) {
        uint64_t r = test_random(&seed), value = test_random(&seed);
        uint64_t offset = (r >> 8) % (VECTORS * 16 + 32);
        unsigned len = 1u << (r & 3);

        switch (r >> 4 & 7) {
        case 0:
            set_flags(&f, (uint16_t)value);
            break;
        case 1:
            msix_signal(f.msix, (unsigned)(value % VECTORS));
            break;
        case 2:
            msix_pba_read(f.msix, offset, &value, len);
            break;
        case 3:
            msix_table_read(f.msix, offset, &value, len);
            break;
        default:
            msix_table_write(f.msix, offset, &value, len);
            break;
        }
    }
    for (unsigned v = 0; v < VECTORS; v++) {
        assert_int_equal(table_get(&f, v, PCI_MSIX_ENTRY_VECTOR_CTRL) & ~1u, 0);
        assert_int_equal(table_get(&f, v, PCI_MSIX_ENTRY_LOWER_ADDR) & 3, 0);
    }
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capability),
        cmocka_unit_test(test_unmasked_vector_is_delivered),
        cmocka_unit_test(test_masked_vector_is_pending_until_unmasked),
        cmocka_unit_test(test_function_mask),
        cmocka_unit_test(test_signals_while_disabled_are_dropped),
        cmocka_unit_test(test_new_message_reaches_the_host),
        cmocka_unit_test(test_a_host_that_refuses_is_asked_again),
        cmocka_unit_test(test_reset_masks_everything),
        cmocka_unit_test(test_table_accesses_of_any_width_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
