/*
 * damages.h - damage with a name: what an image may suffer that a check has to find. image_damage()
 * does the same at random, and is one of them.
 */
#ifndef FUZZ_DAMAGES_H
#define FUZZ_DAMAGES_H

#include "image.h"

struct damage {
    const char *name;
    /* False: the image has nothing that could suffer this; it is unchanged then. */
    bool (*apply)(struct memfile *mem, const struct image_map *map, struct rng *rng);
    bool can_grow; /* the file */
};

struct damage_list {
    const struct damage *list;
    unsigned count;
};

extern const struct damage_list damages_refcounts, damages_tables, damages_snapshots,
    damages_bitmaps, damages_file;

unsigned damage_count(void);
/* One of all; `index` counts through the lists. NULL behind the last. */
const struct damage *damage_get(unsigned index);

/* One landmark of the kind, NULL when there is none. */
const struct landmark *damage_pick(const struct image_map *map, enum landmark_kind kind,
                                   struct rng *rng);
/* A cluster that is something, and not `other`. */
uint64_t damage_other_place(const struct image_map *map, uint64_t other, struct rng *rng);
/* The end of the file, rounded up to clusters. */
uint64_t damage_end(const struct memfile *mem, const struct image_map *map);
/* An offset behind the end: right there, or far away. */
uint64_t damage_beyond(const struct memfile *mem, const struct image_map *map, struct rng *rng);

#endif
