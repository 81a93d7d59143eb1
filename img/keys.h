/*
 * keys.h - keys of encrypted images on command lines, and image names in the form of options.
 *
 *   --object secret,id=ID,file=PATH[,format=raw|base64]   a key with a name, as QEMU takes it
 *   --image-opts        image names are options: driver=qcow2,file.filename=PATH,encrypt.key-secret=ID,
 *                       and backing.encrypt.key-secret=ID and so on for what lies below
 *   --target-image-opts the same for convert's target
 *   --key-file PATH, --key-fd N   one key that is tried on every encrypted image
 *
 * They are the same for every command, and so taken from the command line before a command sees it; what
 * they say holds for the process, which runs one command.
 */
#ifndef IMG_KEYS_H
#define IMG_KEYS_H

#include "blockdev.h"

#include <stdbool.h>

/* Takes the options out of argv. False after a message. */
bool keys_take_options(int *argc, char **argv);
/* Wipes the keys. */
void keys_free(void);

/* The path in the name of an image; what else it says is kept for keys_apply(). `is_target`: it is
 * convert's target. NULL after a message. Lives until keys_free(). */
const char *keys_image_path(const char *name, bool is_target);
/* The same for a name that is options whatever the command line says. */
const char *keys_named_image(const char *name);

/* Sets the keys of the image that was named as `path`, and its format where none is set, as seen from
 * the layer at `depth` below it. */
void keys_apply(struct blk_open_options *options, const char *path, unsigned depth);

/* The key called `id`; NULL: the one that is tried everywhere. False when there is none. */
bool keys_find(const char *id, struct blk_key *key);

#endif
