/*
 * kvm_irq.c - GSI routing, message-signalled interrupts over irqfd, doorbells over ioeventfd.
 *
 * GSI 0..23 are the pins of the PIC and the IOAPIC, routed once; GSI 24 + n is message source n. The
 * kernel takes the whole table at a time, so a changed message rewrites it; an unchanged one, the
 * common case of a vector that is masked and unmasked, does not.
 *
 * Pin 0, the PIT, arrives at IOAPIC pin 2 as on a PC (the MADT says so); pin 2 is the PIC's cascade.
 */
#include "checked.h"
#include "kvm_private.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* struct kvm_irq_routing ends in a flexible array, counted here in entries. */
static size_t table_size(size_t entries)
{
    return sizeof(struct kvm_irq_routing) + entries * sizeof(struct kvm_irq_routing_entry);
}

static void add_pin(struct kvm_irq_routing *table, unsigned gsi, unsigned chip, unsigned pin)
{
    table->entries[table->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = pin},
    };
}

static void add_pins(struct kvm_irq_routing *table)
{
    for (unsigned gsi = 0; gsi < KVM_IRQ_PINS; gsi++) {
        if (gsi == 2)
            continue;
        if (gsi < 8)
            add_pin(table, gsi, KVM_IRQCHIP_PIC_MASTER, gsi);
        else if (gsi < 16)
            add_pin(table, gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8);
        add_pin(table, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi);
    }
}

static int write_table(const struct kvm_irq *irq)
{
    struct kvm_irq_routing *table = calloc(1, table_size(2 * KVM_IRQ_PINS + irq->msi_count));
    int r;

    if (!table)
        return -ENOMEM;
    add_pins(table);
    for (unsigned i = 0; i < irq->msi_count; i++) {
        const struct msi_source *msi = &irq->msis[i];

        if (!msi->used || !msi->routed)
            continue;
        table->entries[table->nr++] = (struct kvm_irq_routing_entry){
            .gsi = KVM_IRQ_PINS + i,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo = (uint32_t)msi->address,
                      .address_hi = (uint32_t)(msi->address >> 32),
                      .data = msi->data},
        };
    }
    r = kvm_ioctl(irq->vm_fd, KVM_SET_GSI_ROUTING, table);
    free(table);
    return r;
}

static struct kvm_irq *irq_of(struct pci_host *host)
{
    return (struct kvm_irq *)((char *)host - offsetof(struct kvm_irq, host));
}

static int doorbell(struct kvm_irq *irq, uint64_t gpa, int fd, unsigned flags)
{
    /* Length 0 matches a write of any length. */
    struct kvm_ioeventfd request = {.addr = gpa, .len = 0, .fd = fd, .flags = flags};

    return irq->doorbells ? kvm_ioctl(irq->vm_fd, KVM_IOEVENTFD, &request) : -ENOSYS;
}

static int doorbell_assign(struct pci_host *host, uint64_t gpa, int fd)
{
    return doorbell(irq_of(host), gpa, fd, 0);
}

static void doorbell_deassign(struct pci_host *host, uint64_t gpa, int fd)
{
    doorbell(irq_of(host), gpa, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static int msi_create(struct pci_host *host)
{
    struct kvm_irq *irq = irq_of(host);
    struct msi_source *msis;
    unsigned i = 0;

    while (i < irq->msi_count && irq->msis[i].used)
        i++;
    if (i == irq->msi_count) {
        if (irq->msi_count == irq->msi_max)
            return -ENOSPC;
        msis = realloc(irq->msis, (irq->msi_count + 1) * sizeof(*msis));
        if (!msis)
            return -ENOMEM;
        irq->msis = msis;
        irq->msi_count++;
    }
    irq->msis[i] = (struct msi_source){.used = true};
    return (int)i;
}

static int msi_route(struct pci_host *host, int msi, uint64_t address, uint32_t data)
{
    struct kvm_irq *irq = irq_of(host);
    struct msi_source *source = &irq->msis[msi];
    struct msi_source before = *source;
    int r;

    if (source->routed && source->address == address && source->data == data)
        return 0;
    source->routed = true;
    source->address = address;
    source->data = data;
    r = write_table(irq);
    if (r < 0)
        *source = before;
    return r;
}

static int irqfd(struct kvm_irq *irq, int msi, int fd, unsigned flags)
{
    struct kvm_irqfd request = {
        .fd = (unsigned)fd, .gsi = KVM_IRQ_PINS + (unsigned)msi, .flags = flags};

    return kvm_ioctl(irq->vm_fd, KVM_IRQFD, &request);
}

static int msi_connect(struct pci_host *host, int msi, int fd)
{
    int r = irqfd(irq_of(host), msi, fd, 0);
    uint64_t pending;

    /* The kernel has sent a signal that was pending, but leaves it in the counter (later ones it takes
     * out): there it would be pending again, and be sent again, after the next disconnect. */
    while (r == 0 && read(fd, &pending, sizeof(pending)) > 0)
        ;
    return r;
}

static void msi_disconnect(struct pci_host *host, int msi, int fd)
{
    irqfd(irq_of(host), msi, fd, KVM_IRQFD_FLAG_DEASSIGN);
}

static void msi_destroy(struct pci_host *host, int msi)
{
    struct kvm_irq *irq = irq_of(host);

    /* The kernel forgets the message with the next table; nothing is connected to it any more. */
    irq->msis[msi] = (struct msi_source){0};
}

static const struct pci_host_ops host_ops = {
    .doorbell_assign = doorbell_assign,
    .doorbell_deassign = doorbell_deassign,
    .msi_create = msi_create,
    .msi_route = msi_route,
    .msi_connect = msi_connect,
    .msi_disconnect = msi_disconnect,
    .msi_destroy = msi_destroy,
};

int kvm_irq_init(struct kvm_irq *irq, int vm_fd, struct err *err)
{
    int routes = kvm_capability(vm_fd, KVM_CAP_IRQ_ROUTING);
    int r;

    irq->host.ops = &host_ops;
    irq->vm_fd = vm_fd;
    irq->doorbells = kvm_capability(vm_fd, KVM_CAP_IOEVENTFD_ANY_LENGTH) != 0;
    /* The capability counts GSIs; 1 on a kernel that only says that it is there. */
    irq->msi_max = routes > KVM_IRQ_PINS ? (unsigned)routes - KVM_IRQ_PINS : 1024 - KVM_IRQ_PINS;
    r = write_table(irq);
    return r < 0 ? err_set_errno(err, r, "KVM_SET_GSI_ROUTING") : 0;
}

void kvm_irq_destroy(struct kvm_irq *irq)
{
    free(irq->msis);
    irq->msis = NULL;
    irq->msi_count = 0;
}
