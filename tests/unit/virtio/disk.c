#include "disk.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const struct disk_setup disk_plain = {.queues = 1, .poll_us = VIRTIO_BLK_POLL_US_DEFAULT};

static void make_image(const char *path)
{
    uint8_t sector[SECTOR];
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    for (unsigned i = 0; i < DISK_SECTORS; i++) {
        memset(sector, (uint8_t)i, sizeof(sector));
        assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
    }
    close(fd);
}

static void make_images(struct disk *disk, bool overlay)
{
    struct err err;

    snprintf(disk->base, sizeof(disk->base), "/tmp/minivmm-virtio-blk.%d", (int)getpid());
    snprintf(disk->path, sizeof(disk->path), "%.50s%s", disk->base, overlay ? ".top" : "");
    make_image(disk->base);
    const struct blk_create_options options = {
        .path = disk->path,
        .format = "qcow2",
        .size = DISK_SECTORS * SECTOR,
        .backing_name = disk->base,
        .backing_format = "raw",
        .cluster_size = 4096,
    };

    if (overlay && blk_create(&options, &err) < 0)
        fail_msg("%s", err.text);
}

void disk_open(struct disk *disk, const struct disk_setup *setup)
{
    struct pci_function *fn;
    struct err err;

    *disk = (struct disk){0};
    make_images(disk, setup->overlay);
    const struct blk_open_options options = {
        .path = disk->path,
        .format = setup->overlay ? "qcow2" : "raw",
        .writable = !setup->read_only,
        .discard = true,
    };
    struct virtio_blk_options device = {
        .queues = setup->queues,
        .serial = setup->serial,
        .discard = true,
        .read_only = setup->read_only,
        .request_rate = setup->request_rate,
        .byte_rate = setup->byte_rate,
        .measure = setup->measure,
        .poll_us = setup->poll_us,
        .on_read_error = setup->on_read_error,
        .on_write_error = setup->on_write_error,
        .halted = setup->halted,
        .opaque = setup->opaque,
    };

    guest_init(&disk->guest);
    if (setup->open)
        disk->blk = setup->open(disk->path);
    else if (blk_open(&options, &disk->blk, &err) < 0)
        fail_msg("%s", err.text);
    device.blk = disk->blk;
    assert_int_equal(virtio_blk_create(&device, &disk->device, &err), 0);
    assert_int_equal(virtio_pci_create(disk->device, &disk->guest.mem, &fn, &err), 0);
    guest_plug(&disk->guest, fn);
    disk->header = guest_alloc(&disk->guest, 16, 16);
    disk->status = guest_alloc(&disk->guest, 1, 16);
    disk->data = guest_alloc(&disk->guest, 1 << 20, 4096);
}

void disk_run(struct disk *disk, uint64_t features)
{
    assert_true(guest_negotiate(&disk->guest, features));
    guest_setup_ring(&disk->guest, &disk->ring, 0, 64, features);
    guest_enable_msix(&disk->guest, 1);
    guest_driver_ok(&disk->guest);
    assert_int_equal(guest_status(&disk->guest) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

void disk_close(struct disk *disk)
{
    struct err err;

    guest_destroy(&disk->guest);
    assert_int_equal(blk_close(disk->blk, &err), 0);
    unlink(disk->path);
    unlink(disk->base);
}

void disk_set_header(struct disk *disk, uint32_t type, uint64_t sector)
{
    struct virtio_blk_outhdr header = {.type = htole32(type), .sector = htole64(sector)};

    memcpy(guest_ptr(&disk->guest, disk->header), &header, sizeof(header));
}

uint8_t *disk_status(struct disk *disk)
{
    return guest_ptr(&disk->guest, disk->status);
}

uint32_t disk_complete(struct disk *disk)
{
    uint32_t id, len;

    *disk_status(disk) = 0xee;
    if (disk->ring.event_idx)
        ring_set_used_event(&disk->ring, disk->ring.last_used);
    ring_add(&disk->ring, 0);
    ring_kick(&disk->guest, &disk->ring);
    /* An interrupt may be an old one, from before a reset; it only says to look. */
    do
        fake_host_wait_interrupt(&disk->guest.host, HARNESS_MSI_DATA + 1);
    while (!ring_get_used(&disk->ring, &id, &len));
    assert_int_equal(id, 0);
    return len;
}

uint8_t disk_request(struct disk *disk, uint32_t type, uint64_t sector, uint32_t bytes)
{
    bool device_writes = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    uint32_t len;

    disk_set_header(disk, type, sector);
    ring_desc(&disk->ring, 0, disk->header, 16, NEXT, bytes ? 1 : 2);
    ring_desc(&disk->ring, 1, disk->data, bytes, NEXT | (device_writes ? WRITE : 0), 2);
    ring_desc(&disk->ring, 2, disk->status, 1, WRITE, 0);
    len = disk_complete(disk);
    /* What the ring claims to be written was written. */
    if (*disk_status(disk) == VIRTIO_BLK_S_OK)
        assert_int_equal(len, device_writes ? bytes + 1 : 1);
    else
        assert_int_equal(len, device_writes && bytes ? 0 : 1);
    return *disk_status(disk);
}

void disk_set_range(struct disk *disk, unsigned i, uint64_t sector, uint32_t sectors,
                    uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = {
        .sector = htole64(sector), .num_sectors = htole32(sectors), .flags = htole32(flags)};

    memcpy((uint8_t *)guest_ptr(&disk->guest, disk->data) + i * sizeof(range), &range,
           sizeof(range));
}

void disk_assert_filled(struct disk *disk, uint64_t offset, uint64_t length, uint8_t byte)
{
    const uint8_t *data = guest_ptr(&disk->guest, disk->data);

    for (uint64_t i = 0; i < length; i++) {
        if (data[offset + i] != byte)
            fail_msg("byte %llu is %02x", (unsigned long long)(offset + i), data[offset + i]);
    }
}

void disk_lay_out(struct disk *disk, const struct disk_piece *pieces, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        ring_desc(&disk->ring, i, pieces[i].gpa, pieces[i].len,
                  (uint16_t)(pieces[i].flags | (i + 1 < count ? NEXT : 0)), (uint16_t)(i + 1));
}
