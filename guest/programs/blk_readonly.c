/* blk_readonly - a read-only device says so, reads, and refuses every change. */
#include "blk.h"
#include "lib.h"

int main(void)
{
    static struct virtio v;
    static struct blk_range range = {0, 8, 0};
    uint8_t *data = allocate(SECTOR, SECTOR);

    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device"))
        return 0;
    check(virtio_device_features(&v) & FEATURE_BLK_READ_ONLY, "offers the read-only feature");
    if (!virtio_start(&v, FEATURES_BLK_ALL, 1))
        return 0;
    check(blk_verify(&v, 0, 0, 1, (uint8_t)argument("byte", 0)), "a read");
    memset(data, 0x99, SECTOR);
    check(blk_request(&v, 0, BLK_WRITE, 0, data, SECTOR) == BLK_IO_ERROR, "a write is an error");
    check(blk_request(&v, 0, BLK_DISCARD, 0, &range, sizeof(range)) != BLK_OK, "so is a discard");
    check(blk_request(&v, 0, BLK_WRITE_ZEROES, 0, &range, sizeof(range)) != BLK_OK,
          "and writing zeroes");
    check(blk_verify(&v, 0, 0, 1, (uint8_t)argument("byte", 0)), "nothing changed");

    /* A driver that does not know the feature gets no further. */
    if (!virtio_start(&v, FEATURES_BLK_ALL & ~FEATURE_BLK_READ_ONLY, 1))
        return 0;
    check(blk_request(&v, 0, BLK_WRITE, 0, data, SECTOR) == BLK_IO_ERROR,
          "a driver that ignores the feature is refused too");
    return 0;
}
