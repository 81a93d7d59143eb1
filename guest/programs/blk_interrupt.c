/*
 * blk_interrupt - completion by MSI-X: a vector a queue, masked and unmasked, suppressed by flag
 * and by event index.
 */
#include "blk.h"
#include "interrupt.h"
#include "lib.h"

enum { CONFIG_VECTOR = 40, QUEUE_VECTOR = 41, ROUNDS = 50 };

static struct virtio v;
static uint8_t *data;
static struct blk_request requests[8];

static bool start(uint64_t wanted)
{
    if (!virtio_negotiate(&v, wanted))
        return false;
    mmio_write16(v.common + COMMON_CONFIG_VECTOR, 0);
    if (!virtio_setup_queue(&v, 0, 1))
        return false;
    virtio_driver_ok(&v);
    return true;
}

static void offer_reads(unsigned count)
{
    struct queue *q = &v.queues[0];

    for (unsigned i = 0; i < count; i++)
        blk_offer(&v, 0, i, &requests[i], BLK_READ, i, data + i * SECTOR, SECTOR, false);
    queue_notify(q);
}

static bool take(unsigned count)
{
    struct used_element used;

    while (count--)
        if (!queue_wait(&v.queues[0], &used))
            return false;
    return true;
}

/* One request a round; sleeps until the interrupt comes. */
static bool sleep_for_each(unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        unsigned before = interrupt_count(QUEUE_VECTOR);

        queue_set_used_event(&v.queues[0], v.queues[0].taken);
        offer_reads(1);
        /* Interrupts are off but while the CPU halts: one that comes early ends the halt at once.
         */
        __asm__ volatile("cli");
        while (interrupt_count(QUEUE_VECTOR) == before)
            __asm__ volatile("sti; hlt; cli" ::: "memory");
        __asm__ volatile("sti");
        if (!take(1))
            return false;
    }
    return true;
}

static void check_masking(void)
{
    unsigned before = interrupt_count(QUEUE_VECTOR);

    virtio_mask_message(&v, 1, true);
    offer_reads(1);
    check(take(1), "a request completes while its vector is masked");
    check(!WAIT_FOR(interrupt_count(QUEUE_VECTOR) != before, SHORT_WAIT), "with no interrupt");
    virtio_mask_message(&v, 1, false);
    check(WAIT_FOR(interrupt_count(QUEUE_VECTOR) == before + 1, LONG_WAIT),
          "which arrives when the vector is unmasked");
}

static void check_flag(void)
{
    unsigned before = interrupt_count(QUEUE_VECTOR);

    v.queues[0].avail->flags = AVAIL_NO_INTERRUPT;
    fence();
    offer_reads(4);
    check(take(4), "4 requests complete without interrupts");
    check(!WAIT_FOR(interrupt_count(QUEUE_VECTOR) != before, SHORT_WAIT), "with none");
    v.queues[0].avail->flags = 0;
}

static void check_event_index(void)
{
    struct queue *q = &v.queues[0];
    unsigned before = interrupt_count(QUEUE_VECTOR);

    queue_set_used_event(q, (uint16_t)(q->taken + 3));
    offer_reads(3);
    check(take(3), "3 requests complete before the event index");
    check(!WAIT_FOR(interrupt_count(QUEUE_VECTOR) != before, SHORT_WAIT), "with no interrupt");
    offer_reads(1);
    check(WAIT_FOR(interrupt_count(QUEUE_VECTOR) > before, LONG_WAIT), "the fourth has one");
    check(take(1), "and completes");
}

int main(void)
{
    data = allocate(8 * SECTOR, 4096);
    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device"))
        return 0;
    interrupt_enable();
    virtio_enable_msix(&v, true);
    virtio_set_message(&v, 0, CONFIG_VECTOR);
    virtio_set_message(&v, 1, QUEUE_VECTOR);

    if (!start(FEATURES_BLK_ALL))
        return 0;
    check(sleep_for_each(ROUNDS), "%u requests, each with an interrupt", (unsigned)ROUNDS);
    check_masking();
    check_flag();
    if (!start(FEATURES_BLK_ALL | FEATURE_RING_EVENT))
        return 0;
    check(sleep_for_each(ROUNDS), "%u requests by event index", (unsigned)ROUNDS);
    check_event_index();
    check(interrupt_count(CONFIG_VECTOR) == 0, "the configuration never changed");

    mmio_write16(v.common + COMMON_QUEUE_VECTOR, 0x7ff);
    check(mmio_read16(v.common + COMMON_QUEUE_VECTOR) == NO_VECTOR,
          "a vector beyond the table is refused");
    /* An empty chain, so that the device needs a reset and says so. */
    queue_set(&v.queues[0], 0, data, 0, DESC_NEXT, 0);
    queue_offer(&v.queues[0], 0);
    queue_notify(&v.queues[0]);
    check(WAIT_FOR(interrupt_count(CONFIG_VECTOR) > 0, LONG_WAIT),
          "a broken queue is told by a configuration interrupt");
    check(virtio_status(&v) & STATUS_NEEDS_RESET, "and by the status");
    return 0;
}
