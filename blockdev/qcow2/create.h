/*
 * create.h - writing an empty qcow2 image into an empty file.
 */
#ifndef QCOW2_CREATE_H
#define QCOW2_CREATE_H

#include "blockdev.h"
#include "file.h"

/* What `options` ask for: the checks that need no file. -EINVAL, -EFBIG or -ENAMETOOLONG, with a text
 * that names options->path. */
int qcow2_create_validate(const struct blk_create_options *options, struct err *err);

/* Writes a whole image into `file`, which is empty or whose content is to be forgotten. The options
 * have passed qcow2_create_validate(). Nothing is synced. */
int qcow2_create_write(struct file *file, const struct blk_create_options *options,
                       struct err *err);

/* Everything in the file but the guest's clusters, once all of these have a place. */
int qcow2_create_measure(const struct blk_create_options *options, uint64_t *bytes,
                         struct err *err);

#endif
