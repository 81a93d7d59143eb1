/*
 * The PCI transport around a device that only records what is asked of it: where its structures are,
 * negotiation, the setup of queues, doorbells and interrupts.
 */
#include "toy.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

/* ---- discovery ---- */

static void test_identity(void **state)
{
    struct guest *guest = *state;

    assert_int_equal(pci_function_config_read(guest->fn, 0, 4), 0x1af4 | (0x1040 + 42) << 16);
    assert_int_equal(pci_function_config_read(guest->fn, PCI_REVISION_ID, 1), 1);
    assert_true(pci_function_config_read(guest->fn, PCI_SUBSYSTEM_ID, 2) >= 0x40);
    assert_int_equal(pci_function_config_read(guest->fn, PCI_CLASS_REVISION, 4) >> 8, 0x00ff00);
}

static void test_capabilities_lie_within_the_bar(void **state)
{
    static const uint32_t least[] = {
        [VIRTIO_PCI_CAP_COMMON_CFG] = sizeof(struct virtio_pci_common_cfg),
        [VIRTIO_PCI_CAP_NOTIFY_CFG] = (TOY_QUEUES - 1) * 4 + 2,
        [VIRTIO_PCI_CAP_ISR_CFG] = 1,
        [VIRTIO_PCI_CAP_DEVICE_CFG] = TOY_CONFIG_SIZE,
    };
    struct guest *guest = *state;

    for (uint8_t type = VIRTIO_PCI_CAP_COMMON_CFG; type <= VIRTIO_PCI_CAP_DEVICE_CFG; type++) {
        unsigned cap = guest_find_capability(guest, type);
        uint32_t offset = pci_function_config_read(guest->fn, cap + VIRTIO_PCI_CAP_OFFSET, 4);
        uint32_t length = pci_function_config_read(guest->fn, cap + VIRTIO_PCI_CAP_LENGTH, 4);

        assert_true(cap >= 0x40);
        assert_int_equal(pci_function_config_read(guest->fn, cap + VIRTIO_PCI_CAP_BAR, 1), 0);
        assert_true(pci_function_config_read(guest->fn, cap + VIRTIO_PCI_CAP_LEN, 1) >= 16);
        assert_int_equal(offset % 4, 0);
        assert_true(length >= least[type]);
        assert_true(offset + length <= guest->fn->bar[0].size);
    }
    assert_int_equal(
        pci_function_config_read(guest->fn,
                                 guest_find_capability(guest, VIRTIO_PCI_CAP_NOTIFY_CFG) + 16, 4),
        4);
    assert_int_not_equal(guest_find_capability(guest, VIRTIO_PCI_CAP_PCI_CFG), 0);
}

/* ---- negotiation ---- */

static void test_offered_features(void **state)
{
    struct guest *guest = *state;

    assert_int_equal(guest_features(guest), TOY_FEATURES | VERSION_1 | EVENT_IDX | INDIRECT);
    common_set(guest, VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_DF, 4), 0);
    common_set(guest, VIRTIO_PCI_COMMON_GFSELECT, 0xffffffff, 4);
    common_set(guest, VIRTIO_PCI_COMMON_GF, 0xffffffff, 4);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_GF, 4), 0);
}

static void test_version_1_is_required(void **state)
{
    assert_false(guest_negotiate(*state, TOY_FEATURES));
    guest_driver_ok(*state);
    assert_int_equal(guest_status(*state) & VIRTIO_CONFIG_S_DRIVER_OK, 0);
    assert_int_equal(toy.activated, 0);
    /* The driver may think again. */
    assert_true(guest_negotiate(*state, TOY_FEATURES | VERSION_1));
}

static void test_features_not_offered_are_refused(void **state)
{
    assert_false(guest_negotiate(*state, VERSION_1 | 1));
    guest_reset(*state);
    assert_false(guest_negotiate(*state, VERSION_1 | 1ULL << VIRTIO_F_RING_PACKED));
    guest_reset(*state);
    assert_false(guest_negotiate(*state, VERSION_1 | 1ULL << 40)); /* RING_RESET */
}

static void test_features_are_final_after_features_ok(void **state)
{
    struct guest *guest = *state;

    assert_true(guest_negotiate(guest, VERSION_1 | 1ULL << 5));
    common_set(guest, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
    common_set(guest, VIRTIO_PCI_COMMON_GF, 0xffffffff, 4);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_GF, 4), 1 << 5);
    guest_driver_ok(guest);
    assert_int_equal(toy.activated, 1);
    assert_int_equal(toy.features_at_activate, VERSION_1 | 1 << 5);
}

static void test_status_bits_are_not_cleared_one_by_one(void **state)
{
    struct guest *guest = *state;

    assert_true(guest_negotiate(guest, VERSION_1));
    common_set(guest, VIRTIO_PCI_COMMON_STATUS, VIRTIO_CONFIG_S_DRIVER, 1);
    assert_int_equal(guest_status(guest), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                              VIRTIO_CONFIG_S_FEATURES_OK);
    /* NEEDS_RESET is the device's. */
    common_set(guest, VIRTIO_PCI_COMMON_STATUS, 0xff, 1);
    assert_int_equal(guest_status(guest) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    assert_int_equal(toy.activated, 1);
    /* Said twice, done once. */
    guest_driver_ok(guest);
    assert_int_equal(toy.activated, 1);
}

static void test_activation_that_fails_needs_reset(void **state)
{
    struct guest *guest = *state;

    toy.activate_result = -ENOMEM;
    assert_true(guest_negotiate(guest, VERSION_1));
    guest_enable_msix(guest, TOY_QUEUES);
    guest_driver_ok(guest);
    assert_true(guest_status(guest) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_true(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA));
    toy.activate_result = 0;
    guest_reset(guest);
    assert_true(guest_negotiate(guest, VERSION_1));
    guest_driver_ok(guest);
    assert_int_equal(guest_status(guest) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

/* ---- queues ---- */

static void test_queue_registers(void **state)
{
    static const uint16_t refused[] = {0, 3, 17, TOY_QUEUE_SIZE * 2, 0x8000, 0xffff, 12};
    struct guest *guest = *state;

    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_NUMQ, 2), TOY_QUEUES);
    assert_true(guest_negotiate(guest, VERSION_1));
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), TOY_QUEUE_SIZE);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_NOFF, 2), 1);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        common_set(guest, VIRTIO_PCI_COMMON_Q_SIZE, refused[i], 2);
        assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), TOY_QUEUE_SIZE);
    }
    common_set(guest, VIRTIO_PCI_COMMON_Q_SIZE, 8, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
    bar_set(guest, VIRTIO_PCI_COMMON_Q_DESCLO, 0x1122334455667788, 8);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0x55667788);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_DESCHI, 4), 0x11223344);
    common_set(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    common_set(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
    /* Enabled: fixed until the reset. */
    common_set(guest, VIRTIO_PCI_COMMON_Q_SIZE, 4, 2);
    common_set(guest, VIRTIO_PCI_COMMON_Q_DESCLO, 0, 4);
    common_set(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 0, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0x55667788);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
    guest_reset(guest);
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), TOY_QUEUE_SIZE);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
}

static void test_queues_that_do_not_exist(void **state)
{
    static const uint16_t absent[] = {TOY_QUEUES, TOY_QUEUES + 1, 255, 256, 0x7fff, 0xffff};
    struct guest *guest = *state;

    assert_true(guest_negotiate(guest, VERSION_1));
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, absent[i], 2);
        assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SELECT, 2), absent[i]);
        assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
        assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
        for (unsigned reg = VIRTIO_PCI_COMMON_Q_SIZE; reg < 64; reg += 2)
            common_set(guest, reg, 1, 2);
        assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    }
}

static void test_queue_is_enabled_between_features_ok_and_driver_ok(void **state)
{
    struct guest *guest = *state;

    common_set(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    assert_true(guest_negotiate(guest, VERSION_1));
    guest_driver_ok(guest);
    common_set(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
}

static void test_ring_outside_ram_needs_reset(void **state)
{
    struct guest *guest = *state;

    assert_true(guest_negotiate(guest, VERSION_1));
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
    bar_set(guest, VIRTIO_PCI_COMMON_Q_DESCLO, HARNESS_RAM_GPA, 8);
    bar_set(guest, VIRTIO_PCI_COMMON_Q_AVAILLO, UINT64_MAX - 1, 8);
    bar_set(guest, VIRTIO_PCI_COMMON_Q_USEDLO, HARNESS_RAM_GPA, 8);
    common_set(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    guest_driver_ok(guest);
    assert_true(guest_status(guest) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_int_equal(toy.activated, 0);
}

/* ---- doorbells ---- */

static void test_doorbells_live_from_driver_ok_to_reset(void **state)
{
    struct guest *guest = *state;
    struct ring rings[2];

    assert_int_equal(fake_host_doorbells(&guest->host), 0);
    toy_run(guest, rings, 2, 0);
    assert_int_equal(fake_host_doorbells(&guest->host), 2);
    assert_true(fake_host_write(&guest->host, HARNESS_BAR_GPA + VIRTIO_PCI_NOTIFY_OFFSET + 4));
    assert_int_equal(toy_doorbell_rings(1), 1);
    assert_int_equal(toy_doorbell_rings(0), 0);
    guest_reset(guest);
    assert_int_equal(fake_host_doorbells(&guest->host), 0);
    assert_int_equal(toy.resets, 1);
}

static void test_doorbells_follow_the_bar(void **state)
{
    struct guest *guest = *state;
    struct ring rings[2];

    toy_run(guest, rings, 2, 0);
    pci_function_config_write(guest->fn, PCI_BASE_ADDRESS_0, 0xd0000000, 4);
    assert_false(fake_host_write(&guest->host, HARNESS_BAR_GPA + VIRTIO_PCI_NOTIFY_OFFSET));
    assert_true(fake_host_write(&guest->host, 0xd0000000 + VIRTIO_PCI_NOTIFY_OFFSET));
    pci_function_config_write(guest->fn, PCI_COMMAND, 0, 2);
    assert_int_equal(fake_host_doorbells(&guest->host), 0);
    pci_function_config_write(guest->fn, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(fake_host_doorbells(&guest->host), 2);
}

static void test_doorbell_without_help_from_the_host(void **state)
{
    struct guest *guest = *state;
    struct ring rings[2];

    guest->host.refuse_doorbells = true;
    toy_run(guest, rings, 2, 0);
    assert_int_equal(fake_host_doorbells(&guest->host), 0);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET + 4, 1, 2);
    assert_int_equal(toy_doorbell_rings(1), 1);
    /* Any width, even beyond the queues. */
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET, 0, 8);
    assert_int_equal(toy_doorbell_rings(0), 1);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET + 4 * TOY_QUEUES, 0, 2);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET + 0xffe, 0, 2);
    guest_reset(guest);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET, 0, 2);
    assert_int_equal(toy_doorbell_rings(0), 0);
}

/* ---- interrupts ---- */

static void test_vectors(void **state)
{
    struct guest *guest = *state;
    struct ring rings[TOY_QUEUES];

    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    common_set(guest, VIRTIO_PCI_COMMON_MSIX, TOY_QUEUES + 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    common_set(guest, VIRTIO_PCI_COMMON_Q_MSIX, 0x7fff, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);

    toy_run(guest, rings, TOY_QUEUES, 0);
    toy.dev.transport->interrupt_queue(&toy.dev, 2);
    assert_true(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA + 3));
    assert_false(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA + 1));
    /* The ISR is not for those who have MSI-X. */
    assert_int_equal(bar_get(guest, VIRTIO_PCI_ISR_OFFSET, 1), 0);

    /* Another vector while running, then none. */
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, 2, 2);
    common_set(guest, VIRTIO_PCI_COMMON_Q_MSIX, 1, 2);
    toy.dev.transport->interrupt_queue(&toy.dev, 2);
    assert_true(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA + 1));
    common_set(guest, VIRTIO_PCI_COMMON_Q_MSIX, VIRTIO_MSI_NO_VECTOR, 2);
    toy.dev.transport->interrupt_queue(&toy.dev, 2);
    for (unsigned v = 0; v <= TOY_QUEUES; v++)
        assert_false(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA + v));
}

static void test_needs_reset_interrupts_once(void **state)
{
    struct guest *guest = *state;
    struct ring rings[1];

    toy_run(guest, rings, 1, 0);
    virtio_device_fail(&toy.dev);
    virtio_device_fail(&toy.dev);
    assert_true(guest_status(guest) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_true(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA));
    assert_false(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA));
    assert_int_equal(bar_get(guest, VIRTIO_PCI_ISR_OFFSET, 1), VIRTIO_PCI_ISR_CONFIG);
    guest_reset(guest);
    assert_false(atomic_load(&toy.dev.broken));
}

static void test_isr_without_msix(void **state)
{
    struct guest *guest = *state;

    assert_true(guest_negotiate(guest, VERSION_1));
    guest_driver_ok(guest);
    assert_int_equal(pci_function_config_read(guest->fn, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
    toy.dev.transport->interrupt_queue(&toy.dev, 0);
    assert_true(pci_function_config_read(guest->fn, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_ISR_OFFSET, 4), 1);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_ISR_OFFSET, 4), 0);
    assert_int_equal(pci_function_config_read(guest->fn, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
}

static void test_reset_drops_pending_interrupts(void **state)
{
    struct guest *guest = *state;
    struct ring rings[1];

    toy_run(guest, rings, 1, 0);
    bar_set(guest, VIRTIO_PCI_MSIX_TABLE_OFFSET + 16 + PCI_MSIX_ENTRY_VECTOR_CTRL, 1, 4);
    toy.dev.transport->interrupt_queue(&toy.dev, 0);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_MSIX_PBA_OFFSET, 8), 2);
    guest_reset(guest);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_MSIX_PBA_OFFSET, 8), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, toy_start, toy_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_identity),
        TEST(test_capabilities_lie_within_the_bar),
        TEST(test_offered_features),
        TEST(test_version_1_is_required),
        TEST(test_features_not_offered_are_refused),
        TEST(test_features_are_final_after_features_ok),
        TEST(test_status_bits_are_not_cleared_one_by_one),
        TEST(test_activation_that_fails_needs_reset),
        TEST(test_queue_registers),
        TEST(test_queues_that_do_not_exist),
        TEST(test_queue_is_enabled_between_features_ok_and_driver_ok),
        TEST(test_ring_outside_ram_needs_reset),
        TEST(test_doorbells_live_from_driver_ok_to_reset),
        TEST(test_doorbells_follow_the_bar),
        TEST(test_doorbell_without_help_from_the_host),
        TEST(test_vectors),
        TEST(test_needs_reset_interrupts_once),
        TEST(test_isr_without_msix),
        TEST(test_reset_drops_pending_interrupts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
