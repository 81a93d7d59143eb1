/*
 * pci_root.c - see pci_root.h.
 *
 * Invariants:
 * 1. devices[0] is the host bridge; devices[n].device == n; every entry below `count` is a function.
 * 2. BARs are placed upwards from LAYOUT_PCI_START, each at a multiple of its size. The guest may move
 *    them; an address that two BARs claim belongs to the lower device number.
 *
 * A configuration access that no function answers reads as all ones. An access may be of 1, 2 or 4
 * bytes inside one 32-bit register (through the ports) or of any size up to 8 within a function's
 * 4 KiB (ECAM), where 8 bytes are two registers.
 */
#include "pci_root.h"

#include "checked.h"
#include "layout.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    PCI_DEVICES = 32,
    PCI_PORTS = 8, /* four of the address register, four of the data register */
    PCI_DATA = 4,  /* offset of the data register */
    ECAM_FUNCTION_SIZE = 4096,
};

/* The address register: enable, bus, device, function, register. */
#define ADDRESS_ENABLE   0x80000000U
#define ADDRESS_WRITABLE 0x80fffffcU

struct pci_root {
    struct pci_root_options options;
    pthread_mutex_t lock; /* the PCI lock: everything below, and every function */
    uint32_t address;
    uint64_t next_bar;
    struct pci_function bridge;
    struct pci_function *devices[PCI_DEVICES];
    unsigned count;
};

static void bridge_bar_read(struct pci_function *fn, unsigned bar, uint64_t offset, void *data,
                            unsigned len)
{
    (void)fn;
    (void)bar;
    (void)offset;
    memset(data, 0xff, len);
}

static void bridge_bar_write(struct pci_function *fn, unsigned bar, uint64_t offset,
                             const void *data, unsigned len)
{
    (void)fn;
    (void)bar;
    (void)offset;
    (void)data;
    (void)len;
}

static void bridge_nothing(struct pci_function *fn)
{
    (void)fn;
}

static const struct pci_function_ops bridge_ops = {
    .bar_read = bridge_bar_read,
    .bar_write = bridge_bar_write,
    .reset = bridge_nothing,
    .destroy = bridge_nothing,
};

static uint32_t all_ones(unsigned len)
{
    return len >= 4 ? UINT32_MAX : (1U << (8 * len)) - 1;
}

/* The function behind `bus:device.function`, or NULL. Devices have function 0 alone. */
static struct pci_function *function_at(const struct pci_root *root, unsigned bus, unsigned devfn)
{
    unsigned device = devfn >> 3;

    if (bus != 0 || (devfn & 7) != 0 || device >= root->count)
        return NULL;
    return root->devices[device];
}

/* ---- configuration by ports ---- */

static struct pci_function *addressed(const struct pci_root *root)
{
    if (!(root->address & ADDRESS_ENABLE))
        return NULL;
    return function_at(root, root->address >> 16 & 0xff, root->address >> 8 & 0xff);
}

static bool is_inner_port(const struct pci_root *root, uint64_t offset, unsigned len)
{
    return root->options.inner_ops && len == 1 &&
           offset + LAYOUT_PORT_PCI_ADDR == root->options.inner_port;
}

static void port_read(void *device, uint64_t offset, void *data, unsigned len)
{
    struct pci_root *root = device;
    struct pci_function *fn;
    uint32_t value = all_ones(len);

    if (is_inner_port(root, offset, len)) {
        root->options.inner_ops->read(root->options.inner_device, 0, data, len);
        return;
    }
    pthread_mutex_lock(&root->lock);
    if (offset == 0 && len == 4) {
        value = root->address;
    } else if (offset >= PCI_DATA && (fn = addressed(root)) != NULL) {
        unsigned at = (root->address & 0xfc) + (unsigned)(offset - PCI_DATA);

        value = pci_function_config_read(fn, at, len);
    }
    pthread_mutex_unlock(&root->lock);
    memcpy(data, &value, len);
}

static void port_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct pci_root *root = device;
    struct pci_function *fn;
    uint32_t value = 0;

    if (is_inner_port(root, offset, len)) {
        root->options.inner_ops->write(root->options.inner_device, 0, data, len);
        return;
    }
    memcpy(&value, data, len);
    pthread_mutex_lock(&root->lock);
    if (offset == 0 && len == 4) {
        root->address = value & ADDRESS_WRITABLE;
    } else if (offset >= PCI_DATA && (fn = addressed(root)) != NULL) {
        unsigned at = (root->address & 0xfc) + (unsigned)(offset - PCI_DATA);

        pci_function_config_write(fn, at, value, len);
    }
    pthread_mutex_unlock(&root->lock);
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write};

/* ---- configuration by ECAM ---- */

static struct pci_function *ecam_function(const struct pci_root *root, uint64_t offset)
{
    return function_at(root, (unsigned)(offset >> 20), (unsigned)(offset >> 12) & 0xff);
}

static void ecam_read(void *device, uint64_t offset, void *data, unsigned len)
{
    struct pci_root *root = device;
    unsigned at = offset % ECAM_FUNCTION_SIZE;
    struct pci_function *fn;

    memset(data, 0xff, len);
    pthread_mutex_lock(&root->lock);
    fn = ecam_function(root, offset);
    for (unsigned done = 0; fn && done < len && at + done < ECAM_FUNCTION_SIZE; done += 4) {
        unsigned part = len - done < 4 ? len - done : 4;
        uint32_t value = pci_function_config_read(fn, at + done, part);

        memcpy((uint8_t *)data + done, &value, part);
    }
    pthread_mutex_unlock(&root->lock);
}

static void ecam_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct pci_root *root = device;
    unsigned at = offset % ECAM_FUNCTION_SIZE;
    struct pci_function *fn;

    pthread_mutex_lock(&root->lock);
    fn = ecam_function(root, offset);
    for (unsigned done = 0; fn && done < len && at + done < ECAM_FUNCTION_SIZE; done += 4) {
        unsigned part = len - done < 4 ? len - done : 4;
        uint32_t value = 0;

        memcpy(&value, (const uint8_t *)data + done, part);
        pci_function_config_write(fn, at + done, value, part);
    }
    pthread_mutex_unlock(&root->lock);
}

static const struct bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

/* ---- BARs ---- */

static struct pci_function *bar_owner(const struct pci_root *root, uint64_t offset, unsigned len,
                                      unsigned *bar, uint64_t *at)
{
    for (unsigned i = 0; i < root->count; i++) {
        int found = pci_function_bar_at(root->devices[i], LAYOUT_PCI_START + offset, len, at);

        if (found >= 0) {
            *bar = (unsigned)found;
            return root->devices[i];
        }
    }
    return NULL;
}

static void window_read(void *device, uint64_t offset, void *data, unsigned len)
{
    struct pci_root *root = device;
    struct pci_function *fn;
    unsigned bar;
    uint64_t at;

    memset(data, 0xff, len);
    pthread_mutex_lock(&root->lock);
    fn = bar_owner(root, offset, len, &bar, &at);
    if (fn)
        fn->ops->bar_read(fn, bar, at, data, len);
    pthread_mutex_unlock(&root->lock);
}

static void window_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct pci_root *root = device;
    struct pci_function *fn;
    unsigned bar;
    uint64_t at;

    pthread_mutex_lock(&root->lock);
    fn = bar_owner(root, offset, len, &bar, &at);
    if (fn)
        fn->ops->bar_write(fn, bar, at, data, len);
    pthread_mutex_unlock(&root->lock);
}

static const struct bus_ops window_ops = {.read = window_read, .write = window_write};

/* ---- life ---- */

int pci_root_create(const struct pci_root_options *options, struct pci_root **out, struct err *err)
{
    /* A plain bridge that no driver looks for. */
    static const struct pci_identity identity = {
        .vendor = 0x8086, .device = 0x0d57, .class_code = 0x060000};
    struct pci_root *root = calloc(1, sizeof(*root));
    int r;

    if (!root)
        return err_set_errno(err, -ENOMEM, "PCI root");
    root->options = *options;
    root->next_bar = LAYOUT_PCI_START;
    pthread_mutex_init(&root->lock, NULL);
    pci_function_init(&root->bridge, &bridge_ops, &identity, "host bridge");
    root->bridge.host = options->host;
    root->devices[root->count++] = &root->bridge;
    r = bus_add(options->pio, LAYOUT_PORT_PCI_ADDR, PCI_PORTS, &port_ops, root);
    if (r == 0)
        r = bus_add(options->mmio, LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE, &ecam_ops, root);
    if (r == 0)
        r = bus_add(options->mmio, LAYOUT_PCI_START, LAYOUT_PCI_END - LAYOUT_PCI_START, &window_ops,
                    root);
    if (r < 0) {
        pci_root_destroy(root);
        return err_set_errno(err, r, "PCI root");
    }
    *out = root;
    return 0;
}

int pci_root_add(struct pci_root *root, struct pci_function *fn, struct err *err)
{
    uint64_t next = root->next_bar;
    int r;

    if (root->count == PCI_DEVICES) {
        r = err_set(err, -ENOSPC, "no place on the PCI bus for %s: it holds 31 devices", fn->name);
        goto fail;
    }
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        uint64_t size = fn->bar[i].size, at = align_up(next, size ? size : 1);

        if (size == 0)
            continue;
        if (at < next || !range_within(at, size, LAYOUT_PCI_END)) {
            r = err_set(err, -ENOSPC, "no room in the PCI address window for %s", fn->name);
            goto fail;
        }
        next = at + size;
    }
    fn->host = root->options.host;
    fn->device = root->count;
    root->devices[root->count++] = fn;
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        if (fn->bar[i].size == 0)
            continue;
        root->next_bar = align_up(root->next_bar, fn->bar[i].size);
        pci_function_place_bar(fn, i, root->next_bar);
        root->next_bar += fn->bar[i].size;
    }
    return 0;

fail:
    fn->ops->destroy(fn);
    return r;
}

void pci_root_reset(struct pci_root *root)
{
    pthread_mutex_lock(&root->lock);
    for (unsigned i = 0; i < root->count; i++)
        root->devices[i]->ops->reset(root->devices[i]);
    pthread_mutex_unlock(&root->lock);
}

void pci_root_destroy(struct pci_root *root)
{
    if (!root)
        return;
    while (root->count > 0) {
        root->count--;
        root->devices[root->count]->ops->destroy(root->devices[root->count]);
    }
    pthread_mutex_destroy(&root->lock);
    free(root);
}
