/*
 * image_opts_read.h - an image that was named by options, taken apart.
 */
#ifndef IMG_IMAGE_OPTS_READ_H
#define IMG_IMAGE_OPTS_READ_H

#include "blockdev.h"
#include "optstr.h"

#include <jansson.h>
#include <stdbool.h>

/* How many layers below the top may be named, and how many drivers "raw" in each other for one file. */
enum { IMAGE_MAX_DEPTH = 64, IMAGE_MAX_PARTS = 8 };
/* Room for what stands before a key: "backing." and "file." so often. */
enum { IMAGE_MAX_PREFIX = IMAGE_MAX_DEPTH * 8 + (IMAGE_MAX_PARTS + 1) * 5 + 1 };

struct named_image {
    struct optstr options;
    json_t *said; /* the same with the values as they were said: strings, or JSON's numbers */
    char *name;
    const char *path, *format;
    bool is_exclusive; /* of --image-opts: goes with no other format */
    bool read_only, force_share, no_lock, direct, no_flush, discard;
    struct blk_place place;
    /* Those of the layer at each depth, the last ones of a row; the very last one is a raw layer's own. */
    struct blk_part parts[IMAGE_MAX_DEPTH][IMAGE_MAX_PARTS + 1];
    struct blk_key keys[IMAGE_MAX_DEPTH];
    unsigned key_count;
    struct blk_backing_choice backings[IMAGE_MAX_DEPTH];
    unsigned backing_count;
};

/* `text`: "key=value,..."; the rest of *image is zeros. -EINVAL with QEMU's text. image_free() is due in any
 * case. */
int image_read(struct named_image *image, const char *text, struct err *err);
/* The same for the JSON object `json`. */
int image_read_json(struct named_image *image, const char *json, struct err *err);
void image_free(struct named_image *image);

/* Appends to a prefix of IMAGE_MAX_PREFIX bytes. */
void image_append(char *prefix, const char *key);

/* The value of `prefix` and `key`, or NULL. */
const char *image_get(struct named_image *image, const char *prefix, const char *key);
bool image_is_set(struct named_image *image, const char *prefix, const char *key,
                  const char *value);

#endif
