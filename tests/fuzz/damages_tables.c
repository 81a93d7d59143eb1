/*
 * damages_tables.c - damage of L1 and L2 tables.
 */
#include "checked.h"
#include "damages.h"
#include "qcow2/format.h"

enum { TRIES = 64, HEADER_L1_SIZE = 36, HEADER_L1 = 40 };

static unsigned l2_step(const struct image_map *map)
{
    return map->extended_l2 ? 16 : 8;
}

/* ---- L1 ---- */

/* The place of an L1 entry in use; 0: none. Mostly of the active table. */
static uint64_t pick_l1(const struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t l1 = memfile_be64(mem, HEADER_L1), entries = memfile_be32(mem, HEADER_L1_SIZE);
    const struct landmark *mark = damage_pick(map, LANDMARK_L1, rng);

    if (mark != NULL && rng_one_in(rng, 3)) {
        l1 = mark->offset;
        entries = mark->length / 8;
    }
    for (unsigned i = 0; i < TRIES && entries > 0; i++) {
        uint64_t near = i < TRIES / 2 ? min_u64(entries, 8) : entries;
        uint64_t at = l1 + rng_below(rng, near) * 8;

        if (memfile_be64(mem, at) != 0) {
            return at;
        }
    }
    return 0;
}

/* Keeps the flags of the entry at `at`. */
static bool lead_to(struct memfile *mem, uint64_t at, uint64_t place)
{
    if (at != 0) {
        memfile_set_be64(mem, at, (memfile_be64(mem, at) & ~QCOW2_OFFSET_MASK) | place);
    }
    return at != 0;
}

static bool flip(struct memfile *mem, uint64_t at, uint64_t bits)
{
    if (at != 0) {
        memfile_set_be64(mem, at, memfile_be64(mem, at) ^ bits);
    }
    return at != 0;
}

static bool l1_copied(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return flip(mem, pick_l1(mem, map, rng), QCOW2_ENTRY_COPIED);
}

static bool l1_shared(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    const struct landmark *mark = damage_pick(map, LANDMARK_L2, rng);
    uint64_t at = pick_l1(mem, map, rng);

    return mark != NULL && at != 0 && mark->offset != (memfile_be64(mem, at) & QCOW2_OFFSET_MASK) &&
           lead_to(mem, at, mark->offset);
}

static bool l1_onto(struct memfile *mem, const struct image_map *map, struct rng *rng,
                    enum landmark_kind kind)
{
    const struct landmark *mark = damage_pick(map, kind, rng);

    return mark != NULL && is_aligned(mark->offset, map->cluster_size) &&
           lead_to(mem, pick_l1(mem, map, rng), mark->offset);
}

static bool l1_onto_l1(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l1_onto(mem, map, rng, LANDMARK_L1);
}

static bool l1_onto_reftable(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l1_onto(mem, map, rng, LANDMARK_REFTABLE);
}

static bool l1_onto_refblock(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l1_onto(mem, map, rng, LANDMARK_REFBLOCK);
}

static bool l1_onto_data(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l1_onto(mem, map, rng, LANDMARK_DATA);
}

static bool l1_beyond(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return lead_to(mem, pick_l1(mem, map, rng), damage_beyond(mem, map, rng));
}

static bool l1_unaligned(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return map->cluster_size > 512 && flip(mem, pick_l1(mem, map, rng), 512);
}

static bool l1_reserved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t bit = rng_one_in(rng, 2) ? rng_below(rng, 9) : rng_between(rng, 56, 62);

    return flip(mem, pick_l1(mem, map, rng), UINT64_C(1) << bit);
}

static bool l1_dropped(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_l1(mem, map, rng);

    return at != 0 && flip(mem, at, memfile_be64(mem, at));
}

static bool l1_moved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t place = damage_other_place(map, memfile_be64(mem, HEADER_L1), rng);

    if (!is_aligned(place, map->cluster_size)) {
        return false;
    }
    memfile_set_be64(mem, HEADER_L1, place);
    return true;
}

static bool l1_longer(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t entries = rng_below(rng, map->cluster_size / 4) + 1;

    memfile_set_be32(mem, HEADER_L1_SIZE, memfile_be32(mem, HEADER_L1_SIZE) + (uint32_t)entries);
    return true;
}

/* ---- L2 ---- */

enum entry_kind { NORMAL, COMPRESSED, WITH_ZERO };

/* The place of an L2 entry of the kind; 0: none. */
static uint64_t pick_l2(const struct memfile *mem, const struct image_map *map, struct rng *rng,
                        enum entry_kind kind)
{
    unsigned step = l2_step(map);

    for (unsigned i = 0; i < TRIES * 4; i++) {
        const struct landmark *mark = damage_pick(map, LANDMARK_L2, rng);
        uint64_t entries = map->cluster_size / step, entry, at;

        if (mark == NULL) {
            return 0;
        }
        at = mark->offset + rng_below(rng, i % 2 ? entries : min_u64(entries, 32)) * step;
        entry = memfile_be64(mem, at);
        if (kind == COMPRESSED
                ? (entry & QCOW2_L2_COMPRESSED) != 0
                : (entry & QCOW2_L2_COMPRESSED) == 0 && (entry & QCOW2_OFFSET_MASK) != 0 &&
                      (kind == NORMAL || (entry & QCOW2_L2_ZERO) != 0)) {
            return at;
        }
    }
    return 0;
}

static bool l2_copied(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return flip(mem, pick_l2(mem, map, rng, NORMAL), QCOW2_ENTRY_COPIED);
}

static bool l2_onto(struct memfile *mem, const struct image_map *map, struct rng *rng,
                    enum landmark_kind kind)
{
    const struct landmark *mark = damage_pick(map, kind, rng);

    return mark != NULL && is_aligned(mark->offset, map->cluster_size) &&
           lead_to(mem, pick_l2(mem, map, rng, NORMAL), mark->offset);
}

static bool l2_onto_header(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_l2(mem, map, rng, NORMAL);

    return lead_to(mem, at, 0) && flip(mem, at, rng_one_in(rng, 2) ? QCOW2_ENTRY_COPIED : 0);
}

static bool l2_onto_l1(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l2_onto(mem, map, rng, LANDMARK_L1);
}

static bool l2_onto_l2(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l2_onto(mem, map, rng, LANDMARK_L2);
}

static bool l2_onto_reftable(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l2_onto(mem, map, rng, LANDMARK_REFTABLE);
}

static bool l2_onto_refblock(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l2_onto(mem, map, rng, LANDMARK_REFBLOCK);
}

static bool l2_onto_data(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return l2_onto(mem, map, rng, LANDMARK_DATA);
}

static bool l2_beyond(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return lead_to(mem, pick_l2(mem, map, rng, NORMAL), damage_beyond(mem, map, rng));
}

static bool l2_unaligned(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return map->cluster_size > 512 && flip(mem, pick_l2(mem, map, rng, NORMAL), 512);
}

static bool l2_zero_unaligned(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_l2(mem, map, rng, WITH_ZERO);

    if (at == 0 && (at = pick_l2(mem, map, rng, NORMAL)) != 0) {
        flip(mem, at, QCOW2_L2_ZERO);
    }
    return map->cluster_size > 512 && flip(mem, at, 512);
}

static bool l2_reserved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t bit = rng_one_in(rng, 2) ? rng_between(rng, 0, 8) : rng_between(rng, 56, 61);

    return flip(mem, pick_l2(mem, map, rng, NORMAL), UINT64_C(1) << bit);
}

static bool l2_zero_flag(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return flip(mem, pick_l2(mem, map, rng, NORMAL), QCOW2_L2_ZERO);
}

static bool l2_subclusters(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_l2(mem, map, rng, rng_one_in(rng, 4) ? COMPRESSED : NORMAL);

    if (!map->extended_l2 || at == 0) {
        return false;
    }
    switch (rng_below(rng, 3)) {
    case 0:
        return flip(mem, at + 8, UINT64_C(0x100000001) << rng_below(rng, 32));
    case 1:
        return flip(mem, at + 8, UINT64_C(1) << rng_below(rng, 64));
    default:
        memfile_set_be64(mem, at + 8, rng_next(rng));
        return rng_one_in(rng, 2) || lead_to(mem, at, 0);
    }
}

static bool packed_beyond(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_l2(mem, map, rng, COMPRESSED), mask;

    mask = (UINT64_C(1) << (62 - (map->cluster_bits - 8))) - 1;
    if (at != 0) {
        memfile_set_be64(mem, at,
                         (memfile_be64(mem, at) & ~mask) | (damage_beyond(mem, map, rng) & mask));
    }
    return at != 0;
}

static bool packed_at_end(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_l2(mem, map, rng, COMPRESSED), mask;

    mask = (UINT64_C(1) << (62 - (map->cluster_bits - 8))) - 1;
    if (at != 0) {
        memfile_set_be64(mem, at,
                         (memfile_be64(mem, at) & ~mask) |
                             ((mem->size - rng_below(rng, min_u64(mem->size, 1024))) & mask));
    }
    return at != 0;
}

static bool packed_longer(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_l2(mem, map, rng, COMPRESSED);
    uint64_t sectors = rng_below(rng, UINT64_C(1) << (map->cluster_bits - 8));

    return flip(mem, at, sectors << (62 - (map->cluster_bits - 8)));
}

static bool packed_moved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return flip(mem, pick_l2(mem, map, rng, COMPRESSED),
                rng_between(rng, 1, 4 * map->cluster_size));
}

static bool packed_copied(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return flip(mem, pick_l2(mem, map, rng, COMPRESSED), QCOW2_ENTRY_COPIED);
}

static const struct damage list[] = {
    {"COPIED flag of an L1 entry", l1_copied, false},
    {"two L1 entries to one L2 table", l1_shared, false},
    {"L2 table on an L1 table", l1_onto_l1, false},
    {"L2 table on the refcount table", l1_onto_reftable, false},
    {"L2 table on a refcount block", l1_onto_refblock, false},
    {"L2 table on data", l1_onto_data, false},
    {"L2 table beyond the end", l1_beyond, false},
    {"L2 table unaligned", l1_unaligned, false},
    {"L1 entry with reserved bits", l1_reserved, false},
    {"L1 entry lost", l1_dropped, false},
    {"L1 table moved", l1_moved, false},
    {"L1 table longer", l1_longer, false},
    {"COPIED flag of an L2 entry", l2_copied, false},
    {"data at offset 0", l2_onto_header, false},
    {"data on an L1 table", l2_onto_l1, false},
    {"data on an L2 table", l2_onto_l2, false},
    {"data on the refcount table", l2_onto_reftable, false},
    {"data on a refcount block", l2_onto_refblock, false},
    {"data shared", l2_onto_data, false},
    {"data beyond the end", l2_beyond, false},
    {"data unaligned", l2_unaligned, false},
    {"preallocated zeros unaligned", l2_zero_unaligned, false},
    {"L2 entry with reserved bits", l2_reserved, false},
    {"zero flag", l2_zero_flag, false},
    {"subcluster bitmap", l2_subclusters, false},
    {"compressed data beyond the end", packed_beyond, false},
    {"compressed data at the end", packed_at_end, false},
    {"compressed data too long", packed_longer, false},
    {"compressed data moved", packed_moved, false},
    {"COPIED flag of a compressed cluster", packed_copied, false},
};
const struct damage_list damages_tables = {list, ARRAY_LEN(list)};
