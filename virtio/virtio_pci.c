/*
 * The PCI transport: one BAR with all structures, five vendor capabilities that say where they are,
 * MSI-X, and the device's life from DRIVER_OK to reset.
 *
 * Doorbells. While the device is active and the BAR is mapped, a write to a queue's doorbell
 * signals the queue's eventfd in the kernel. A host that can not do that lets the write arrive in
 * bar_write(), which signals the same eventfd; so does a write through the configuration access
 * capability.
 *
 * Interrupts. A queue's interrupt is one write to the eventfd of its vector. The vector number may
 * change while a queue thread reads it: it then sends the old or the new vector, as hardware might.
 */
#include "virtio_pci.h"

#include "bytes.h"
#include "checked.h"
#include "virtio_pci_state.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>

enum { VENDOR_ID = 0x1af4, DEVICE_ID_BASE = 0x1040, REVISION = 1, ISR_QUEUE = 1 };

static struct virtio_pci *from_function(struct pci_function *fn)
{
    return (struct virtio_pci *)fn;
}

/* ---- interrupts: any thread ---- */

static void signal_vector(struct virtio_pci *vp, uint16_t vector)
{
    if (vector != VIRTIO_MSI_NO_VECTOR)
        msix_signal(vp->msix, vector);
}

static void interrupt_queue(struct virtio_device *dev, unsigned queue)
{
    struct virtio_pci *vp = dev->transport_data;

    /* The ISR's queue bit belongs to drivers without MSI-X; this device has no wire, so all that
     * such a driver can do is poll it (section 4.1.4.5.1). */
    if (!msix_enabled(vp->msix))
        atomic_fetch_or(&vp->isr, ISR_QUEUE);
    else
        signal_vector(vp, atomic_load_explicit(&vp->queues[queue].vector, memory_order_relaxed));
}

static void needs_reset(struct virtio_device *dev)
{
    struct virtio_pci *vp = dev->transport_data;
    uint8_t before = atomic_fetch_or(&vp->status, VIRTIO_CONFIG_S_NEEDS_RESET);

    if (!(before & VIRTIO_CONFIG_S_DRIVER_OK))
        return;
    atomic_fetch_or(&vp->isr, VIRTIO_PCI_ISR_CONFIG);
    if (msix_enabled(vp->msix))
        signal_vector(vp, atomic_load(&vp->config_vector));
}

static const struct virtio_transport_ops transport_ops = {
    .interrupt_queue = interrupt_queue,
    .needs_reset = needs_reset,
};

/* ---- doorbells ---- */

static void remove_doorbells(struct virtio_pci *vp)
{
    struct pci_host *host = vp->fn.host;

    for (unsigned i = 0; i < vp->dev->queue_count; i++) {
        struct virtio_pci_queue *queue = &vp->queues[i];

        if (queue->doorbell_assigned)
            host->ops->doorbell_deassign(host, queue->doorbell_gpa, vp->dev->queues[i].doorbell);
        queue->doorbell_assigned = false;
    }
}

static void place_doorbells(struct virtio_pci *vp)
{
    const struct pci_bar *bar = &vp->fn.bar[VIRTIO_PCI_BAR];
    struct pci_host *host = vp->fn.host;

    remove_doorbells(vp);
    if (!vp->active || !bar->mapped)
        return;
    for (unsigned i = 0; i < vp->dev->queue_count; i++) {
        struct virtio_pci_queue *queue = &vp->queues[i];

        if (!vp->dev->queues[i].ready)
            continue;
        queue->doorbell_gpa =
            bar->address + VIRTIO_PCI_NOTIFY_OFFSET + (uint64_t)i * VIRTIO_PCI_NOTIFY_MULTIPLIER;
        queue->doorbell_assigned =
            host->ops->doorbell_assign(host, queue->doorbell_gpa, vp->dev->queues[i].doorbell) == 0;
    }
}

static void ring_doorbell(struct virtio_pci *vp, uint64_t offset)
{
    uint64_t queue = offset / VIRTIO_PCI_NOTIFY_MULTIPLIER;

    if (vp->active && queue < vp->dev->queue_count)
        virtqueue_ring_doorbell(&vp->dev->queues[queue]);
}

/* ---- life ---- */

void virtio_pci_activate(struct virtio_pci *vp)
{
    struct virtio_device *dev = vp->dev;
    int ret = 0;

    for (unsigned i = 0; i < dev->queue_count && ret == 0; i++) {
        if (dev->queues[i].ready)
            ret = virtqueue_start(&dev->queues[i], dev->mem, dev->features);
    }
    if (ret == 0)
        ret = dev->ops->activate(dev);
    if (ret < 0) {
        virtio_device_fail(dev);
        return;
    }
    vp->active = true;
    place_doorbells(vp);
}

void virtio_pci_reset(struct virtio_pci *vp)
{
    struct virtio_device *dev = vp->dev;

    dev->ops->reset(dev);
    vp->active = false;
    remove_doorbells(vp);
    for (unsigned i = 0; i < dev->queue_count; i++) {
        virtqueue_reset(&dev->queues[i]);
        atomic_store(&vp->queues[i].vector, VIRTIO_MSI_NO_VECTOR);
    }
    atomic_store(&vp->config_vector, VIRTIO_MSI_NO_VECTOR);
    atomic_store(&dev->broken, false);
    atomic_store(&vp->isr, 0);
    atomic_store(&vp->status, 0);
    dev->features = vp->driver_features = 0;
    vp->device_feature_select = vp->driver_feature_select = 0;
    vp->queue_select = 0;
    msix_clear_pending(vp->msix);
}

/* ---- the BAR ---- */

static void device_config_read(struct virtio_pci *vp, uint64_t offset, void *data, unsigned len)
{
    memset(data, 0, len);
    if (offset < vp->dev->config_size)
        vp->dev->ops->config_read(vp->dev, (uint32_t)offset, data,
                                  (unsigned)min_u64(len, vp->dev->config_size - offset));
}

static void device_config_write(struct virtio_pci *vp, uint64_t offset, const void *data,
                                unsigned len)
{
    if (offset >= vp->dev->config_size || !vp->dev->ops->config_write)
        return;
    vp->dev->ops->config_write(vp->dev, (uint32_t)offset, data,
                               (unsigned)min_u64(len, vp->dev->config_size - offset));
    /* What the driver reads next may differ from what it has read (section 2.5.2). */
    vp->config_generation++;
}

static void bar_read(struct pci_function *fn, unsigned bar, uint64_t offset, void *data,
                     unsigned len)
{
    struct virtio_pci *vp = from_function(fn);
    uint64_t within = offset % VIRTIO_PCI_PAGE;

    (void)bar;
    memset(data, 0, len);
    switch (offset - within) {
    case VIRTIO_PCI_COMMON_OFFSET:
        virtio_pci_common_read(vp, within, data, len);
        break;
    case VIRTIO_PCI_ISR_OFFSET:
        if (within == 0) /* reading acknowledges */
            *(uint8_t *)data = atomic_exchange(&vp->isr, 0);
        break;
    case VIRTIO_PCI_DEVICE_OFFSET:
        device_config_read(vp, within, data, len);
        break;
    case VIRTIO_PCI_MSIX_TABLE_OFFSET:
        msix_table_read(vp->msix, within, data, len);
        break;
    case VIRTIO_PCI_MSIX_PBA_OFFSET:
        msix_pba_read(vp->msix, within, data, len);
        break;
    default:
        break;
    }
}

static void bar_write(struct pci_function *fn, unsigned bar, uint64_t offset, const void *data,
                      unsigned len)
{
    struct virtio_pci *vp = from_function(fn);
    uint64_t within = offset % VIRTIO_PCI_PAGE;

    (void)bar;
    switch (offset - within) {
    case VIRTIO_PCI_COMMON_OFFSET:
        virtio_pci_common_write(vp, within, data, len);
        break;
    case VIRTIO_PCI_DEVICE_OFFSET:
        device_config_write(vp, within, data, len);
        break;
    case VIRTIO_PCI_NOTIFY_OFFSET:
        ring_doorbell(vp, within);
        break;
    case VIRTIO_PCI_MSIX_TABLE_OFFSET:
        msix_table_write(vp->msix, within, data, len);
        break;
    default:
        break;
    }
}

/* ---- configuration space ---- */

/* Where pci_cfg_data leads (section 4.1.4.9): true with an access that bar_read/bar_write may get.
 */
static bool pci_cfg_target(const struct virtio_pci *vp, uint32_t *offset, uint32_t *len)
{
    const uint8_t *cap = vp->fn.config + vp->pci_cfg;

    *offset = load_le32(cap + VIRTIO_PCI_CAP_OFFSET);
    *len = load_le32(cap + VIRTIO_PCI_CAP_LENGTH);
    return cap[VIRTIO_PCI_CAP_BAR] == VIRTIO_PCI_BAR && (*len == 1 || *len == 2 || *len == 4) &&
           is_aligned(*offset, *len) && range_within(*offset, *len, VIRTIO_PCI_BAR_SIZE);
}

static bool touches_pci_cfg_data(const struct virtio_pci *vp, unsigned offset, unsigned len)
{
    return ranges_overlap(offset, len,
                          vp->pci_cfg + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data), 4);
}

static void config_reading(struct pci_function *fn, unsigned offset, unsigned len)
{
    struct virtio_pci *vp = from_function(fn);
    uint8_t *data = fn->config + vp->pci_cfg + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
    uint32_t target, target_len;

    if (touches_pci_cfg_data(vp, offset, len) && pci_cfg_target(vp, &target, &target_len)) {
        memset(data, 0, 4);
        bar_read(fn, VIRTIO_PCI_BAR, target, data, target_len);
    }
    if (ranges_overlap(offset, len, PCI_STATUS, 1)) {
        bool interrupt = !msix_enabled(vp->msix) && atomic_load(&vp->isr) != 0;

        fn->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
        if (interrupt)
            fn->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    }
}

static void config_written(struct pci_function *fn, unsigned offset, unsigned len)
{
    struct virtio_pci *vp = from_function(fn);
    uint32_t target, target_len;

    if (touches_pci_cfg_data(vp, offset, len) && pci_cfg_target(vp, &target, &target_len))
        bar_write(fn, VIRTIO_PCI_BAR, target,
                  fn->config + vp->pci_cfg + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data),
                  target_len);
    msix_config_written(vp->msix, offset, len);
}

static void bar_moved(struct pci_function *fn, unsigned bar)
{
    (void)bar;
    place_doorbells(from_function(fn));
}

static void function_reset(struct pci_function *fn)
{
    virtio_pci_reset(from_function(fn));
    msix_reset(from_function(fn)->msix);
}

static void function_destroy(struct pci_function *fn)
{
    struct virtio_pci *vp = from_function(fn);

    virtio_pci_reset(vp);
    vp->dev->ops->destroy(vp->dev);
    msix_destroy(vp->msix);
    free(vp->queues);
    free(vp);
}

static const struct pci_function_ops function_ops = {
    .bar_read = bar_read,
    .bar_write = bar_write,
    .config_written = config_written,
    .config_reading = config_reading,
    .bar_moved = bar_moved,
    .reset = function_reset,
    .destroy = function_destroy,
};

/* ---- creation ---- */

/* Appends one virtio capability; `extra` bytes of room follow struct virtio_pci_cap. */
static unsigned add_capability(struct virtio_pci *vp, uint8_t type, uint32_t offset,
                               uint32_t length, uint32_t extra_value, unsigned extra)
{
    uint8_t cap[sizeof(struct virtio_pci_cap) + 4] = {0};
    unsigned cap_length = (unsigned)sizeof(struct virtio_pci_cap) + extra;

    cap[VIRTIO_PCI_CAP_LEN] = (uint8_t)cap_length;
    cap[VIRTIO_PCI_CAP_CFG_TYPE] = type;
    cap[VIRTIO_PCI_CAP_BAR] = VIRTIO_PCI_BAR;
    store_le32(cap + VIRTIO_PCI_CAP_OFFSET, offset);
    store_le32(cap + VIRTIO_PCI_CAP_LENGTH, length);
    store_le32(cap + sizeof(struct virtio_pci_cap), extra_value);
    return pci_function_add_capability(&vp->fn, PCI_CAP_ID_VNDR, cap + PCI_CAP_FLAGS, cap_length);
}

static void add_capabilities(struct virtio_pci *vp)
{
    uint8_t *writable;

    add_capability(vp, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_COMMON_OFFSET,
                   sizeof(struct virtio_pci_common_cfg), 0, 0);
    add_capability(vp, VIRTIO_PCI_CAP_NOTIFY_CFG, VIRTIO_PCI_NOTIFY_OFFSET,
                   vp->dev->queue_count * VIRTIO_PCI_NOTIFY_MULTIPLIER,
                   VIRTIO_PCI_NOTIFY_MULTIPLIER, 4);
    add_capability(vp, VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_ISR_OFFSET, 4, 0, 0);
    if (vp->dev->config_size > 0)
        add_capability(vp, VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_DEVICE_OFFSET,
                       (uint32_t)align_up(vp->dev->config_size, 4), 0, 0);
    vp->pci_cfg = add_capability(vp, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 4);

    writable = vp->fn.writable + vp->pci_cfg;
    writable[VIRTIO_PCI_CAP_BAR] = 0xff;
    memset(writable + VIRTIO_PCI_CAP_OFFSET, 0xff, 12); /* offset, length and pci_cfg_data */
}

int virtio_pci_create(struct virtio_device *device, const struct guestmem *mem,
                      struct pci_function **out, struct err *err)
{
    const struct pci_identity identity = {
        .vendor = VENDOR_ID,
        .device = (uint16_t)(DEVICE_ID_BASE + device->type),
        .subsystem_vendor = VENDOR_ID,
        .subsystem = (uint16_t)(DEVICE_ID_BASE + device->type),
        .revision = REVISION,
        .class_code = device->pci_class,
    };
    struct virtio_pci *vp = calloc(1, sizeof(*vp));
    int ret = -ENOMEM;

    if (!vp)
        goto fail;
    if (device->queue_count > VIRTIO_PCI_MAX_QUEUES) {
        ret = -EINVAL;
        goto fail;
    }
    vp->queues = calloc(device->queue_count, sizeof(*vp->queues));
    if (!vp->queues)
        goto fail;
    vp->dev = device;
    vp->offered_features = device->offered_features | 1ULL << VIRTIO_F_VERSION_1 |
                           1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX;
    pci_function_init(&vp->fn, &function_ops, &identity, device->name);
    pci_function_add_bar(&vp->fn, VIRTIO_PCI_BAR, VIRTIO_PCI_BAR_SIZE, false);
    ret = msix_create(&vp->fn, device->queue_count + 1, VIRTIO_PCI_BAR,
                      VIRTIO_PCI_MSIX_TABLE_OFFSET, VIRTIO_PCI_MSIX_PBA_OFFSET, &vp->msix);
    if (ret < 0)
        goto fail;
    add_capabilities(vp);

    atomic_init(&vp->config_vector, VIRTIO_MSI_NO_VECTOR);
    for (unsigned i = 0; i < device->queue_count; i++)
        atomic_init(&vp->queues[i].vector, VIRTIO_MSI_NO_VECTOR);
    device->transport = &transport_ops;
    device->transport_data = vp;
    device->mem = mem;
    *out = &vp->fn;
    return 0;

fail:
    if (vp)
        free(vp->queues);
    free(vp);
    err_set_errno(err, ret, "%s: cannot create the PCI function", device->name);
    device->ops->destroy(device);
    return ret;
}
