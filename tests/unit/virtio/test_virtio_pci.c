/*
 * The PCI transport around a device that only records what is asked of it: where its structures are,
 * negotiation, the setup of queues, doorbells, interrupts, and odd accesses of every kind.
 */
#include "harness.h"

#include "bytes.h"
#include "virtio_pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUEUES = 3, QUEUE_SIZE = 16, CONFIG_SIZE = 11 };

#define OFFERED   (1ULL << 5 | 1ULL << 9)
#define VERSION_1 (1ULL << VIRTIO_F_VERSION_1)
#define EVENT_IDX (1ULL << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  (1ULL << VIRTIO_RING_F_INDIRECT_DESC)

struct toy {
    struct virtio_device dev; /* first */
    struct virtqueue queues[QUEUES];
    uint8_t config[CONFIG_SIZE];
    unsigned activated, resets, destroyed;
    uint64_t features_at_activate;
    int activate_result;
};

static struct toy toy;

static int toy_activate(struct virtio_device *dev)
{
    toy.activated++;
    toy.features_at_activate = dev->features;
    return toy.activate_result;
}

static void toy_reset(struct virtio_device *dev)
{
    (void)dev;
    toy.resets++;
}

static void toy_config_read(struct virtio_device *dev, uint32_t offset, void *data, unsigned len)
{
    (void)dev;
    assert_true(offset + len <= CONFIG_SIZE);
    memcpy(data, toy.config + offset, len);
}

static void toy_config_write(struct virtio_device *dev, uint32_t offset, const void *data,
                             unsigned len)
{
    (void)dev;
    assert_true(offset + len <= CONFIG_SIZE);
    memcpy(toy.config + offset, data, len);
}

static void toy_destroy(struct virtio_device *dev)
{
    (void)dev;
    toy.destroyed++;
    for (unsigned i = 0; i < QUEUES; i++)
        virtqueue_destroy(&toy.queues[i]);
}

static const struct virtio_device_ops toy_ops = {
    .activate = toy_activate,
    .reset = toy_reset,
    .config_read = toy_config_read,
    .config_write = toy_config_write,
    .destroy = toy_destroy,
};

static int start(void **state)
{
    static struct guest guest;
    struct pci_function *fn;

    toy = (struct toy){
        .dev =
            {
                .ops = &toy_ops,
                .name = "toy",
                .type = 42,
                .pci_class = 0x00ff00,
                .offered_features = OFFERED,
                .queue_count = QUEUES,
                .queues = toy.queues,
                .config_size = CONFIG_SIZE,
            },
        .config = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
    };
    for (unsigned i = 0; i < QUEUES; i++)
        assert_int_equal(virtqueue_init(&toy.queues[i], QUEUE_SIZE), 0);
    guest_init(&guest);
    assert_int_equal(virtio_pci_create(&toy.dev, &guest.mem, &fn, NULL), 0);
    guest_plug(&guest, fn);
    *state = &guest;
    return 0;
}

static int stop(void **state)
{
    guest_destroy(*state);
    return toy.destroyed == 1 ? 0 : -1;
}

/* The device running with `queues` rings, MSI-X on. */
static void run(struct guest *guest, struct ring *rings, unsigned queues, uint64_t features)
{
    assert_true(guest_negotiate(guest, features | VERSION_1));
    for (unsigned i = 0; i < queues; i++)
        guest_setup_ring(guest, &rings[i], i, QUEUE_SIZE, features);
    guest_enable_msix(guest, QUEUES);
    guest_driver_ok(guest);
}

/* Rings at the doorbell of queue `q`, counted and taken. */
static uint64_t doorbell_rings(unsigned q)
{
    uint64_t count = 0;

    return read(toy.queues[q].doorbell, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

/* ---- discovery ---- */

static void test_identity(void **state)
{
    struct guest *guest = *state;

    assert_int_equal(pci_function_config_read(guest->fn, 0, 4), 0x1af4 | (0x1040 + 42) << 16);
    assert_int_equal(pci_function_config_read(guest->fn, PCI_REVISION_ID, 1), 1);
    assert_true(pci_function_config_read(guest->fn, PCI_SUBSYSTEM_ID, 2) >= 0x40);
    assert_int_equal(pci_function_config_read(guest->fn, PCI_CLASS_REVISION, 4) >> 8, 0x00ff00);
}

/* Finds a virtio capability; 0 when there is none. */
static unsigned find_cap(struct guest *guest, uint8_t type)
{
    unsigned at = pci_function_config_read(guest->fn, PCI_CAPABILITY_LIST, 1), hops = 0;

    for (; at; at = pci_function_config_read(guest->fn, at + 1, 1)) {
        assert_true(++hops < 20);
        if (pci_function_config_read(guest->fn, at, 1) == PCI_CAP_ID_VNDR &&
            pci_function_config_read(guest->fn, at + VIRTIO_PCI_CAP_CFG_TYPE, 1) == type)
            return at;
    }
    return 0;
}

static void test_capabilities_lie_within_the_bar(void **state)
{
    static const uint32_t least[] = {
        [VIRTIO_PCI_CAP_COMMON_CFG] = sizeof(struct virtio_pci_common_cfg),
        [VIRTIO_PCI_CAP_NOTIFY_CFG] = (QUEUES - 1) * 4 + 2,
        [VIRTIO_PCI_CAP_ISR_CFG] = 1,
        [VIRTIO_PCI_CAP_DEVICE_CFG] = CONFIG_SIZE,
    };
    struct guest *guest = *state;

    for (uint8_t type = VIRTIO_PCI_CAP_COMMON_CFG; type <= VIRTIO_PCI_CAP_DEVICE_CFG; type++) {
        unsigned cap = find_cap(guest, type);
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
        pci_function_config_read(guest->fn, find_cap(guest, VIRTIO_PCI_CAP_NOTIFY_CFG) + 16, 4), 4);
    assert_int_not_equal(find_cap(guest, VIRTIO_PCI_CAP_PCI_CFG), 0);
}

/* ---- negotiation ---- */

static void test_offered_features(void **state)
{
    struct guest *guest = *state;

    assert_int_equal(guest_features(guest), OFFERED | VERSION_1 | EVENT_IDX | INDIRECT);
    common_set(guest, VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_DF, 4), 0);
    common_set(guest, VIRTIO_PCI_COMMON_GFSELECT, 0xffffffff, 4);
    common_set(guest, VIRTIO_PCI_COMMON_GF, 0xffffffff, 4);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_GF, 4), 0);
}

static void test_version_1_is_required(void **state)
{
    assert_false(guest_negotiate(*state, OFFERED));
    guest_driver_ok(*state);
    assert_int_equal(guest_status(*state) & VIRTIO_CONFIG_S_DRIVER_OK, 0);
    assert_int_equal(toy.activated, 0);
    /* The driver may think again. */
    assert_true(guest_negotiate(*state, OFFERED | VERSION_1));
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
    guest_enable_msix(guest, QUEUES);
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
    static const uint16_t refused[] = {0, 3, 17, QUEUE_SIZE * 2, 0x8000, 0xffff, 12};
    struct guest *guest = *state;

    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_NUMQ, 2), QUEUES);
    assert_true(guest_negotiate(guest, VERSION_1));
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_SIZE);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_NOFF, 2), 1);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        common_set(guest, VIRTIO_PCI_COMMON_Q_SIZE, refused[i], 2);
        assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_SIZE);
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
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_SIZE);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
}

static void test_queues_that_do_not_exist(void **state)
{
    static const uint16_t absent[] = {QUEUES, QUEUES + 1, 255, 256, 0x7fff, 0xffff};
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
    run(guest, rings, 2, 0);
    assert_int_equal(fake_host_doorbells(&guest->host), 2);
    assert_true(fake_host_write(&guest->host, HARNESS_BAR_GPA + VIRTIO_PCI_NOTIFY_OFFSET + 4));
    assert_int_equal(doorbell_rings(1), 1);
    assert_int_equal(doorbell_rings(0), 0);
    guest_reset(guest);
    assert_int_equal(fake_host_doorbells(&guest->host), 0);
    assert_int_equal(toy.resets, 1);
}

static void test_doorbells_follow_the_bar(void **state)
{
    struct guest *guest = *state;
    struct ring rings[2];

    run(guest, rings, 2, 0);
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
    run(guest, rings, 2, 0);
    assert_int_equal(fake_host_doorbells(&guest->host), 0);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET + 4, 1, 2);
    assert_int_equal(doorbell_rings(1), 1);
    /* Any width, even beyond the queues. */
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET, 0, 8);
    assert_int_equal(doorbell_rings(0), 1);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET + 4 * QUEUES, 0, 2);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET + 0xffe, 0, 2);
    guest_reset(guest);
    bar_set(guest, VIRTIO_PCI_NOTIFY_OFFSET, 0, 2);
    assert_int_equal(doorbell_rings(0), 0);
}

/* ---- interrupts ---- */

static void test_vectors(void **state)
{
    struct guest *guest = *state;
    struct ring rings[QUEUES];

    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    common_set(guest, VIRTIO_PCI_COMMON_MSIX, QUEUES + 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    common_set(guest, VIRTIO_PCI_COMMON_Q_MSIX, 0x7fff, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);

    run(guest, rings, QUEUES, 0);
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
    for (unsigned v = 0; v <= QUEUES; v++)
        assert_false(fake_host_take_interrupt(&guest->host, HARNESS_MSI_DATA + v));
}

static void test_needs_reset_interrupts_once(void **state)
{
    struct guest *guest = *state;
    struct ring rings[1];

    run(guest, rings, 1, 0);
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

    run(guest, rings, 1, 0);
    bar_set(guest, VIRTIO_PCI_MSIX_TABLE_OFFSET + 16 + PCI_MSIX_ENTRY_VECTOR_CTRL, 1, 4);
    toy.dev.transport->interrupt_queue(&toy.dev, 0);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_MSIX_PBA_OFFSET, 8), 2);
    guest_reset(guest);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_MSIX_PBA_OFFSET, 8), 0);
}

/* ---- device configuration and the window into the BAR ---- */

static void test_device_configuration_and_its_generation(void **state)
{
    struct guest *guest = *state;
    uint8_t generation = (uint8_t)common_get(guest, VIRTIO_PCI_COMMON_CFGGENERATION, 1);

    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + 1, 4), 0x05040302);
    /* Its end: zeros behind it, nothing written there. */
    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + 8, 8), 0x0b0a09);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + CONFIG_SIZE, 8), 0);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
    bar_set(guest, VIRTIO_PCI_DEVICE_OFFSET + 8, 0xffffffffffffffff, 8);
    assert_int_equal(bar_get(guest, VIRTIO_PCI_DEVICE_OFFSET + 8, 8), 0xffffff);
    assert_int_not_equal(common_get(guest, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
    bar_set(guest, VIRTIO_PCI_DEVICE_OFFSET + CONFIG_SIZE, 0, 4);
}

static void window_set(struct guest *guest, uint8_t bar, uint32_t offset, uint32_t length)
{
    unsigned cap = find_cap(guest, VIRTIO_PCI_CAP_PCI_CFG);

    pci_function_config_write(guest->fn, cap + VIRTIO_PCI_CAP_BAR, bar, 1);
    pci_function_config_write(guest->fn, cap + VIRTIO_PCI_CAP_OFFSET, offset, 4);
    pci_function_config_write(guest->fn, cap + VIRTIO_PCI_CAP_LENGTH, length, 4);
}

static void test_configuration_access_capability(void **state)
{
    struct guest *guest = *state;
    unsigned data = find_cap(guest, VIRTIO_PCI_CAP_PCI_CFG) + 16;
    struct ring rings[1];

    window_set(guest, 0, VIRTIO_PCI_COMMON_NUMQ, 2);
    assert_int_equal(pci_function_config_read(guest->fn, data, 2), QUEUES);
    assert_int_equal(pci_function_config_read(guest->fn, data, 4), QUEUES);
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
    run(guest, rings, 1, 0);
    window_set(guest, 0, VIRTIO_PCI_NOTIFY_OFFSET, 2);
    pci_function_config_write(guest->fn, data, 0, 2);
    assert_int_equal(doorbell_rings(0), 1);
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
    unsigned data = find_cap(guest, VIRTIO_PCI_CAP_PCI_CFG) + 16;

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
            toy.dev.transport->interrupt_queue(&toy.dev, (unsigned)(value % QUEUES));
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)

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
        TEST(test_device_configuration_and_its_generation),
        TEST(test_configuration_access_capability),
        TEST(test_configuration_access_capability_refuses_odd_windows),
        TEST(test_common_accesses_of_any_width),
        TEST(test_random_accesses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
