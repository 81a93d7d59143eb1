/*
 * luks_slot.c - one key slot: see luks_slot.h, and luks.h for the format.
 */
#include "crypto/luks_slot.h"

#include "checked.h"
#include "random.h"
#include "secret.h"

#include <errno.h>
#include <gcrypt.h>
#include <string.h>
#include <time.h>

enum { MAX_ITER_TIME = 60 * 1000 };

int luks_hash(const char *name, struct err *err)
{
    static const struct {
        const char *name;
        int algorithm;
    } known[] = {
        {"sha1", GCRY_MD_SHA1},     {"sha224", GCRY_MD_SHA224}, {"sha256", GCRY_MD_SHA256},
        {"sha384", GCRY_MD_SHA384}, {"sha512", GCRY_MD_SHA512}, {"ripemd160", GCRY_MD_RMD160},
    };
    int r = crypto_library_init(err);

    if (r != 0) {
        return r;
    }
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(known[i].name, name) == 0 && gcry_md_test_algo(known[i].algorithm) == 0) {
            return known[i].algorithm;
        }
    }
    return err_set(err, -ENOTSUP, "Hash algorithm '%s' is not supported", name);
}

int luks_derive(int hash, const void *secret, size_t secret_bytes, const uint8_t *salt,
                uint32_t iterations, uint8_t *out, size_t length)
{
    return gcry_kdf_derive(secret_bytes > 0 ? secret : "", secret_bytes, GCRY_KDF_PBKDF2, hash,
                           salt, LUKS_SALT, iterations, length, out) == 0
               ? 0
               : -EIO;
}

int luks_context_init(struct luks_context *context, const struct luks_header *header,
                      struct err *err)
{
    int r;

    *context = (struct luks_context){.header = header};
    r = sector_cipher_parse(&context->spec, header->cipher, header->mode, header->key_bytes, err);
    if (r != 0) {
        return r;
    }
    context->hash = luks_hash(header->hash, err);
    if (context->hash < 0) {
        return context->hash;
    }
    context->work = secret_alloc(sizeof(*context->work));
    return context->work != NULL ? 0 : err_set_errno(err, -ENOMEM, "No memory for a key slot");
}

void luks_context_free(struct luks_context *context)
{
    secret_free(context->work, sizeof(*context->work));
}

int luks_check_passphrase(const struct luks_passphrase *passphrase, struct err *err)
{
    return passphrase->length <= LUKS_MAX_PASSPHRASE
               ? 0
               : err_set(err, -EINVAL, "A key has at most %d bytes", LUKS_MAX_PASSPHRASE);
}

int luks_check_iter_time(uint64_t milliseconds, struct err *err)
{
    return milliseconds <= MAX_ITER_TIME
               ? 0
               : err_set(err, -EINVAL, "iter-time is at most %d ms", MAX_ITER_TIME);
}

/* In a time that says nothing of where they differ. */
static bool is_same(const uint8_t *a, const uint8_t *b, size_t length)
{
    volatile uint8_t difference = 0;

    for (size_t i = 0; i < length; i++) {
        difference |= a[i] ^ b[i];
    }
    return difference == 0;
}

int luks_slot_open(struct luks_context *context, const struct luks_slot *slot,
                   const struct luks_passphrase *passphrase)
{
    const struct luks_header *header = context->header;
    struct luks_work *work = context->work;
    size_t bytes = luks_material_bytes(header);
    struct iovec split = {.iov_len = bytes};
    struct sector_cipher *cipher = NULL;
    uint8_t digest[LUKS_DIGEST];
    int r = luks_derive(context->hash, passphrase->bytes, passphrase->length, slot->salt,
                        slot->iterations, work->slot_key, header->key_bytes);

    split.iov_base = secret_alloc(bytes);
    r = r == 0 && split.iov_base == NULL ? -ENOMEM : r;
    r = r == 0 ? sector_cipher_create(&context->spec, work->slot_key, &cipher) : r;
    if (r == 0) {
        r = sector_cipher_decrypt(cipher, 0, work->material, &split, 1, 0, bytes);
    }
    sector_cipher_destroy(cipher);
    if (r == 0) {
        r = luks_af_merge(header->hash, split.iov_base, header->key_bytes, LUKS_STRIPES,
                          work->master_key);
    }
    secret_free(split.iov_base, bytes);
    if (r == 0) {
        r = luks_derive(context->hash, work->master_key, header->key_bytes, header->digest_salt,
                        header->digest_iterations, digest, sizeof(digest));
    }
    return r == 0 && !is_same(digest, header->digest, sizeof(digest)) ? -EKEYREJECTED : r;
}

int luks_measure_iterations(int hash, size_t key_bytes, uint64_t milliseconds, uint32_t *out)
{
    enum { ENOUGH_NS = 20 * 1000 * 1000 };
    static const uint8_t salt[LUKS_SALT];
    uint8_t key[LUKS_MAX_KEY];
    uint32_t n = LUKS_MIN_ITERATIONS;
    uint64_t ns, wanted;

    if (milliseconds == 0) {
        *out = n;
        return 0;
    }
    for (;;) {
        struct timespec from, to;
        int r;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        r = luks_derive(hash, "measure", 7, salt, n, key, key_bytes);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        if (r != 0) {
            return r;
        }
        ns = (uint64_t)((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec);
        if (ns >= ENOUGH_NS || n >= LUKS_MAX_ITERATIONS / 2) {
            break;
        }
        n *= 2;
    }
    wanted = (uint64_t)n * milliseconds / (max_u64(ns, 1000) / 1000) * 1000;
    *out = (uint32_t)max_u64(LUKS_MIN_ITERATIONS, min_u64(wanted, LUKS_MAX_ITERATIONS));
    return 0;
}

int luks_slot_fill(struct luks_context *context, struct luks_slot *slot,
                   const struct luks_passphrase *passphrase, uint64_t iter_time, uint8_t *material)
{
    const struct luks_header *header = context->header;
    struct luks_work *work = context->work;
    struct iovec split = {.iov_base = work->material, .iov_len = luks_material_bytes(header)};
    struct sector_cipher *cipher = NULL;
    int r = luks_measure_iterations(context->hash, header->key_bytes, iter_time, &slot->iterations);

    r = r == 0 ? random_bytes(slot->salt, LUKS_SALT) : r;
    if (r == 0) {
        r = luks_derive(context->hash, passphrase->bytes, passphrase->length, slot->salt,
                        slot->iterations, work->slot_key, header->key_bytes);
    }
    if (r == 0) {
        r = luks_af_split(header->hash, work->master_key, header->key_bytes, LUKS_STRIPES,
                          work->material);
    }
    r = r == 0 ? sector_cipher_create(&context->spec, work->slot_key, &cipher) : r;
    if (r == 0) {
        r = sector_cipher_encrypt(cipher, 0, &split, 1, 0, material, split.iov_len);
    }
    sector_cipher_destroy(cipher);
    return r;
}
