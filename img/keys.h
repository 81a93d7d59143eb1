/*
 * keys.h - keys of encrypted images on command lines; the names of images that go with them: image_opts.h.
 *
 *   --object secret,id=ID,file=PATH[,format=raw|base64]   a key with a name, as QEMU takes it
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

/* The key called `id`; NULL: the one that is tried everywhere. False when there is none. */
bool keys_find(const char *id, struct blk_key *key);

#endif
