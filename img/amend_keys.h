/*
 * amend_keys.h - the options of `amend` about key slots: encrypt.state, encrypt.new-secret,
 * encrypt.old-secret, encrypt.keyslot and encrypt.iter-time, with qemu-img's words.
 */
#ifndef IMG_AMEND_KEYS_H
#define IMG_AMEND_KEYS_H

#include "create_options.h"

/* Whether any of them is given. */
bool amend_keys_are_given(struct create_options *options);

/* What can be said of their numbers alone. 0 or, after a message, -1. */
int amend_keys_read_numbers(struct create_options *options, struct blk_key_change *change);

/* What they mean together. The image was named as `path`, whose key is in change->opens afterwards. Keys
 * are borrowed from keys.h. 0 or, after a message, -1. */
int amend_keys_read(struct create_options *options, const char *path,
                    struct blk_key_change *change);

#endif
