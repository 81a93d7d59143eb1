/*
 * damages.c - the lists of damages as one, and what they share.
 */
#include "damages.h"
#include "checked.h"

static const struct damage_list *const lists[] = {
    &damages_refcounts, &damages_tables, &damages_snapshots, &damages_bitmaps, &damages_file,
};

const struct damage *damage_get(unsigned index)
{
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        if (index < lists[i]->count) {
            return &lists[i]->list[index];
        }
        index -= lists[i]->count;
    }
    return NULL;
}

unsigned damage_count(void)
{
    unsigned count = 0;

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        count += lists[i]->count;
    }
    return count;
}

const struct landmark *damage_pick(const struct image_map *map, enum landmark_kind kind,
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

uint64_t damage_other_place(const struct image_map *map, uint64_t other, struct rng *rng)
{
    for (unsigned tries = 0; tries < 32; tries++) {
        enum landmark_kind kind = (enum landmark_kind)rng_below(rng, LANDMARK_BITMAP_DATA + 1);
        const struct landmark *mark = damage_pick(map, kind, rng);

        if (mark != NULL && (mark->offset ^ other) >> map->cluster_bits != 0) {
            return mark->offset & ~(map->cluster_size - 1);
        }
    }
    return map->cluster_size;
}

uint64_t damage_end(const struct memfile *mem, const struct image_map *map)
{
    return align_up(min_u64(mem->size, INT64_MAX / 2), map->cluster_size);
}

uint64_t damage_beyond(const struct memfile *mem, const struct image_map *map, struct rng *rng)
{
    if (rng_one_in(rng, 3)) {
        return map->cluster_size << rng_between(rng, 20, 55 - map->cluster_bits);
    }
    return damage_end(mem, map) + rng_below(rng, 4) * map->cluster_size;
}
