/*
 * The device's side of a split virtqueue.
 *
 * Memory order. The rings are shared with vCPUs that run at the same time. Four pairs matter; the
 * other half of each is the driver's duty (VIRTIO 1.2 sections 2.7.7, 2.7.10, 2.7.13, 2.7.14).
 *
 *  A. load avail->idx (acquire)    before  load avail->ring[], descriptors, buffers.
 *     The driver stores those first and avail->idx last.
 *  B. store used->ring[], buffers  before  store used->idx (release).
 *     The driver loads used->idx first.
 *  C. store used->idx              before  load used_event / avail->flags (both seq_cst).
 *     The driver stores used_event (or flags), then loads used->idx. In every order of the four, one
 *     of the two sees the other's store: either we see that it wants the interrupt, or it sees the
 *     used element before it goes to sleep. Without this order a store may pass the load, both miss,
 *     and the driver sleeps for ever on a request that has completed.
 *  D. store avail_event / used->flags  before  load avail->idx (both seq_cst).
 *     The driver stores avail->idx, then loads avail_event (or flags). One of the two sees the
 *     other's store: either it rings the doorbell, or virtqueue_notify_enable() returns true. That
 *     is why suppression loses no wake-up.
 *
 * C and D are written as sequentially consistent stores and loads of the fields themselves, not as
 * fences, so that thread checkers understand them; on x86 each is one xchg.
 *
 * Reading a chain. Each descriptor is copied once and only the copy is used; the driver may rewrite
 * the original meanwhile to no effect. Rules whose violation breaks the queue:
 *  1. avail->idx runs at most `size` ahead of what was taken and never goes back (2.7.6.1).
 *  2. A head or next index is below the size of its table (2.7.5).
 *  3. A chain has at most `size` descriptors, in the ring and its indirect table together (but see
 *     virtqueue_allow_long_chains()); a loop ends here (2.7.5.2, 2.7.5.3.1).
 *  4. Every buffer has a length above 0 and lies in RAM; together they are at most 2^32 bytes
 *     (2.7.5.2).
 *  5. Readable buffers come before writable ones (2.7.4.2).
 *  6. An indirect descriptor needs the negotiated feature, has no NEXT flag, is not itself in an
 *     indirect table, and its table is a whole number of descriptors, at least one (2.7.5.3.1).
 */
#include "virtqueue.h"

#include "bytes.h"
#include "checked.h"
#include "inflight.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CHAIN_BYTES_LIMIT (1ULL << 32)

static uint16_t load16(const uint16_t *p, int order)
{
    return le16toh(__atomic_load_n(p, order));
}

static void store16(uint16_t *p, uint16_t value, int order)
{
    __atomic_store_n(p, htole16(value), order);
}

/* Where the driver says at which used index it wants an interrupt (2.7.7). */
static const uint16_t *used_event(const struct virtqueue *vq)
{
    return &vq->avail->ring[vq->size];
}

/* Where the device says at which avail index it wants a notification (2.7.10). */
static uint16_t *avail_event(const struct virtqueue *vq)
{
    return (uint16_t *)(void *)&vq->used->ring[vq->size];
}

int virtqueue_init(struct virtqueue *vq, uint16_t size_max)
{
    *vq = (struct virtqueue){.size_max = size_max, .size = size_max, .kick = -1};
    vq->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return vq->doorbell < 0 ? -errno : 0;
}

void virtqueue_destroy(struct virtqueue *vq)
{
    if (vq->doorbell >= 0)
        close(vq->doorbell);
    vq->doorbell = -1;
}

void virtqueue_reset(struct virtqueue *vq)
{
    uint64_t pending;

    while (read(vq->doorbell, &pending, sizeof(pending)) > 0)
        ;
    *vq = (struct virtqueue){
        .size_max = vq->size_max, .size = vq->size_max, .doorbell = vq->doorbell, .kick = -1};
}

/* The host address of a ring part, with its alignment (2.7) checked where it counts: on the host.
 */
static int resolve(const struct guestmem *mem, uint64_t gpa, uint64_t length, uint64_t align,
                   void **out)
{
    *out = guestmem_ptr(mem, gpa, length);
    if (!*out)
        return -EFAULT;
    return is_aligned((uintptr_t)*out, align) ? 0 : -EINVAL;
}

int virtqueue_map(struct virtqueue *vq, const struct guestmem *mem)
{
    size_t size = vq->size;
    void *desc, *avail, *used;
    int ret;

    /* The event fields at the ends belong to the rings whether or not they are negotiated. */
    ret = resolve(mem, vq->desc_gpa, size * sizeof(*vq->desc), VRING_DESC_ALIGN_SIZE, &desc);
    if (ret < 0)
        return ret;
    ret = resolve(mem, vq->avail_gpa, sizeof(*vq->avail) + (size + 1) * sizeof(uint16_t),
                  VRING_AVAIL_ALIGN_SIZE, &avail);
    if (ret < 0)
        return ret;
    ret = resolve(mem, vq->used_gpa,
                  sizeof(*vq->used) + size * sizeof(struct vring_used_elem) + sizeof(uint16_t),
                  VRING_USED_ALIGN_SIZE, &used);
    if (ret < 0)
        return ret;

    vq->mem = mem;
    vq->desc = desc;
    vq->avail = avail;
    vq->used = used;
    return 0;
}

int virtqueue_start(struct virtqueue *vq, const struct guestmem *mem, uint64_t features)
{
    int ret = virtqueue_map(vq, mem);

    if (ret < 0)
        return ret;
    vq->indirect = features & (1ULL << VIRTIO_RING_F_INDIRECT_DESC);
    vq->event_idx = features & (1ULL << VIRTIO_RING_F_EVENT_IDX);
    vq->broken = false;
    vq->chain_max = vq->size;
    vq->next_avail = vq->avail_seen = 0;
    vq->next_used = vq->used_published = 0;
    return 0;
}

void virtqueue_allow_long_chains(struct virtqueue *vq)
{
    vq->chain_max = vq->size_max;
}

void virtqueue_set_position(struct virtqueue *vq, uint16_t next_avail, uint16_t next_used)
{
    vq->next_avail = vq->avail_seen = next_avail;
    vq->next_used = vq->used_published = next_used;
}

uint16_t virtqueue_used_index(const struct virtqueue *vq)
{
    return load16(&vq->used->idx, __ATOMIC_RELAXED);
}

void virtqueue_ring_doorbell(const struct virtqueue *vq)
{
    uint64_t one = 1;

    while (write(vq->doorbell, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

int virtqueue_fail(struct virtqueue *vq)
{
    vq->broken = true;
    return -EPROTO;
}

int virtqueue_take(struct virtqueue *vq, uint16_t *head)
{
    if (vq->broken)
        return -EPROTO;
    if (vq->inflight && inflight_resubmit(vq->inflight, head))
        return 1; /* next_avail is past it already */
    if (vq->next_avail == vq->avail_seen) {
        vq->avail_seen = load16(&vq->avail->idx, __ATOMIC_ACQUIRE); /* pair A */
        if ((uint16_t)(vq->avail_seen - vq->next_avail) > vq->size)
            return virtqueue_fail(vq); /* rule 1 */
        if (vq->next_avail == vq->avail_seen)
            return 0;
    }
    *head = load16(&vq->avail->ring[vq->next_avail & (vq->size - 1)], __ATOMIC_RELAXED);
    if (*head >= vq->size)
        return virtqueue_fail(vq); /* rule 2 */
    vq->next_avail++;
    if (vq->inflight)
        inflight_taken(vq->inflight, *head);
    return 1;
}

bool virtqueue_has_more(const struct virtqueue *vq)
{
    return load16(&vq->avail->idx, __ATOMIC_RELAXED) != vq->next_avail;
}

static struct vring_desc copy_descriptor(const struct vring_desc *from)
{
    struct vring_desc raw;

    memcpy(&raw, from, sizeof(raw));
    /* Keeps the compiler from reading guest memory a second time instead of the copy. */
    __asm__ volatile("" : : "r"(&raw) : "memory");
    return (struct vring_desc){
        .addr = le64toh(raw.addr),
        .len = le32toh(raw.len),
        .flags = le16toh(raw.flags),
        .next = le16toh(raw.next),
    };
}

/* Appends one buffer: rules 4 and 5. */
static bool append_buffer(const struct virtqueue *vq, struct virtqueue_chain *chain,
                          const struct vring_desc *desc)
{
    bool writable = desc->flags & VRING_DESC_F_WRITE;
    void *host = guestmem_ptr(vq->mem, desc->addr, desc->len);

    if (!host || (!writable && chain->writable > 0) ||
        chain->readable_bytes + chain->writable_bytes + desc->len > CHAIN_BYTES_LIMIT)
        return false;
    chain->iov[chain->readable + chain->writable] =
        (struct iovec){.iov_base = host, .iov_len = desc->len};
    if (writable) {
        chain->writable++;
        chain->writable_bytes += desc->len;
    } else {
        chain->readable++;
        chain->readable_bytes += desc->len;
    }
    return true;
}

int virtqueue_read_chain(struct virtqueue *vq, uint16_t head, struct virtqueue_chain *chain)
{
    const struct vring_desc *table = vq->desc;
    uint32_t table_size = vq->size, index = head;
    bool in_indirect = false;

    *chain = (struct virtqueue_chain){.iov = chain->iov, .head = head};
    for (;;) {
        struct vring_desc desc = copy_descriptor(&table[index]);

        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (!vq->indirect || in_indirect || (desc.flags & VRING_DESC_F_NEXT) ||
                desc.len % sizeof(desc) != 0)
                return virtqueue_fail(vq); /* rule 6 */
            table = guestmem_ptr(vq->mem, desc.addr, desc.len);
            if (!table)
                return virtqueue_fail(vq); /* rules 4 and 6 */
            table_size = desc.len / sizeof(desc);
            in_indirect = true;
            index = 0;
            continue;
        }
        if (chain->readable + chain->writable == (in_indirect ? vq->chain_max : vq->size))
            return virtqueue_fail(vq); /* rule 3 */
        if (!append_buffer(vq, chain, &desc))
            return virtqueue_fail(vq);
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return 0;
        index = desc.next;
        if (index >= table_size)
            return virtqueue_fail(vq); /* rule 2 */
    }
}

void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
    struct vring_used_elem *elem = &vq->used->ring[vq->next_used & (vq->size - 1)];

    elem->id = htole32(head);
    elem->len = htole32(written);
    vq->next_used++;
    if (vq->inflight)
        inflight_pushed(vq->inflight, head);
}

bool virtqueue_publish(struct virtqueue *vq)
{
    uint16_t old = vq->used_published, now = vq->next_used;

    if (old == now)
        return false;
    store16(&vq->used->idx, now, __ATOMIC_SEQ_CST); /* pairs B and C */
    vq->used_published = now;
    if (vq->inflight)
        inflight_published(vq->inflight, (uint16_t)(now - old), now);
    if (vq->event_idx)
        return virtqueue_index_passed(load16(used_event(vq), __ATOMIC_SEQ_CST), now, old);
    return !(load16(&vq->avail->flags, __ATOMIC_SEQ_CST) & VRING_AVAIL_F_NO_INTERRUPT);
}

void virtqueue_notify_disable(struct virtqueue *vq)
{
    /* With event indices there is nothing to do: avail_event stays where it is, behind next_avail,
     * and the driver rings only when it passes it. */
    if (!vq->event_idx)
        store16(&vq->used->flags, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

bool virtqueue_notify_enable(struct virtqueue *vq)
{
    if (vq->event_idx)
        store16(avail_event(vq), vq->next_avail, __ATOMIC_SEQ_CST);
    else
        store16(&vq->used->flags, 0, __ATOMIC_SEQ_CST);
    return load16(&vq->avail->idx, __ATOMIC_SEQ_CST) != vq->next_avail; /* pair D */
}
