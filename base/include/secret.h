/*
 * secret.h - memory for keys: pages of its own that no core dump holds and that are wiped before they
 * are given back; and keys from files and descriptors, so that none is ever on a command line.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include "err.h"

#include <stddef.h>
#include <stdint.h>

enum { SECRET_MAX = 64 << 10 }; /* bytes of a key that is read */

/* Zeroed; NULL: no memory. Any thread. */
void *secret_alloc(size_t length);
/* NULL is allowed. `length` as it was allocated. */
void secret_free(void *memory, size_t length);

/* A key, byte for byte: a newline at its end is a part of it. `bytes` NULL: none. */
struct secret {
    uint8_t *bytes; /* SECRET_MAX of them */
    size_t length;
};

/* The whole file, or what can be read from the descriptor, which is then closed. -EINVAL: empty, or
 * longer than SECRET_MAX. The message names the file. */
int secret_read_file(struct secret *secret, const char *path, struct err *err);
int secret_read_fd(struct secret *secret, int fd, struct err *err);
/* What base64 text stands for takes its place; white space does not count. -EINVAL. */
int secret_decode_base64(struct secret *secret, struct err *err);
void secret_wipe(struct secret *secret);

#endif
