/*
 * sector_cipher.c - see sector_cipher.h. By libgcrypt, which also does XTS with AES-192, that no standard
 * has and that QEMU makes all the same.
 *
 * A session is what one call needs: key schedules for data and for IVs. Sessions are made when
 * all are in use, and kept until the cipher goes.
 */
#include "crypto/sector_cipher.h"

#include "bytes.h"
#include "checked.h"
#include "crypto/crypto_library.h"
#include "iov.h"
#include "secret.h"

#include <errno.h>
#include <gcrypt.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 16, ESSIV_KEY = 32, MAX_KEY = 64 };

struct session {
    gcry_cipher_hd_t data;
    gcry_cipher_hd_t iv; /* ESSIV's; or NULL */
    struct session *next;
};

struct keys {
    uint8_t data[MAX_KEY], essiv[ESSIV_KEY];
};

struct sector_cipher {
    struct sector_cipher_spec spec;
    int algorithm;
    struct keys *keys;
    pthread_mutex_t lock; /* idle */
    struct session *idle;
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

/* NULL: no memory, or the library does not take the key. */
static gcry_cipher_hd_t new_context(int algorithm, int mode, const uint8_t *key, size_t key_bytes)
{
    gcry_cipher_hd_t context;

    if (gcry_cipher_open(&context, algorithm, mode, 0) != 0) {
        return NULL;
    }
    if (gcry_cipher_setkey(context, key, key_bytes) != 0) {
        gcry_cipher_close(context);
        return NULL;
    }
    return context;
}

static void free_session(struct session *session)
{
    gcry_cipher_close(session->data);
    gcry_cipher_close(session->iv);
    free(session);
}

static struct session *new_session(const struct sector_cipher *cipher)
{
    const struct sector_cipher_spec *spec = &cipher->spec;
    struct session *session = calloc(1, sizeof(*session));
    bool is_whole;

    if (session == NULL) {
        return NULL;
    }
    session->data =
        new_context(cipher->algorithm,
                    spec->mode == SECTOR_CIPHER_XTS ? GCRY_CIPHER_MODE_XTS : GCRY_CIPHER_MODE_CBC,
                    cipher->keys->data, spec->key_bytes);
    is_whole = session->data != NULL;
    if (spec->iv == SECTOR_IV_ESSIV_SHA256) {
        session->iv =
            new_context(GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_ECB, cipher->keys->essiv, ESSIV_KEY);
        is_whole = is_whole && session->iv != NULL;
    }
    if (!is_whole) {
        free_session(session);
        return NULL;
    }
    return session;
}

static struct session *take_session(struct sector_cipher *cipher)
{
    struct session *session;

    pthread_mutex_lock(&cipher->lock);
    session = cipher->idle;
    if (session != NULL) {
        cipher->idle = session->next;
    }
    pthread_mutex_unlock(&cipher->lock);
    return session != NULL ? session : new_session(cipher);
}

static void give_session(struct sector_cipher *cipher, struct session *session)
{
    pthread_mutex_lock(&cipher->lock);
    session->next = cipher->idle;
    cipher->idle = session;
    pthread_mutex_unlock(&cipher->lock);
}

/* ---- create and destroy ---- */

static int aes_of(const struct sector_cipher_spec *spec)
{
    switch (spec->mode == SECTOR_CIPHER_XTS ? spec->key_bytes / 2 : spec->key_bytes) {
    case 16:
        return GCRY_CIPHER_AES128;
    case 24:
        return GCRY_CIPHER_AES192;
    default:
        return GCRY_CIPHER_AES256;
    }
}

int sector_cipher_create(const struct sector_cipher_spec *spec, const uint8_t *key,
                         struct sector_cipher **out)
{
    struct sector_cipher *cipher;
    int r = crypto_library_init(NULL);

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
    cipher->algorithm = aes_of(spec);
    cipher->keys = secret_alloc(sizeof(*cipher->keys));
    if (cipher->keys == NULL || spec->key_bytes > MAX_KEY) {
        goto fail;
    }
    memcpy(cipher->keys->data, key, spec->key_bytes);
    if (spec->iv == SECTOR_IV_ESSIV_SHA256) {
        gcry_md_hash_buffer(GCRY_MD_SHA256, cipher->keys->essiv, key, spec->key_bytes);
    }
    cipher->idle = new_session(cipher);
    if (cipher->idle == NULL) {
        r = -EINVAL;
        goto fail;
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
    while (cipher->idle != NULL) {
        struct session *session = cipher->idle;

        cipher->idle = session->next;
        free_session(session);
    }
    secret_free(cipher->keys, sizeof(*cipher->keys));
    pthread_mutex_destroy(&cipher->lock);
    free(cipher);
}

/* ---- one sector ---- */

static bool set_iv(const struct sector_cipher *cipher, const struct session *session,
                   uint64_t sector)
{
    uint8_t iv[BLOCK] = {0};

    store_le64(iv, cipher->spec.iv == SECTOR_IV_PLAIN ? (uint32_t)sector : sector);
    return (session->iv == NULL || gcry_cipher_encrypt(session->iv, iv, BLOCK, NULL, 0) == 0) &&
           gcry_cipher_setiv(session->data, iv, BLOCK) == 0;
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
    struct session *session = take_session(cipher);
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
        is_done =
            set_iv(cipher, session, sector) &&
            gcry_cipher_encrypt(session->data, out + done, CRYPTO_SECTOR, in, CRYPTO_SECTOR) == 0;
    }
    give_session(cipher, session);
    return is_done ? 0 : -EIO;
}

int sector_cipher_decrypt(struct sector_cipher *cipher, uint64_t sector, const uint8_t *in,
                          const struct iovec *iov, int count, uint64_t skip, size_t length)
{
    struct cursor cursor = {.iov = iov, .count = count, .at = skip};
    struct session *session = take_session(cipher);
    uint8_t plain[CRYPTO_SECTOR];
    bool is_done = true;

    if (session == NULL) {
        return -ENOMEM;
    }
    for (size_t done = 0; done < length && is_done; done += CRYPTO_SECTOR, sector++) {
        uint8_t *whole = whole_sector(&cursor);

        /* The library keeps tweaks of XTS where it puts the plaintext, until that is there. */
        is_done =
            set_iv(cipher, session, sector) &&
            gcry_cipher_decrypt(session->data, plain, CRYPTO_SECTOR, in + done, CRYPTO_SECTOR) == 0;
        if (is_done && whole != NULL) {
            memcpy(whole, plain, CRYPTO_SECTOR);
        } else if (is_done) {
            (void)iov_from_buf(iov, count, skip + done, plain, CRYPTO_SECTOR);
        }
    }
    give_session(cipher, session);
    return is_done ? 0 : -EIO;
}
