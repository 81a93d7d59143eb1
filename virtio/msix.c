/*
 * MSI-X over eventfds.
 *
 * Invariant: a vector is connected exactly while MSI-X is enabled, the function is not masked, the
 * vector is not masked, and the host could do it. update_vector() restores this after each change
 * of one of its inputs; a host that could not is asked again at the next change.
 *
 * The message of a connected vector may be rewritten (the specification leaves the effect open);
 * the host is then given the new one at once.
 */
#include "msix.h"

#include "bytes.h"
#include "checked.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MSI_NONE = -1 };

struct vector {
    int fd;
    int msi; /* the host's handle, or MSI_NONE until the vector is first connected */
    bool connected;
};

struct msix {
    struct pci_function *fn;
    unsigned capability; /* its offset in configuration space */
    atomic_bool enabled;
    bool function_masked;
    unsigned count;
    uint8_t *table; /* as the guest sees it: count entries of PCI_MSIX_ENTRY_SIZE bytes */
    struct vector vectors[];
};

static uint8_t *entry(const struct msix *msix, unsigned i)
{
    return msix->table + (size_t)i * PCI_MSIX_ENTRY_SIZE;
}

int msix_create(struct pci_function *fn, unsigned count, unsigned bar, uint32_t table_offset,
                uint32_t pba_offset, struct msix **out)
{
    uint8_t body[PCI_CAP_MSIX_SIZEOF - PCI_CAP_FLAGS];
    struct msix *msix = calloc(1, sizeof(*msix) + count * sizeof(msix->vectors[0]));

    if (!msix)
        return -ENOMEM;
    msix->fn = fn;
    msix->table = calloc(count, PCI_MSIX_ENTRY_SIZE);
    if (!msix->table) {
        free(msix);
        return -ENOMEM;
    }
    for (; msix->count < count; msix->count++) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        if (fd < 0) {
            int ret = -errno;

            msix_destroy(msix);
            return ret;
        }
        msix->vectors[msix->count] = (struct vector){.fd = fd, .msi = MSI_NONE};
        store_le32(entry(msix, msix->count) + PCI_MSIX_ENTRY_VECTOR_CTRL,
                   PCI_MSIX_ENTRY_CTRL_MASKBIT);
    }

    store_le16(body + PCI_MSIX_FLAGS - PCI_CAP_FLAGS, (uint16_t)(count - 1));
    store_le32(body + PCI_MSIX_TABLE - PCI_CAP_FLAGS, table_offset | bar);
    store_le32(body + PCI_MSIX_PBA - PCI_CAP_FLAGS, pba_offset | bar);
    msix->capability = pci_function_add_capability(fn, PCI_CAP_ID_MSIX, body, PCI_CAP_MSIX_SIZEOF);
    store_le16(fn->writable + msix->capability + PCI_MSIX_FLAGS,
               PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    *out = msix;
    return 0;
}

static void update_vector(struct msix *msix, unsigned i)
{
    struct pci_host *host = msix->fn->host;
    struct vector *vector = &msix->vectors[i];
    const uint8_t *e = entry(msix, i);
    bool masked = load_le32(e + PCI_MSIX_ENTRY_VECTOR_CTRL) & PCI_MSIX_ENTRY_CTRL_MASKBIT;
    uint64_t address = load_le32(e + PCI_MSIX_ENTRY_LOWER_ADDR) |
                       (uint64_t)load_le32(e + PCI_MSIX_ENTRY_UPPER_ADDR) << 32;

    if (masked || msix->function_masked || !atomic_load(&msix->enabled)) {
        if (vector->connected)
            host->ops->msi_disconnect(host, vector->msi, vector->fd);
        vector->connected = false;
        return;
    }
    if (vector->msi < 0)
        vector->msi = host->ops->msi_create(host);
    if (vector->msi < 0 ||
        host->ops->msi_route(host, vector->msi, address, load_le32(e + PCI_MSIX_ENTRY_DATA)) < 0)
        return;
    if (!vector->connected)
        vector->connected = host->ops->msi_connect(host, vector->msi, vector->fd) == 0;
}

static void update_all(struct msix *msix)
{
    for (unsigned i = 0; i < msix->count; i++)
        update_vector(msix, i);
}

void msix_destroy(struct msix *msix)
{
    if (!msix)
        return;
    for (unsigned i = 0; i < msix->count; i++) {
        struct pci_host *host = msix->fn->host;
        struct vector *vector = &msix->vectors[i];

        if (vector->connected)
            host->ops->msi_disconnect(host, vector->msi, vector->fd);
        if (vector->msi >= 0)
            host->ops->msi_destroy(host, vector->msi);
        close(vector->fd);
    }
    free(msix->table);
    free(msix);
}

uint64_t msix_table_size(const struct msix *msix)
{
    return (uint64_t)msix->count * PCI_MSIX_ENTRY_SIZE;
}

uint64_t msix_pba_size(const struct msix *msix)
{
    return align_up(msix->count, 64) / 8;
}

void msix_table_read(struct msix *msix, uint64_t offset, void *data, unsigned len)
{
    uint8_t *out = data;

    for (unsigned i = 0; i < len; i++)
        out[i] = offset + i < msix_table_size(msix) ? msix->table[offset + i] : 0;
}

void msix_table_write(struct msix *msix, uint64_t offset, const void *data, unsigned len)
{
    const uint8_t *in = data;
    uint64_t size = msix_table_size(msix);

    if (len == 0 || offset >= size)
        return;
    len = (unsigned)min_u64(len, size - offset);
    for (unsigned i = 0; i < len; i++)
        msix->table[offset + i] = in[i];

    unsigned first = (unsigned)(offset / PCI_MSIX_ENTRY_SIZE);
    unsigned last = (unsigned)((offset + len - 1) / PCI_MSIX_ENTRY_SIZE);

    for (unsigned i = first; i <= last; i++) {
        uint8_t *e = entry(msix, i);

        /* Reserved bits read as zero. */
        e[PCI_MSIX_ENTRY_LOWER_ADDR] &= (uint8_t)~3u;
        store_le32(e + PCI_MSIX_ENTRY_VECTOR_CTRL,
                   load_le32(e + PCI_MSIX_ENTRY_VECTOR_CTRL) & PCI_MSIX_ENTRY_CTRL_MASKBIT);
        update_vector(msix, i);
    }
}

static bool is_pending(const struct msix *msix, unsigned i)
{
    struct pollfd signalled = {.fd = msix->vectors[i].fd, .events = POLLIN};

    /* A connected vector's signals are the host's: they are delivered, not pending. */
    return atomic_load(&msix->enabled) && !msix->vectors[i].connected &&
           poll(&signalled, 1, 0) == 1;
}

void msix_pba_read(struct msix *msix, uint64_t offset, void *data, unsigned len)
{
    uint8_t *out = data;

    memset(out, 0, len);
    for (unsigned bit = 0; bit < len * 8; bit++) {
        uint64_t i = offset * 8 + bit;

        if (i < msix->count && is_pending(msix, (unsigned)i))
            out[bit / 8] |= (uint8_t)(1u << (bit % 8));
    }
}

void msix_clear_pending(struct msix *msix)
{
    uint64_t signals;

    for (unsigned i = 0; i < msix->count; i++) {
        if (!msix->vectors[i].connected)
            while (read(msix->vectors[i].fd, &signals, sizeof(signals)) > 0)
                ;
    }
}

void msix_config_written(struct msix *msix, unsigned offset, unsigned len)
{
    unsigned at = msix->capability + PCI_MSIX_FLAGS;

    if (!ranges_overlap(offset, len, at, 2))
        return;
    uint16_t flags = load_le16(msix->fn->config + at);
    bool enabled = flags & PCI_MSIX_FLAGS_ENABLE;

    /* What was signalled while MSI-X was off is no message that anybody waits for. */
    if (enabled && !atomic_load(&msix->enabled))
        msix_clear_pending(msix);
    atomic_store(&msix->enabled, enabled);
    msix->function_masked = flags & PCI_MSIX_FLAGS_MASKALL;
    update_all(msix);
}

void msix_reset(struct msix *msix)
{
    store_le16(msix->fn->config + msix->capability + PCI_MSIX_FLAGS, (uint16_t)(msix->count - 1));
    atomic_store(&msix->enabled, false);
    msix->function_masked = false;
    memset(msix->table, 0, msix_table_size(msix));
    for (unsigned i = 0; i < msix->count; i++)
        store_le32(entry(msix, i) + PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
    update_all(msix);
    msix_clear_pending(msix);
}

bool msix_enabled(const struct msix *msix)
{
    return atomic_load(&msix->enabled);
}

unsigned msix_count(const struct msix *msix)
{
    return msix->count;
}

void msix_signal(struct msix *msix, unsigned vector)
{
    uint64_t one = 1;

    while (write(msix->vectors[vector].fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}
