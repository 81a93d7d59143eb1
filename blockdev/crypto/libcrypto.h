/*
 * libcrypto.h - the functions of OpenSSL's libcrypto that this folder calls: libcrypto.EVP_MD_fetch() for
 * EVP_MD_fetch(). The library is loaded when the first encrypted image is opened: linking it costs every
 * start of a program more than all else that it does to make an overlay, and few images are encrypted.
 *
 * None of them may be called before libcrypto_load() succeeded. Once loaded it stays. A sandboxed process
 * cannot load it any more: images are opened before.
 *
 * Threads: libcrypto_load() from any; what it set is not changed again.
 */
#ifndef CRYPTO_LIBCRYPTO_H
#define CRYPTO_LIBCRYPTO_H

#include "err.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#define LIBCRYPTO_FUNCTIONS(X)                                                                     \
    X(CRYPTO_memcmp)                                                                               \
    X(EVP_CIPHER_CTX_free)                                                                         \
    X(EVP_CIPHER_CTX_new)                                                                          \
    X(EVP_CIPHER_CTX_set_padding)                                                                  \
    X(EVP_CIPHER_fetch)                                                                            \
    X(EVP_CIPHER_free)                                                                             \
    X(EVP_CipherInit_ex)                                                                           \
    X(EVP_CipherUpdate)                                                                            \
    X(EVP_Digest)                                                                                  \
    X(EVP_DigestFinal_ex)                                                                          \
    X(EVP_DigestInit_ex)                                                                           \
    X(EVP_DigestUpdate)                                                                            \
    X(EVP_MD_CTX_free)                                                                             \
    X(EVP_MD_CTX_new)                                                                              \
    X(EVP_MD_fetch)                                                                                \
    X(EVP_MD_free)                                                                                 \
    X(EVP_MD_get_size)                                                                             \
    X(EVP_sha256)                                                                                  \
    X(PKCS5_PBKDF2_HMAC)                                                                           \
    X(RAND_bytes)                                                                                  \
    X(RAND_priv_bytes)

struct libcrypto {
#define LIBCRYPTO_MEMBER(name) __typeof__ (&(name))(name);
    LIBCRYPTO_FUNCTIONS(LIBCRYPTO_MEMBER)
#undef LIBCRYPTO_MEMBER
};

extern struct libcrypto libcrypto;

/* 0, or -ENOTSUP: the library is not there, or lacks a function. Called again it says the same. */
int libcrypto_load(struct err *err);

#endif
