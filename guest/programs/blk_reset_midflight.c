/*
 * blk_reset_midflight - resets while requests are in flight: once the status reads 0, nothing in
 * memory moves any more, and the device works again.
 */
#include "blk.h"
#include "lib.h"

enum { ROUNDS = 20, REQUESTS = 16, SECTORS = 16, SIZE = SECTORS * SECTOR };

#define MARK 0x3c3c5a5ac3c3a5a5ULL

static struct virtio v;
static struct blk_request requests[REQUESTS];
static uint8_t *data;

/* A mark in every sector: all of them would take long where instructions are emulated. */
static void mark(void)
{
    for (unsigned i = 0; i < REQUESTS * SIZE; i += SECTOR)
        *(volatile uint64_t *)(data + i) = MARK;
}

static bool marked(void)
{
    for (unsigned i = 0; i < REQUESTS * SIZE; i += SECTOR)
        if (*(volatile uint64_t *)(data + i) != MARK)
            return false;
    return true;
}

static uint16_t completed(void)
{
    return v.queues[0].used->index;
}

static bool round_trip(unsigned round)
{
    uint32_t type = round % 2 ? BLK_READ : BLK_WRITE;
    uint16_t index;
    bool quiet;

    for (unsigned i = 0; i < REQUESTS; i++)
        blk_offer(&v, 0, i, &requests[i], type, i * 128, data + i * SIZE, SIZE, false);
    queue_notify(&v.queues[0]);
    /* Some rounds reset at once, some after a few completions. */
    if (round % 4 >= 2)
        (void)WAIT_FOR(completed() != 0, LONG_WAIT);
    if (!virtio_reset(&v))
        return false;

    index = completed();
    mark();
    for (unsigned i = 0; i < REQUESTS; i++)
        requests[i].status = BLK_PENDING;
    quiet = !WAIT_FOR(completed() != index, SHORT_WAIT / 16) && marked();
    for (unsigned i = 0; i < REQUESTS; i++)
        quiet = *(volatile uint8_t *)&requests[i].status == BLK_PENDING && quiet;
    return quiet;
}

int main(void)
{
    bool quiet = true, works = true;

    data = allocate(REQUESTS * SIZE, 4096);
    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device"))
        return 0;
    for (unsigned round = 0; round < ROUNDS && quiet && works; round++) {
        if (!virtio_start(&v, FEATURES_BLK_ALL, 1))
            return 0;
        quiet = round_trip(round);
        works = virtio_start(&v, FEATURES_BLK_ALL, 1) && blk_fill(&v, 0, 9000, 1, 0x42) &&
                blk_verify(&v, 0, 9000, 1, 0x42);
    }
    check(quiet, "after a reset the device leaves memory alone");
    check(works, "and works again");
    return 0;
}
