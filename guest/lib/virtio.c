/* virtio.c - discovery, negotiation and split rings. */
#include "virtio.h"
#include "interrupt.h"
#include "lib.h"
#include "pci.h"

enum {
    CAP_TYPE = 3,
    CAP_BAR = 4,
    CAP_OFFSET = 8,
    CAP_LENGTH = 12,
    CAP_NOTIFY_MULTIPLIER = 16,

    CAP_COMMON = 1,
    CAP_NOTIFY = 2,
    CAP_ISR = 3,
    CAP_DEVICE = 4,
    CAP_PCI_ACCESS = 5,

    MSIX_CONTROL = 2,
    MSIX_TABLE = 4,
    MSIX_ENABLE = 0x8000,
};

#define VIRTIO_VENDOR 0x1af4u
#define VIRTIO_MODERN 0x1040u

static void find_regions(struct virtio *v)
{
    unsigned cap = 0;

    while ((cap = pci_find_capability(v->device, PCI_CAP_VENDOR, cap)) != 0) {
        unsigned type = pci_read8(v->device, cap + CAP_TYPE);
        uint64_t address = pci_bar_address(v->device, pci_read8(v->device, cap + CAP_BAR)) +
                           pci_read32(v->device, cap + CAP_OFFSET);

        if (type == 0 || type > CONFIG_REGIONS || v->region_length[type])
            continue;
        v->region_length[type] = pci_read32(v->device, cap + CAP_LENGTH);
        if (type == CAP_COMMON)
            v->common = address;
        else if (type == CAP_ISR)
            v->isr = address;
        else if (type == CAP_DEVICE)
            v->config = address;
        else if (type == CAP_PCI_ACCESS)
            v->pci_access = cap;
        else {
            v->notify = address;
            v->notify_multiplier = pci_read32(v->device, cap + CAP_NOTIFY_MULTIPLIER);
        }
    }
}

bool virtio_find(unsigned type, unsigned n, struct virtio *v)
{
    unsigned msix;

    memset(v, 0, sizeof(*v));
    for (v->device = 0; v->device < 32; v->device++)
        if (pci_read32(v->device, PCI_ID) == ((VIRTIO_MODERN + type) << 16 | VIRTIO_VENDOR) &&
            n-- == 0)
            break;
    if (v->device == 32)
        return false;
    find_regions(v);
    msix = pci_find_capability(v->device, PCI_CAP_MSIX, 0);
    if (msix) {
        uint32_t table = pci_read32(v->device, msix + MSIX_TABLE);

        v->msix_table = pci_bar_address(v->device, table & 7) + (table & ~7u);
    }
    pci_write16(v->device, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    if (v->common && v->notify && v->isr && v->pci_access && msix)
        return true;
    return check(false, "device %u has every structure of a modern virtio device", v->device);
}

uint8_t virtio_status(const struct virtio *v)
{
    return mmio_read8(v->common + COMMON_STATUS);
}

void virtio_set_status(const struct virtio *v, uint8_t status)
{
    mmio_write8(v->common + COMMON_STATUS, status);
}

bool virtio_reset(struct virtio *v)
{
    virtio_set_status(v, 0);
    return WAIT_FOR(virtio_status(v) == 0, LONG_WAIT) || check(false, "the device resets");
}

uint64_t virtio_device_features(const struct virtio *v)
{
    uint64_t high;

    mmio_write32(v->common + COMMON_DEVICE_FEATURE_SELECT, 1);
    high = mmio_read32(v->common + COMMON_DEVICE_FEATURE);
    mmio_write32(v->common + COMMON_DEVICE_FEATURE_SELECT, 0);
    return high << 32 | mmio_read32(v->common + COMMON_DEVICE_FEATURE);
}

bool virtio_negotiate(struct virtio *v, uint64_t wanted)
{
    uint8_t status = STATUS_ACKNOWLEDGE;

    if (!virtio_reset(v))
        return false;
    virtio_set_status(v, status);
    virtio_set_status(v, status |= STATUS_DRIVER);
    v->features = virtio_device_features(v) & (wanted | FEATURE_VERSION_1);
    mmio_write32(v->common + COMMON_DRIVER_FEATURE_SELECT, 0);
    mmio_write32(v->common + COMMON_DRIVER_FEATURE, (uint32_t)v->features);
    mmio_write32(v->common + COMMON_DRIVER_FEATURE_SELECT, 1);
    mmio_write32(v->common + COMMON_DRIVER_FEATURE, (uint32_t)(v->features >> 32));
    virtio_set_status(v, status |= STATUS_FEATURES_OK);
    return virtio_status(v) == status || check(false, "the device accepts the features it offers");
}

unsigned virtio_queue_count(const struct virtio *v)
{
    return mmio_read16(v->common + COMMON_NUM_QUEUES);
}

static void write_address(const struct virtio *v, unsigned reg, const volatile void *p)
{
    mmio_write32(v->common + reg, (uint32_t)address_of(p));
    mmio_write32(v->common + reg + 4, (uint32_t)(address_of(p) >> 32));
}

bool virtio_setup_queue(struct virtio *v, unsigned index, uint16_t vector)
{
    struct queue *q = &v->queues[index];
    uint16_t max;

    mmio_write16(v->common + COMMON_QUEUE_SELECT, (uint16_t)index);
    max = mmio_read16(v->common + COMMON_QUEUE_SIZE);
    if (max == 0)
        return check(false, "queue %u is there", index);
    if (!q->table) {
        q->table = allocate(sizeof(struct descriptor) * QUEUE_SIZE, 16);
        q->avail = allocate(6 + 2 * QUEUE_SIZE, 2);
        q->used = allocate(6 + 8 * QUEUE_SIZE, 4);
    } else {
        memset(q->table, 0, sizeof(struct descriptor) * QUEUE_SIZE);
        memset(q->avail, 0, 6 + 2 * QUEUE_SIZE);
        memset(q->used, 0, 6 + 8 * QUEUE_SIZE);
    }
    q->size = max < QUEUE_SIZE ? max : QUEUE_SIZE;
    q->index = (uint16_t)index;
    q->offered = q->taken = 0;
    q->event_index = v->features & FEATURE_RING_EVENT;
    mmio_write16(v->common + COMMON_QUEUE_SIZE, q->size);
    mmio_write16(v->common + COMMON_QUEUE_VECTOR, vector);
    if (mmio_read16(v->common + COMMON_QUEUE_VECTOR) != vector)
        return check(false, "queue %u accepts vector %u", index, (unsigned)vector);
    write_address(v, COMMON_QUEUE_DESC, q->table);
    write_address(v, COMMON_QUEUE_DRIVER, q->avail);
    write_address(v, COMMON_QUEUE_DEVICE, q->used);
    q->doorbell = v->notify +
                  (uint64_t)mmio_read16(v->common + COMMON_QUEUE_NOTIFY_OFF) * v->notify_multiplier;
    mmio_write16(v->common + COMMON_QUEUE_ENABLE, 1);
    return true;
}

void virtio_driver_ok(struct virtio *v)
{
    virtio_set_status(v,
                      STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

bool virtio_start(struct virtio *v, uint64_t wanted, unsigned queues)
{
    if (!virtio_negotiate(v, wanted))
        return false;
    for (unsigned i = 0; i < queues; i++)
        if (!virtio_setup_queue(v, i, NO_VECTOR))
            return false;
    virtio_driver_ok(v);
    return true;
}

void virtio_enable_msix(const struct virtio *v, bool on)
{
    unsigned control = pci_find_capability(v->device, PCI_CAP_MSIX, 0) + MSIX_CONTROL;

    pci_write16(v->device, control, on ? MSIX_ENABLE : 0);
}

void virtio_set_message(const struct virtio *v, unsigned entry, unsigned vector)
{
    uint64_t address = interrupt_message_address();

    mmio_write32(v->msix_table + entry * 16, (uint32_t)address);
    mmio_write32(v->msix_table + entry * 16 + 4, (uint32_t)(address >> 32));
    mmio_write32(v->msix_table + entry * 16 + 8, vector);
    virtio_mask_message(v, entry, false);
}

void virtio_mask_message(const struct virtio *v, unsigned entry, bool masked)
{
    mmio_write32(v->msix_table + entry * 16 + 12, masked);
}

void queue_set(struct queue *q, unsigned slot, const volatile void *data, uint32_t length,
               uint16_t flags, uint16_t next)
{
    q->table[slot] = (struct descriptor){address_of(data), length, flags, next};
}

void queue_offer(struct queue *q, uint16_t head)
{
    q->avail->ring[q->offered % q->size] = head;
    q->offered++;
    /* The ring entry is visible before the index that covers it. */
    fence();
    q->avail->index = q->offered;
}

bool queue_wants_notify(const struct queue *q, uint16_t before)
{
    /* The index is visible to the device before its wish is read: else both sides could sleep. */
    fence();
    if (q->event_index) {
        uint16_t event = *(volatile uint16_t *)&q->used->ring[q->size];

        return (uint16_t)(q->offered - event - 1) < (uint16_t)(q->offered - before);
    }
    return !(q->used->flags & USED_NO_NOTIFY);
}

void queue_notify(struct queue *q)
{
    fence();
    mmio_write16(q->doorbell, q->index);
}

bool queue_wait(struct queue *q, struct used_element *out)
{
    if (!WAIT_FOR(q->used->index != q->taken, LONG_WAIT))
        return false;
    fence();
    *out = q->used->ring[q->taken % q->size];
    q->taken++;
    return true;
}

void queue_set_used_event(struct queue *q, uint16_t index)
{
    *(volatile uint16_t *)&q->avail->ring[q->size] = index;
    fence();
}
