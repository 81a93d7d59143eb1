/*
 * merged.c - a table of answers, one for each piece ("granule") of the device as far as it has room, found by
 * where the piece lies. An answer is an extent of any length that begins in the piece; one that was dear stands
 * in the slots of the pieces after it as well.
 *
 * Readers and writers take no lock. A slot has a sequence number, which is odd while somebody writes the slot
 * and changes with each write: who reads the same even number before and after has read one answer. The
 * order of loads and stores that this needs is given by acquire and release on each of them: the first
 * load of the number comes before all others and the second after them; the number that is odd is stored
 * before anything else is, and the one that is even after. Who would have to wait leaves it: what is not
 * remembered is asked again.
 */
#include "merged.h"

#include "checked.h"

#include <stdatomic.h>
#include <stdlib.h>

enum {
    MIN_BITS = 9,  /* of a granule: that is never more than a cluster of any layer, */
    MAX_BITS = 16, /* nor more than many guests ask for at once */
    MIN_SLOTS = 64,
    MAX_SLOTS =
        1 << 15, /* 2 MiB, for 2 GiB of a device in pieces of 64 KiB; used as far as it is read */
    /* An answer for which so many layers were asked is worth one more slot: filling a slot takes about as
     * long as asking them. */
    LAYERS_A_SLOT = 4,
};

struct slot {
    _Alignas(64) _Atomic uint64_t sequence;
    _Atomic uint64_t start, end; /* of the device; both 0: nothing is remembered */
    _Atomic uint64_t host_offset;
    _Atomic(struct file *) file;
    _Atomic(struct blk *) layer;
    _Atomic uint64_t depth;
    _Atomic uint64_t kind; /* enum blk_extent_kind, and HAS_HOST_OFFSET */
};
_Static_assert(sizeof(struct slot) == 64, "a slot is a line of the processor's cache");

#define HAS_HOST_OFFSET UINT64_C(256)

struct merged {
    unsigned granule_bits;
    uint64_t mask;
    struct slot *slots;
    void *memory; /* which they lie in */
};

static unsigned granule_bits(const struct blk *below)
{
    unsigned bits = MAX_BITS;

    for (const struct blk *blk = below; blk != NULL; blk = blk->backing) {
        unsigned cluster = blk_cluster_size(blk);

        while (cluster != 0 && bits > MIN_BITS && (1U << bits) > cluster)
            bits--;
    }
    return bits;
}

struct merged *merged_create(const struct blk *top)
{
    struct merged *merged;
    uint64_t slots = MIN_SLOTS;

    /* A flat file is asked as fast as this table. */
    if (top->backing == NULL ||
        (top->backing->backing == NULL && top->backing->format == &raw_format))
        return NULL;
    merged = calloc(1, sizeof(*merged));
    if (merged == NULL)
        return NULL;
    merged->granule_bits = granule_bits(top->backing);
    while (slots < MAX_SLOTS && slots << merged->granule_bits < top->length)
        slots *= 2;
    merged->mask = slots - 1;
    /* Zeroed, without a touch of what is never used. */
    merged->memory = calloc(slots + 1, sizeof(struct slot));
    if (merged->memory == NULL) {
        free(merged);
        return NULL;
    }
    merged->slots = (void *)align_up((uintptr_t)merged->memory, sizeof(struct slot));
    return merged;
}

void merged_free(struct merged *merged)
{
    if (merged != NULL)
        free(merged->memory);
    free(merged);
}

static struct slot *slot_of(struct merged *merged, uint64_t offset)
{
    return &merged->slots[(offset >> merged->granule_bits) & merged->mask];
}

#define LOAD(field)         atomic_load_explicit(&slot->field, memory_order_acquire)
#define STORE(field, value) atomic_store_explicit(&slot->field, value, memory_order_release)

bool merged_find(struct merged *merged, uint64_t offset, uint64_t length, struct blk **layer,
                 unsigned *depth, struct layer_extent *extent)
{
    struct slot *slot = slot_of(merged, offset);
    uint64_t sequence = LOAD(sequence), start = LOAD(start), end = LOAD(end);
    uint64_t kind = LOAD(kind), host_offset = LOAD(host_offset);
    struct file *file = LOAD(file);

    *layer = LOAD(layer);
    *depth = (unsigned)LOAD(depth);
    if ((sequence & 1) != 0 || offset < start || offset >= end || LOAD(sequence) != sequence)
        return false;
    *extent = (struct layer_extent){
        .kind = (enum blk_extent_kind)(kind & ~HAS_HOST_OFFSET),
        .length = min_u64(length, end - offset),
        .has_host_offset = (kind & HAS_HOST_OFFSET) != 0,
        .host_offset = kind & HAS_HOST_OFFSET ? host_offset + (offset - start) : 0,
        .file = file,
        .hold = BLK_NOT_HELD,
    };
    return true;
}

/* The answer without its first `skip` bytes, in the slot of what is left. */
static void fill_slot(struct merged *merged, uint64_t offset, uint64_t skip, struct blk *layer,
                      unsigned depth, const struct layer_extent *extent)
{
    struct slot *slot = slot_of(merged, offset + skip);
    uint64_t sequence = LOAD(sequence);

    if ((sequence & 1) != 0 ||
        !atomic_compare_exchange_strong(&slot->sequence, &sequence, sequence + 1))
        return;
    STORE(start, offset + skip);
    STORE(end, offset + extent->length);
    STORE(host_offset, extent->host_offset + skip);
    STORE(file, extent->file);
    STORE(layer, layer);
    STORE(depth, depth);
    STORE(kind, (uint64_t)extent->kind | (extent->has_host_offset ? HAS_HOST_OFFSET : 0));
    STORE(sequence, sequence + 2);
}

void merged_keep(struct merged *merged, uint64_t offset, struct blk *layer, unsigned depth,
                 const struct layer_extent *extent)
{
    uint64_t granule = UINT64_C(1) << merged->granule_bits;
    uint64_t skip = 0;

    if (extent->kind == BLK_EXTENT_COMPRESSED || extent->is_encrypted ||
        extent->hold != BLK_NOT_HELD)
        return;
    for (unsigned slots = 1 + depth / LAYERS_A_SLOT; slots > 0 && skip < extent->length; slots--) {
        fill_slot(merged, offset, skip, layer, depth, extent);
        skip += granule - ((offset + skip) & (granule - 1));
    }
}

uint64_t merged_start(const struct merged *merged, uint64_t offset)
{
    return align_down(offset, UINT64_C(1) << merged->granule_bits);
}
