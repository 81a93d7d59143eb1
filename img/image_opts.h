/*
 * image_opts.h - names of images in the form of options, as QEMU takes them:
 *
 *   driver=qcow2,file.filename=PATH,encrypt.key-secret=ID,backing.driver=raw,backing.file.filename=PATH
 *
 * with --image-opts, and `json:{...}`, which says the same as an object, without. What lies below a layer
 * is named with "backing." once for each layer; `backing=` is nothing. Options of QEMU's drivers that tune it alone
 * (caches, ways of I/O) are checked and have no effect.
 *
 * What a name says holds for the process, which runs one command: a name becomes a path, which the
 * command works with, and whose pointer leads back to the rest.
 */
#ifndef IMG_IMAGE_OPTS_H
#define IMG_IMAGE_OPTS_H

#include "blockdev.h"

#include <stdbool.h>

/* --image-opts; `is_target`: --target-image-opts. */
void image_opts_enable(bool is_target);
bool image_opts_enabled(bool is_target);

/* The path in the name of an image as the command line has it. NULL after a message. Lives until
 * image_opts_free(). */
const char *image_opts_path(const char *name, bool is_target);
/* The same for a name that is options whatever the command line says. NULL with *err set. */
const char *image_opts_named(const char *name, struct err *err);
/* The whole name that `path` came from, for messages; `path` itself where it came from none. */
const char *image_opts_name(const char *path);

/* Fills in what was said of `path` (keys, format where none is set, cache ...), as seen from the
 * layer at `depth` below it. */
void image_opts_apply(struct blk_open_options *options, const char *path, unsigned depth);
/* What QEMU calls the image at `path` that was opened as `format`, to be freed: its path where that alone leads to
 * it, or else json:... NULL: there is no memory. */
char *image_opts_shown(const char *path, const char *format);
/* The same for the file in which the layer at `depth` below `top` has its data, as host offsets count: `path`, or
 * what it is a part of. */
char *image_opts_shown_file(const char *top, unsigned depth, const char *path, const char *format);

/* Whether it may be opened as `options` say: -EINVAL for writing what is read-only. */
int image_opts_check(const struct blk_open_options *options, struct err *err);
/* Whether it has a format (-f) that its options have no place for. */
bool image_opts_conflict(const struct blk_open_options *options);
/* What was said of what lies below the layer at `depth`, or NULL. */
const struct blk_backing_choice *image_opts_below(const char *path, unsigned depth);

void image_opts_free(void);

#endif
