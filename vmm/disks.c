/*
 * disks.c - the one file of vmm/ that knows the block engine.
 *
 * A guest is not trusted, so neither is what its disks look like. The format is what the user says:
 * format=, or else the name that the user gives the file, which no guest can change: `.qcow2` and
 * `.raw` mean what they say. Any other name is probed with the strict policy of blockdev.h
 * (trust_probe stays off).
 */
#include "disks.h"

#include "blockdev.h"
#include "checked.h"
#include "virtio_blk.h"
#include "virtio_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEFAULT_QUEUES = 8 };

struct disks {
    const struct vm_config *config;
    unsigned count;
    struct blk *blks[CONFIG_MAX_DISKS];
};

static enum blk_cache blk_cache(enum disk_cache cache)
{
    switch (cache) {
    case DISK_CACHE_DIRECT:
        return BLK_CACHE_DIRECT;
    case DISK_CACHE_UNSAFE:
        return BLK_CACHE_UNSAFE;
    case DISK_CACHE_WRITEBACK:
        break;
    }
    return BLK_CACHE_WRITEBACK;
}

const char *disks_format(const struct disk_config *disk)
{
    static const char *const formats[] = {"qcow2", "raw"};
    const char *dot = strrchr(disk->path, '.');

    if (disk->format)
        return disk->format;
    for (size_t i = 0; dot && i < ARRAY_LEN(formats); i++) {
        if (strcmp(dot + 1, formats[i]) == 0)
            return formats[i];
    }
    return NULL;
}

int disks_open(const struct vm_config *config, struct disks **out, struct err *err)
{
    struct disks *disks = calloc(1, sizeof(*disks));
    int r;

    if (!disks)
        return err_set_errno(err, -ENOMEM, "disks");
    disks->config = config;
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct disk_config *disk = &config->disks[i];
        const struct blk_open_options options = {
            .path = disk->path,
            .format = disks_format(disk),
            .writable = !disk->readonly,
            .discard = disk->discard,
            .cache = blk_cache(disk->cache),
            .backing_root = config->backing_root,
        };

        r = blk_open(&options, &disks->blks[i], err);
        if (r < 0) {
            disks_close(disks, NULL);
            return r;
        }
        disks->count++;
    }
    *out = disks;
    return 0;
}

int disks_create_function(struct disks *disks, unsigned index, const struct guestmem *mem,
                          struct pci_function **out, struct err *err)
{
    const struct disk_config *disk = &disks->config->disks[index];
    unsigned cpus = disks->config->cpus;
    const struct virtio_blk_options options = {
        .blk = disks->blks[index],
        .serial = disk->serial,
        .queues = disk->queues                ? disk->queues
                  : cpus < MAX_DEFAULT_QUEUES ? cpus
                                              : MAX_DEFAULT_QUEUES,
        .discard = disk->discard,
        .read_only = disk->readonly,
    };
    struct virtio_device *device;
    int r = virtio_blk_create(&options, &device, err);

    if (r == 0)
        r = virtio_pci_create(device, mem, out, err);
    return r < 0 ? err_prefix(err, r, "disk '%s'", disk->path) : 0;
}

bool disks_first_is_partitioned(const struct disks *disks)
{
    enum { ENTRIES = 446, ENTRY_SIZE = 16, ENTRY_COUNT = 4, ENTRY_TYPE = 4 };
    uint8_t sector[512];

    if (disks->count == 0 || blk_length(disks->blks[0]) < sizeof(sector) ||
        blk_pread(disks->blks[0], 0, sector, sizeof(sector)) < 0 || sector[510] != 0x55 ||
        sector[511] != 0xaa)
        return false;
    /* An MBR, a GPT's protective one included; a boot sector inside a file system has no entries. */
    for (size_t i = 0; i < ENTRY_COUNT; i++) {
        const uint8_t *entry = sector + ENTRIES + i * ENTRY_SIZE;

        if (entry[0] != 0 && entry[0] != 0x80)
            return false;
    }
    return sector[ENTRIES + ENTRY_TYPE] != 0;
}

int disks_flush(struct disks *disks, struct err *err)
{
    int first = 0;

    for (unsigned i = 0; i < disks->count; i++) {
        int r = blk_writable(disks->blks[i]) ? blk_flush(disks->blks[i]) : 0;

        if (r < 0 && first == 0)
            first = err_set_errno(err, r, "cannot write '%s' back", blk_path(disks->blks[i]));
    }
    return first;
}

int disks_close(struct disks *disks, struct err *err)
{
    int first = 0;

    if (!disks)
        return 0;
    while (disks->count > 0) {
        int r = blk_close(disks->blks[--disks->count], first == 0 ? err : NULL);

        if (first == 0)
            first = r;
    }
    free(disks);
    return first;
}
