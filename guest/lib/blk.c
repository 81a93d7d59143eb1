/* blk.c - requests to a virtio block device. */
#include "blk.h"
#include "lib.h"

enum { BUFFER = 65536 };

uint64_t blk_capacity(const struct virtio *v)
{
    return (uint64_t)mmio_read32(v->config + BLK_CAPACITY + 4) << 32 |
           mmio_read32(v->config + BLK_CAPACITY);
}

void blk_offer(struct virtio *v, unsigned queue, unsigned slot, struct blk_request *request,
               uint32_t type, uint64_t sector, void *data, uint32_t size, bool indirect)
{
    struct queue *q = &v->queues[queue];
    bool reads = type == BLK_READ || type == BLK_GET_ID;
    uint16_t first = (uint16_t)(slot * 3);
    uint16_t base = indirect ? 0 : first;
    struct descriptor *d = indirect ? request->indirect : &q->table[first];
    unsigned n = 0;

    request->header = (struct blk_header){type, 0, sector};
    request->status = BLK_PENDING;
    d[n] = (struct descriptor){address_of(&request->header), sizeof(request->header), DESC_NEXT,
                               (uint16_t)(base + n + 1)};
    n++;
    if (size) {
        d[n] = (struct descriptor){address_of(data), size,
                                   (uint16_t)(DESC_NEXT | (reads ? DESC_WRITE : 0)),
                                   (uint16_t)(base + n + 1)};
        n++;
    }
    d[n] = (struct descriptor){address_of(&request->status), 1, DESC_WRITE, 0};
    n++;
    if (indirect)
        queue_set(q, first, request->indirect, n * (uint32_t)sizeof(struct descriptor),
                  DESC_INDIRECT, 0);
    queue_offer(q, first);
}

uint8_t blk_request(struct virtio *v, unsigned queue, uint32_t type, uint64_t sector, void *data,
                    uint32_t size)
{
    static struct blk_request requests[MAX_QUEUES];
    struct queue *q = &v->queues[queue];
    struct used_element used;
    uint16_t before = q->offered;

    blk_offer(v, queue, 0, &requests[queue], type, sector, data, size,
              v->features & FEATURE_RING_INDIRECT);
    if (queue_wants_notify(q, before))
        queue_notify(q);
    if (!queue_wait(q, &used) || used.id != 0)
        return BLK_PENDING;
    return *(volatile uint8_t *)&requests[queue].status;
}

bool filled_with(const void *data, uint8_t byte, uint32_t size)
{
    const void *p = data;
    uint64_t count = size;
    bool same = true;

    __asm__ volatile("cmp %%eax, %%eax; repe scasb; sete %2"
                     : "+D"(p), "+c"(count), "=q"(same)
                     : "a"(byte)
                     : "memory", "cc");
    return same;
}

static void *buffer_of(unsigned queue)
{
    static void *buffers[MAX_QUEUES];

    if (!buffers[queue])
        buffers[queue] = allocate(BUFFER, 4096);
    return buffers[queue];
}

bool blk_fill(struct virtio *v, unsigned queue, uint64_t sector, uint32_t sectors, uint8_t byte)
{
    void *buffer = buffer_of(queue);

    memset(buffer, byte, (size_t)sectors * SECTOR);
    return blk_request(v, queue, BLK_WRITE, sector, buffer, sectors * SECTOR) == BLK_OK;
}

bool blk_verify(struct virtio *v, unsigned queue, uint64_t sector, uint32_t sectors, uint8_t byte)
{
    void *buffer = buffer_of(queue);

    memset(buffer, (uint8_t)~byte, (size_t)sectors * SECTOR);
    return blk_request(v, queue, BLK_READ, sector, buffer, sectors * SECTOR) == BLK_OK &&
           filled_with(buffer, byte, sectors * SECTOR);
}
