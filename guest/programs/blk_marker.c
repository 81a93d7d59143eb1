/*
 * blk_marker - writes and expects bytes in every sector of a cluster-crossing range on disk `disk=`
 * (default 0): `expect=N` reads it first, `write=N` writes and flushes it. For what must persist, and
 * for what must not be seen.
 */
#include "blk.h"
#include "lib.h"

enum { FIRST = 2000, SECTORS = 100 };

int main(void)
{
    static struct virtio v;
    uint64_t expected = argument("expect", 256), written = argument("write", 256);

    if (!check(virtio_find(VIRTIO_BLOCK, (unsigned)argument("disk", 0), &v), "the disk is there") ||
        !virtio_start(&v, FEATURES_BLK_ALL, 1))
        return 0;
    if (expected < 256)
        check(blk_verify(&v, 0, FIRST, SECTORS, (uint8_t)expected), "reads %lu", expected);
    if (written < 256) {
        check(blk_fill(&v, 0, FIRST, SECTORS, (uint8_t)written), "writes %lu", written);
        check(blk_request(&v, 0, BLK_FLUSH, 0, NULL, 0) == BLK_OK, "flushes");
        check(blk_verify(&v, 0, FIRST, SECTORS, (uint8_t)written), "reads it back");
    }
    return 0;
}
