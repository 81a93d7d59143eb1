/*
 * Accesses to the PCI transport: device configuration, the configuration access capability, and any
 * width at any place.
 */
#include "toy.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

/* ---- device configuration and the window into the BAR ---- */

static void test_device_configuration_and_its_generation(void **state)
{
    struct guest *guest = *state;
    uint8_t generation = (uint8_t)common_get(guest, VIRTIO_PCI_COMMON_CFGGENERATION, 1);

    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + 1, 4), 0x05040302);
    /* Its end: zeros behind it, nothing written there. */
    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + 8, 8), 0x0b0a09);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + TOY_CONFIG_SIZE, 8), 0);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
    bar_set(guest, VIRTIO_PCI_DEVICE_OFFSET + 8, 0xffffffffffffffff, 8);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + 8, 8), 0xffffff);
    assert_int_not_equal(common_get(guest, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
    bar_set(guest, VIRTIO_PCI_DEVICE_OFFSET + TOY_CONFIG_SIZE, 0, 4);
}

static void window_set(struct guest *guest, uint8_t bar, uint32_t offset, uint32_t length)
{
    unsigned cap = guest_find_capability(guest, VIRTIO_PCI_CAP_PCI_CFG);

    pci_function_config_write(guest->fn, cap + VIRTIO_PCI_CAP_BAR, bar, 1);
    pci_function_config_write(guest->fn, cap + VIRTIO_PCI_CAP_OFFSET, offset, 4);
    pci_function_config_write(guest->fn, cap + VIRTIO_PCI_CAP_LENGTH, length, 4);
}

static void test_configuration_access_capability(void **state)
{
    struct guest *guest = *state;
    unsigned data = guest_find_capability(guest, VIRTIO_PCI_CAP_PCI_CFG) + 16;
    struct ring rings[1];

    window_set(guest, 0, VIRTIO_PCI_COMMON_NUMQ, 2);
    assert_int_equal(pci_function_config_read(guest->fn, data, 2), TOY_QUEUES);
    assert_int_equal(pci_function_config_read(guest->fn, data, 4), TOY_QUEUES);
    window_set(guest, 0, VIRTIO_PCI_COMMON_Q_SELECT, 2);
    pci_function_config_write(guest->fn, data, 2, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SELECT, 2), 2);
    /* It works with memory decoding off: that is what it is for. */
    pci_function_config_write(guest->fn, PCI_COMMAND, 0, 2);
    window_set(guest, 0, VIRTIO_PCI_DEVICE_OFFSET, 4);
    assert_int_equal(pci_function_config_read(guest->fn, data, 4), 0x04030201);
    window_set(guest, 0, VIRTIO_PCI_DEVICE_OFFSET + 4, 1);
    pci_function_config_write(guest->fn, data, 0xaa, 1);
    assert_int_equal(toy.config[4], 0xaa);
    /* A doorbell, too. */
    toy_run(guest, rings, 1, 0);
    window_set(guest, 0, VIRTIO_PCI_NOTIFY_OFFSET, 2);
    pci_function_config_write(guest->fn, data, 0, 2);
    assert_int_equal(toy_doorbell_rings(0), 1);
}

static void test_configuration_access_capability_refuses_odd_windows(void **state)
{
    static const struct {
        uint8_t bar;
        uint32_t offset, length;
    } odd[] = {
        {1, VIRTIO_PCI_DEVICE_OFFSET, 4},
        {6, VIRTIO_PCI_DEVICE_OFFSET, 4},
        {255, VIRTIO_PCI_DEVICE_OFFSET, 4},
        {0, VIRTIO_PCI_DEVICE_OFFSET, 0},
        {0, VIRTIO_PCI_DEVICE_OFFSET, 3},
        {0, VIRTIO_PCI_DEVICE_OFFSET, 8},
        {0, VIRTIO_PCI_DEVICE_OFFSET + 1, 4},
        {0, VIRTIO_PCI_BAR_SIZE, 4},
        {0, 0xfffffffc, 4},
        {0, VIRTIO_PCI_DEVICE_OFFSET, 0xffffffff},
    };
    struct guest *guest = *state;
    unsigned data = guest_find_capability(guest, VIRTIO_PCI_CAP_PCI_CFG) + 16;

    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        window_set(guest, odd[i].bar, odd[i].offset, odd[i].length);
        pci_function_config_write(guest->fn, data, 0x5a5a5a5a, 4);
        /* Just memory. */
        assert_int_equal(pci_function_config_read(guest->fn, data, 4), 0x5a5a5a5a);
        assert_int_equal(toy.config[0], 1);
    }
}

/* ---- anything at all ---- */

static void test_common_accesses_of_any_width(void **state)
{
    struct guest *guest = *state;

    for (unsigned offset = 0; offset < 72; offset++) {
        for (unsigned len = 1; len <= 8; len *= 2) {
            uint64_t whole = bar_get(guest, offset, len), bytes = 0;

            for (unsigned b = 0; b < len; b++)
                bytes |= bar_get(guest, offset + b, 1) << (8 * b);
            assert_int_equal(whole, bytes);
        }
    }
    /* Half a register changes half of it. */
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, 0x1234, 2);
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT + 1, 0xab, 1);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SELECT, 2), 0xab34);
}

static void test_random_accesses(void **state)
{
    struct guest *guest = *state;
    uint64_t seed = test_seed();

    for (unsigned i = 0; i < 300000; i++) {
        uint64_t r = test_random(&seed), value = test_random(&seed);
        unsigned len = 1u << (r & 3), config_len = 1u << (r % 3);
        uint64_t offset = (r >> 16) % (VIRTIO_PCI_BAR_SIZE - 7);

        /* Mostly where the registers are, and values that mean something. */
        if (r & 0x10)
            offset = (offset & 0x7000) | (offset & 0x3f);
        if (r & 0x20)
            value &= 0xf;
        switch (r >> 8 & 7) {
        case 0:
            pci_function_config_read(guest->fn, (unsigned)(r >> 32) & 0x1ff, config_len);
            break;
        case 1:
            pci_function_config_write(guest->fn, (unsigned)(r >> 32) & 0x1ff, (uint32_t)value,
                                      config_len);
            break;
        case 2:
            toy.dev.transport->interrupt_queue(&toy.dev, (unsigned)(value % TOY_QUEUES));
            break;
        case 3:
            bar_get(guest, offset, len);
            break;
        case 4:
            /* Now and then a driver that knows what it does. */
            if (value % 16 == 0 && guest_negotiate(guest, VERSION_1))
                guest_driver_ok(guest);
            break;
        default:
            bar_set(guest, offset, value, len);
            break;
        }
    }
    print_message("%u activations, %u resets\n", toy.activated, toy.resets);
    assert_true(toy.activated > 0);
    guest->fn->ops->reset(guest->fn);
    assert_int_equal(guest_status(guest), 0);
    assert_int_equal(fake_host_connected(&guest->host), 0);
    assert_int_equal(fake_host_doorbells(&guest->host), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, toy_start, toy_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_device_configuration_and_its_generation),
        TEST(test_configuration_access_capability),
        TEST(test_configuration_access_capability_refuses_odd_windows),
        TEST(test_common_accesses_of_any_width),
        TEST(test_random_accesses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
