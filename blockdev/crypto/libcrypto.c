/*
 * libcrypto.c - see libcrypto.h.
 */
#include "crypto/libcrypto.h"

#include "checked.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#define TEXT_OF(macro) TEXT(macro)
#define TEXT(token)    #token
/* Of the headers that this is compiled with: within one version the library only grows. */
#define LIBRARY "libcrypto.so." TEXT_OF(OPENSSL_SHLIB_VERSION)

struct libcrypto libcrypto;

static const struct {
    const char *name;
    void *slot; /* a function pointer of whatever type */
} functions[] = {
#define LIBCRYPTO_SLOT(name) {#name, &libcrypto.name},
    LIBCRYPTO_FUNCTIONS(LIBCRYPTO_SLOT)
#undef LIBCRYPTO_SLOT
};

static int load_result;
static struct err load_error;

static int find_functions(void *library)
{
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        void *function = dlsym(library, functions[i].name);

        if (function == NULL) {
            return err_set(&load_error, -ENOTSUP, "Encryption needs %s, which lacks %s", LIBRARY,
                           functions[i].name);
        }
        /* POSIX: a function's address has the size of a void pointer. */
        memcpy(functions[i].slot, &function, sizeof(function));
    }
    return 0;
}

static void load(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

    load_result = library == NULL ? err_set(&load_error, -ENOTSUP, "Encryption needs %s: %s",
                                            LIBRARY, dlerror())
                                  : find_functions(library);
    if (load_result != 0 && library != NULL) {
        (void)dlclose(library);
    }
}

int libcrypto_load(struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, load);
    return load_result == 0 ? 0 : err_set(err, load_result, "%s", load_error.text);
}
