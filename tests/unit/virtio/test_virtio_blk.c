/*
 * The block device behind the PCI transport, over real images: what each request does, what it says to
 * bad ones, and that reset and pause leave nothing in flight.
 */
#include "harness.h"

#include "blk.h"
#include "virtio_blk.h"
#include "virtio_pci.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { IMAGE_SECTORS = 4096, NEXT = VRING_DESC_F_NEXT, WRITE = VRING_DESC_F_WRITE };

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

struct setup {
    unsigned queues;
    bool read_only;
    bool overlay; /* qcow2 on top of a raw image, instead of the raw image */
    const char *serial;
};

static const struct setup plain = {.queues = 1};

/* Sector n of a fresh image is filled with n's low byte, but for 0. */
static void make_image(const char *path)
{
    uint8_t sector[512];
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    for (unsigned i = 0; i < IMAGE_SECTORS; i++) {
        memset(sector, (uint8_t)i, sizeof(sector));
        assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
    }
    close(fd);
}

static void disk_open(struct disk *disk, const struct setup *setup)
{
    struct blk_open_options options = {
        .path = disk->path, .format = setup->overlay ? "qcow2" : "raw", .discard = true};
    const struct blk_create_options overlay = {
        .path = disk->path,
        .format = "qcow2",
        .size = IMAGE_SECTORS * BLK_SECTOR_SIZE,
        .backing_name = disk->base,
        .backing_format = "raw",
        .cluster_size = 4096,
    };
    struct virtio_blk_options device = {
        .queues = setup->queues,
        .serial = setup->serial,
        .discard = true,
        .read_only = setup->read_only,
    };
    struct pci_function *fn;
    struct err err;

    memset(disk, 0, sizeof(*disk));
    snprintf(disk->base, sizeof(disk->base), "/tmp/minivmm-virtio-blk.%d", (int)getpid());
    snprintf(disk->path, sizeof(disk->path), "%.50s%s", disk->base, setup->overlay ? ".top" : "");
    make_image(disk->base);
    if (setup->overlay && blk_create(&overlay, &err) < 0)
        fail_msg("%s", err.text);
    options.writable = !setup->read_only;
    guest_init(&disk->guest);
    if (blk_open(&options, &disk->blk, &err) < 0)
        fail_msg("%s", err.text);
    device.blk = disk->blk;
    assert_int_equal(virtio_blk_create(&device, &disk->device, &err), 0);
    assert_int_equal(virtio_pci_create(disk->device, &disk->guest.mem, &fn, &err), 0);
    guest_plug(&disk->guest, fn);
    disk->header = guest_alloc(&disk->guest, 16, 16);
    disk->status = guest_alloc(&disk->guest, 1, 16);
    disk->data = guest_alloc(&disk->guest, 1 << 20, 4096);
}

static void disk_run(struct disk *disk, uint64_t features)
{
    assert_true(guest_negotiate(&disk->guest, features));
    guest_setup_ring(&disk->guest, &disk->ring, 0, 64, features);
    guest_enable_msix(&disk->guest, 1);
    guest_driver_ok(&disk->guest);
    assert_int_equal(guest_status(&disk->guest) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void disk_close(struct disk *disk)
{
    struct err err;

    guest_destroy(&disk->guest);
    assert_int_equal(blk_close(disk->blk, &err), 0);
    unlink(disk->path);
    unlink(disk->base);
}

static void set_header(struct disk *disk, uint32_t type, uint64_t sector)
{
    struct virtio_blk_outhdr header = {.type = htole32(type), .sector = htole64(sector)};

    memcpy(guest_ptr(&disk->guest, disk->header), &header, sizeof(header));
}

static uint8_t *status_byte(struct disk *disk)
{
    return guest_ptr(&disk->guest, disk->status);
}

/* Rings for the chain with head 0 and waits for it; returns the length from the used ring. */
static uint32_t complete(struct disk *disk)
{
    uint32_t id, len;

    *status_byte(disk) = 0xee;
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

/* One request in the usual three descriptors (two without data); returns its status. */
static uint8_t request(struct disk *disk, uint32_t type, uint64_t sector, uint32_t bytes)
{
    bool device_writes = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    uint32_t len;

    set_header(disk, type, sector);
    ring_desc(&disk->ring, 0, disk->header, 16, NEXT, bytes ? 1 : 2);
    ring_desc(&disk->ring, 1, disk->data, bytes, NEXT | (device_writes ? WRITE : 0), 2);
    ring_desc(&disk->ring, 2, disk->status, 1, WRITE, 0);
    len = complete(disk);
    /* What the ring claims to be written was written. */
    if (*status_byte(disk) == VIRTIO_BLK_S_OK)
        assert_int_equal(len, device_writes ? bytes + 1 : 1);
    else
        assert_int_equal(len, device_writes && bytes ? 0 : 1);
    return *status_byte(disk);
}

/* Ranges in the data buffer. */
static void set_range(struct disk *disk, unsigned i, uint64_t sector, uint32_t sectors,
                      uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = {
        .sector = htole64(sector), .num_sectors = htole32(sectors), .flags = htole32(flags)};

    memcpy((uint8_t *)guest_ptr(&disk->guest, disk->data) + i * sizeof(range), &range,
           sizeof(range));
}

static void assert_filled(struct disk *disk, uint64_t offset, uint64_t length, uint8_t byte)
{
    const uint8_t *data = guest_ptr(&disk->guest, disk->data);

    for (uint64_t i = 0; i < length; i++) {
        if (data[offset + i] != byte)
            fail_msg("byte %llu is %02x", (unsigned long long)(offset + i), data[offset + i]);
    }
}

/* ---- configuration ---- */

static void test_configuration_space(void **state)
{
    struct disk disk;
    struct virtio_blk_config config;

    (void)state;
    disk_open(&disk, &(struct setup){.queues = 4});
    for (unsigned i = 0; i < sizeof(config); i++)
        ((uint8_t *)&config)[i] = (uint8_t)bar_get(&disk.guest, VIRTIO_PCI_DEVICE_OFFSET + i, 1);
    assert_int_equal(config.capacity, IMAGE_SECTORS);
    assert_int_equal(config.seg_max, 254);
    assert_int_equal(config.blk_size, 512);
    assert_int_equal(config.physical_block_exp, 3);
    assert_int_equal(config.num_queues, 4);
    assert_true(config.max_discard_sectors > 0 && config.max_discard_seg > 0);
    assert_true(config.max_write_zeroes_sectors > 0 && config.max_write_zeroes_seg > 0);
    assert_int_equal(common_get(&disk.guest, VIRTIO_PCI_COMMON_NUMQ, 2), 4);
    assert_int_equal(guest_features(&disk.guest),
                     COMMON | RANGES | EVENT_IDX | INDIRECT | BIT(VIRTIO_BLK_F_SIZE_MAX) |
                         BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
                         BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) |
                         BIT(VIRTIO_BLK_F_MQ));
    disk_close(&disk);
}

static void test_bad_options_are_refused(void **state)
{
    struct virtio_device *device;
    struct err err;

    (void)state;
    assert_true(virtio_blk_create(&(struct virtio_blk_options){.queues = 0}, &device, &err) < 0);
    assert_true(virtio_blk_create(&(struct virtio_blk_options){.queues = 65}, &device, &err) < 0);
    assert_true(virtio_blk_create(
                    &(struct virtio_blk_options){.queues = 1, .serial = "123456789012345678901"},
                    &device, &err) < 0);
}

/* ---- requests ---- */

static void test_read_write_flush(void **state)
{
    struct disk disk;
    uint8_t sector[512], *data;

    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        bool event_idx = variant & 1;

        disk_open(&disk, &(struct setup){.queues = 1, .overlay = variant & 2});
        data = guest_ptr(&disk.guest, disk.data);
        disk_run(&disk, COMMON | (event_idx ? EVENT_IDX : 0));
        assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 7, 2 * 512), VIRTIO_BLK_S_OK);
        assert_filled(&disk, 0, 512, 7);
        assert_filled(&disk, 512, 512, 8);
        memset(data, 0xcd, 3 * 512);
        assert_int_equal(request(&disk, VIRTIO_BLK_T_OUT, 100, 3 * 512), VIRTIO_BLK_S_OK);
        assert_int_equal(request(&disk, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(blk_pread(disk.blk, 102 * 512, sector, 512), 0);
        assert_int_equal(sector[511], 0xcd);
        assert_int_equal(blk_pread(disk.blk, 103 * 512, sector, 512), 0);
        assert_int_equal(sector[0], 103);
        /* The last sector. */
        assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, IMAGE_SECTORS - 1, 512), VIRTIO_BLK_S_OK);
        assert_filled(&disk, 0, 512, (uint8_t)(IMAGE_SECTORS - 1));
        disk_close(&disk);
    }
}

static void test_serial_number(void **state)
{
    static const char *const serials[] = {NULL, "", "disk-1", "12345678901234567890"};

    (void)state;
    for (size_t i = 0; i < sizeof(serials) / sizeof(serials[0]); i++) {
        struct disk disk;
        char expected[20] = {0};
        uint8_t *data;

        if (serials[i])
            memcpy(expected, serials[i], strlen(serials[i]));
        disk_open(&disk, &(struct setup){.queues = 1, .serial = serials[i]});
        disk_run(&disk, COMMON);
        data = guest_ptr(&disk.guest, disk.data);
        memset(data, 0x77, 32);
        assert_int_equal(request(&disk, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
        assert_memory_equal(data, expected, 20);
        assert_int_equal(data[20], 0x77);
        disk_close(&disk);
    }
}

static void discard_and_write_zeroes(bool overlay)
{
    struct disk disk;

    disk_open(&disk, &(struct setup){.queues = 1, .overlay = overlay});
    disk_run(&disk, COMMON | RANGES);
    set_range(&disk, 0, 10, 2, 0);
    set_range(&disk, 1, 20, 3, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32), VIRTIO_BLK_S_OK);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 9, 15 * 512), VIRTIO_BLK_S_OK);
    assert_filled(&disk, 0, 512, 9);
    assert_filled(&disk, 512, 2 * 512, 0);
    assert_filled(&disk, 3 * 512, 512, 12);
    assert_filled(&disk, 10 * 512, 512, 19);
    assert_filled(&disk, 11 * 512, 3 * 512, 0);
    assert_filled(&disk, 14 * 512, 512, 23);
    for (unsigned i = 0; i < 16; i++)
        set_range(&disk, i, 1000 + 16 * i, 8, 0);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_DISCARD, 0, 256), VIRTIO_BLK_S_OK);
    /* A range without sectors changes nothing. */
    set_range(&disk, 0, 30, 0, 0);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 30, 512), VIRTIO_BLK_S_OK);
    assert_filled(&disk, 0, 512, 30);
    disk_close(&disk);
}

static void test_discard_and_write_zeroes_on_raw(void **state)
{
    (void)state;
    discard_and_write_zeroes(false);
}

static void test_discard_and_write_zeroes_on_an_overlay(void **state)
{
    (void)state;
    discard_and_write_zeroes(true);
}

static void test_bad_requests_get_a_status(void **state)
{
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t sector;
        uint32_t bytes;
        uint8_t expected;
    } cases[] = {
        {"read beyond the end", VIRTIO_BLK_T_IN, IMAGE_SECTORS, 512, VIRTIO_BLK_S_IOERR},
        {"read across the end", VIRTIO_BLK_T_IN, IMAGE_SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR},
        {"write beyond the end", VIRTIO_BLK_T_OUT, IMAGE_SECTORS, 512, VIRTIO_BLK_S_IOERR},
        {"sector that overflows", VIRTIO_BLK_T_IN, 1ULL << 55, 512, VIRTIO_BLK_S_IOERR},
        {"sector at the limit", VIRTIO_BLK_T_OUT, UINT64_MAX, 512, VIRTIO_BLK_S_IOERR},
        {"sector that wraps with its length", VIRTIO_BLK_T_IN, (1ULL << 55) - 1, 512,
         VIRTIO_BLK_S_IOERR},
        {"read of part of a sector", VIRTIO_BLK_T_IN, 0, 100, VIRTIO_BLK_S_IOERR},
        {"write of part of a sector", VIRTIO_BLK_T_OUT, 0, 513, VIRTIO_BLK_S_IOERR},
        {"read of nothing", VIRTIO_BLK_T_IN, 0, 0, VIRTIO_BLK_S_IOERR},
        {"write of nothing", VIRTIO_BLK_T_OUT, 0, 0, VIRTIO_BLK_S_IOERR},
        {"SCSI command", VIRTIO_BLK_T_SCSI_CMD, 0, 0, VIRTIO_BLK_S_UNSUPP},
        {"secure erase", VIRTIO_BLK_T_SECURE_ERASE, 0, 16, VIRTIO_BLK_S_UNSUPP},
        {"write with a barrier", VIRTIO_BLK_T_OUT | 0x80000000u, 0, 512, VIRTIO_BLK_S_UNSUPP},
        {"unknown type", 0xdeadbeef, 0, 512, VIRTIO_BLK_S_UNSUPP},
        {"discard without ranges", VIRTIO_BLK_T_DISCARD, 0, 0, VIRTIO_BLK_S_IOERR},
        {"discard of half a range", VIRTIO_BLK_T_DISCARD, 0, 8, VIRTIO_BLK_S_IOERR},
        {"discard of too many ranges", VIRTIO_BLK_T_DISCARD, 0, 17 * 16, VIRTIO_BLK_S_IOERR},
    };
    struct disk disk;

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON | RANGES);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t status;

        memset(guest_ptr(&disk.guest, disk.data), 0, 4096);
        status = request(&disk, cases[i].type, cases[i].sector, cases[i].bytes);
        if (status != cases[i].expected)
            fail_msg("%s: status %u", cases[i].name, status);
    }
    assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    disk_close(&disk);
}

static void test_bad_ranges_get_a_status(void **state)
{
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t sector;
        uint32_t sectors, flags;
        uint8_t expected;
    } cases[] = {
        {"discard with unmap", VIRTIO_BLK_T_DISCARD, 0, 8, 1, VIRTIO_BLK_S_UNSUPP},
        {"discard with unknown flags", VIRTIO_BLK_T_DISCARD, 0, 8, 2, VIRTIO_BLK_S_UNSUPP},
        {"zeroes with unknown flags", VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 3, VIRTIO_BLK_S_UNSUPP},
        {"discard beyond the end", VIRTIO_BLK_T_DISCARD, IMAGE_SECTORS - 7, 8, 0,
         VIRTIO_BLK_S_IOERR},
        {"zeroes beyond the end", VIRTIO_BLK_T_WRITE_ZEROES, IMAGE_SECTORS, 1, 0,
         VIRTIO_BLK_S_IOERR},
        {"zeroes that wrap", VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX, 1, 0, VIRTIO_BLK_S_IOERR},
        {"discard of too much", VIRTIO_BLK_T_DISCARD, 0, 0xffffffff, 0, VIRTIO_BLK_S_IOERR},
    };
    struct disk disk;

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON | RANGES);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t status;

        /* A good range before a bad one is not carried out either. */
        set_range(&disk, 0, 40, 1, 0);
        set_range(&disk, 1, cases[i].sector, cases[i].sectors, cases[i].flags);
        status = request(&disk, cases[i].type, 0, 32);
        if (status != cases[i].expected)
            fail_msg("%s: status %u", cases[i].name, status);
    }
    assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 40, 512), VIRTIO_BLK_S_OK);
    assert_filled(&disk, 0, 512, 40);
    disk_close(&disk);
}

static void test_discard_that_was_not_negotiated(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON);
    set_range(&disk, 0, 0, 8, 0);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_UNSUPP);
    disk_close(&disk);
}

static void test_read_only_disk(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &(struct setup){.queues = 1, .read_only = true});
    assert_true(guest_features(&disk.guest) & BIT(VIRTIO_BLK_F_RO));
    assert_int_equal(guest_features(&disk.guest) & RANGES, 0);
    disk_run(&disk, COMMON | BIT(VIRTIO_BLK_F_RO));
    assert_int_equal(request(&disk, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 3, 512), VIRTIO_BLK_S_OK);
    assert_filled(&disk, 0, 512, 3);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    disk_close(&disk);
}

/* ---- layout ---- */

/* A vector of buffers as descriptors of the ring, from index 0. */
struct piece {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags;
};

static void lay_out(struct disk *disk, const struct piece *pieces, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        ring_desc(&disk->ring, i, pieces[i].gpa, pieces[i].len,
                  (uint16_t)(pieces[i].flags | (i + 1 < count ? NEXT : 0)), (uint16_t)(i + 1));
}

static void test_any_layout_of_a_read(void **state)
{
    struct disk disk;
    uint64_t seed = test_seed();

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON);
    for (unsigned round = 0; round < 300; round++) {
        struct piece pieces[64];
        unsigned count = 0;
        uint32_t left;
        uint64_t at = disk.header, sector = test_random(&seed) % (IMAGE_SECTORS - 2);

        /* Header in random pieces. */
        set_header(&disk, VIRTIO_BLK_T_IN, sector);
        for (left = 16; left > 0;) {
            uint32_t n = (uint32_t)(1 + test_random(&seed) % left);

            pieces[count++] = (struct piece){at, n, 0};
            at += n;
            left -= n;
        }
        /* Data and status in random pieces; the status byte directly behind the data. */
        at = disk.data;
        for (left = 1024 + 1; left > 0;) {
            uint32_t n = (uint32_t)(1 + test_random(&seed) % left);

            pieces[count++] = (struct piece){at, n, WRITE};
            at += n;
            left -= n;
        }
        lay_out(&disk, pieces, count);
        ((uint8_t *)guest_ptr(&disk.guest, disk.data))[1024] = 0xee;
        assert_int_equal(complete(&disk), 1025);
        assert_filled(&disk, 0, 512, (uint8_t)sector);
        assert_filled(&disk, 512, 512, (uint8_t)(sector + 1));
        assert_filled(&disk, 1024, 1, VIRTIO_BLK_S_OK);
    }
    disk_close(&disk);
}

static void test_any_layout_of_a_write(void **state)
{
    struct disk disk;
    uint8_t *data, sector[512];

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON);
    data = guest_ptr(&disk.guest, disk.data);
    /* Header and data in one descriptor; then cut in the middle of both. */
    for (uint32_t cut = 0; cut < 16 + 512; cut++) {
        struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = 50};
        struct piece pieces[3];
        unsigned count = 0;

        memcpy(data, &header, 16);
        memset(data + 16, (uint8_t)cut, 512);
        if (cut > 0)
            pieces[count++] = (struct piece){disk.data, cut, 0};
        pieces[count++] = (struct piece){disk.data + cut, 16 + 512 - cut, 0};
        pieces[count++] = (struct piece){disk.status, 1, WRITE};
        lay_out(&disk, pieces, count);
        assert_int_equal(complete(&disk), 1);
        assert_int_equal(*status_byte(&disk), VIRTIO_BLK_S_OK);
        assert_int_equal(blk_pread(disk.blk, 50 * 512, sector, 512), 0);
        assert_int_equal(sector[0], (uint8_t)cut);
        assert_int_equal(sector[511], (uint8_t)cut);
    }
    disk_close(&disk);
}

static void test_indirect_request_as_long_as_the_queue(void **state)
{
    struct disk disk;
    struct vring_desc *table;
    uint64_t table_gpa;

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON | INDIRECT);
    table_gpa = guest_alloc(&disk.guest, 64 * 16, 16);
    table = guest_ptr(&disk.guest, table_gpa);
    set_header(&disk, VIRTIO_BLK_T_IN, 0);
    table[0] = (struct vring_desc){disk.header, 16, NEXT, 1};
    for (uint16_t i = 1; i < 63; i++)
        table[i] = (struct vring_desc){disk.data + 512 * (uint64_t)(i - 1), 512, NEXT | WRITE,
                                       (uint16_t)(i + 1)};
    table[63] = (struct vring_desc){disk.status, 1, WRITE, 0};
    ring_desc(&disk.ring, 0, table_gpa, 64 * 16, VRING_DESC_F_INDIRECT, 0);
    assert_int_equal(complete(&disk), 62 * 512 + 1);
    for (unsigned i = 0; i < 62; i++)
        assert_filled(&disk, 512 * i, 512, (uint8_t)i);
    disk_close(&disk);
}

/* ---- a driver that breaks rules ---- */

static void expect_needs_reset(struct disk *disk, const char *name)
{
    uint32_t id, len;

    fake_host_wait_interrupt(&disk->guest.host, HARNESS_MSI_DATA);
    if (!(guest_status(&disk->guest) & VIRTIO_CONFIG_S_NEEDS_RESET))
        fail_msg("%s: no NEEDS_RESET", name);
    guest_reset(&disk->guest);
    /* As good as new. */
    disk_run(disk, COMMON);
    assert_int_equal(request(disk, VIRTIO_BLK_T_IN, 5, 512), VIRTIO_BLK_S_OK);
    assert_filled(disk, 0, 512, 5);
    assert_false(ring_get_used(&disk->ring, &id, &len));
}

static void test_broken_frames_need_reset(void **state)
{
    struct disk disk;
    struct piece frames[][2] = {
        {{0, 15, 0}, {0, 1, WRITE}},      /* header too short */
        {{0, 16, 0}, {0, 512, 0}},        /* nothing to write a status into */
        {{0, 512, WRITE}, {0, 1, WRITE}}, /* no header */
        {{0, 16, WRITE}, {0, 1, 0}},      /* wrong order */
    };

    (void)state;
    disk_open(&disk, &plain);
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        disk_run(&disk, COMMON);
        frames[i][0].gpa = disk.header;
        frames[i][1].gpa = disk.data;
        lay_out(&disk, frames[i], 2);
        ring_add(&disk.ring, 0);
        ring_kick(&disk.guest, &disk.ring);
        expect_needs_reset(&disk, "frame");
        guest_reset(&disk.guest);
    }
    disk_close(&disk);
}

static void test_head_twice_in_flight_needs_reset(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON);
    set_header(&disk, VIRTIO_BLK_T_IN, 0);
    lay_out(
        &disk,
        (struct piece[]){{disk.header, 16, 0}, {disk.data, 512, WRITE}, {disk.status, 1, WRITE}},
        3);
    ring_add(&disk.ring, 0);
    ring_add(&disk.ring, 0);
    ring_kick(&disk.guest, &disk.ring);
    expect_needs_reset(&disk, "head twice");
    disk_close(&disk);
}

static void test_one_broken_queue_stops_the_others(void **state)
{
    struct disk disk;
    struct ring other;
    uint32_t id, len;

    (void)state;
    disk_open(&disk, &(struct setup){.queues = 2});
    assert_true(guest_negotiate(&disk.guest, COMMON | BIT(VIRTIO_BLK_F_MQ)));
    guest_setup_ring(&disk.guest, &disk.ring, 0, 64, COMMON);
    guest_setup_ring(&disk.guest, &other, 1, 64, COMMON);
    guest_enable_msix(&disk.guest, 2);
    guest_driver_ok(&disk.guest);
    ring_desc(&other, 0, 0, 0, 0, 0);
    ring_add(&other, 0);
    ring_kick(&disk.guest, &other);
    fake_host_wait_interrupt(&disk.guest.host, HARNESS_MSI_DATA);
    set_header(&disk, VIRTIO_BLK_T_IN, 0);
    lay_out(
        &disk,
        (struct piece[]){{disk.header, 16, 0}, {disk.data, 512, WRITE}, {disk.status, 1, WRITE}},
        3);
    ring_add(&disk.ring, 0);
    ring_kick(&disk.guest, &disk.ring);
    disk.device->ops->pause(disk.device); /* its thread has seen all there is to see */
    assert_false(ring_get_used(&disk.ring, &id, &len));
    guest_reset(&disk.guest);
    disk_close(&disk);
}

/* ---- the write cache ---- */

/* Flags that the engine was given with the last request of head 0. */
static unsigned engine_flags(struct disk *disk)
{
    struct blk_device *device = (struct blk_device *)disk->device;

    return device->queues[0].slots[0].request.flags;
}

static uint8_t wce(struct disk *disk)
{
    return (uint8_t)bar_get(&disk->guest,
                            VIRTIO_PCI_DEVICE_OFFSET + offsetof(struct virtio_blk_config, wce), 1);
}

static void set_wce(struct disk *disk, uint8_t value)
{
    bar_set(&disk->guest, VIRTIO_PCI_DEVICE_OFFSET + offsetof(struct virtio_blk_config, wce), value,
            1);
}

static void test_write_cache_follows_negotiation(void **state)
{
    static const struct {
        uint64_t features;
        bool writeback;
    } cases[] = {
        {0, false},
        {BIT(VIRTIO_BLK_F_FLUSH), true},
        {BIT(VIRTIO_BLK_F_CONFIG_WCE), false},
        {BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE), true},
    };
    struct disk disk;

    (void)state;
    disk_open(&disk, &plain);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        disk_run(&disk, cases[i].features | RANGES | BIT(VIRTIO_F_VERSION_1));
        assert_int_equal(wce(&disk), cases[i].writeback);
        assert_int_equal(request(&disk, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
        assert_int_equal(engine_flags(&disk), cases[i].writeback ? 0 : BLK_REQ_FUA);
        assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
        assert_int_equal(engine_flags(&disk), 0);
        set_range(&disk, 0, 10, 2, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
        assert_int_equal(request(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
        assert_int_equal(engine_flags(&disk),
                         BLK_REQ_MAY_UNMAP | (cases[i].writeback ? 0 : BLK_REQ_FUA));
        guest_reset(&disk.guest);
    }
    disk_close(&disk);
}

static void test_write_cache_is_switched_while_running(void **state)
{
    struct disk disk;

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON);
    set_wce(&disk, 0); /* not negotiated: read-only */
    assert_int_equal(wce(&disk), 1);
    guest_reset(&disk.guest);
    disk_run(&disk, COMMON | BIT(VIRTIO_BLK_F_CONFIG_WCE));
    set_wce(&disk, 0);
    assert_int_equal(wce(&disk), 0);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(engine_flags(&disk), BLK_REQ_FUA);
    set_wce(&disk, 1);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(engine_flags(&disk), 0);
    set_wce(&disk, 0);
    guest_reset(&disk.guest);
    disk_run(&disk, COMMON | BIT(VIRTIO_BLK_F_CONFIG_WCE));
    assert_int_equal(wce(&disk), 1);
    disk_close(&disk);
}

/* ---- reset, pause ---- */

enum { BATCH = 20 };

/* Fills the ring with reads of 4 KiB, heads 0, 3, 6 ... */
static void submit_batch(struct disk *disk)
{
    set_header(disk, VIRTIO_BLK_T_IN, 8);
    for (unsigned i = 0; i < BATCH; i++) {
        ring_desc(&disk->ring, 3 * i, disk->header, 16, NEXT, (uint16_t)(3 * i + 1));
        ring_desc(&disk->ring, 3 * i + 1, disk->data + 4096 * (uint64_t)i, 4096, NEXT | WRITE,
                  (uint16_t)(3 * i + 2));
        ring_desc(&disk->ring, 3 * i + 2, disk->status, 1, WRITE, 0);
        ring_add(&disk->ring, (uint16_t)(3 * i));
    }
    ring_kick(&disk->guest, &disk->ring);
}

static void test_reset_in_mid_flight_leaves_memory_alone(void **state)
{
    struct disk disk;
    uint64_t seed = test_seed();
    unsigned cut_short = 0;

    (void)state;
    disk_open(&disk, &plain);
    for (unsigned round = 0; round < 200; round++) {
        struct ring old;
        uint64_t mark = disk.guest.next_free;

        disk_run(&disk, COMMON);
        old = disk.ring;
        submit_batch(&disk);
        for (uint64_t spin = test_random(&seed) % 300000; spin > 0; spin--)
            __asm__ volatile("" ::: "memory");
        guest_reset(&disk.guest);
        cut_short += old.used->idx < BATCH;
        /* The memory is the driver's again. */
        memset(old.used, 0x5a, 6 + 8 * 64);
        memset(guest_ptr(&disk.guest, disk.data), 0x5a, BATCH * 4096);
        disk_run(&disk, COMMON);
        assert_int_equal(request(&disk, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
        assert_filled(&disk, 0, BATCH * 4096, 0x5a);
        for (unsigned i = 0; i < 6 + 8 * 64; i++)
            assert_int_equal(((uint8_t *)old.used)[i], 0x5a);
        guest_reset(&disk.guest);
        disk.guest.next_free = mark;
    }
    print_message("%u of 200 rounds cut short\n", cut_short);
    disk_close(&disk);
}

static void test_pause_and_resume(void **state)
{
    struct disk disk;
    uint32_t id, len;

    (void)state;
    disk_open(&disk, &plain);
    disk_run(&disk, COMMON);
    assert_int_equal(request(&disk, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    disk.device->ops->pause(disk.device);
    disk.device->ops->pause(disk.device);
    submit_batch(&disk);
    assert_false(ring_get_used(&disk.ring, &id, &len));
    disk.device->ops->resume(disk.device);
    for (unsigned i = 0; i < BATCH; i++)
        ring_wait_used(&disk.ring, &id, &len);
    assert_filled(&disk, 4096 * (BATCH - 1), 512, 8);
    disk_close(&disk);
}

static void test_destroyed_while_running(void **state)
{
    struct disk disk;

    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        disk_open(&disk, &plain);
        disk_run(&disk, COMMON);
        submit_batch(&disk);
        disk_close(&disk);
    }
}

/* ---- many queues ---- */

enum { MQ = 4, MQ_REQUESTS = 1500, MQ_DEPTH = 16, MQ_SECTORS = IMAGE_SECTORS / MQ };

struct mq_driver {
    struct disk *disk;
    struct ring ring;
    unsigned index;
    uint64_t seed, headers, statuses, data; /* a slot of each for each chain */
    uint8_t model[MQ_SECTORS];              /* what each of this driver's sectors is filled with */
    const char *failure;
};

struct mq_slot {
    bool busy, write;
    uint64_t sector; /* within the driver's part */
    uint8_t fill;
};

static void mq_submit(struct mq_driver *driver, struct mq_slot *slots, unsigned n)
{
    struct guest *guest = &driver->disk->guest;
    struct mq_slot *slot = &slots[n];
    struct virtio_blk_outhdr *header = guest_ptr(guest, driver->headers + 16 * (uint64_t)n);
    uint64_t data = driver->data + 512 * (uint64_t)n;

    slot->busy = true;
    slot->write = test_random(&driver->seed) % 2;
    /* No two requests in flight on one sector: their order would be open. */
    slot->sector = (test_random(&driver->seed) % (MQ_SECTORS / MQ_DEPTH)) * MQ_DEPTH + n;
    slot->fill = (uint8_t)test_random(&driver->seed);
    *header =
        (struct virtio_blk_outhdr){.type = slot->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
                                   .sector = slot->sector + (uint64_t)driver->index * MQ_SECTORS};
    memset(guest_ptr(guest, data), slot->write ? slot->fill : 0xa5, 512);
    ring_desc(&driver->ring, 3 * n, driver->headers + 16 * (uint64_t)n, 16, NEXT,
              (uint16_t)(3 * n + 1));
    ring_desc(&driver->ring, 3 * n + 1, data, 512, (uint16_t)(NEXT | (slot->write ? 0 : WRITE)),
              (uint16_t)(3 * n + 2));
    ring_desc(&driver->ring, 3 * n + 2, driver->statuses + n, 1, WRITE, 0);
    ring_add(&driver->ring, (uint16_t)(3 * n));
}

static const char *mq_check(struct mq_driver *driver, struct mq_slot *slots, uint32_t id)
{
    struct guest *guest = &driver->disk->guest;
    unsigned n = id / 3;
    const uint8_t *data = guest_ptr(guest, driver->data + 512 * (uint64_t)n);

    if (id % 3 != 0 || n >= MQ_DEPTH || !slots[n].busy)
        return "a chain came back that was not there";
    if (*(uint8_t *)guest_ptr(guest, driver->statuses + n) != VIRTIO_BLK_S_OK)
        return "a request failed";
    if (slots[n].write)
        driver->model[slots[n].sector] = slots[n].fill;
    else
        for (unsigned i = 0; i < 512; i++)
            if (data[i] != driver->model[slots[n].sector])
                return "wrong data";
    slots[n].busy = false;
    return NULL;
}

static void *mq_main(void *arg)
{
    struct mq_driver *driver = arg;
    struct mq_slot slots[MQ_DEPTH] = {0};
    unsigned sent = 0, got = 0;

    while (got < MQ_REQUESTS && !driver->failure) {
        uint32_t id, len;

        for (unsigned n = 0; n < MQ_DEPTH; n++) {
            if (!slots[n].busy && sent < MQ_REQUESTS && test_random(&driver->seed) % 4 != 0) {
                mq_submit(driver, slots, n);
                sent++;
            }
        }
        ring_kick(&driver->disk->guest, &driver->ring);
        while (ring_get_used(&driver->ring, &id, &len) && !driver->failure) {
            driver->failure = mq_check(driver, slots, id);
            got++;
        }
        if (got == sent || got == MQ_REQUESTS)
            continue;
        /* Sleep until the next one is used. */
        ring_set_used_event(&driver->ring, driver->ring.last_used);
        if (__atomic_load_n(&driver->ring.used->idx, __ATOMIC_SEQ_CST) == driver->ring.last_used)
            fake_host_wait_interrupt(&driver->disk->guest.host,
                                     HARNESS_MSI_DATA + 1 + driver->index);
    }
    return NULL;
}

static void four_queues_at_once(bool overlay)
{
    uint64_t features = COMMON | EVENT_IDX | INDIRECT | BIT(VIRTIO_BLK_F_MQ);
    static struct mq_driver drivers[MQ];
    pthread_t threads[MQ];
    struct disk disk;
    uint64_t seed = test_seed();

    disk_open(&disk, &(struct setup){.queues = MQ, .overlay = overlay});
    assert_true(guest_negotiate(&disk.guest, features));
    for (unsigned q = 0; q < MQ; q++) {
        struct mq_driver *driver = &drivers[q];

        *driver = (struct mq_driver){.disk = &disk, .index = q, .seed = seed + q * 0x9e3779b9};
        guest_setup_ring(&disk.guest, &driver->ring, q, 64, features);
        driver->headers = guest_alloc(&disk.guest, 16 * MQ_DEPTH, 16);
        driver->statuses = guest_alloc(&disk.guest, MQ_DEPTH, 16);
        driver->data = guest_alloc(&disk.guest, 512 * MQ_DEPTH, 512);
        for (unsigned i = 0; i < MQ_SECTORS; i++)
            driver->model[i] = (uint8_t)(q * MQ_SECTORS + i);
    }
    guest_enable_msix(&disk.guest, MQ);
    guest_driver_ok(&disk.guest);
    for (unsigned q = 0; q < MQ; q++)
        assert_int_equal(pthread_create(&threads[q], NULL, mq_main, &drivers[q]), 0);
    for (unsigned q = 0; q < MQ; q++)
        pthread_join(threads[q], NULL);
    for (unsigned q = 0; q < MQ; q++) {
        if (drivers[q].failure)
            fail_msg("queue %u: %s", q, drivers[q].failure);
    }
    disk_close(&disk);
}

static void test_four_queues_at_once_on_raw(void **state)
{
    (void)state;
    four_queues_at_once(false);
}

static void test_four_queues_at_once_on_an_overlay(void **state)
{
    (void)state;
    four_queues_at_once(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configuration_space),
        cmocka_unit_test(test_bad_options_are_refused),
        cmocka_unit_test(test_read_write_flush),
        cmocka_unit_test(test_serial_number),
        cmocka_unit_test(test_discard_and_write_zeroes_on_raw),
        cmocka_unit_test(test_discard_and_write_zeroes_on_an_overlay),
        cmocka_unit_test(test_bad_requests_get_a_status),
        cmocka_unit_test(test_bad_ranges_get_a_status),
        cmocka_unit_test(test_discard_that_was_not_negotiated),
        cmocka_unit_test(test_read_only_disk),
        cmocka_unit_test(test_any_layout_of_a_read),
        cmocka_unit_test(test_any_layout_of_a_write),
        cmocka_unit_test(test_indirect_request_as_long_as_the_queue),
        cmocka_unit_test(test_broken_frames_need_reset),
        cmocka_unit_test(test_head_twice_in_flight_needs_reset),
        cmocka_unit_test(test_one_broken_queue_stops_the_others),
        cmocka_unit_test(test_write_cache_follows_negotiation),
        cmocka_unit_test(test_write_cache_is_switched_while_running),
        cmocka_unit_test(test_reset_in_mid_flight_leaves_memory_alone),
        cmocka_unit_test(test_pause_and_resume),
        cmocka_unit_test(test_destroyed_while_running),
        cmocka_unit_test(test_four_queues_at_once_on_raw),
        cmocka_unit_test(test_four_queues_at_once_on_an_overlay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
