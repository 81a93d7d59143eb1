/*
 * blk_rw - a block device with a polling driver: every kind of request, over one queue. `indirect`
 * and `event` on the command line switch those ring features on.
 *
 * Leaves for a look from outside: sector 0 full of 0xa1, 1 to 8 of 0xb2, 126 to 129 (across a 64
 * KiB cluster) of 0xc3, the last one of 0xd4, 256 to 263 zeros, and 4096 to 4223 discarded.
 */
#include "blk.h"
#include "lib.h"

static void check_scattered(struct virtio *v)
{
    struct queue *q = &v->queues[0];
    static struct blk_header header = {BLK_READ, 0, 0};
    static volatile uint8_t status = BLK_PENDING;
    struct used_element used = {0};
    /* Two sectors in pieces of odd lengths at odd addresses. */
    uint8_t *data = (uint8_t *)allocate(4096, 4096) + 3;

    queue_set(q, 10, &header, 5, DESC_NEXT, 20);
    queue_set(q, 20, (uint8_t *)&header + 5, 11, DESC_NEXT, 11);
    queue_set(q, 11, data, 7, DESC_NEXT | DESC_WRITE, 40);
    queue_set(q, 40, data + 100, 510, DESC_NEXT | DESC_WRITE, 12);
    queue_set(q, 12, data + 1000, 507, DESC_NEXT | DESC_WRITE, 13);
    queue_set(q, 13, &status, 1, DESC_WRITE, 0);
    queue_offer(q, 10);
    queue_notify(q);
    check(queue_wait(q, &used) && status == BLK_OK, "a request in many odd pieces");
    check(used.id == 10 && used.length == 2 * SECTOR + 1, "reports its bytes: %u", used.length);
    check(filled_with(data, 0xa1, 7) && filled_with(data + 100, 0xa1, 505) &&
              filled_with(data + 605, 0xb2, 5) && filled_with(data + 1000, 0xb2, 507),
          "and fills the pieces in order");
    check(data[7] == 0 && data[99] == 0 && data[610] == 0 && data[1507] == 0, "and nothing else");
}

int main(void)
{
    static struct virtio v;
    static struct blk_range range = {256, 8, 0};
    static char id[20];
    uint64_t wanted = FEATURES_BLK_ALL, capacity;

    if (has_argument("indirect"))
        wanted |= FEATURE_RING_INDIRECT;
    if (has_argument("event"))
        wanted |= FEATURE_RING_EVENT;
    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device") || !virtio_start(&v, wanted, 1))
        return 0;
    wanted &= ~(FEATURE_BLK_READ_ONLY | FEATURE_BLK_MULTI_QUEUE);
    check((v.features & wanted) == wanted, "features %lx", v.features);
    capacity = blk_capacity(&v);
    check(capacity == argument("capacity", capacity), "%lu sectors", capacity);
    check(mmio_read32(v.config + BLK_BLOCK_SIZE) == 512, "a block size of 512");
    check(mmio_read32(v.config + BLK_SEG_MAX) >= 1, "seg_max %u",
          mmio_read32(v.config + BLK_SEG_MAX));

    check(blk_fill(&v, 0, 0, 1, 0xa1), "write the first sector");
    check(blk_fill(&v, 0, 1, 8, 0xb2), "write 8 sectors");
    check(blk_fill(&v, 0, 126, 4, 0xc3), "write across a cluster's end");
    check(blk_fill(&v, 0, capacity - 1, 1, 0xd4), "write the last sector");
    check(blk_request(&v, 0, BLK_FLUSH, 0, NULL, 0) == BLK_OK, "flush");
    check(blk_verify(&v, 0, 0, 1, 0xa1), "read the first sector");
    check(blk_verify(&v, 0, 1, 8, 0xb2), "read 8 sectors");
    check(blk_verify(&v, 0, 126, 4, 0xc3), "read across a cluster's end");
    check(blk_verify(&v, 0, capacity - 1, 1, 0xd4), "read the last sector");
    check_scattered(&v);

    check(blk_request(&v, 0, BLK_GET_ID, 0, id, sizeof(id)) == BLK_OK, "get-id");
    say("id: ");
    for (unsigned i = 0; i < sizeof(id) && id[i]; i++)
        put_char(id[i]);
    say("\n");

    check(blk_fill(&v, 0, 255, 10, 0xff), "write 10 sectors");
    check(blk_request(&v, 0, BLK_WRITE_ZEROES, 0, &range, sizeof(range)) == BLK_OK,
          "write zeroes over 8 of them");
    check(blk_verify(&v, 0, 256, 8, 0) && blk_verify(&v, 0, 255, 1, 0xff) &&
              blk_verify(&v, 0, 264, 1, 0xff),
          "they are zeros, and their neighbours are not");
    range = (struct blk_range){4096, 128, 0};
    check(blk_fill(&v, 0, 4095, 128, 0xee) && blk_fill(&v, 0, 4223, 2, 0xee), "write a cluster");
    check(blk_request(&v, 0, BLK_DISCARD, 0, &range, sizeof(range)) == BLK_OK, "discard it");
    check(blk_verify(&v, 0, 4095, 1, 0xee) && blk_verify(&v, 0, 4224, 1, 0xee),
          "its neighbours are still there");
    check(blk_verify(&v, 0, 4096, 1, 0) || has_argument("raw"), "it reads as zeros");
    check(blk_request(&v, 0, BLK_FLUSH, 0, NULL, 0) == BLK_OK, "flush");
    check(!(virtio_status(&v) & STATUS_NEEDS_RESET), "the device is in good order");
    return 0;
}
