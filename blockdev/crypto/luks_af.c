/*
 * luks_af.c - the anti-forensic splitter of LUKS1: a key becomes many stripes, all of which are needed to
 * get it back, so that it is enough to destroy a few of them.
 *
 *   d(0) = 0;  d(k) = diffuse(d(k-1) ^ s(k));  the last stripe is the key ^ d(stripes - 1)
 *
 * diffuse replaces each piece of a digest's length (the last may be shorter) by the digest of its number
 * (32 bits, big-endian) and itself, cut to its length.
 */
#include "bytes.h"
#include "checked.h"
#include "crypto/libcrypto.h"
#include "crypto/luks.h"

#include <errno.h>

static bool diffuse(EVP_MD_CTX *context, const EVP_MD *md, uint8_t *block, size_t length)
{
    size_t piece = (size_t)libcrypto.EVP_MD_get_size(md);
    uint8_t number[4], digest[EVP_MAX_MD_SIZE];
    uint32_t i = 0;

    for (size_t at = 0; at < length; at += piece, i++) {
        size_t n = (size_t)min_u64(piece, length - at);

        store_be32(number, i);
        if (libcrypto.EVP_DigestInit_ex(context, md, NULL) != 1 ||
            libcrypto.EVP_DigestUpdate(context, number, sizeof(number)) != 1 ||
            libcrypto.EVP_DigestUpdate(context, block + at, n) != 1 ||
            libcrypto.EVP_DigestFinal_ex(context, digest, NULL) != 1) {
            return false;
        }
        memcpy(block + at, digest, n);
    }
    return true;
}

static void xor_into(uint8_t *to, const uint8_t *from, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        to[i] ^= from[i];
    }
}

/* d(stripes - 1) into `d`, which is zeros. */
static int fold(const char *name, const uint8_t *split, size_t key_bytes, unsigned stripes,
                uint8_t *d)
{
    EVP_MD *md = libcrypto.EVP_MD_fetch(NULL, name, NULL);
    EVP_MD_CTX *context = libcrypto.EVP_MD_CTX_new();
    int r = md == NULL ? -ENOTSUP : context == NULL ? -ENOMEM : 0;

    for (unsigned k = 0; k + 1 < stripes && r == 0; k++) {
        xor_into(d, split + k * key_bytes, key_bytes);
        r = diffuse(context, md, d, key_bytes) ? 0 : -EIO;
    }
    libcrypto.EVP_MD_CTX_free(context);
    libcrypto.EVP_MD_free(md);
    return r;
}

int luks_af_split(const char *digest, const uint8_t *key, size_t key_bytes, unsigned stripes,
                  uint8_t *split)
{
    uint8_t *last = split + (stripes - 1) * key_bytes;
    int r = libcrypto_load(NULL);

    if (r != 0) {
        return r;
    }
    if (libcrypto.RAND_bytes(split, (int)((stripes - 1) * key_bytes)) != 1) {
        return -EIO;
    }
    memset(last, 0, key_bytes);
    r = fold(digest, split, key_bytes, stripes, last);
    xor_into(last, key, key_bytes);
    return r;
}

int luks_af_merge(const char *digest, const uint8_t *split, size_t key_bytes, unsigned stripes,
                  uint8_t *key)
{
    int r = libcrypto_load(NULL);

    if (r != 0) {
        return r;
    }
    memset(key, 0, key_bytes);
    r = fold(digest, split, key_bytes, stripes, key);
    xor_into(key, split + (stripes - 1) * key_bytes, key_bytes);
    return r;
}
