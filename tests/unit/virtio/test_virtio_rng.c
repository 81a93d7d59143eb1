/* The entropy device behind the PCI transport. */
#include "harness.h"

#include "virtio_pci.h"
#include "virtio_rng.h"

#include <linux/virtio_config.h>
#include <string.h>

#define FEATURES (1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_EVENT_IDX)

static int start(void **state)
{
    static struct guest guest;
    struct virtio_device *device;
    struct pci_function *fn;

    guest_init(&guest);
    assert_int_equal(virtio_rng_create(&device, NULL), 0);
    assert_int_equal(virtio_pci_create(device, &guest.mem, &fn, NULL), 0);
    guest_plug(&guest, fn);
    *state = &guest;
    return 0;
}

static int stop(void **state)
{
    guest_destroy(*state);
    return 0;
}

static void run(struct guest *guest, struct ring *ring)
{
    assert_true(guest_negotiate(guest, FEATURES));
    guest_setup_ring(guest, ring, 0, 8, FEATURES);
    guest_enable_msix(guest, 1);
    guest_driver_ok(guest);
}

static void test_buffers_are_filled(void **state)
{
    struct guest *guest = *state;
    struct ring ring;
    uint64_t gpa = guest_alloc(guest, 4096, 16);
    uint8_t *bytes = guest_ptr(guest, gpa);
    uint32_t id, len;
    unsigned zeros = 0;

    run(guest, &ring);
    ring_desc(&ring, 0, gpa, 1000, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
    ring_desc(&ring, 1, gpa + 2000, 24, VRING_DESC_F_WRITE, 0);
    ring_add(&ring, 0);
    ring_kick(guest, &ring);
    fake_host_wait_interrupt(&guest->host, HARNESS_MSI_DATA + 1);
    assert_true(ring_get_used(&ring, &id, &len));
    assert_int_equal(id, 0);
    assert_int_equal(len, 1024);
    for (unsigned i = 0; i < 1000; i++)
        zeros += bytes[i] == 0;
    assert_in_range(zeros, 0, 50);
    for (unsigned i = 1000; i < 2000; i++)
        assert_int_equal(bytes[i], 0);
}

static void test_one_request_is_bounded(void **state)
{
    struct guest *guest = *state;
    struct ring ring;
    uint64_t gpa = guest_alloc(guest, 8 << 20, 16);
    uint32_t id, len;

    run(guest, &ring);
    ring_desc(&ring, 0, gpa, 8 << 20, VRING_DESC_F_WRITE, 0);
    ring_add(&ring, 0);
    ring_kick(guest, &ring);
    ring_wait_used(&ring, &id, &len);
    assert_int_equal(len, 65536);
}

static void test_readable_buffer_needs_reset(void **state)
{
    struct guest *guest = *state;
    struct ring ring;
    uint64_t gpa = guest_alloc(guest, 64, 16);
    uint32_t id, len;

    run(guest, &ring);
    ring_desc(&ring, 0, gpa, 64, 0, 0);
    ring_add(&ring, 0);
    ring_kick(guest, &ring);
    fake_host_wait_interrupt(&guest->host, HARNESS_MSI_DATA);
    assert_true(guest_status(guest) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_false(ring_get_used(&ring, &id, &len));
    guest_reset(guest);
    run(guest, &ring);
    ring_desc(&ring, 0, gpa, 64, VRING_DESC_F_WRITE, 0);
    ring_add(&ring, 0);
    ring_kick(guest, &ring);
    ring_wait_used(&ring, &id, &len);
    assert_int_equal(len, 64);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_buffers_are_filled),
        TEST(test_one_request_is_bounded),
        TEST(test_readable_buffer_needs_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
