/*
 * The block device: what it offers, its configuration space, its life.
 *
 * Limits are the engine's and the ring's: a request may have as many segments as a queue has room
 * for; discards go down to the cluster size of the image.
 */
#include "virtio_blk.h"

#include "blk.h"
#include "bytes.h"
#include "checked.h"
#include "guestmem.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

enum { DEVICE_TYPE_BLOCK = 2, CLASS_STORAGE_OTHER = 0x018000, PAGE_SECTORS = 8, NS_PER_US = 1000 };

static struct blk_device *from_device(struct virtio_device *dev)
{
    return (struct blk_device *)dev;
}

bool blk_device_writeback(const struct blk_device *device)
{
    int wce = atomic_load_explicit(&device->wce, memory_order_relaxed);

    /* A driver that can not flush gets write-through. */
    return wce == BLK_WCE_AS_NEGOTIATED ? device->dev.features & (1ULL << VIRTIO_BLK_F_FLUSH)
                                        : wce != 0;
}

/* ---- configuration space (section 5.2.4) ---- */

static void fill_config(const struct blk_device *device, struct virtio_blk_config *config)
{
    unsigned cluster = blk_cluster_size(device->blk) / BLK_SECTOR_SIZE;

    if (cluster < PAGE_SECTORS)
        cluster = PAGE_SECTORS;
    *config = (struct virtio_blk_config){
        .capacity = htole64(blk_length(device->blk) / BLK_SECTOR_SIZE),
        .size_max = htole32(BLK_SIZE_MAX),
        .seg_max = htole32(BLK_SEG_MAX),
        .blk_size = htole32(BLK_SECTOR_SIZE),
        .physical_block_exp = 3,
        .min_io_size = htole16(PAGE_SECTORS),
        .opt_io_size = htole32(cluster),
        .wce = blk_device_writeback(device),
        .num_queues = htole16((uint16_t)device->queue_count),
    };
    if (device->discard) {
        config->max_discard_sectors = htole32(BLK_RANGE_SECTORS_MAX);
        config->max_discard_seg = htole32(BLK_RANGES_MAX);
        config->discard_sector_alignment = htole32(cluster);
        config->max_write_zeroes_sectors = htole32(BLK_RANGE_SECTORS_MAX);
        config->max_write_zeroes_seg = htole32(BLK_RANGES_MAX);
        config->write_zeroes_may_unmap = 1;
    }
}

static void config_read(struct virtio_device *dev, uint32_t offset, void *data, unsigned len)
{
    struct virtio_blk_config config;

    fill_config(from_device(dev), &config);
    memcpy(data, (const uint8_t *)&config + offset, len);
}

static void config_write(struct virtio_device *dev, uint32_t offset, const void *data, unsigned len)
{
    struct blk_device *device = from_device(dev);
    uint32_t at = offsetof(struct virtio_blk_config, wce);

    if ((dev->features & (1ULL << VIRTIO_BLK_F_CONFIG_WCE)) && offset <= at && at - offset < len)
        atomic_store(&device->wce, ((const uint8_t *)data)[at - offset] != 0);
}

/* ---- life ---- */

static void stop_threads(struct virtio_device *dev)
{
    struct blk_device *device = from_device(dev);

    for (unsigned i = 0; i < device->queue_count; i++)
        queue_thread_stop(&device->queues[i].thread);
}

static int start_threads(struct virtio_device *dev)
{
    struct blk_device *device = from_device(dev);
    int ret = 0;

    for (unsigned i = 0; i < device->queue_count && ret == 0; i++) {
        if (dev->queues[i].ready)
            ret = queue_thread_start(&device->queues[i].thread);
    }
    if (ret < 0)
        stop_threads(dev);
    return ret;
}

static void reset(struct virtio_device *dev)
{
    struct blk_device *device = from_device(dev);

    stop_threads(dev);
    for (unsigned i = 0; i < device->queue_count; i++)
        blk_request_drop_kept(&device->queues[i]);
    atomic_store(&dev->halted, false);
    atomic_store(&device->wce, BLK_WCE_AS_NEGOTIATED);
}

static void resume(struct virtio_device *dev)
{
    if (start_threads(dev) < 0)
        virtio_device_fail(dev);
}

void virtio_blk_retry(struct virtio_device *dev)
{
    atomic_store(&dev->halted, false);
    for (unsigned i = 0; i < dev->queue_count; i++)
        virtqueue_ring_doorbell(&dev->queues[i]);
}

static uint64_t load(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void virtio_blk_get_counters(const struct virtio_device *dev, struct virtio_blk_counters *counters)
{
    const struct blk_device *device = (const struct blk_device *)dev;

    *counters = (struct virtio_blk_counters){
        .engine = blk_queue_engine(device->queues[0].engine),
        .engine_error = blk_queue_engine_error(device->queues[0].engine),
    };
    for (unsigned i = 0; i < device->queue_count; i++) {
        for (unsigned k = 0; k < VIRTIO_BLK_KINDS; k++) {
            counters->kinds[k].requests += load(&device->queues[i].counters[k].requests);
            counters->kinds[k].errors += load(&device->queues[i].counters[k].errors);
            counters->kinds[k].bytes += load(&device->queues[i].counters[k].bytes);
            for (unsigned n = 0; n < VIRTIO_BLK_LATENCIES; n++)
                counters->kinds[k].latency[n] += load(&device->queues[i].counters[k].latency[n]);
        }
    }
}

static void destroy(struct virtio_device *dev)
{
    struct blk_device *device = from_device(dev);

    stop_threads(dev);
    for (unsigned i = 0; i < device->queue_count; i++) {
        struct blk_vq *queue = &device->queues[i];

        queue_thread_destroy(&queue->thread);
        if (queue->engine)
            blk_queue_destroy(queue->engine);
        virtqueue_destroy(&dev->queues[i]);
        free(queue->slots);
        free(queue->iov);
    }
    free(dev->queues);
    free(device);
}

static const struct virtio_device_ops device_ops = {
    .activate = start_threads,
    .reset = reset,
    .pause = stop_threads,
    .resume = resume,
    .config_read = config_read,
    .config_write = config_write,
    .destroy = destroy,
};

/* ---- creation ---- */

static uint64_t offered_features(const struct virtio_blk_options *options)
{
    uint64_t features = 1ULL << VIRTIO_BLK_F_SIZE_MAX | 1ULL << VIRTIO_BLK_F_SEG_MAX |
                        1ULL << VIRTIO_BLK_F_BLK_SIZE | 1ULL << VIRTIO_BLK_F_TOPOLOGY |
                        1ULL << VIRTIO_BLK_F_FLUSH;

    if (!options->fixed_cache)
        features |= 1ULL << VIRTIO_BLK_F_CONFIG_WCE;
    if (options->queues > 1)
        features |= 1ULL << VIRTIO_BLK_F_MQ;
    if (options->read_only)
        features |= 1ULL << VIRTIO_BLK_F_RO;
    else if (options->discard)
        features |= 1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
    return features;
}

/* Guest memory as the engine wants it. */
static int create_engine(struct blk_device *device, const struct virtio_blk_options *options,
                         struct blk_queue **out, struct err *err)
{
    const struct guestmem *memory = options->fixed_memory;
    struct iovec regions[GUESTMEM_MAX_REGIONS];
    const struct blk_fixed fixed = {
        .regions = regions,
        .region_count = memory ? memory->count : 0,
        .files = options->fixed_files,
    };

    for (unsigned i = 0; i < fixed.region_count; i++)
        regions[i] = (struct iovec){
            .iov_base = memory->regions[i].host,
            .iov_len = (size_t)memory->regions[i].size,
        };
    return blk_queue_create_fixed(device->blk, &fixed, out, err);
}

static int init_queue(struct blk_device *device, unsigned index,
                      const struct virtio_blk_options *options, struct err *err)
{
    struct blk_vq *queue = &device->queues[index];
    int ret = virtqueue_init(&device->dev.queues[index], BLK_QUEUE_SIZE);

    queue->thread.epoll = -1; /* destroy() may come before its init */
    if (ret < 0)
        return err_set_errno(err, ret, "cannot create a doorbell");
    queue->device = device;
    ret = create_engine(device, options, &queue->engine, err);
    if (ret < 0)
        return ret;
    /* Large and zeroed: the pages of slots that are never used are never touched. */
    queue->slots = calloc(BLK_QUEUE_SIZE, sizeof(*queue->slots));
    queue->iov = calloc((size_t)BLK_QUEUE_SIZE * BLK_QUEUE_SIZE, sizeof(*queue->iov));
    if (!queue->slots || !queue->iov)
        return err_set_errno(err, -ENOMEM, "cannot allocate requests");
    ret = queue_thread_init(&queue->thread, &blk_request_ops, &device->dev, index,
                            (uint64_t)options->poll_us * NS_PER_US);
    return ret < 0 ? err_set_errno(err, ret, "cannot set up a queue") : 0;
}

int virtio_blk_create(const struct virtio_blk_options *options, struct virtio_device **out,
                      struct err *err)
{
    struct blk_device *device;

    if (options->queues < 1 || options->queues > BLK_MAX_QUEUES)
        return err_set(err, -EINVAL, "a disk has 1 to %d queues", BLK_MAX_QUEUES);
    if (options->serial && strlen(options->serial) > VIRTIO_BLK_ID_BYTES)
        return err_set(err, -EINVAL, "a serial number has at most %d bytes", VIRTIO_BLK_ID_BYTES);

    device = calloc(1, sizeof(*device) + options->queues * sizeof(device->queues[0]));
    if (!device)
        return err_set_errno(err, -ENOMEM, "cannot create a disk");
    device->dev = (struct virtio_device){
        .ops = &device_ops,
        .name = "virtio-blk",
        .type = DEVICE_TYPE_BLOCK,
        .pci_class = CLASS_STORAGE_OTHER,
        .offered_features = offered_features(options),
        .config_size = sizeof(struct virtio_blk_config),
    };
    device->blk = options->blk;
    device->read_only = options->read_only;
    device->discard = options->discard && !options->read_only;
    device->measure = options->measure;
    device->on_read_error = options->on_read_error;
    device->on_write_error = options->on_write_error;
    device->halted = options->halted;
    device->failed = options->failed;
    device->opaque = options->opaque;
    rate_limit_init(&device->request_limit, options->request_rate.per_second,
                    options->request_rate.burst);
    rate_limit_init(&device->byte_limit, options->byte_rate.per_second, options->byte_rate.burst);
    if (options->serial)
        memcpy(device->serial, options->serial, strlen(options->serial));
    atomic_init(&device->wce, BLK_WCE_AS_NEGOTIATED);
    device->dev.queues = calloc(options->queues, sizeof(device->dev.queues[0]));
    if (!device->dev.queues) {
        free(device);
        return err_set_errno(err, -ENOMEM, "cannot create a disk");
    }
    for (; device->queue_count < options->queues; device->queue_count++) {
        int ret = init_queue(device, device->queue_count, options, err);

        if (ret < 0) {
            device->queue_count++;
            destroy(&device->dev);
            return ret;
        }
    }
    device->dev.queue_count = options->queues;
    *out = &device->dev;
    return 0;
}
