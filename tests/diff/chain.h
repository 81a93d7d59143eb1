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

/* The key of all encrypted layers. */
#define DIFF_KEY "oracle"

enum { CHAIN_MAX = 6, CHAIN_PATH = 256 };

struct layer {
    unsigned compat; /* 0: raw, 2, 3 */
    unsigned cluster;
    uint64_t size;
    int prealloc; /* BLK_PREALLOC_* */
    bool lazy, extended_l2;
    const struct blk_luks_options *luks;                 /* encrypted with DIFF_KEY; or NULL */
    enum { DATA_INSIDE, DATA_FILE, DATA_FILE_RAW } data; /* where guest data lies */
    /* A throwaway overlay, the top: no image, as long as what is below, and gone at each close. */
    enum blk_ephemeral ephemeral;
};

struct layout {
    const char *name;
    unsigned count;
    struct layer layers[CHAIN_MAX]; /* bottom first */
    enum blk_cache cache;
    uint64_t metadata_cache; /* 0: now the default, now tiny */
    bool discard_off;
    bool grows;     /* the top is resized between passes */
    bool snapshots; /* internal ones of the top are taken, applied and deleted between passes */
    bool on_disk;   /* in the temporary directory even where memory is at hand */
};

struct chain {
    const struct layout *layout;
    char dir[CHAIN_PATH];
    char paths[CHAIN_MAX][CHAIN_PATH + 32];
    char data_paths[CHAIN_MAX][CHAIN_PATH + 32]; /* external data files, or "" */
    uint64_t seals[CHAIN_MAX];
    unsigned count; /* layers that exist */
    uint8_t *below; /* what a throwaway overlay begins with, or NULL */
    struct model model;
    struct model snapshot;    /* what the snapshot holds; no bytes: there is none */
    unsigned snapshot_passes; /* so far */
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

/* What blk_check() says about each qcow2 layer of the closed chain: -EIO for a corruption or a leak. */
int chain_check(const struct chain *chain, struct err *err);

/* What qemu-img says about the closed chain: every qcow2 layer checks clean, without a leak, and
 * the top reads as the model. -EIO with the finding; -ENOENT when there is no qemu-img. */
int chain_ask_qemu(const struct chain *chain, struct err *err);
/* The check alone. */
int chain_ask_qemu_check(const struct chain *chain, struct err *err);

#endif
