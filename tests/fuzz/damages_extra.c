/*
 * damages_extra.c - damage of snapshot tables, of bitmaps, and of the file as a whole.
 */
#include "checked.h"
#include "damages.h"
#include "qcow2/format.h"

enum { HEADER_SNAPSHOTS = 60, HEADER_SNAPSHOT_TABLE = 64, SNAPSHOT_EXTRA = 36 };

/* ---- snapshots ---- */

static uint64_t pick_snapshot(const struct image_map *map, struct rng *rng)
{
    const struct landmark *mark = damage_pick(map, LANDMARK_SNAPSHOT, rng);

    return mark != NULL ? mark->offset : 0;
}

static bool snapshot_l1_moved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_snapshot(map, rng);

    if (at != 0) {
        memfile_set_be64(mem, at, damage_other_place(map, memfile_be64(mem, at), rng));
    }
    return at != 0;
}

static bool snapshot_l1_beyond(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_snapshot(map, rng);

    if (at != 0) {
        memfile_set_be64(mem, at, damage_beyond(mem, map, rng));
    }
    return at != 0;
}

static bool snapshot_l1_unaligned(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = pick_snapshot(map, rng);

    if (at != 0) {
        memfile_set_be64(mem, at,
                         memfile_be64(mem, at) + rng_between(rng, 1, map->cluster_size - 1));
    }
    return at != 0;
}

static bool snapshot_l1_size(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    static const uint32_t sizes[] = {0, 1, 4096, 1 << 20, 1 << 22, (1 << 22) + 1, UINT32_MAX};
    uint64_t at = pick_snapshot(map, rng);

    if (at != 0) {
        memfile_set_be32(mem, at + 8, sizes[rng_below(rng, ARRAY_LEN(sizes))]);
    }
    return at != 0;
}

static bool snapshot_extra(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    static const uint32_t sizes[] = {0, 1, 8, 15, 16, 17, 23, 24, 25, 1024, 1025, 4096, UINT32_MAX};
    uint64_t at = pick_snapshot(map, rng);

    if (at != 0) {
        memfile_set_be32(mem, at + SNAPSHOT_EXTRA, sizes[rng_below(rng, ARRAY_LEN(sizes))]);
    }
    return at != 0;
}

static bool snapshot_names(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    static const uint16_t sizes[] = {0, 1, 127, 128, 255, 256, 1024, 65535};
    uint64_t at = pick_snapshot(map, rng);

    if (at != 0) {
        memfile_set_be16(mem, at + (rng_one_in(rng, 2) ? 12 : 14),
                         sizes[rng_below(rng, ARRAY_LEN(sizes))]);
    }
    return at != 0;
}

static bool snapshot_fewer(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint32_t count = memfile_be32(mem, HEADER_SNAPSHOTS);

    (void)map;
    if (count > 0) {
        memfile_set_be32(mem, HEADER_SNAPSHOTS, (uint32_t)rng_below(rng, count));
    }
    return count > 0;
}

static bool snapshot_more(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    static const uint32_t few[] = {1, 2, 3, 10, 200};
    uint32_t count = memfile_be32(mem, HEADER_SNAPSHOTS), more;

    if (count == 0) {
        memfile_set_be64(mem, HEADER_SNAPSHOT_TABLE, damage_other_place(map, 0, rng));
    }
    /* Rarely as many as there may be, which qemu-img takes most of a minute for. */
    more = rng_one_in(rng, 64) ? 65535 : few[rng_below(rng, ARRAY_LEN(few))];
    memfile_set_be32(mem, HEADER_SNAPSHOTS, count + more);
    return true;
}

static bool snapshot_table_moved(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = memfile_be64(mem, HEADER_SNAPSHOT_TABLE);

    if (memfile_be32(mem, HEADER_SNAPSHOTS) == 0) {
        return false;
    }
    memfile_set_be64(mem, HEADER_SNAPSHOT_TABLE,
                     rng_one_in(rng, 3) ? damage_beyond(mem, map, rng)
                                        : damage_other_place(map, at, rng));
    return true;
}

static const struct damage snapshots[] = {
    {"snapshot's L1 table moved", snapshot_l1_moved, false},
    {"snapshot's L1 table beyond the end", snapshot_l1_beyond, false},
    {"snapshot's L1 table unaligned", snapshot_l1_unaligned, false},
    {"snapshot's L1 table of another size", snapshot_l1_size, false},
    {"snapshot's extra data of another size", snapshot_extra, false},
    {"snapshot's names of another length", snapshot_names, false},
    {"fewer snapshots", snapshot_fewer, false},
    {"more snapshots", snapshot_more, false},
    {"snapshot table moved", snapshot_table_moved, false},
};
const struct damage_list damages_snapshots = {snapshots, ARRAY_LEN(snapshots)};

/* ---- bitmaps ---- */

static uint64_t find_extension(const struct memfile *mem, const struct image_map *map)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct landmark *mark = &map->landmarks[i];

        if (mark->kind == LANDMARK_EXTENSION &&
            memfile_be32(mem, mark->offset) == QCOW2_EXT_BITMAPS) {
            return mark->offset;
        }
    }
    return 0;
}

static bool bitmap_extension(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t at = find_extension(mem, map), other;

    if (at == 0) {
        return false;
    }
    switch (rng_below(rng, 4)) {
    case 0:
        memfile_set_be32(mem, at + 8,
                         memfile_be32(mem, at + 8) + (uint32_t)rng_between(rng, 0, 4) - 2);
        break;
    case 1:
        memfile_set_be32(mem, at + 12, (uint32_t)rng_next(rng));
        break;
    case 2:
        memfile_set_be64(mem, at + 16, memfile_be64(mem, at + 16) + rng_between(rng, 0, 64) - 32);
        break;
    default:
        other = rng_one_in(rng, 2) ? damage_beyond(mem, map, rng)
                                   : damage_other_place(map, memfile_be64(mem, at + 24), rng);
        memfile_set_be64(mem, at + 24, other);
    }
    return true;
}

static bool bitmap_invalid(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    (void)rng;
    if (find_extension(mem, map) == 0 || map->version < 3) {
        return false;
    }
    memfile_set_be64(mem, 88, memfile_be64(mem, 88) ^ QCOW2_AUTOCLEAR_BITMAPS);
    return true;
}

static bool bitmap_entry(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    const struct landmark *mark = damage_pick(map, LANDMARK_DIRECTORY, rng);
    uint64_t at = mark != NULL ? mark->offset : 0;

    if (at == 0) {
        return false;
    }
    switch (rng_below(rng, 6)) {
    case 0:
        memfile_set_be64(mem, at, damage_beyond(mem, map, rng));
        break;
    case 1:
        memfile_set_be64(mem, at, damage_other_place(map, memfile_be64(mem, at), rng));
        break;
    case 2:
        memfile_set_be32(mem, at + 8, memfile_be32(mem, at + 8) + (uint32_t)rng_between(rng, 1, 4));
        break;
    case 3:
        memfile_set_be32(mem, at + 12, 1U << rng_below(rng, 32));
        break;
    case 4:
        memfile_set_be16(mem, at + 16, (uint16_t)rng_next(rng));
        break;
    default:
        memfile_set_be16(mem, at + 18, (uint16_t)rng_below(rng, 40));
    }
    return true;
}

static bool bitmap_table(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    const struct landmark *mark = damage_pick(map, LANDMARK_BITMAP, rng);
    uint64_t at;

    if (mark == NULL) {
        return false;
    }
    at = mark->offset + rng_below(rng, max_u64(1, min_u64(8, mark->length / 8))) * 8;
    switch (rng_below(rng, 5)) {
    case 0:
        memfile_set_be64(mem, at, damage_beyond(mem, map, rng));
        break;
    case 1:
        memfile_set_be64(mem, at, damage_other_place(map, memfile_be64(mem, at), rng));
        break;
    case 2:
        memfile_set_be64(mem, at, memfile_be64(mem, at) ^ 512);
        break;
    case 3:
        memfile_set_be64(mem, at, memfile_be64(mem, at) ^ 1);
        break;
    default:
        memfile_set_be64(
            mem, at,
            memfile_be64(mem, at) ^
                UINT64_C(1) << (rng_one_in(rng, 2) ? rng_below(rng, 9) : rng_between(rng, 56, 63)));
    }
    return true;
}

static const struct damage bitmaps[] = {
    {"bitmaps extension", bitmap_extension, false},
    {"bitmaps' autoclear bit", bitmap_invalid, false},
    {"bitmap directory entry", bitmap_entry, false},
    {"bitmap table", bitmap_table, false},
};
const struct damage_list damages_bitmaps = {bitmaps, ARRAY_LEN(bitmaps)};

/* ---- the file ---- */

static bool file_cut(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t size = mem->size, cluster = map->cluster_size;
    uint64_t cut =
        rng_one_in(rng, 2) ? rng_between(rng, 1, 4) * cluster : rng_below(rng, 3 * cluster) + 1;

    return cut < size && memfile_resize(mem, size - cut);
}

static bool file_longer(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    return memfile_resize(mem, mem->size + rng_between(rng, 1, 4 * map->cluster_size));
}

static bool file_bits(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    if (map->version < 3) {
        return false;
    }
    memfile_set_be64(mem, 72, memfile_be64(mem, 72) | rng_between(rng, 1, 3));
    return true;
}

static bool file_autoclear(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    if (map->version < 3) {
        return false;
    }
    memfile_set_be64(mem, 88, memfile_be64(mem, 88) | UINT64_C(2) << rng_below(rng, 60));
    return true;
}

static bool file_field(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    (void)map;
    image_damage(mem, rng);
    return true;
}

static const struct damage file[] = {
    {"file cut short", file_cut, false},        {"file longer", file_longer, true},
    {"dirty or corrupt bit", file_bits, false}, {"unknown autoclear bit", file_autoclear, false},
    {"a field at random", file_field, true},
};
const struct damage_list damages_file = {file, ARRAY_LEN(file)};
