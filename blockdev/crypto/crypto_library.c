/*
 * crypto_library.c - see crypto_library.h.
 */
#include "crypto/crypto_library.h"

#include <errno.h>
#include <gcrypt.h>
#include <pthread.h>
#include <stdbool.h>

static bool is_ready;

/* Locked memory, which the library would set aside for keys, is a few pages that every process competes
 * for. Its key schedules are wiped when they are freed. */
static void init(void)
{
    is_ready = gcry_check_version(GCRYPT_VERSION) != NULL &&
               gcry_control(GCRYCTL_DISABLE_SECMEM, 0) == 0 &&
               gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0) == 0;
}

int crypto_library_init(struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, init);
    return is_ready
               ? 0
               : err_set(err, -ENOTSUP, "Encryption needs libgcrypt %s or newer", GCRYPT_VERSION);
}
