/*
 * Configuration space of one PCI function.
 *
 * The space is a plain array of bytes with a mask of writable bits beside it, so that an access of
 * any width at any offset is a loop over bytes. What a write means is derived afterwards from the
 * bytes: BAR addresses and memory decoding here, everything else in the function's
 * config_written().
 *
 * Invariants:
 * 1. bar[i].mapped and bar[i].address follow config[] after each write; bar_moved() tells of each
 *    change exactly once.
 * 2. A mapped BAR neither wraps nor lies at 0, nor at the all-ones address that a sizing write
 * leaves behind: software that sizes a BAR with memory decoding on must not see the BAR appear
 * there.
 */
#include "pci_function.h"

#include "bytes.h"
#include "checked.h"

#include <linux/pci_regs.h>
#include <stdlib.h>

void pci_function_init(struct pci_function *fn, const struct pci_function_ops *ops,
                       const struct pci_identity *identity, const char *name)
{
    *fn = (struct pci_function){
        .ops = ops,
        .name = name,
        .capability_end = PCI_STD_HEADER_SIZEOF,
    };
    store_le16(fn->config + PCI_VENDOR_ID, identity->vendor);
    store_le16(fn->config + PCI_DEVICE_ID, identity->device);
    store_le32(fn->config + PCI_CLASS_REVISION, identity->class_code << 8 | identity->revision);
    store_le16(fn->config + PCI_SUBSYSTEM_VENDOR_ID, identity->subsystem_vendor);
    store_le16(fn->config + PCI_SUBSYSTEM_ID, identity->subsystem);

    store_le16(fn->writable + PCI_COMMAND,
               PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    fn->writable[PCI_CACHE_LINE_SIZE] = 0xff;
    fn->writable[PCI_INTERRUPT_LINE] = 0xff;
}

static unsigned bar_register(unsigned bar)
{
    return PCI_BASE_ADDRESS_0 + 4 * bar;
}

void pci_function_add_bar(struct pci_function *fn, unsigned bar, uint64_t size, bool is_64bit)
{
    uint32_t type = is_64bit ? PCI_BASE_ADDRESS_MEM_TYPE_64 : PCI_BASE_ADDRESS_MEM_TYPE_32;

    fn->bar[bar] = (struct pci_bar){.size = size, .is_64bit = is_64bit};
    store_le32(fn->config + bar_register(bar), type);
    store_le32(fn->writable + bar_register(bar), (uint32_t) ~(size - 1));
    if (is_64bit)
        store_le32(fn->writable + bar_register(bar + 1), (uint32_t)(~(size - 1) >> 32));
}

unsigned pci_function_add_capability(struct pci_function *fn, uint8_t id, const void *body,
                                     unsigned length)
{
    unsigned offset = fn->capability_end, link = PCI_CAPABILITY_LIST;

    if (length < 2 || length > PCI_CONFIG_SIZE - offset)
        abort();
    while (fn->config[link] != 0)
        link = fn->config[link] + PCI_CAP_LIST_NEXT;
    fn->config[link] = (uint8_t)offset;
    fn->config[offset] = id;
    memcpy(fn->config + offset + PCI_CAP_FLAGS, body, length - PCI_CAP_FLAGS);
    fn->capability_end = (unsigned)align_up(offset + length, 4);
    store_le16(fn->config + PCI_STATUS, load_le16(fn->config + PCI_STATUS) | PCI_STATUS_CAP_LIST);
    return offset;
}

/* The address in a BAR's registers, or 0 when it can not be mapped there (invariant 2). */
static uint64_t bar_address(const struct pci_function *fn, unsigned bar)
{
    const struct pci_bar *b = &fn->bar[bar];
    uint64_t address = load_le32(fn->config + bar_register(bar)), end;
    uint64_t limit = b->is_64bit ? UINT64_MAX : UINT32_MAX;

    if (b->is_64bit)
        address |= (uint64_t)load_le32(fn->config + bar_register(bar + 1)) << 32;
    address &= ~(b->size - 1);
    if (!add_u64(address, b->size, &end) || end > limit)
        return 0;
    return address;
}

static void update_bars(struct pci_function *fn)
{
    bool decoding = load_le16(fn->config + PCI_COMMAND) & PCI_COMMAND_MEMORY;

    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        struct pci_bar *bar = &fn->bar[i];

        if (bar->size == 0)
            continue;
        uint64_t address = bar_address(fn, i);
        bool mapped = decoding && address != 0;

        if (mapped == bar->mapped && (!mapped || address == bar->address))
            continue;
        bar->mapped = mapped;
        bar->address = address;
        if (fn->ops->bar_moved)
            fn->ops->bar_moved(fn, i);
    }
}

void pci_function_place_bar(struct pci_function *fn, unsigned bar, uint64_t address)
{
    uint32_t type = fn->config[bar_register(bar)] & ~(uint32_t)PCI_BASE_ADDRESS_MEM_MASK;
    uint16_t command = load_le16(fn->config + PCI_COMMAND);

    store_le32(fn->config + bar_register(bar), (uint32_t)address | type);
    if (fn->bar[bar].is_64bit)
        store_le32(fn->config + bar_register(bar + 1), (uint32_t)(address >> 32));
    store_le16(fn->config + PCI_COMMAND, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    update_bars(fn);
}

uint32_t pci_function_config_read(struct pci_function *fn, unsigned offset, unsigned len)
{
    uint32_t value = 0;

    if (fn->ops->config_reading && offset < PCI_CONFIG_SIZE)
        fn->ops->config_reading(fn, offset, len);
    for (unsigned i = 0; i < len && i < 4; i++) {
        if (offset < PCI_CONFIG_SIZE && i < PCI_CONFIG_SIZE - offset)
            value |= (uint32_t)fn->config[offset + i] << (8 * i);
    }
    return value;
}

void pci_function_config_write(struct pci_function *fn, unsigned offset, uint32_t value,
                               unsigned len)
{
    if (offset >= PCI_CONFIG_SIZE)
        return;
    for (unsigned i = 0; i < len && i < 4 && i < PCI_CONFIG_SIZE - offset; i++) {
        uint8_t mask = fn->writable[offset + i], byte = (uint8_t)(value >> (8 * i));

        fn->config[offset + i] = (uint8_t)((fn->config[offset + i] & ~mask) | (byte & mask));
    }
    update_bars(fn);
    if (fn->ops->config_written)
        fn->ops->config_written(fn, offset, len);
}

int pci_function_bar_at(const struct pci_function *fn, uint64_t address, unsigned len,
                        uint64_t *offset)
{
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        const struct pci_bar *bar = &fn->bar[i];

        if (bar->mapped && address >= bar->address &&
            range_within(address - bar->address, len, bar->size)) {
            *offset = address - bar->address;
            return (int)i;
        }
    }
    return -1;
}
