/*
 * image_damage.c - one field of one table becomes a value that hurts: zero, all ones, a flag more or
 * less, near the end of the file, one cluster off, on top of another table.
 */
#include "bytes.h"
#include "checked.h"
#include "image.h"
#include "qcow2/format.h"

#include <string.h>

struct field {
    uint16_t offset, size;
};

static const struct field header_fields[] = {
    {0, 4},  {4, 4},  {8, 8},  {16, 4}, {20, 4}, {24, 8}, {32, 4}, {36, 4},  {40, 8},  {48, 8},
    {56, 4}, {60, 4}, {64, 8}, {72, 8}, {80, 8}, {88, 8}, {96, 4}, {100, 4}, {104, 1},
};
/* crypto/luks.h; the fields of two slots. */
static const struct field luks_fields[] = {
    {4, 4},   {8, 4},   {40, 4},  {44, 4},  {72, 4},  {76, 4},  {104, 4},
    {108, 4}, {112, 8}, {132, 8}, {164, 4}, {168, 8}, {208, 4}, {212, 4},
    {216, 8}, {248, 4}, {252, 4}, {256, 4}, {260, 4}, {296, 4}, {300, 4},
};

static const struct field extension_fields[] = {
    {0, 4}, {4, 4}, {8, 4}, {12, 4}, {16, 8}, {24, 8}, {8, 8}, {8, 1}, {9, 1}, {10, 1},
};
static const struct field snapshot_fields[] = {
    {0, 8}, {8, 4}, {12, 2}, {14, 2}, {32, 4}, {36, 4}, {40, 8}, {48, 8}, {56, 1}, {64, 1},
};
static const struct field directory_fields[] = {
    {0, 8}, {8, 4}, {12, 4}, {16, 1}, {17, 1}, {18, 2}, {20, 4}, {24, 1}, {25, 1},
};

/* One of the kind, NULL when there is none. */
static const struct landmark *find_landmark(const struct image_map *map, enum landmark_kind kind,
                                            struct rng *rng)
{
    unsigned first = (unsigned)rng_below(rng, map->count);

    for (unsigned i = 0; i < map->count; i++) {
        const struct landmark *mark = &map->landmarks[(first + i) % map->count];

        if (mark->kind == kind) {
            return mark;
        }
    }
    return NULL;
}

/* Every kind of thing is as likely as another, however many there are of it. */
static const struct landmark *pick_landmark(const struct image_map *map, struct rng *rng)
{
    enum landmark_kind kind = (enum landmark_kind)rng_below(rng, LANDMARK_BITMAP_DATA + 1);
    const struct landmark *mark = find_landmark(map, kind, rng);

    return mark != NULL ? mark : &map->landmarks[rng_below(rng, map->count)];
}

/* An offset in the image that is something already, or nearly. */
static uint64_t some_offset(const struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t size = map->cluster_size, offset;
    uint64_t end = align_up(min_u64(mem->size, INT64_MAX / 2), size);

    switch (rng_below(rng, 4)) {
    case 0:
        offset = end - min_u64(end, rng_below(rng, 4) * size);
        break;
    case 1:
        offset = rng_below(rng, end / size + 3) * size;
        break;
    default:
        offset = map->count > 0 ? pick_landmark(map, rng)->offset : size;
    }
    switch (rng_below(rng, 8)) {
    case 0:
        return offset + size;
    case 1:
        return offset - min_u64(offset, size);
    case 2:
        return offset + rng_below(rng, size);
    case 3:
        return offset + 512 * rng_below(rng, 8);
    default:
        return offset;
    }
}

static uint64_t some_flags(struct rng *rng)
{
    static const uint64_t flags[] = {
        0,
        0,
        QCOW2_ENTRY_COPIED,
        QCOW2_ENTRY_COPIED,
        QCOW2_L2_ZERO,
        QCOW2_L2_COMPRESSED,
        QCOW2_ENTRY_COPIED | QCOW2_L2_ZERO,
    };

    return flags[rng_below(rng, ARRAY_LEN(flags))];
}

static uint64_t nasty_value(const struct memfile *mem, const struct image_map *map, uint64_t old,
                            struct rng *rng)
{
    static const uint64_t numbers[] = {
        0,
        0,
        1,
        2,
        3,
        7,
        8,
        9,
        16,
        21,
        22,
        31,
        32,
        63,
        64,
        72,
        104,
        112,
        255,
        511,
        512,
        1023,
        1024,
        65535,
        65536,
        INT32_MAX,
        UINT32_MAX,
        INT64_MAX,
        UINT64_MAX,
        UINT64_C(1) << 31,
        UINT64_C(1) << 32,
        UINT64_C(1) << 55,
        UINT64_C(1) << 56,
        UINT64_C(1) << 61,
        UINT64_C(1) << 62,
        UINT64_C(1) << 63,
        QCOW2_OFFSET_MASK,
    };

    switch (rng_below(rng, 10)) {
    case 0:
    case 1:
        return numbers[rng_below(rng, ARRAY_LEN(numbers))];
    case 2:
        return old + rng_between(rng, 1, 4);
    case 3:
        return old - rng_between(rng, 1, 4);
    case 4:
        return old ^ UINT64_C(1) << rng_below(rng, 64);
    case 5:
        return rng_one_in(rng, 2) ? old + map->cluster_size : old - map->cluster_size;
    case 6:
        return rng_next(rng) >> rng_below(rng, 64);
    default:
        return some_offset(mem, map, rng) | some_flags(rng);
    }
}

static void change_field(struct memfile *mem, const struct image_map *map, uint64_t base,
                         struct field field, struct rng *rng)
{
    uint8_t raw[8] = {0};
    uint64_t value;

    memfile_read(mem, base + field.offset, raw + 8 - field.size, field.size);
    value = nasty_value(mem, map, load_be64(raw), rng);
    if (field.size < 8 && rng_one_in(rng, 3)) {
        value = rng_below(rng, 40);
    }
    store_be64(raw, value);
    (void)memfile_write(mem, base + field.offset, raw + 8 - field.size, field.size);
}

/* An entry of a table, rather one that is not zero. */
static uint64_t pick_entry(const struct memfile *mem, const struct landmark *mark, unsigned step,
                           struct rng *rng)
{
    uint64_t entries = max_u64(1, min_u64(mark->length / step, 1 << 20)), at = mark->offset;

    for (unsigned tries = 0; tries < 8; tries++) {
        uint64_t near = rng_one_in(rng, 2) ? min_u64(entries, 16) : entries;

        at = mark->offset + rng_below(rng, near) * step;
        if (memfile_be64(mem, at) != 0) {
            break;
        }
    }
    return at;
}

static void damage_bytes(struct memfile *mem, const struct landmark *mark, struct rng *rng)
{
    uint64_t at = mark->offset + rng_below(rng, min_u64(mark->length, 1 << 16));
    uint8_t bytes[4];

    rng_fill(rng, bytes, sizeof(bytes));
    (void)memfile_write(mem, at, bytes, rng_between(rng, 1, sizeof(bytes)));
}

static void damage_l2(struct memfile *mem, const struct image_map *map, const struct landmark *mark,
                      struct rng *rng)
{
    uint64_t at = pick_entry(mem, mark, map->extended_l2 ? 16 : 8, rng);
    uint64_t other = pick_entry(mem, mark, map->extended_l2 ? 16 : 8, rng);

    if (rng_one_in(rng, 6)) {
        memfile_set_be64(mem, at, memfile_be64(mem, other));
    } else if (rng_one_in(rng, 4)) {
        memfile_set_be64(mem, at, pick_landmark(map, rng)->offset | QCOW2_ENTRY_COPIED);
    } else {
        change_field(mem, map, at + (map->extended_l2 && rng_one_in(rng, 2) ? 8 : 0),
                     (struct field){0, 8}, rng);
    }
}

static void damage_landmark(struct memfile *mem, const struct image_map *map,
                            const struct landmark *mark, struct rng *rng)
{
    const struct field entry = {0, 8};

    switch (mark->kind) {
    case LANDMARK_HEADER:
        change_field(mem, map, 0, header_fields[rng_below(rng, ARRAY_LEN(header_fields))], rng);
        break;
    case LANDMARK_EXTENSION:
        change_field(mem, map, mark->offset,
                     extension_fields[rng_below(rng, ARRAY_LEN(extension_fields))], rng);
        break;
    case LANDMARK_LUKS:
        change_field(mem, map, mark->offset, luks_fields[rng_below(rng, ARRAY_LEN(luks_fields))],
                     rng);
        break;
    case LANDMARK_SNAPSHOT:
        change_field(mem, map, mark->offset,
                     snapshot_fields[rng_below(rng, ARRAY_LEN(snapshot_fields))], rng);
        break;
    case LANDMARK_DIRECTORY:
        change_field(mem, map, mark->offset,
                     directory_fields[rng_below(rng, ARRAY_LEN(directory_fields))], rng);
        break;
    case LANDMARK_L2:
        damage_l2(mem, map, mark, rng);
        break;
    case LANDMARK_REFBLOCK:
    case LANDMARK_COMPRESSED:
    case LANDMARK_BITMAP_DATA:
        damage_bytes(mem, mark, rng);
        break;
    case LANDMARK_REFTABLE:
    case LANDMARK_L1:
    case LANDMARK_BITMAP:
    case LANDMARK_DATA:
        change_field(mem, map, pick_entry(mem, mark, 8, rng), entry, rng);
        break;
    }
}

static void cut_or_extend(struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    uint64_t size = mem->size;

    switch (rng_below(rng, 4)) {
    case 0:
        size = rng_below(rng, size + 1);
        break;
    case 1:
        size -= min_u64(size, rng_below(rng, 2 * map->cluster_size));
        break;
    case 2:
        size += rng_below(rng, 8 * map->cluster_size);
        break;
    default:
        size += UINT64_C(1) << rng_below(rng, 50);
    }
    (void)memfile_resize(mem, size);
}

static void damage_one(struct memfile *mem, const struct image_map *map,
                       const struct landmark *mark, struct rng *rng)
{
    uint64_t size = mem->size;

    damage_landmark(mem, map, mark, rng);
    /* Damage does not lengthen the file by accident. */
    if (mem->size > size) {
        (void)memfile_resize(mem, size);
    }
}

void image_damage(struct memfile *mem, struct rng *rng)
{
    static struct image_map map;

    if (!image_find(mem, &map)) {
        map.cluster_size = UINT64_C(1) << 16;
        change_field(mem, &map, 0, header_fields[rng_below(rng, ARRAY_LEN(header_fields))], rng);
    } else if (rng_one_in(rng, 40)) {
        cut_or_extend(mem, &map, rng);
    } else {
        damage_one(mem, &map, pick_landmark(&map, rng), rng);
    }
}

void image_damage_kind(struct memfile *mem, struct rng *rng, enum landmark_kind kind)
{
    static struct image_map map;
    const struct landmark *mark;

    if (!image_find(mem, &map)) {
        return;
    }
    mark = find_landmark(&map, kind, rng);
    if (mark != NULL) {
        damage_one(mem, &map, mark, rng);
    }
}
