#include "toy.h"

#include "virtio_pci.h"

#include <string.h>
#include <unistd.h>

struct toy toy;

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
    assert_true(offset + len <= TOY_CONFIG_SIZE);
    memcpy(data, toy.config + offset, len);
}

static void toy_config_write(struct virtio_device *dev, uint32_t offset, const void *data,
                             unsigned len)
{
    (void)dev;
    assert_true(offset + len <= TOY_CONFIG_SIZE);
    memcpy(toy.config + offset, data, len);
}

static void toy_destroy(struct virtio_device *dev)
{
    (void)dev;
    toy.destroyed++;
    for (unsigned i = 0; i < TOY_QUEUES; i++)
        virtqueue_destroy(&toy.queues[i]);
}

static const struct virtio_device_ops toy_ops = {
    .activate = toy_activate,
    .reset = toy_reset,
    .config_read = toy_config_read,
    .config_write = toy_config_write,
    .destroy = toy_destroy,
};

int toy_start(void **state)
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
                .offered_features = TOY_FEATURES,
                .queue_count = TOY_QUEUES,
                .queues = toy.queues,
                .config_size = TOY_CONFIG_SIZE,
            },
        .config = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
    };
    for (unsigned i = 0; i < TOY_QUEUES; i++)
        assert_int_equal(virtqueue_init(&toy.queues[i], TOY_QUEUE_SIZE), 0);
    guest_init(&guest);
    assert_int_equal(virtio_pci_create(&toy.dev, &guest.mem, &fn, NULL), 0);
    guest_plug(&guest, fn);
    *state = &guest;
    return 0;
}

int toy_stop(void **state)
{
    guest_destroy(*state);
    return toy.destroyed == 1 ? 0 : -1;
}

void toy_run(struct guest *guest, struct ring *rings, unsigned queues, uint64_t features)
{
    assert_true(guest_negotiate(guest, features | VERSION_1));
    for (unsigned i = 0; i < queues; i++)
        guest_setup_ring(guest, &rings[i], i, TOY_QUEUE_SIZE, features);
    guest_enable_msix(guest, TOY_QUEUES);
    guest_driver_ok(guest);
}

uint64_t toy_doorbell_rings(unsigned q)
{
    uint64_t count = 0;

    return read(toy.queues[q].doorbell, &count, sizeof(count)) == sizeof(count) ? count : 0;
}
