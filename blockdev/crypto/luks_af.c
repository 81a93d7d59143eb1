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
#include "crypto/luks.h"
#include "crypto/luks_slot.h"
#include "random.h"

#include <errno.h>
#include <gcrypt.h>
#include <string.h>

static void diffuse(gcry_md_hd_t digest, int algorithm, uint8_t *block, size_t length)
{
    size_t piece = gcry_md_get_algo_dlen(algorithm);
    uint8_t number[4];
    uint32_t i = 0;

    for (size_t at = 0; at < length; at += piece, i++) {
        size_t n = (size_t)min_u64(piece, length - at);

        store_be32(number, i);
        gcry_md_reset(digest);
        gcry_md_write(digest, number, sizeof(number));
        gcry_md_write(digest, block + at, n);
        memcpy(block + at, gcry_md_read(digest, algorithm), n);
    }
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
    int algorithm = luks_hash(name, NULL);
    gcry_md_hd_t digest;

    if (algorithm < 0) {
        return algorithm;
    }
    if (gcry_md_open(&digest, algorithm, 0) != 0) {
        return -ENOMEM;
    }
    for (unsigned k = 0; k + 1 < stripes; k++) {
        xor_into(d, split + k * key_bytes, key_bytes);
        diffuse(digest, algorithm, d, key_bytes);
    }
    gcry_md_close(digest);
    return 0;
}

int luks_af_split(const char *digest, const uint8_t *key, size_t key_bytes, unsigned stripes,
                  uint8_t *split)
{
    uint8_t *last = split + (stripes - 1) * key_bytes;
    int r = random_bytes(split, (stripes - 1) * key_bytes);

    if (r != 0) {
        return r;
    }
    memset(last, 0, key_bytes);
    r = fold(digest, split, key_bytes, stripes, last);
    xor_into(last, key, key_bytes);
    return r;
}

int luks_af_merge(const char *digest, const uint8_t *split, size_t key_bytes, unsigned stripes,
                  uint8_t *key)
{
    int r;

    memset(key, 0, key_bytes);
    r = fold(digest, split, key_bytes, stripes, key);
    xor_into(key, split + (stripes - 1) * key_bytes, key_bytes);
    return r;
}
