/* rng - the entropy device fills what it is given, and never twice the same. */
#include "lib.h"
#include "virtio.h"

enum { SIZE = 64 };

static struct virtio v;

static bool fill(uint8_t *data, uint32_t size, uint32_t *length)
{
    struct queue *q = &v.queues[0];
    struct used_element used;

    queue_set(q, 0, data, size / 2, DESC_WRITE | DESC_NEXT, 1);
    queue_set(q, 1, data + size / 2, size - size / 2, DESC_WRITE, 0);
    queue_offer(q, 0);
    queue_notify(q);
    if (!queue_wait(q, &used))
        return false;
    *length = used.length;
    return true;
}

static unsigned zeros(const uint8_t *data, unsigned size)
{
    unsigned count = 0;

    while (size--)
        count += data[size] == 0;
    return count;
}

int main(void)
{
    uint8_t *a = allocate(SIZE, 16), *b = allocate(SIZE, 16);
    uint32_t length = 0;
    bool filled;

    if (!check(virtio_find(VIRTIO_ENTROPY, 0, &v), "an entropy device") || !virtio_start(&v, 0, 1))
        return 0;
    filled = fill(a, SIZE, &length);
    check(filled && length > 0 && length <= SIZE, "%u bytes", length);
    check(zeros(a, length) < length / 4 + 1, "that are not zeros");
    check(fill(b, SIZE, &length) && memcmp(a, b, 16) != 0, "then others");

    /* Memory that the device may only read. */
    queue_set(&v.queues[0], 0, a, SIZE, 0, 0);
    queue_offer(&v.queues[0], 0);
    queue_notify(&v.queues[0]);
    check(WAIT_FOR((virtio_status(&v) & STATUS_NEEDS_RESET) ||
                       v.queues[0].used->index != v.queues[0].taken,
                   LONG_WAIT),
          "a wrong direction ends somehow");
    check(virtio_start(&v, 0, 1) && fill(a, SIZE, &length) && length, "and the device works again");
    return 0;
}
