/*
 * blk_multiqueue - `queues=` queues: all busy at once from one CPU, then each driven by a CPU of
 * its own
 * (`cpus=` of them), all over the same clusters.
 */
#include "blk.h"
#include "lib.h"
#include "smp.h"

enum { MAX_CPUS = 64, ROUNDS = 16 };

static struct virtio v;
static unsigned queues;
static volatile unsigned go, done, wrong;

/* Sector `round * queues + queue`, so that neighbours come from different queues. */
static bool use_queue(unsigned queue)
{
    for (unsigned round = 0; round < ROUNDS; round++)
        if (!blk_fill(&v, queue, round * queues + queue, 1, (uint8_t)(0x10 + queue)))
            return false;
    for (unsigned round = 0; round < ROUNDS; round++)
        if (!blk_verify(&v, queue, round * queues + queue, 1, (uint8_t)(0x10 + queue)))
            return false;
    return blk_request(&v, queue, BLK_FLUSH, 0, NULL, 0) == BLK_OK;
}

static void on_cpu(void)
{
    static unsigned next = 1;
    unsigned queue = __atomic_fetch_add(&next, 1, __ATOMIC_SEQ_CST);

    while (!go)
        __asm__ volatile("pause");
    if (!use_queue(queue))
        __atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
}

static void check_all_busy(void)
{
    static struct blk_request requests[MAX_QUEUES][4];
    uint8_t *data = allocate(MAX_QUEUES * 4 * SECTOR, 4096);
    struct used_element used;
    bool held = true;

    for (unsigned q = 0; q < queues; q++)
        for (unsigned i = 0; i < 4; i++) {
            uint8_t *sector = data + (q * 4 + i) * SECTOR;

            memset(sector, (int)(0x80 + q * 4 + i), SECTOR);
            blk_offer(&v, q, i, &requests[q][i], BLK_WRITE, 1000 + q * 4 + i, sector, SECTOR,
                      false);
        }
    for (unsigned q = 0; q < queues; q++)
        queue_notify(&v.queues[q]);
    for (unsigned q = 0; q < queues; q++)
        for (unsigned i = 0; i < 4; i++)
            held = queue_wait(&v.queues[q], &used) && used.id < 12 && held;
    for (unsigned q = 0; q < queues; q++)
        for (unsigned i = 0; i < 4; i++)
            held = requests[q][i].status == BLK_OK && held;
    check(held, "every queue busy at once");
    for (unsigned q = 0; q < queues; q++)
        for (unsigned i = 0; i < 4; i++)
            held =
                blk_verify(&v, queues - 1 - q, 1000 + q * 4 + i, 1, (uint8_t)(0x80 + q * 4 + i)) &&
                held;
    check(held, "what one queue wrote another reads");
}

int main(void)
{
    uint8_t ids[MAX_CPUS];
    unsigned cpus = smp_list_cpus(ids, MAX_CPUS);
    bool held = true;

    queues = (unsigned)argument("queues", 2);
    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device"))
        return 0;
    check(virtio_queue_count(&v) == queues && mmio_read16(v.config + BLK_NUM_QUEUES) == queues,
          "%u queues", virtio_queue_count(&v));
    check(virtio_device_features(&v) & FEATURE_BLK_MULTI_QUEUE, "are offered");
    if (failures() || !virtio_start(&v, FEATURES_BLK_ALL, queues))
        return 0;
    check_all_busy();

    if (cpus > queues)
        cpus = queues;
    /* Buffers are made on the way: before the CPUs compete for them. */
    for (unsigned q = 0; q < queues; q++)
        (void)blk_verify(&v, q, 0, 1, 0);
    for (unsigned i = 1; i < cpus; i++)
        held = smp_start_cpu(ids[i], on_cpu) && held;
    go = 1;
    held = use_queue(0) && held;
    check(WAIT_FOR(done == cpus - 1, LONG_WAIT) && held && !wrong, "%u CPUs, a queue each", cpus);
    for (unsigned q = 0; q < queues; q++)
        for (unsigned round = 0; q < cpus && round < ROUNDS; round++)
            held = blk_verify(&v, 0, round * queues + q, 1, (uint8_t)(0x10 + q)) && held;
    check(held, "nothing was lost");
    return 0;
}
