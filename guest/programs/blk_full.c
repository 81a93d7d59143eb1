/*
 * blk_full - a host that runs out of space. Fills the disk from its beginning, 64 KiB a request, a byte
 * of its own in each, and flushes.
 *
 * Without arguments the host's errors are the guest's: at some place the disk is full; what was written
 * before is there, and sectors that were written can be written again. With "patient" no request may
 * fail, however long it takes: the machine is paused meanwhile.
 */
#include "blk.h"
#include "lib.h"

enum { PIECE = 128 /* sectors */, PATIENCE = 100 };

static uint8_t byte_of(uint64_t sector)
{
    return (uint8_t)(1 + sector / PIECE % 251);
}

/* As blk_request(), for a time that has no end while the machine is paused: a guest's clock goes on. */
static uint8_t wait_for(struct virtio *v, uint32_t type, uint64_t sector, void *data, uint32_t size)
{
    static struct blk_request request;
    struct queue *q = &v->queues[0];
    struct used_element used;

    blk_offer(v, 0, 0, &request, type, sector, data, size, false);
    queue_notify(q);
    for (unsigned i = 0; i < PATIENCE; i++) {
        if (queue_wait(q, &used))
            return *(volatile uint8_t *)&request.status;
    }
    return BLK_PENDING;
}

int main(void)
{
    static struct virtio v;
    uint64_t sector = 0, capacity;
    bool patient = has_argument("patient"), same = true;
    uint8_t *data = allocate((size_t)PIECE * SECTOR, 4096), status = BLK_OK;

    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device") ||
        !virtio_start(&v, FEATURES_BLK_ALL, 1))
        return 0;
    capacity = blk_capacity(&v);
    for (; sector < capacity && status == BLK_OK; sector += PIECE) {
        memset(data, byte_of(sector), (size_t)PIECE * SECTOR);
        status = wait_for(&v, BLK_WRITE, sector, data, PIECE * SECTOR);
    }
    if (status != BLK_OK)
        sector -= PIECE;
    say("%lu of %lu sectors\n", sector, capacity);
    if (patient) {
        check(status == BLK_OK && sector == capacity, "no write fails");
        check(wait_for(&v, BLK_FLUSH, 0, NULL, 0) == BLK_OK, "nor does the flush");
    } else {
        check(status == BLK_IO_ERROR && sector > 0, "the write that finds no room is an I/O error");
        check(blk_fill(&v, 0, 0, PIECE, byte_of(0)), "what has its place can be written again");
    }
    for (uint64_t at = 0; at < sector && same; at += PIECE)
        same = blk_verify(&v, 0, at, PIECE, byte_of(at));
    check(same, "what was written is there");
    check(!(virtio_status(&v) & STATUS_NEEDS_RESET), "the device is in good order");
    return 0;
}
