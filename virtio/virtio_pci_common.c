/*
 * The common configuration structure: negotiation, status, and the setup of queues.
 *
 * Each register is a field with a getter and a setter of its natural width. An access of another
 * width is taken apart into the fields it touches, so no access, however odd, needs a rule of its
 * own.
 *
 * What a driver may not do is ignored, where the specification leaves the choice: features after
 * FEATURES_OK, queue registers of a queue that is enabled or does not exist, a queue size that is
 * too large or no power of two, queue_enable before FEATURES_OK or after DRIVER_OK, clearing single
 * bits of the status.
 */
#include "bytes.h"
#include "checked.h"
#include "virtio_pci_state.h"

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

struct field {
    uint8_t offset, size;
};

/* Offsets of struct virtio_pci_common_cfg as they stand in <linux/virtio_pci.h>. */
static const struct field fields[] = {
    {VIRTIO_PCI_COMMON_DFSELECT, 4},  {VIRTIO_PCI_COMMON_DF, 4},
    {VIRTIO_PCI_COMMON_GFSELECT, 4},  {VIRTIO_PCI_COMMON_GF, 4},
    {VIRTIO_PCI_COMMON_MSIX, 2},      {VIRTIO_PCI_COMMON_NUMQ, 2},
    {VIRTIO_PCI_COMMON_STATUS, 1},    {VIRTIO_PCI_COMMON_CFGGENERATION, 1},
    {VIRTIO_PCI_COMMON_Q_SELECT, 2},  {VIRTIO_PCI_COMMON_Q_SIZE, 2},
    {VIRTIO_PCI_COMMON_Q_MSIX, 2},    {VIRTIO_PCI_COMMON_Q_ENABLE, 2},
    {VIRTIO_PCI_COMMON_Q_NOFF, 2},    {VIRTIO_PCI_COMMON_Q_DESCLO, 4},
    {VIRTIO_PCI_COMMON_Q_DESCHI, 4},  {VIRTIO_PCI_COMMON_Q_AVAILLO, 4},
    {VIRTIO_PCI_COMMON_Q_AVAILHI, 4}, {VIRTIO_PCI_COMMON_Q_USEDLO, 4},
    {VIRTIO_PCI_COMMON_Q_USEDHI, 4},
};

static uint32_t half(uint64_t value, uint32_t select)
{
    return select < 2 ? (uint32_t)(value >> (32 * select)) : 0;
}

static void set_half(uint64_t *value, uint32_t select, uint32_t to)
{
    if (select < 2)
        *value = (*value & ~(0xffffffffULL << (32 * select))) | (uint64_t)to << (32 * select);
}

/* The selected queue; NULL when the driver selected one that does not exist. */
static struct virtqueue *selected(const struct virtio_pci *vp)
{
    return vp->queue_select < vp->dev->queue_count ? &vp->dev->queues[vp->queue_select] : NULL;
}

static uint32_t get_queue_field(struct virtio_pci *vp, unsigned offset)
{
    const struct virtqueue *vq = selected(vp);

    if (!vq)
        return offset == VIRTIO_PCI_COMMON_Q_MSIX ? VIRTIO_MSI_NO_VECTOR : 0;
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        return vq->size;
    case VIRTIO_PCI_COMMON_Q_MSIX:
        return atomic_load(&vp->queues[vp->queue_select].vector);
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        return vq->ready;
    case VIRTIO_PCI_COMMON_Q_NOFF:
        return vp->queue_select;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
        return half(vq->desc_gpa, 0);
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        return half(vq->desc_gpa, 1);
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
        return half(vq->avail_gpa, 0);
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        return half(vq->avail_gpa, 1);
    case VIRTIO_PCI_COMMON_Q_USEDLO:
        return half(vq->used_gpa, 0);
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        return half(vq->used_gpa, 1);
    default:
        return 0;
    }
}

static uint32_t get_field(struct virtio_pci *vp, unsigned offset)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        return vp->device_feature_select;
    case VIRTIO_PCI_COMMON_DF:
        return half(vp->offered_features, vp->device_feature_select);
    case VIRTIO_PCI_COMMON_GFSELECT:
        return vp->driver_feature_select;
    case VIRTIO_PCI_COMMON_GF:
        return half(vp->driver_features, vp->driver_feature_select);
    case VIRTIO_PCI_COMMON_MSIX:
        return atomic_load(&vp->config_vector);
    case VIRTIO_PCI_COMMON_NUMQ:
        return vp->dev->queue_count;
    case VIRTIO_PCI_COMMON_STATUS:
        return atomic_load(&vp->status);
    case VIRTIO_PCI_COMMON_CFGGENERATION:
        return vp->config_generation;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        return vp->queue_select;
    default:
        return get_queue_field(vp, offset);
    }
}

/* A vector that the table does not have reads back as "no vector": section 4.1.5.1.2.1. */
static uint16_t valid_vector(const struct virtio_pci *vp, uint32_t value)
{
    return value < msix_count(vp->msix) ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

static void set_status(struct virtio_pci *vp, uint8_t value)
{
    const uint8_t driver_bits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |
                                VIRTIO_CONFIG_S_FAILED;
    uint8_t status = atomic_load(&vp->status);
    uint8_t set = (uint8_t)(value & driver_bits & ~status);

    if (value == 0) {
        virtio_pci_reset(vp);
        return;
    }
    if (set & VIRTIO_CONFIG_S_FEATURES_OK) {
        /* Section 2.2.2: what was not offered, or a driver that is not of this century, is refused
         * by not showing FEATURES_OK. */
        if ((vp->driver_features & ~vp->offered_features) ||
            !(vp->driver_features & (1ULL << VIRTIO_F_VERSION_1)))
            set &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
        else
            vp->dev->features = vp->driver_features;
    }
    if (!((status | set) & VIRTIO_CONFIG_S_FEATURES_OK))
        set &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
    atomic_fetch_or(&vp->status, set);
    if (set & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_pci_activate(vp);
}

static void set_queue_field(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
    struct virtqueue *vq = selected(vp);
    uint8_t status = atomic_load(&vp->status);

    if (!vq)
        return;
    if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
        atomic_store(&vp->queues[vp->queue_select].vector, valid_vector(vp, value));
        return;
    }
    if (vq->ready || (status & VIRTIO_CONFIG_S_DRIVER_OK))
        return;
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        if (is_power_of_2(value) && value <= vq->size_max)
            vq->size = (uint16_t)value;
        break;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        vq->ready = value == 1 && (status & VIRTIO_CONFIG_S_FEATURES_OK);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
        set_half(&vq->desc_gpa, 0, value);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        set_half(&vq->desc_gpa, 1, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
        set_half(&vq->avail_gpa, 0, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        set_half(&vq->avail_gpa, 1, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDLO:
        set_half(&vq->used_gpa, 0, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        set_half(&vq->used_gpa, 1, value);
        break;
    default:
        break;
    }
}

static void set_field(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        vp->device_feature_select = value;
        break;
    case VIRTIO_PCI_COMMON_GFSELECT:
        vp->driver_feature_select = value;
        break;
    case VIRTIO_PCI_COMMON_GF:
        if (!(atomic_load(&vp->status) & VIRTIO_CONFIG_S_FEATURES_OK))
            set_half(&vp->driver_features, vp->driver_feature_select, value);
        break;
    case VIRTIO_PCI_COMMON_MSIX:
        atomic_store(&vp->config_vector, valid_vector(vp, value));
        break;
    case VIRTIO_PCI_COMMON_STATUS:
        set_status(vp, (uint8_t)value);
        break;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        vp->queue_select = (uint16_t)value;
        break;
    default:
        set_queue_field(vp, offset, value);
        break;
    }
}

void virtio_pci_common_read(struct virtio_pci *vp, uint64_t offset, void *data, unsigned len)
{
    uint8_t *out = data;

    memset(out, 0, len);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const struct field *f = &fields[i];

        if (!ranges_overlap(offset, len, f->offset, f->size))
            continue;
        uint32_t value = get_field(vp, f->offset);

        for (unsigned byte = 0; byte < f->size; byte++) {
            uint64_t at = f->offset + byte;

            if (at >= offset && at - offset < len)
                out[at - offset] = (uint8_t)(value >> (8 * byte));
        }
    }
}

void virtio_pci_common_write(struct virtio_pci *vp, uint64_t offset, const void *data, unsigned len)
{
    const uint8_t *in = data;

    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const struct field *f = &fields[i];

        if (!ranges_overlap(offset, len, f->offset, f->size))
            continue;
        uint32_t value = get_field(vp, f->offset);

        for (unsigned byte = 0; byte < f->size; byte++) {
            uint64_t at = f->offset + byte;

            if (at >= offset && at - offset < len)
                value = (value & ~(0xffU << (8 * byte))) | (uint32_t)in[at - offset] << (8 * byte);
        }
        set_field(vp, f->offset, value);
    }
}
