/*
 * sector_cipher.c - see sector_cipher.h. By libcrypto, but that XTS with AES-192, which no standard has
 * and which QEMU makes all the same, is put together here from AES-192 of single blocks (IEEE 1619:
 * each block is XORed with a tweak before and after; the tweak is the encrypted IV, multiplied by x in
 * GF(2^128) from block to block).
 *
 * A session is what one call needs: key schedules for one direction and for IVs. Sessions are made when
 * all are in use, and kept until the cipher goes.
 */
#include "crypto/sector_cipher.h"

#include "bytes.h"
#include "checked.h"
#include "crypto/libcrypto.h"
#include "iov.h"
#include "secret.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 16, ESSIV_KEY = 32, AES_192_XTS_KEY = 48, MAX_KEY = 64 };

enum direction { DECRYPT, ENCRYPT, DIRECTIONS };

struct session {
    EVP_CIPHER_CTX *data;
    EVP_CIPHER_CTX *iv;    /* ESSIV's; or NULL */
    EVP_CIPHER_CTX *tweak; /* of XTS put together here; or NULL */
    struct session *next;
};

struct keys {
    uint8_t data[MAX_KEY], essiv[ESSIV_KEY];
};

struct sector_cipher {
    struct sector_cipher_spec spec;
    bool own_xts;
    EVP_CIPHER *data, *essiv; /* essiv: NULL without */
    struct keys *keys;
    pthread_mutex_t lock; /* idle */
    struct session *idle[DIRECTIONS];
};

int sector_cipher_parse(struct sector_cipher_spec *spec, const char *cipher, const char *mode,
                        size_t key_bytes, struct err *err)
{
    static const struct {
        const char *name;
        enum sector_cipher_iv iv;
    } ivs[] = {
        {"plain", SECTOR_IV_PLAIN},
        {"plain64", SECTOR_IV_PLAIN64},
        {"essiv:sha256", SECTOR_IV_ESSIV_SHA256},
    };
    size_t per_key;
    size_t i;

    if (strcmp(cipher, "aes") != 0) {
        return err_set(err, -ENOTSUP, "Cipher '%s' is not supported", cipher);
    }
    if (strncmp(mode, "xts-", 4) != 0 && strncmp(mode, "cbc-", 4) != 0) {
        return err_set(err, -ENOTSUP, "Cipher mode '%s' is not supported", mode);
    }
    for (i = 0; i < ARRAY_LEN(ivs) && strcmp(ivs[i].name, mode + 4) != 0; i++) {
    }
    if (i == ARRAY_LEN(ivs)) {
        return err_set(err, -ENOTSUP, "IV generator '%s' is not supported", mode + 4);
    }
    *spec = (struct sector_cipher_spec){
        .mode = mode[0] == 'x' ? SECTOR_CIPHER_XTS : SECTOR_CIPHER_CBC,
        .iv = ivs[i].iv,
        .key_bytes = key_bytes,
    };
    per_key = spec->mode == SECTOR_CIPHER_XTS ? key_bytes / 2 : key_bytes;
    if ((per_key != 16 && per_key != 24 && per_key != 32) ||
        (spec->mode == SECTOR_CIPHER_XTS && key_bytes % 2 != 0)) {
        return err_set(err, -ENOTSUP, "%s-%s with a key of %zu bytes is not supported", cipher,
                       mode, key_bytes);
    }
    return 0;
}

/* ---- sessions ---- */

static EVP_CIPHER_CTX *new_context(EVP_CIPHER *algorithm, const uint8_t *key, enum direction way)
{
    EVP_CIPHER_CTX *context = libcrypto.EVP_CIPHER_CTX_new();

    if (context != NULL &&
        (libcrypto.EVP_CipherInit_ex(context, algorithm, NULL, key, NULL, way == ENCRYPT) != 1 ||
         libcrypto.EVP_CIPHER_CTX_set_padding(context, 0) != 1)) {
        libcrypto.EVP_CIPHER_CTX_free(context);
        context = NULL;
    }
    return context;
}

static void free_session(struct session *session)
{
    libcrypto.EVP_CIPHER_CTX_free(session->data);
    libcrypto.EVP_CIPHER_CTX_free(session->iv);
    libcrypto.EVP_CIPHER_CTX_free(session->tweak);
    free(session);
}

static struct session *new_session(const struct sector_cipher *cipher, enum direction way)
{
    struct session *session = calloc(1, sizeof(*session));
    bool is_whole;

    if (session == NULL) {
        return NULL;
    }
    session->data = new_context(cipher->data, cipher->keys->data, way);
    is_whole = session->data != NULL;
    if (cipher->own_xts) {
        session->tweak =
            new_context(cipher->data, cipher->keys->data + AES_192_XTS_KEY / 2, ENCRYPT);
        is_whole = is_whole && session->tweak != NULL;
    }
    if (cipher->essiv != NULL) {
        session->iv = new_context(cipher->essiv, cipher->keys->essiv, ENCRYPT);
        is_whole = is_whole && session->iv != NULL;
    }
    if (!is_whole) {
        free_session(session);
        return NULL;
    }
    return session;
}

static struct session *take_session(struct sector_cipher *cipher, enum direction way)
{
    struct session *session;

    pthread_mutex_lock(&cipher->lock);
    session = cipher->idle[way];
    if (session != NULL) {
        cipher->idle[way] = session->next;
    }
    pthread_mutex_unlock(&cipher->lock);
    return session != NULL ? session : new_session(cipher, way);
}

static void give_session(struct sector_cipher *cipher, enum direction way, struct session *session)
{
    pthread_mutex_lock(&cipher->lock);
    session->next = cipher->idle[way];
    cipher->idle[way] = session;
    pthread_mutex_unlock(&cipher->lock);
}

/* ---- create and destroy ---- */

static const char *algorithm_name(const struct sector_cipher *cipher, char *name, size_t room)
{
    const struct sector_cipher_spec *spec = &cipher->spec;
    bool is_xts = spec->mode == SECTOR_CIPHER_XTS;

    snprintf(name, room, "AES-%zu-%s", spec->key_bytes * 8 / (is_xts ? 2 : 1),
             cipher->own_xts ? "ECB"
             : is_xts        ? "XTS"
                             : "CBC");
    return name;
}

int sector_cipher_create(const struct sector_cipher_spec *spec, const uint8_t *key,
                         struct sector_cipher **out)
{
    struct sector_cipher *cipher;
    char name[32];
    int r = libcrypto_load(NULL);

    if (r != 0) {
        return r;
    }
    cipher = calloc(1, sizeof(*cipher));
    if (cipher == NULL) {
        return -ENOMEM;
    }
    r = -ENOMEM;
    pthread_mutex_init(&cipher->lock, NULL);
    cipher->spec = *spec;
    cipher->own_xts = spec->mode == SECTOR_CIPHER_XTS && spec->key_bytes == AES_192_XTS_KEY;
    cipher->keys = secret_alloc(sizeof(*cipher->keys));
    if (cipher->keys == NULL || spec->key_bytes > MAX_KEY) {
        goto fail;
    }
    memcpy(cipher->keys->data, key, spec->key_bytes);
    r = -EINVAL;
    cipher->data =
        libcrypto.EVP_CIPHER_fetch(NULL, algorithm_name(cipher, name, sizeof(name)), NULL);
    if (cipher->data == NULL) {
        goto fail;
    }
    if (spec->iv == SECTOR_IV_ESSIV_SHA256) {
        cipher->essiv = libcrypto.EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
        if (cipher->essiv == NULL ||
            libcrypto.EVP_Digest(key, spec->key_bytes, cipher->keys->essiv, NULL,
                                 libcrypto.EVP_sha256(), NULL) != 1) {
            goto fail;
        }
    }
    for (int way = 0; way < DIRECTIONS; way++) {
        cipher->idle[way] = new_session(cipher, (enum direction)way);
        if (cipher->idle[way] == NULL) {
            goto fail;
        }
    }
    *out = cipher;
    return 0;

fail:
    sector_cipher_destroy(cipher);
    return r;
}

void sector_cipher_destroy(struct sector_cipher *cipher)
{
    if (cipher == NULL) {
        return;
    }
    for (int way = 0; way < DIRECTIONS; way++) {
        while (cipher->idle[way] != NULL) {
            struct session *session = cipher->idle[way];

            cipher->idle[way] = session->next;
            free_session(session);
        }
    }
    libcrypto.EVP_CIPHER_free(cipher->data);
    libcrypto.EVP_CIPHER_free(cipher->essiv);
    secret_free(cipher->keys, sizeof(*cipher->keys));
    pthread_mutex_destroy(&cipher->lock);
    free(cipher);
}

/* ---- one sector ---- */

static bool update(EVP_CIPHER_CTX *context, uint8_t *out, const uint8_t *in, int length)
{
    int done = 0;

    return libcrypto.EVP_CipherUpdate(context, out, &done, in, length) == 1 && done == length;
}

static bool make_iv(const struct sector_cipher *cipher, const struct session *session,
                    uint64_t sector, uint8_t iv[BLOCK])
{
    memset(iv, 0, BLOCK);
    store_le64(iv, cipher->spec.iv == SECTOR_IV_PLAIN ? (uint32_t)sector : sector);
    return session->iv == NULL || update(session->iv, iv, iv, BLOCK);
}

static void xor_with_tweaks(uint8_t *out, const uint8_t *in, const uint64_t *tweaks)
{
    for (size_t i = 0; i < CRYPTO_SECTOR; i += sizeof(*tweaks)) {
        store_le64(out + i, load_le64(in + i) ^ tweaks[i / sizeof(*tweaks)]);
    }
}

static bool own_xts(const struct session *session, const uint8_t iv[BLOCK], uint8_t *out,
                    const uint8_t *in)
{
    enum { WORDS = CRYPTO_SECTOR / 8, POLYNOMIAL = 0x87 };
    uint64_t tweaks[WORDS];
    uint8_t first[BLOCK], sector[CRYPTO_SECTOR];
    bool is_done;

    if (!update(session->tweak, first, iv, BLOCK)) {
        return false;
    }
    tweaks[0] = load_le64(first);
    tweaks[1] = load_le64(first + 8);
    for (int i = 2; i < WORDS; i += 2) {
        uint64_t low = tweaks[i - 2], high = tweaks[i - 1];

        tweaks[i] = low << 1 ^ (high >> 63) * POLYNOMIAL;
        tweaks[i + 1] = high << 1 | low >> 63;
    }
    xor_with_tweaks(sector, in, tweaks);
    is_done = update(session->data, sector, sector, CRYPTO_SECTOR);
    xor_with_tweaks(out, sector, tweaks);
    return is_done;
}

static bool do_sector(const struct sector_cipher *cipher, const struct session *session,
                      uint64_t sector, uint8_t *out, const uint8_t *in)
{
    uint8_t iv[BLOCK];

    if (!make_iv(cipher, session, sector, iv)) {
        return false;
    }
    if (cipher->own_xts) {
        return own_xts(session, iv, out, in);
    }
    return libcrypto.EVP_CipherInit_ex(session->data, NULL, NULL, NULL, iv, -1) == 1 &&
           update(session->data, out, in, CRYPTO_SECTOR);
}

/* ---- many sectors ---- */

/* Bytes of a vector, from the front on. */
struct cursor {
    const struct iovec *iov;
    int count;
    uint64_t at; /* in iov[0] */
};

/* A sector that lies in one piece: its address; else NULL. Moves on by one. */
static uint8_t *whole_sector(struct cursor *cursor)
{
    while (cursor->count > 0 && cursor->at >= cursor->iov->iov_len) {
        cursor->at -= cursor->iov->iov_len;
        cursor->iov++;
        cursor->count--;
    }
    cursor->at += CRYPTO_SECTOR;
    return cursor->count > 0 && cursor->at <= cursor->iov->iov_len
               ? (uint8_t *)cursor->iov->iov_base + (cursor->at - CRYPTO_SECTOR)
               : NULL;
}

int sector_cipher_encrypt(struct sector_cipher *cipher, uint64_t sector, const struct iovec *iov,
                          int count, uint64_t skip, uint8_t *out, size_t length)
{
    struct cursor cursor = {.iov = iov, .count = count, .at = skip};
    struct session *session = take_session(cipher, ENCRYPT);
    uint8_t gathered[CRYPTO_SECTOR];
    bool is_done = true;

    if (session == NULL) {
        return -ENOMEM;
    }
    for (size_t done = 0; done < length && is_done; done += CRYPTO_SECTOR, sector++) {
        const uint8_t *in = whole_sector(&cursor);

        if (in == NULL) {
            (void)iov_to_buf(iov, count, skip + done, gathered, CRYPTO_SECTOR);
            in = gathered;
        }
        is_done = do_sector(cipher, session, sector, out + done, in);
    }
    give_session(cipher, ENCRYPT, session);
    return is_done ? 0 : -EIO;
}

int sector_cipher_decrypt(struct sector_cipher *cipher, uint64_t sector, const uint8_t *in,
                          const struct iovec *iov, int count, uint64_t skip, size_t length)
{
    struct cursor cursor = {.iov = iov, .count = count, .at = skip};
    struct session *session = take_session(cipher, DECRYPT);
    uint8_t scattered[CRYPTO_SECTOR];
    bool is_done = true;

    if (session == NULL) {
        return -ENOMEM;
    }
    for (size_t done = 0; done < length && is_done; done += CRYPTO_SECTOR, sector++) {
        uint8_t *whole = whole_sector(&cursor);
        uint8_t *out = whole != NULL ? whole : scattered;

        is_done = do_sector(cipher, session, sector, out, in + done);
        if (is_done && whole == NULL) {
            (void)iov_from_buf(iov, count, skip + done, scattered, CRYPTO_SECTOR);
        }
    }
    give_session(cipher, DECRYPT, session);
    return is_done ? 0 : -EIO;
}
