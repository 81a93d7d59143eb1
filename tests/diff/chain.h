/*
 * chain.h - a backing chain made for one layout, its files in a directory of their own, and what
 * the whole must hold.
 *
 * Layers are built from the bottom up: a layer that was filled is sealed (its bytes are hashed) and
 * a new overlay goes on top. Sizes may grow and shrink on the way up: what a shorter layer hid is
 * zero for all layers above it.
 */
#ifndef DIFF_CHAIN_H
#define DIFF_CHAIN_H

#include "blockdev.h"
#include "model.h"
#include "rng.h"

enum { CHAIN_MAX = 6, CHAIN_PATH = 256 };

struct layer {
    unsigned compat; /* 0: raw, 2, 3 */
    unsigned cluster;
    uint64_t size;
    int prealloc; /* BLK_PREALLOC_* */
    bool lazy;
};

struct layout {
    const char *name;
    unsigned count;
    struct layer layers[CHAIN_MAX]; /* bottom first */
    enum blk_cache cache;
    uint64_t metadata_cache; /* 0: now the default, now tiny */
    bool discard_off;
    bool grows;   /* the top is resized between passes */
    bool on_disk; /* in the temporary directory even where memory is at hand */
};

struct chain {
    const struct layout *layout;
    char dir[CHAIN_PATH];
    char paths[CHAIN_MAX][CHAIN_PATH + 32];
    uint64_t seals[CHAIN_MAX];
    unsigned count; /* layers that exist */
    struct model model;
};

/* An empty chain in a directory of its own. */
int chain_init(struct chain *chain, const struct layout *layout, struct err *err);
/* Removes the files unless `keep`. */
void chain_free(struct chain *chain, bool keep);

/* Puts the layout's next layer on top, empty. */
int chain_add_layer(struct chain *chain, struct err *err);
/* Remembers the bytes of the top layer. */
int chain_seal_top(struct chain *chain, struct err *err);
/* -EIO naming a sealed layer whose bytes changed. */
int chain_check_seals(const struct chain *chain, struct err *err);

/* Opens the top layer, writable, with options that vary within what the layout allows. */
int chain_open(struct chain *chain, struct rng *rng, struct blk **out, struct err *err);

/* What qemu-img says about the closed chain: every qcow2 layer checks clean, without a leak, and
 * the top reads as the model. -EIO with the finding; -ENOENT when there is no qemu-img. */
int chain_ask_qemu(const struct chain *chain, struct err *err);

#endif
