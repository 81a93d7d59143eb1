/*
 * virtio_hostile - a driver that breaks the rules of the configuration structures: accesses of every
 * width at every offset, queues that cannot be, states out of order, the PCI window turned on itself.
 * After each the device works.
 */
#include "blk.h"
#include "lib.h"
#include "pci.h"

enum { WINDOW_BAR = 4, WINDOW_OFFSET = 8, WINDOW_LENGTH = 12, WINDOW_DATA = 16 };

static struct virtio v;

static bool works(void)
{
    return virtio_start(&v, FEATURES_BLK_ALL, 1) && blk_fill(&v, 0, 3, 1, 0x63) &&
           blk_verify(&v, 0, 3, 1, 0x63);
}

static void touch(uint64_t address)
{
    (void)mmio_read8(address);
    (void)mmio_read16(address);
    (void)mmio_read32(address);
    (void)mmio_read64(address);
    mmio_write8(address, 0xff);
    mmio_write16(address, 0xffff);
    mmio_write32(address, 0xffffffff);
    mmio_write64(address, ~0ULL);
}

static void check_every_access(void)
{
    for (unsigned i = 0; i < COMMON_SIZE + 16; i++)
        touch(v.common + i);
    check(works(), "after accesses all over the common configuration");
    for (unsigned i = 0; i < 96; i++)
        touch(v.config + i);
    check(works(), "after accesses all over the device configuration");
    for (unsigned i = 0; i < 8; i++)
        touch(v.isr + i);
    for (unsigned i = 0; i < 16; i++)
        touch(v.notify + i);
    touch(v.notify + v.region_length[2] - 8);
    for (unsigned i = 0; i < 64; i++)
        touch(v.msix_table + i);
    check(works(), "after accesses to ISR, doorbells and MSI-X");
}

static void check_windows(void)
{
    static const uint32_t lengths[] = {0, 1, 2, 3, 4, 5, 8, 0x80000000};
    static const uint32_t offsets[] = {0, 1, 2, 0x14, 0xffe, 0x100000, 0xfffffffc, 0xffffffff};

    for (unsigned bar = 0; bar < 8; bar++)
        for (unsigned i = 0; i < ARRAY_LEN(offsets); i++)
            for (unsigned j = 0; j < ARRAY_LEN(lengths); j++) {
                pci_write8(v.device, v.pci_access + WINDOW_BAR, (uint8_t)bar);
                pci_write32(v.device, v.pci_access + WINDOW_OFFSET, offsets[i]);
                pci_write32(v.device, v.pci_access + WINDOW_LENGTH, lengths[j]);
                (void)pci_read32(v.device, v.pci_access + WINDOW_DATA);
                pci_write32(v.device, v.pci_access + WINDOW_DATA, 0xffffffff);
            }
    check(works(), "after a PCI window onto everything");
}

static void check_window_sees_status(void)
{
    unsigned bar = 0;

    while (bar < 6 && (v.common < pci_bar_address(v.device, bar) ||
                       v.common >= pci_bar_address(v.device, bar) + pci_bar_size(v.device, bar)))
        bar++;
    pci_write8(v.device, v.pci_access + WINDOW_BAR, (uint8_t)bar);
    pci_write32(v.device, v.pci_access + WINDOW_OFFSET,
                (uint32_t)(v.common - pci_bar_address(v.device, bar)) + COMMON_STATUS);
    pci_write32(v.device, v.pci_access + WINDOW_LENGTH, 1);
    check(pci_read8(v.device, v.pci_access + WINDOW_DATA) == virtio_status(&v) && virtio_status(&v),
          "the PCI window shows the device status");
    pci_write8(v.device, v.pci_access + WINDOW_DATA, 0);
    check(virtio_status(&v) == 0, "and writes it");
    check(works(), "after a reset through the window");
}

/* Sets queue 0 up with one address or size spoilt, starts, rings the bell. */
static void bad_queue(const char *name, uint16_t size, unsigned reg, uint64_t address)
{
    if (!virtio_negotiate(&v, FEATURES_BLK_ALL) || !virtio_setup_queue(&v, 0, NO_VECTOR))
        return;
    mmio_write16(v.common + COMMON_QUEUE_ENABLE, 0);
    mmio_write16(v.common + COMMON_QUEUE_SIZE, size);
    if (reg) {
        mmio_write32(v.common + reg, (uint32_t)address);
        mmio_write32(v.common + reg + 4, (uint32_t)(address >> 32));
    }
    mmio_write16(v.common + COMMON_QUEUE_ENABLE, 1);
    virtio_driver_ok(&v);
    queue_notify(&v.queues[0]);
    check(works(), "after a queue with %s", name);
}

static void check_queues(void)
{
    bad_queue("size 0", 0, 0, 0);
    bad_queue("size 3", 3, 0, 0);
    bad_queue("size 65535", 0xffff, 0, 0);
    bad_queue("a descriptor table outside memory", 64, COMMON_QUEUE_DESC, 0xd0000000);
    bad_queue("an available ring outside memory", 64, COMMON_QUEUE_DRIVER, 0xd0000000);
    bad_queue("a used ring outside memory", 64, COMMON_QUEUE_DEVICE, 0xd0000000);
    bad_queue("a table whose end wraps", 64, COMMON_QUEUE_DESC, ~15ULL);
    bad_queue("a used ring whose end wraps", 64, COMMON_QUEUE_DEVICE, ~3ULL);
    bad_queue("a misaligned table", 64, COMMON_QUEUE_DESC, 0x200001);
    bad_queue("a misaligned used ring", 64, COMMON_QUEUE_DEVICE, 0x200001);

    mmio_write16(v.common + COMMON_QUEUE_SELECT, 0xfff0);
    check(mmio_read16(v.common + COMMON_QUEUE_SIZE) == 0, "a queue that is not there has size 0");
    mmio_write16(v.common + COMMON_QUEUE_ENABLE, 1);
    mmio_write16(v.common + COMMON_QUEUE_VECTOR, 0);
    check(works(), "after enabling it");
}

static void check_order(void)
{
    virtio_reset(&v);
    virtio_set_status(&v, STATUS_DRIVER_OK);
    mmio_write16(v.notify, 0);
    check(works(), "after DRIVER_OK out of nothing");

    virtio_reset(&v);
    virtio_set_status(&v, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    mmio_write32(v.common + COMMON_DRIVER_FEATURE_SELECT, 0);
    mmio_write32(v.common + COMMON_DRIVER_FEATURE, 0xffffffff);
    mmio_write32(v.common + COMMON_DRIVER_FEATURE_SELECT, 1);
    mmio_write32(v.common + COMMON_DRIVER_FEATURE, 0xffffffff);
    virtio_set_status(&v, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    check(!(virtio_status(&v) & STATUS_FEATURES_OK), "features that were not offered are refused");
    virtio_reset(&v);
    virtio_set_status(&v, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    virtio_set_status(&v, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    check(!(virtio_status(&v) & STATUS_FEATURES_OK), "so is a driver without VERSION_1");
    mmio_write32(v.common + COMMON_DEVICE_FEATURE_SELECT, 2);
    check(mmio_read32(v.common + COMMON_DEVICE_FEATURE) == 0, "there are no features above 64");
    check(works(), "after all that");

    /* A queue changes while the device runs: not allowed, and no harm. */
    mmio_write16(v.common + COMMON_QUEUE_SELECT, 0);
    mmio_write16(v.common + COMMON_QUEUE_SIZE, 2);
    mmio_write32(v.common + COMMON_QUEUE_DESC, 0xd0000000);
    mmio_write16(v.common + COMMON_QUEUE_ENABLE, 1);
    queue_notify(&v.queues[0]);
    check(works(), "after a queue changed under a running device");
    for (unsigned i = 0; i < 200; i++)
        queue_notify(&v.queues[0]);
    check(works(), "after doorbells for nothing");
    for (unsigned i = 0; i < 20; i++) {
        virtio_driver_ok(&v);
        virtio_set_status(&v, 0);
    }
    check(works(), "after starts and resets in a row");
}

int main(void)
{
    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device"))
        return 0;
    check(works(), "the device works");
    check_every_access();
    check_windows();
    works();
    check_window_sees_status();
    check_queues();
    check_order();
    return 0;
}
