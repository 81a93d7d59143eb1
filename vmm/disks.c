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
#include "halt.h"
#include "log.h"
#include "virtio_pci.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_DEFAULT_QUEUES = 8 };

/* A disk as its device sees it. */
struct disk {
    struct disks *disks;
    struct blk *blk;
    struct virtio_device *device; /* the PCI function's */
    const char *failed;           /* the request that halted it, until that was reported; or NULL */
    int error;
    atomic_bool told; /* what is wrong with the image */
};

struct disks {
    const struct vm_config *config;
    struct halt *halt;
    pthread_mutex_t lock; /* `failed` and `error` of each disk */
    unsigned count;
    struct disk disks[CONFIG_MAX_DISKS];
};

static void disk_halted(void *opaque, const char *request, int error)
{
    struct disk *disk = opaque;

    pthread_mutex_lock(&disk->disks->lock);
    disk->failed = request;
    disk->error = error;
    pthread_mutex_unlock(&disk->disks->lock);
    halt_post(disk->disks->halt, HALT_WANTED);
}

/* Says what is wrong with the image, once: the guest has only its I/O errors. */
static void disk_failed(void *opaque)
{
    struct disk *disk = opaque;
    struct err problem;

    if (!atomic_load(&disk->told) && blk_problem(disk->blk, &problem) &&
        !atomic_exchange(&disk->told, true))
        log_error("%s", problem.text);
}

static enum virtio_blk_on_error on_error(enum disk_on_error what)
{
    switch (what) {
    case DISK_ERROR_STOP:
        return VIRTIO_BLK_HALT;
    case DISK_ERROR_ENOSPC:
        return VIRTIO_BLK_HALT_NO_SPACE;
    case DISK_ERROR_REPORT:
        break;
    }
    return VIRTIO_BLK_REPORT;
}

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

static enum blk_aio blk_aio(enum disk_aio aio)
{
    switch (aio) {
    case DISK_AIO_IO_URING:
        return BLK_AIO_IO_URING;
    case DISK_AIO_THREADS:
        return BLK_AIO_THREADS;
    case DISK_AIO_AUTO:
        break;
    }
    return BLK_AIO_AUTO;
}

static enum blk_ephemeral blk_ephemeral(enum disk_ephemeral ephemeral)
{
    switch (ephemeral) {
    case DISK_EPHEMERAL_FILE:
        return BLK_EPHEMERAL_FILE;
    case DISK_EPHEMERAL_RAM:
        return BLK_EPHEMERAL_RAM;
    case DISK_EPHEMERAL_OFF:
        break;
    }
    return BLK_EPHEMERAL_OFF;
}

const char *disks_format(const struct disk_config *disk)
{
    return disk->format ? disk->format : blk_format_by_name(disk->path);
}

static void warn(const char *line)
{
    log_warn("%s", line);
}

int disks_open(const struct vm_config *config, struct halt *halt, struct disks **out,
               struct err *err)
{
    struct disks *disks = calloc(1, sizeof(*disks));
    int r;

    if (!disks)
        return err_set_errno(err, -ENOMEM, "disks");
    disks->config = config;
    disks->halt = halt;
    pthread_mutex_init(&disks->lock, NULL);
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct disk_config *disk = &config->disks[i];
        const struct blk_key key = {.bytes = disk->key.bytes, .length = disk->key.length};
        const struct blk_open_options options = {
            .path = disk->path,
            .format = disks_format(disk),
            .writable = !disk->readonly,
            .discard = disk->discard,
            .keys = &key,
            .key_count = key.bytes != NULL,
            .cache = blk_cache(disk->cache),
            .aio = blk_aio(disk->aio),
            .ephemeral = blk_ephemeral(disk->ephemeral),
            .tmpdir = config->tmpdir,
            .backing_root = config->backing_root,
            .metadata_cache = disk->metadata_cache,
            .warn = warn,
        };

        disks->disks[i].disks = disks;
        r = blk_open(&options, &disks->disks[i].blk, err);
        if (r < 0) {
            disks_close(disks, NULL);
            return r;
        }
        disks->count++;
    }
    *out = disks;
    return 0;
}

static void tell_engine(const char *path, const struct virtio_device *device)
{
    struct virtio_blk_counters counters;

    virtio_blk_get_counters(device, &counters);
    if (counters.engine_error != 0)
        log_info("disk '%s': what waits for storage is carried out by %s (io_uring: %s)", path,
                 counters.engine, strerror(-counters.engine_error));
    else
        log_info("disk '%s': what waits for storage is carried out by %s", path, counters.engine);
}

int disks_create_function(struct disks *disks, unsigned index, const struct guestmem *mem,
                          struct pci_function **out, struct err *err)
{
    const struct disk_config *disk = &disks->config->disks[index];
    unsigned cpus = disks->config->cpus;
    const struct virtio_blk_options options = {
        .blk = disks->disks[index].blk,
        .serial = disk->serial,
        .queues = disk->queues                ? disk->queues
                  : cpus < MAX_DEFAULT_QUEUES ? cpus
                                              : MAX_DEFAULT_QUEUES,
        .discard = disk->discard,
        .read_only = disk->readonly,
        .measure = disks->config->stats != NULL,
        .poll_us = disk->poll_us,
        .fixed_memory = disk->fixed_buffers ? mem : NULL,
        .fixed_files = disk->fixed_files,
        .request_rate = {disk->requests.per_second, disk->requests.burst},
        .byte_rate = {disk->bytes.per_second, disk->bytes.burst},
        .on_read_error = on_error(disk->rerror),
        .on_write_error = on_error(disk->werror),
        .halted = disk_halted,
        .failed = disk_failed,
        .opaque = &disks->disks[index],
    };
    struct virtio_device *device;
    int r = virtio_blk_create(&options, &device, err);

    if (r == 0)
        r = virtio_pci_create(device, mem, out, err);
    if (r == 0) {
        disks->disks[index].device = device;
        tell_engine(disk->path, device);
    }
    return r < 0 ? err_prefix(err, r, "disk '%s'", disk->path) : 0;
}

void disks_report_halts(struct disks *disks, bool keys)
{
    for (unsigned i = 0; i < disks->count; i++) {
        struct disk *disk = &disks->disks[i];
        const char *failed;
        int error;

        pthread_mutex_lock(&disks->lock);
        failed = disk->failed;
        error = disk->error;
        disk->failed = NULL;
        pthread_mutex_unlock(&disks->lock);
        if (failed)
            log_error("%s: a %s failed (%s) and the machine is paused; `kill -CONT %d`%s "
                      "tries again",
                      blk_path(disk->blk), failed, strerror(-error), (int)getpid(),
                      keys ? " or Ctrl-A c" : "");
    }
}

void disks_retry(struct disks *disks)
{
    for (unsigned i = 0; i < disks->count; i++)
        virtio_blk_retry(disks->disks[i].device);
}

bool disks_get_stats(const struct disks *disks, unsigned index, struct disk_stats *stats)
{
    struct blk_counters counters;

    if (index >= disks->count)
        return false;
    blk_get_counters(disks->disks[index].blk, &counters);
    *stats = (struct disk_stats){
        .path = blk_path(disks->disks[index].blk),
        .allocations = counters.allocations,
        .table_hits = counters.cache_hits,
        .table_reads = counters.cache_misses,
    };
    virtio_blk_get_counters(disks->disks[index].device, &stats->io);
    return true;
}

bool disks_first_is_partitioned(const struct disks *disks)
{
    enum { ENTRIES = 446, ENTRY_SIZE = 16, ENTRY_COUNT = 4, ENTRY_TYPE = 4 };
    uint8_t sector[512];

    if (disks->count == 0 || blk_length(disks->disks[0].blk) < sizeof(sector) ||
        blk_pread(disks->disks[0].blk, 0, sector, sizeof(sector)) < 0 || sector[510] != 0x55 ||
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
        int r = blk_writable(disks->disks[i].blk) ? blk_flush(disks->disks[i].blk) : 0;

        if (r < 0 && first == 0)
            first = err_set_errno(err, r, "cannot write '%s' back", blk_path(disks->disks[i].blk));
    }
    return first;
}

int disks_close(struct disks *disks, struct err *err)
{
    int first = 0;

    if (!disks)
        return 0;
    while (disks->count > 0) {
        int r = blk_close(disks->disks[--disks->count].blk, first == 0 ? err : NULL);

        if (first == 0)
            first = r;
    }
    pthread_mutex_destroy(&disks->lock);
    free(disks);
    return first;
}
