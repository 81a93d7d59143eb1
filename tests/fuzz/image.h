/*
 * image.h - qcow2 as the fuzzers see it, written from the specification and not with the engine's
 * help: valid images of every kind, what lies where in a damaged one, refcounts made to agree with
 * damaged tables, and the damage itself.
 */
#ifndef FUZZ_IMAGE_H
#define FUZZ_IMAGE_H

#include "input.h"
#include "rng.h"

/* ---- image_build.c ---- */

enum {
    /* What an image may have */
    BUILD_SNAPSHOTS = 1,
    BUILD_BITMAPS = 2,
    BUILD_COMPRESSED = 4,
    BUILD_EXTENDED_L2 = 8,
    BUILD_DATA_FILE = 16,
    BUILD_BACKING = 32,
    BUILD_ALL = 63,
    BUILD_BASE_IS_QCOW2 = 64, /* what is to be said of "base" */
    BUILD_LUKS = 128,         /* now and then: encrypted */
};

/* A sound image with the features `must`, where version and cluster size allow, and some of `may`;
 * everything else the generator chooses. It may name "base" as its backing file and "data" as its data
 * file. */
void image_build(struct memfile *mem, struct rng *rng, unsigned must, unsigned may);

/* ---- image_luks.c ---- */

/* Opens the images that are encrypted. */
#define FUZZ_KEY "fuzz"

enum { IMAGE_LUKS_BYTES = 4096 + 8 * (64 << 10) };

/* Writes an encryption header; its length, which is mostly zeros. */
uint64_t image_luks_header(struct memfile *mem, uint64_t offset);

/* ---- image_walk.c ---- */

enum landmark_kind {
    LANDMARK_HEADER,
    LANDMARK_EXTENSION,
    LANDMARK_LUKS,
    LANDMARK_REFTABLE,
    LANDMARK_REFBLOCK,
    LANDMARK_L1,
    LANDMARK_L2,
    LANDMARK_DATA,
    LANDMARK_COMPRESSED,
    LANDMARK_SNAPSHOT,  /* an entry of the table */
    LANDMARK_DIRECTORY, /* an entry of the bitmap directory */
    LANDMARK_BITMAP,    /* a bitmap's table */
    LANDMARK_BITMAP_DATA,
};

struct landmark {
    enum landmark_kind kind;
    uint64_t offset, length; /* in the file */
};

enum { MAX_LANDMARKS = 256 };

struct image_map {
    unsigned cluster_bits;
    unsigned version;
    unsigned refcount_order;
    bool extended_l2, data_file;
    uint64_t cluster_size;
    struct landmark landmarks[MAX_LANDMARKS];
    unsigned count;
};

/* Finds what a (damaged) image's tables lead to, within bounds. False when it has no header. */
bool image_find(const struct memfile *mem, struct image_map *map);
/* Writes refcounts, as far as there are blocks for them, and COPIED flags that agree with all that
 * the tables lead to. */
void image_recount(struct memfile *mem);
/* Whether something is wrong that a check need not find fault with, but may do damage when it is used: a
 * cluster of metadata that is also something else, an entry of a bitmap's table that is malformed, an L2
 * entry that does not fit its data file. Too much to look at counts as well. */
bool image_is_odd(const struct memfile *mem);
/* The same, whatever guest data lies on. */
bool image_tables_overlap(const struct memfile *mem);
/* Whether header, L1 table and refcount table hold what they held before, or what may stand there:
 * true after whatever was written to an image whose tables do not overlap. */
bool image_tables_intact(const struct memfile *before, const struct memfile *after);

/* ---- image_damage.c ---- */

/* Changes one field of a table or of the header to something that hurts. */
void image_damage(struct memfile *mem, struct rng *rng);
/* The same for one thing of this kind, where there is one. */
void image_damage_kind(struct memfile *mem, struct rng *rng, enum landmark_kind kind);

#endif
