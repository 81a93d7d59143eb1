/*
 * disk.h - a block device with an image of its own, plugged into the harness, and a driver that has
 * one request at a time in the ring's first descriptors.
 */
#ifndef TESTS_VIRTIO_DISK_H
#define TESTS_VIRTIO_DISK_H

#include "harness.h"

#include "blk.h"
#include "virtio_blk.h"
#include "virtio_pci.h"

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

enum { DISK_SECTORS = 4096, NEXT = VRING_DESC_F_NEXT, WRITE = VRING_DESC_F_WRITE };

#define SECTOR    512ULL
#define BIT(n)    (1ULL << (n))
#define COMMON    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_BLK_F_FLUSH))
#define RANGES    (BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES))
#define EVENT_IDX BIT(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  BIT(VIRTIO_RING_F_INDIRECT_DESC)

struct disk {
    struct guest guest;
    char base[64], path[64]; /* the same but for an overlay */
    struct blk *blk;
    struct virtio_device *device;
    struct ring ring;
    uint64_t header, status, data; /* gpa, for one request at a time */
};

struct disk_setup {
    unsigned queues;
    bool read_only;
    bool overlay; /* qcow2 on top of a raw image, instead of the raw image */
    const char *serial;
    struct virtio_blk_rate request_rate, byte_rate;
    bool measure;
    unsigned poll_us;
    struct blk *(*open)(const char *path); /* instead of blk_open() */
    enum virtio_blk_on_error on_read_error, on_write_error;
    void (*halted)(void *opaque, const char *request, int error);
    void *opaque;
};

extern const struct disk_setup disk_plain;

/* Sector n of a fresh image is filled with the low byte of n. */
void disk_open(struct disk *disk, const struct disk_setup *setup);
/* Negotiates, sets up queue 0 with 64 descriptors and MSI-X, and starts the device. */
void disk_run(struct disk *disk, uint64_t features);
void disk_close(struct disk *disk);

void disk_set_header(struct disk *disk, uint32_t type, uint64_t sector);
uint8_t *disk_status(struct disk *disk);
/* Entry i of the ranges of a discard or write-zeroes request, in the data buffer. */
void disk_set_range(struct disk *disk, unsigned i, uint64_t sector, uint32_t sectors,
                    uint32_t flags);

/* Offers the chain with head 0 and waits for it; returns the length from the used ring. */
uint32_t disk_complete(struct disk *disk);
/* One request in the usual three descriptors (two without data); returns its status. */
uint8_t disk_request(struct disk *disk, uint32_t type, uint64_t sector, uint32_t bytes);

/* Buffers of a chain, laid out from descriptor 0 on. */
struct disk_piece {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags;
};
void disk_lay_out(struct disk *disk, const struct disk_piece *pieces, unsigned count);

/* The data buffer holds `byte` all over the range. */
void disk_assert_filled(struct disk *disk, uint64_t offset, uint64_t length, uint8_t byte);

#endif
