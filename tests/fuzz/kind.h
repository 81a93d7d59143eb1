/*
 * kind.h - one kind of fuzzing: which inputs it starts from, and what it does with one.
 */
#ifndef FUZZ_KIND_H
#define FUZZ_KIND_H

#include "finding.h"
#include "image.h"
#include "input.h"

struct fuzz_kind {
    const char *name;
    /* A sound input: its files and a script. */
    void (*seed)(struct input *input, struct rng *rng);
    /* Carries an input out; a broken promise is a finding(). May change the input. */
    void (*run)(struct input *input);
    /* A change that the kind knows of, or NULL. */
    void (*mutate)(struct input *input, struct rng *rng);
};

extern const struct fuzz_kind kind_open, kind_write, kind_check, kind_header, kind_chain,
    kind_bitmap, kind_compress, kind_snapshot;

/* ---- mutate.c ---- */

/* Changes bytes in [data, data + length), which has `room`; returns the new length. */
typedef size_t (*mutate_bytes)(uint8_t *data, size_t length, size_t room);

/* A sound input of the kind as bytes. */
size_t fuzz_seed(const struct fuzz_kind *kind, uint64_t seed, uint8_t *out, size_t room);
/* Changes an input in place, with knowledge of what it is; returns its new length. */
size_t fuzz_mutate(const struct fuzz_kind *kind, uint8_t *data, size_t length, size_t room,
                   uint64_t seed, mutate_bytes mutate);
/* The script of one, the files of the other. */
size_t fuzz_cross(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length,
                  uint8_t *out, size_t room);
/* Runs one input. */
void fuzz_run(const struct fuzz_kind *kind, const uint8_t *data, size_t length);

/* ---- use.c: what the kinds do with images ---- */

struct blk;
struct blk_check_result;

enum {
    USE_WINDOW = 96 << 10, /* guest bytes looked at, at the start and at the end */
};

/* Makes the input's files known under their names: the first is "top". The others are never to be
 * changed, unless `writable` says so (a bit each, bit 0 for "top"). */
void use_files(struct input *input, unsigned writable);
/* Opens "top". NULL: refused, with a reason. */
struct blk *use_open(bool writable, bool for_check, unsigned cache);
void use_close(struct blk *blk, bool must_succeed);
/* Reads and maps all of the device, or the ends of a large one, and compares what both say. */
void use_read_all(struct blk *blk, const struct memfile *top);
/* Checks "top": 0 when the check itself could be done. */
int use_check(unsigned fix, struct blk_check_result *result);
/* The last ERROR or Leaked line of a check, or why "top" could not be opened. */
const char *use_last_error(void);
/* Whether a check finds more than leaks and flags that nobody may rely on: where two entries share a
 * cluster without snapshots and one of them moves away, the other lacks COPIED. Lazy refcounts that a
 * failure left behind in "top" are first counted anew, as opening it for writing does. */
bool use_is_damaged(const struct memfile *top);
/* The leaks of "top" that were not in the making `before`. May change it: the last thing to do. */
uint64_t use_count_leaks(struct memfile *top, const struct memfile *before);
/* Whether "top" is clean and no table lies on another: then nothing may damage it. */
bool use_is_sound(const struct memfile *top);
bool use_is_clean(const struct blk_check_result *result);
/* A fill of the input's script: `length` random bytes. */
void use_random_script(struct input *input, struct rng *rng, size_t length);
/* "top" built as image_build() does, a "base" below it, and "data" if it may need that. */
void use_seed_images(struct input *input, struct rng *rng, unsigned must, unsigned may);

#endif
