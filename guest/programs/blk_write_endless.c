/*
 * blk_write_endless - writes all over the disk until something stops the machine. Says "flushed" once
 * sectors 0 to 15 hold 0x51 and a flush has completed; they are not written again.
 */
#include "blk.h"
#include "lib.h"

int main(void)
{
    static struct virtio v;
    uint64_t sector = 16, capacity;

    if (!virtio_find(VIRTIO_BLOCK, 0, &v) ||
        !virtio_start(&v, FEATURES_BLK_ALL | FEATURE_RING_EVENT | FEATURE_RING_INDIRECT, 1))
        return EXIT_FAIL;
    capacity = blk_capacity(&v);
    if (!blk_fill(&v, 0, 0, 16, 0x51) || blk_request(&v, 0, BLK_FLUSH, 0, NULL, 0) != BLK_OK)
        return EXIT_FAIL;
    say("flushed\n");
    for (unsigned i = 0;; i++) {
        if (!blk_fill(&v, 0, sector, 1, (uint8_t)i))
            return EXIT_FAIL;
        /* A stride that is odd in clusters of every size visits many of them. */
        sector += 137;
        if (sector >= capacity)
            sector = 16 + sector % 16;
    }
}
