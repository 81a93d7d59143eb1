/*
 * blk_bad_requests - well-formed chains that ask for what cannot be done: an error status each, and
 * the device goes on.
 */
#include "blk.h"
#include "lib.h"

static struct virtio v;
static uint8_t *data;

static void expect(uint8_t expected, const char *name, uint32_t type, uint64_t sector,
                   uint32_t size)
{
    uint8_t status = blk_request(&v, 0, type, sector, data, size);

    check(status == expected && !(virtio_status(&v) & STATUS_NEEDS_RESET), "%s: status %u", name,
          status);
}

static void expect_range(uint8_t expected, const char *name, uint32_t type, uint64_t sector,
                         uint32_t sectors, uint32_t flags, uint32_t size)
{
    struct blk_range range = {sector, sectors, flags};

    memcpy(data, &range, sizeof(range));
    expect(expected, name, type, 0, size);
}

int main(void)
{
    uint64_t capacity;

    data = allocate(8192, 4096);
    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device") ||
        !virtio_start(&v, FEATURES_BLK_ALL, 1))
        return 0;
    capacity = blk_capacity(&v);
    check(blk_fill(&v, 0, capacity - 1, 1, 0x77), "a good request");

    expect(BLK_IO_ERROR, "read behind the end", BLK_READ, capacity, SECTOR);
    expect(BLK_IO_ERROR, "write behind the end", BLK_WRITE, capacity, SECTOR);
    expect(BLK_IO_ERROR, "write across the end", BLK_WRITE, capacity - 1, 2 * SECTOR);
    expect(BLK_IO_ERROR, "the last sector number", BLK_READ, ~0ULL, SECTOR);
    expect(BLK_IO_ERROR, "a sector whose byte offset wraps", BLK_READ, 1ULL << 55, SECTOR);
    expect(BLK_IO_ERROR, "another", BLK_WRITE, (1ULL << 55) - 1, SECTOR);
    expect(BLK_UNSUPPORTED, "a type that does not exist", 0x77, 0, SECTOR);
    expect(BLK_UNSUPPORTED, "the legacy SCSI command", 2, 0, SECTOR);
    expect_range(BLK_IO_ERROR, "discard behind the end", BLK_DISCARD, capacity, 8, 0, 16);
    expect_range(BLK_IO_ERROR, "zero across the end", BLK_WRITE_ZEROES, capacity - 4, 8, 0, 16);
    expect_range(BLK_IO_ERROR, "zero where the end wraps", BLK_WRITE_ZEROES, ~0ULL, 8, 0, 16);
    expect_range(BLK_UNSUPPORTED, "discard with the unmap flag", BLK_DISCARD, 0, 8, 1, 16);
    expect_range(BLK_UNSUPPORTED, "zero with unknown flags", BLK_WRITE_ZEROES, 0, 8, 0x80, 16);

    check(blk_verify(&v, 0, capacity - 1, 1, 0x77), "nothing was written");
    return 0;
}
