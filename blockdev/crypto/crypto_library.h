/*
 * crypto_library.h - libgcrypt, made ready when the first encrypted image is opened or made: few are, and
 * it costs more than all else that a program does to make an overlay.
 *
 * Nothing of it but names and constants may be used before crypto_library_init() succeeded. A sandboxed
 * process cannot do that any more (it reads files of the host's); images are opened before. After it the
 * library makes no system call but for memory.
 *
 * Threads: from any.
 */
#ifndef CRYPTO_LIBRARY_H
#define CRYPTO_LIBRARY_H

#include "err.h"

/* 0, or -ENOTSUP: the library is older than its header. Called again it says the same. */
int crypto_library_init(struct err *err);

#endif
