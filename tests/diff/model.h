/*
 * model.h - what the device must hold: one flat array, and the exact rules for operations whose
 * result is not simply "these bytes".
 *
 * Discard, on a device opened with discard=on:
 *  1. qcow2 version 3, or version 2 without a backing file: every cluster that the range covers
 * whole reads as zeros; a cluster that it covers in part keeps its content. The last cluster of a
 * device whose size is no multiple of the cluster counts as covered when the range reaches its end,
 * and may do either.
 *  2. qcow2 version 2 with a backing file cannot record a discard: each byte reads as zero or as
 *     before. Raw the same.
 *  3. With extended L2 entries rule 1 holds, but a part of a cluster may read as zeros too.
 * With discard=off nothing changes. Never may a discard show another layer's or cluster's bytes.
 *
 * Threads: threads that work on disjoint byte ranges may use one model at the same time.
 */
#ifndef DIFF_MODEL_H
#define DIFF_MODEL_H

#include <stdbool.h>
#include <stdint.h>

struct model {
    uint8_t *bytes;
    uint64_t length;
    unsigned cluster;           /* of the top layer; 0: raw */
    bool discard_on;            /* as the device is opened now */
    bool discard_is_zero;       /* rule 1 holds */
    bool discard_reaches_parts; /* rule 3 */
};

int model_init(struct model *model, uint64_t length);
void model_free(struct model *model);
/* New length; what is gained is zero. */
int model_resize(struct model *model, uint64_t length);

/* Applies what rule 1 settles. True when bytes [*from, *to) remain that may be zero or as before,
 * so that the caller has to read them back and give them to model_settle(). */
bool model_discard(struct model *model, uint64_t offset, uint64_t length, uint64_t *from,
                   uint64_t *to);
/* Takes over what was read after such a discard. Returns the first offset within the range that
 * holds neither zero nor what was there, or -1. */
int64_t model_settle(struct model *model, uint64_t offset, const uint8_t *seen, uint64_t length);

/* The first offset within the range that differs, or -1. */
int64_t model_compare(const struct model *model, uint64_t offset, const uint8_t *seen,
                      uint64_t length);

#endif
