/*
 * damages_refcounts.c - damage of refcounts, refcount blocks and the refcount table.
 */
#include "checked.h"
#include "damages.h"
#include "qcow2/format.h"

enum { HEADER_REFTABLE = 48, HEADER_REFTABLE_CLUSTERS = 56, TRIES = 64 };

static uint64_t reftable(const struct memfile *mem)
{
    return memfile_be64(mem, HEADER_REFTABLE);
}

static uint64_t reftable_entries(const struct memfile *mem, const struct image_map *map)
{
    return min_u64(((uint64_t)memfile_be32(mem, HEADER_REFTABLE_CLUSTERS) << map->cluster_bits) / 8,
                   4096);
}

/* The place of a cluster's refcount: its 64 bits or less begin at the byte *at. False: no block. */
static bool find_refcount(const struct memfile *mem, const struct image_map *map, uint64_t cluster,
                          uint64_t *at, uint64_t *in_byte)
{
    unsigned bits = 1U << map->refcount_order;
    uint64_t per_block = map->cluster_size * 8 / bits, index = cluster / per_block;
    uint64_t block;

    if (index >= reftable_entries(mem, map)) {
        return false;
    }
    block = memfile_be64(mem, reftable(mem) + index * 8) & QCOW2_OFFSET_MASK;
    *at = block + cluster % per_block * bits / 8;
    *in_byte = bits < 8 ? cluster % (8 / bits) : 0;
    return block != 0;
}

static bool get(const struct memfile *mem, const struct image_map *map, uint64_t cluster,
                uint64_t *value)
{
    uint64_t at, in_byte;
    uint8_t raw[8];

    if (!find_refcount(mem, map, cluster, &at, &in_byte)) {
        return false;
    }
    memfile_read(mem, at, raw, sizeof(raw));
    *value = qcow2_refcount_decode(raw, 1U << map->refcount_order, in_byte);
    return true;
}

static bool set(struct memfile *mem, const struct image_map *map, uint64_t cluster, uint64_t value)
{
    unsigned bits = 1U << map->refcount_order;
    uint64_t at, in_byte;
    uint8_t raw[8];

    if (!find_refcount(mem, map, cluster, &at, &in_byte)) {
        return false;
    }
    memfile_read(mem, at, raw, sizeof(raw));
    qcow2_refcount_encode(raw, bits, in_byte, min_u64(value, qcow2_refcount_limit(bits)));
    return memfile_write(mem, at, raw, bits < 8 ? 1 : bits / 8);
}

/* A cluster whose refcount is in [low, high], near the image's own if there may be none. */
static bool pick_cluster(const struct memfile *mem, const struct image_map *map, struct rng *rng,
                         uint64_t low, uint64_t high, uint64_t *cluster, uint64_t *value)
{
    uint64_t clusters = damage_end(mem, map) / map->cluster_size + 4;

    for (unsigned i = 0; i < TRIES; i++) {
        *cluster = rng_below(rng, clusters);
        if (get(mem, map, *cluster, value) && *value >= low && *value <= high) {
            return true;
        }
    }
    return false;
}

static bool leak(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t cluster, value;
    bool done = false;

    for (uint64_t n = rng_between(rng, 1, 4); n > 0; n--) {
        if (pick_cluster(mem, map, rng, 0, 0, &cluster, &value)) {
            done |= set(mem, map, cluster, rng_between(rng, 1, 3));
        }
    }
    return done;
}

static bool refcount_high(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t limit = qcow2_refcount_limit(1U << map->refcount_order), cluster, value;

    return limit > 1 && pick_cluster(mem, map, rng, 1, limit - 1, &cluster, &value) &&
           set(mem, map, cluster, rng_one_in(rng, 4) ? limit : value + 1);
}

static bool refcount_low(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t cluster, value;

    return pick_cluster(mem, map, rng, 2, UINT64_MAX, &cluster, &value) &&
           set(mem, map, cluster, value - 1);
}

static bool refcount_zero(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t cluster, value;

    return pick_cluster(mem, map, rng, 1, UINT64_MAX, &cluster, &value) &&
           set(mem, map, cluster, 0);
}

static bool block_zeroed(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    const struct landmark *mark = damage_pick(map, LANDMARK_REFBLOCK, rng);

    for (uint64_t at = 0; mark != NULL && at < map->cluster_size; at += 8) {
        memfile_set_be64(mem, mark->offset + at, 0);
    }
    return mark != NULL;
}

static bool block_garbage(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    const struct landmark *mark = damage_pick(map, LANDMARK_REFBLOCK, rng);

    for (uint64_t n = 0; mark != NULL && n < 16; n++) {
        memfile_set_be64(mem, mark->offset + rng_below(rng, 64) * 8, rng_next(rng));
    }
    return mark != NULL;
}

/* The place of an entry of the refcount table that names a block; 0 when there is none. */
static uint64_t pick_entry(const struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t entries = reftable_entries(mem, map);

    for (unsigned i = 0; i < TRIES && entries > 0; i++) {
        uint64_t at =
            reftable(mem) + rng_below(rng, i < TRIES / 2 ? min_u64(4, entries) : entries) * 8;

        if (memfile_be64(mem, at) != 0) {
            return at;
        }
    }
    return 0;
}

static bool set_entry(struct memfile *mem, uint64_t at, uint64_t value)
{
    if (at != 0) {
        memfile_set_be64(mem, at, value);
    }
    return at != 0;
}

static bool block_missing(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return set_entry(mem, pick_entry(mem, map, rng), 0);
}

static bool block_unaligned(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_entry(mem, map, rng);

    return map->cluster_size > 512 && set_entry(mem, at, memfile_be64(mem, at) + 512);
}

static bool block_beyond(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return set_entry(mem, pick_entry(mem, map, rng),
                     damage_end(mem, map) + rng_below(rng, 4) * map->cluster_size);
}

static bool block_far(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    /* Rarely so far that qemu-img does not come back. */
    uint64_t shift = rng_one_in(rng, 16) ? rng_between(rng, 20, 60 - map->cluster_bits)
                                         : rng_between(rng, 10, 15);

    return set_entry(mem, pick_entry(mem, map, rng), map->cluster_size << shift);
}

static bool block_reserved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_entry(mem, map, rng);

    return set_entry(mem, at, memfile_be64(mem, at) | UINT64_C(1) << rng_below(rng, 9));
}

static bool block_overlaps(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_entry(mem, map, rng);

    return set_entry(mem, at, damage_other_place(map, memfile_be64(mem, at), rng));
}

static bool block_added(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t entries = reftable_entries(mem, map);

    for (uint64_t i = 0; i < entries; i++) {
        uint64_t at = reftable(mem) + i * 8;

        if (memfile_be64(mem, at) == 0 && rng_one_in(rng, 4)) {
            return set_entry(mem, at, damage_other_place(map, 0, rng));
        }
    }
    return false;
}

static bool table_moved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t place = damage_other_place(map, reftable(mem), rng);

    if (place == 0 || !is_aligned(place, map->cluster_size)) {
        return false;
    }
    memfile_set_be64(mem, HEADER_REFTABLE, place);
    return true;
}

static bool table_resized(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    (void)map;
    memfile_set_be32(mem, HEADER_REFTABLE_CLUSTERS,
                     memfile_be32(mem, HEADER_REFTABLE_CLUSTERS) +
                         (uint32_t)rng_between(rng, 1, 6));
    return true;
}

static const struct damage list[] = {
    {"leaked clusters", leak, false},
    {"refcount too high", refcount_high, false},
    {"refcount too low", refcount_low, false},
    {"refcount zero", refcount_zero, false},
    {"refcount block zeroed", block_zeroed, false},
    {"refcount block garbage", block_garbage, false},
    {"refcount block missing", block_missing, false},
    {"refcount block unaligned", block_unaligned, false},
    {"refcount block beyond the end", block_beyond, false},
    {"refcount block far beyond the end", block_far, false},
    {"refcount table entry with reserved bits", block_reserved, false},
    {"refcount block on something else", block_overlaps, false},
    {"one more refcount block on something else", block_added, false},
    {"refcount table moved", table_moved, false},
    {"refcount table resized", table_resized, false},
};
const struct damage_list damages_refcounts = {list, ARRAY_LEN(list)};
