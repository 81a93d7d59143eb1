/*
 * image_opts_known.h - which options an image's driver has, and what their values may be.
 */
#ifndef IMG_IMAGE_OPTS_KNOWN_H
#define IMG_IMAGE_OPTS_KNOWN_H

#include "optstr.h"

#include <stdbool.h>

/* Checks every option of one layer, those whose keys begin with `prefix` ("", "backing." ...) and not with
 * another "backing." behind it, for `driver` (raw or qcow2) and the drivers "raw" below it. 0, or -EINVAL with
 * QEMU's text. */
int image_opts_check_layer(struct optstr *options, const char *prefix, const char *driver,
                           struct err *err);

/* A size, as optstr_get_size(): the value of `prefix` and `key`, if there is one, with QEMU's text. */
int image_opts_get_size(struct optstr *options, const char *prefix, const char *key, uint64_t *size,
                        struct err *err);

/* Whether it tunes QEMU's driver alone, and has no effect here. */
bool image_opts_is_tuning(const char *key, const char *driver);

#endif
