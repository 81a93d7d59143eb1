/*
 * lookaside.c - what the map says of clusters that were used lately, for requests that take no lock.
 *
 * The L2 tables in the cache are the truth; a slot here repeats one entry of them, of a cluster that is
 * as a whole data, zeros or nothing. Slots are written under the layer's lock alone, in the section in
 * which the entry is read or changed (qcow2_l2_set), so a slot is never behind its entry once the lock is
 * free. What changes otherwise - tables as a whole, or who owns a host cluster - empties slots first.
 *
 * A slot has a sequence number, odd while it is written: who reads the same even number before and after
 * has read one entry, which was valid in between. That is enough for an I/O, as long as the host cluster
 * is not reused until it ends: so the hold (free.c) is taken before the slot is read for good, and what is
 * read then was valid after that. Whoever unlinks the cluster later finds the hold; who had unlinked it
 * before has changed the slot before.
 *
 * An overwrite that goes by a slot is not held against the places of metadata (overlap.c): the entry was when
 * it was looked up the first time, and a cluster that becomes metadata since then leaves the slots. Once
 * an image is corrupt or cannot be synced the slots are closed, and everything meets the lock again.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <stdlib.h>

enum {
    MIN_SLOTS = 64,
    MAX_SLOTS =
        1 << 13,     /* 256 KiB, touched as far as they are used: 512 MiB in clusters of 64 KiB */
    HOSTS = 1 << 15, /* 32 KiB */
    MANY_HOSTS = UINT8_MAX,
    KIND_MASK = 7,
    IS_COPIED = 8, /* below the least cluster size */
};

struct qcow2_slot {
    _Alignas(32) _Atomic uint64_t sequence;
    _Atomic uint64_t guest; /* offset + 1; 0: nothing */
    _Atomic uint64_t value; /* host offset, kind, IS_COPIED */
};

#define LOAD(field)         atomic_load_explicit(&slot->field, memory_order_acquire)
#define STORE(field, value) atomic_store_explicit(&slot->field, value, memory_order_release)

int qcow2_lookaside_init(struct qcow2 *q)
{
    struct qcow2_lookaside *table = &q->lookaside;
    uint64_t slots = MIN_SLOTS;

    while (slots < MAX_SLOTS && slots << q->cluster_bits < q->blk->length) {
        slots *= 2;
    }
    table->memory = calloc(slots + 1, sizeof(struct qcow2_slot));
    table->hosts = calloc(HOSTS, 1);
    if (table->memory == NULL || table->hosts == NULL) {
        return -ENOMEM;
    }
    table->slots = (void *)align_up((uintptr_t)table->memory, sizeof(struct qcow2_slot));
    table->mask = slots - 1;
    atomic_init(&table->is_open, true);
    return 0;
}

void qcow2_lookaside_free(struct qcow2 *q)
{
    free(q->lookaside.memory);
    free(q->lookaside.hosts);
    q->lookaside = (struct qcow2_lookaside){0};
}

static struct qcow2_slot *slot_of(const struct qcow2 *q, uint64_t cluster)
{
    return &q->lookaside.slots[(cluster >> q->cluster_bits) & q->lookaside.mask];
}

/* How many slots lead to host clusters of which this is one; MANY_HOSTS: that is not known any more. */
static uint8_t *hosts_like(const struct qcow2 *q, uint64_t host_offset)
{
    uint64_t hash = (host_offset >> q->cluster_bits) * UINT64_C(0x9e3779b97f4a7c15);

    return &q->lookaside.hosts[(hash >> 32) & (HOSTS - 1)];
}

static void count_host(const struct qcow2 *q, uint64_t guest, uint64_t value, int change)
{
    if (guest != 0 && (value & KIND_MASK) == BLK_EXTENT_DATA + 1) {
        uint8_t *count = hosts_like(q, align_down(value, q->cluster_size));

        *count = *count == MANY_HOSTS ? MANY_HOSTS : (uint8_t)(*count + change);
    }
}

static void write_slot(struct qcow2 *q, struct qcow2_slot *slot, uint64_t guest, uint64_t value)
{
    uint64_t sequence = LOAD(sequence);

    count_host(q, LOAD(guest), LOAD(value), -1);
    count_host(q, guest, value, 1);
    q->lookaside.used += (guest != 0) - (uint64_t)(LOAD(guest) != 0);
    STORE(sequence, sequence + 1);
    STORE(guest, guest);
    STORE(value, value);
    STORE(sequence, sequence + 2);
}

/* What a slot can say of the cluster; 0: nothing. */
static uint64_t value_of(const struct qcow2 *q, const struct qcow2_cluster *cluster)
{
    uint32_t all = qcow2_subcluster_mask(0, q->subclusters);

    if (cluster->is_compressed) {
        return 0;
    }
    if (cluster->data == all) {
        return cluster->host_offset | (BLK_EXTENT_DATA + 1) | (cluster->is_copied ? IS_COPIED : 0);
    }
    if (cluster->data != 0 || qcow2_has_place(cluster)) {
        return 0;
    }
    return cluster->zero == all ? BLK_EXTENT_ZERO + 1
           : cluster->zero == 0 ? BLK_EXTENT_UNALLOCATED + 1
                                : 0;
}

void qcow2_lookaside_put(struct qcow2 *q, uint64_t guest_offset,
                         const struct qcow2_cluster *cluster)
{
    uint64_t start = align_down(guest_offset, q->cluster_size), value;
    struct qcow2_slot *slot;

    if (q->lookaside.slots == NULL) {
        return;
    }
    slot = slot_of(q, start);
    value = value_of(q, cluster);
    if (value != 0 ? LOAD(guest) != start + 1 || LOAD(value) != value : LOAD(guest) == start + 1) {
        write_slot(q, slot, value != 0 ? start + 1 : 0, value);
    }
}

/* The slots that lead to a host cluster; 0: all. */
static void empty(struct qcow2 *q, uint64_t host_offset)
{
    for (uint64_t i = 0; q->lookaside.used > 0 && i <= q->lookaside.mask; i++) {
        struct qcow2_slot *slot = &q->lookaside.slots[i];

        if (LOAD(guest) != 0 &&
            (host_offset == 0 || align_down(LOAD(value), q->cluster_size) == host_offset)) {
            write_slot(q, slot, 0, 0);
        }
    }
}

void qcow2_lookaside_clear(struct qcow2 *q)
{
    empty(q, 0);
}

void qcow2_lookaside_forget_host(struct qcow2 *q, uint64_t host_offset)
{
    if (q->lookaside.used > 0 && *hosts_like(q, host_offset) > 0) {
        empty(q, host_offset);
    }
}

void qcow2_lookaside_close(struct qcow2 *q)
{
    atomic_store(&q->lookaside.is_open, false);
}

/* False: the slot says nothing of the cluster. */
static bool read_slot(struct qcow2_slot *slot, uint64_t cluster, uint64_t *value)
{
    uint64_t sequence = LOAD(sequence), guest = LOAD(guest);

    *value = LOAD(value);
    return guest == cluster + 1 && (sequence & 1) == 0 && LOAD(sequence) == sequence;
}

static bool is_usable(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
    return q->lookaside.slots != NULL &&
           (offset & (q->cluster_size - 1)) + length <= q->cluster_size &&
           atomic_load_explicit(&q->lookaside.is_open, memory_order_acquire);
}

bool qcow2_lookaside_map(struct qcow2 *q, uint64_t offset, uint64_t length, bool hold,
                         struct layer_extent *extent)
{
    uint64_t cluster = align_down(offset, q->cluster_size), value;
    struct qcow2_slot *slot;
    int held = BLK_NOT_HELD;
    bool is_data;

    if (!is_usable(q, offset, length)) {
        return false;
    }
    slot = slot_of(q, cluster);
    if (!read_slot(slot, cluster, &value)) {
        return false;
    }
    is_data = (value & KIND_MASK) == BLK_EXTENT_DATA + 1;
    if (is_data && hold) {
        held = qcow2_hold(q);
        if (!read_slot(slot, cluster, &value) || (value & KIND_MASK) != BLK_EXTENT_DATA + 1) {
            qcow2_unhold(q->blk, held);
            return false;
        }
    }
    qcow2_count_quick(q);
    *extent = (struct layer_extent){
        .kind = (enum blk_extent_kind)((value & KIND_MASK) - 1),
        .length = length,
        .has_host_offset = is_data,
        .host_offset = is_data ? align_down(value, q->cluster_size) + (offset - cluster) : 0,
        .file = qcow2_data_file(q),
        .is_encrypted = is_data && q->crypto != NULL,
        .hold = held,
    };
    return true;
}

bool qcow2_lookaside_overwrite(struct qcow2 *q, uint64_t offset, uint64_t length,
                               uint64_t *host_offset, int *hold)
{
    uint64_t cluster = align_down(offset, q->cluster_size), value;
    struct qcow2_slot *slot;

    if (!is_usable(q, offset, length)) {
        return false;
    }
    slot = slot_of(q, cluster);
    *hold = qcow2_hold(q);
    if (!read_slot(slot, cluster, &value) ||
        (value & (KIND_MASK | IS_COPIED)) != ((BLK_EXTENT_DATA + 1) | IS_COPIED)) {
        qcow2_unhold(q->blk, *hold);
        return false;
    }
    qcow2_count_quick(q);
    *host_offset = align_down(value, q->cluster_size) + (offset - cluster);
    return true;
}
