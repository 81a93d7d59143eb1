/*
 * luks.c - from a passphrase to the master key, and a new LUKS1 header: see luks.h.
 */
#include "crypto/luks.h"

#include "checked.h"
#include "crypto/libcrypto.h"
#include "secret.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    FIRST_MATERIAL = 4096, /* as QEMU: key material is aligned to this */
    DEFAULT_ITER_TIME = 2000,
    MAX_ITER_TIME = 60 * 1000,
    DIGEST_SHARE = 8, /* of the time: QEMU's */
};

/* Everything that is secret while a slot is tried. */
struct work {
    uint8_t slot_key[LUKS_MAX_KEY], master_key[LUKS_MAX_KEY];
    uint8_t material[LUKS_MAX_KEY * LUKS_STRIPES];
};

/* The digests whose names LUKS headers and QEMU share with libcrypto, which may lack some. */
static EVP_MD *fetch_hash(const char *name, struct err *err)
{
    static const char *const known[] = {"sha1",   "sha224", "sha256",
                                        "sha384", "sha512", "ripemd160"};
    EVP_MD *md = NULL;

    if (libcrypto_load(err) != 0) {
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_LEN(known) && md == NULL; i++) {
        if (strcmp(known[i], name) == 0) {
            md = libcrypto.EVP_MD_fetch(NULL, name, NULL);
        }
    }
    if (md == NULL) {
        (void)err_set(err, -ENOTSUP, "Hash algorithm '%s' is not supported", name);
    }
    return md;
}

static int derive(const EVP_MD *md, const void *secret, size_t secret_bytes, const uint8_t *salt,
                  uint32_t iterations, uint8_t *out, size_t length)
{
    return libcrypto.PKCS5_PBKDF2_HMAC(secret, (int)secret_bytes, salt, LUKS_SALT, (int)iterations,
                                       md, (int)length, out) == 1
               ? 0
               : -EIO;
}

/* ---- unlocking ---- */

struct unlock {
    const struct luks_header *header;
    struct sector_cipher_spec spec;
    EVP_MD *md;
    const void *passphrase;
    size_t passphrase_bytes;
    struct work *work;
};

/* The slot's material is in work->material: 0 and the master key is in work->master_key, or
 * -EKEYREJECTED. */
static int try_slot(const struct unlock *u, const struct luks_slot *slot)
{
    const struct luks_header *header = u->header;
    struct work *work = u->work;
    size_t bytes = luks_material_bytes(header);
    struct iovec split = {.iov_len = bytes};
    struct sector_cipher *cipher = NULL;
    uint8_t digest[LUKS_DIGEST];
    int r = derive(u->md, u->passphrase, u->passphrase_bytes, slot->salt, slot->iterations,
                   work->slot_key, header->key_bytes);

    split.iov_base = secret_alloc(bytes);
    r = r == 0 && split.iov_base == NULL ? -ENOMEM : r;
    r = r == 0 ? sector_cipher_create(&u->spec, work->slot_key, &cipher) : r;
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
        r = derive(u->md, work->master_key, header->key_bytes, header->digest_salt,
                   header->digest_iterations, digest, sizeof(digest));
    }
    return r == 0 && libcrypto.CRYPTO_memcmp(digest, header->digest, sizeof(digest)) != 0
               ? -EKEYREJECTED
               : r;
}

static int check_iterations(const struct luks_header *header, uint32_t limit, struct err *err)
{
    uint32_t most = header->digest_iterations;

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if (header->slots[i].is_active && header->slots[i].iterations > most) {
            most = header->slots[i].iterations;
        }
    }
    return most <= limit ? 0
                         : err_set(err, -EINVAL,
                                   "The LUKS header asks for %" PRIu32
                                   " iterations, which is more than %" PRIu32,
                                   most, limit);
}

static int try_slots(const struct unlock *u,
                     int (*read)(void *opaque, uint64_t offset, void *buf, size_t length),
                     void *opaque, struct err *err)
{
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *slot = &u->header->slots[i];
        int r;

        if (!slot->is_active) {
            continue;
        }
        r = read(opaque, slot->key_offset, u->work->material, luks_material_bytes(u->header));
        if (r != 0) {
            return err_set_errno(err, r, "Could not read LUKS key slot %u", i);
        }
        r = try_slot(u, slot);
        if (r == 0) {
            return 0;
        }
        /* -EINVAL: a wrong passphrase may give a key that libcrypto does not like. */
        if (r != -EKEYREJECTED && r != -EINVAL) {
            return err_set_errno(err, r, "Could not try LUKS key slot %u", i);
        }
    }
    return err_set(err, -EKEYREJECTED, "Invalid password, cannot unlock any keyslot");
}

int luks_unlock(const struct luks_header *header,
                int (*read)(void *opaque, uint64_t offset, void *buf, size_t length), void *opaque,
                const void *passphrase, size_t passphrase_bytes, uint32_t max_iterations,
                struct sector_cipher **out, struct err *err)
{
    struct unlock u = {
        .header = header,
        .passphrase = passphrase,
        .passphrase_bytes = passphrase_bytes,
    };
    int r = sector_cipher_parse(&u.spec, header->cipher, header->mode, header->key_bytes, err);

    if (r == 0 && passphrase_bytes > LUKS_MAX_PASSPHRASE) {
        r = err_set(err, -EINVAL, "A key has at most %d bytes", LUKS_MAX_PASSPHRASE);
    }
    r = r == 0 ? check_iterations(header,
                                  max_iterations != 0 ? max_iterations : LUKS_MAX_ITERATIONS, err)
               : r;
    if (r != 0) {
        return r;
    }
    u.md = fetch_hash(header->hash, err);
    if (u.md == NULL) {
        return -ENOTSUP;
    }
    u.work = secret_alloc(sizeof(*u.work));
    if (u.work == NULL) {
        r = err_set_errno(err, -ENOMEM, "Could not unlock the image");
    }
    r = r == 0 ? try_slots(&u, read, opaque, err) : r;
    if (r == 0) {
        r = sector_cipher_create(&u.spec, u.work->master_key, out);
        if (r != 0) {
            err_set_errno(err, r, "Could not set up the cipher");
        }
    }
    secret_free(u.work, sizeof(*u.work));
    libcrypto.EVP_MD_free(u.md);
    return r;
}

/* ---- making one ---- */

static const char *or_default(const char *text, const char *otherwise)
{
    return text != NULL ? text : otherwise;
}

static int key_bytes_of(const char *cipher_alg, const char *cipher_mode, size_t *bytes,
                        struct err *err)
{
    unsigned bits = strcmp(cipher_alg, "aes-128") == 0   ? 128
                    : strcmp(cipher_alg, "aes-192") == 0 ? 192
                    : strcmp(cipher_alg, "aes-256") == 0 ? 256
                                                         : 0;
    bool is_xts = strcmp(cipher_mode, "xts") == 0;

    if (bits == 0) {
        return err_set(err, -ENOTSUP, "Cipher '%s' is not supported", cipher_alg);
    }
    if (bits == 192 && !is_xts) {
        /* Its key material is not a whole number of sectors. */
        return err_set(err, -ENOTSUP, "QEMU cannot read aes-192 in %s mode", cipher_mode);
    }
    *bytes = (is_xts ? 2 : 1) * bits / 8;
    return 0;
}

static int format_mode(struct luks_header *header, const struct luks_format_options *o,
                       struct err *err)
{
    const char *iv = or_default(o->ivgen_alg, "plain64");
    bool is_essiv = strcmp(iv, "essiv") == 0;
    int n;

    if (!is_essiv && o->ivgen_hash_alg != NULL) {
        return err_set(err, -EINVAL, "IV generator '%s' has no hash algorithm", iv);
    }
    n = snprintf(header->mode, sizeof(header->mode), "%s-%s%s%s", or_default(o->cipher_mode, "xts"),
                 iv, is_essiv ? ":" : "", is_essiv ? or_default(o->ivgen_hash_alg, "sha256") : "");
    return n < (int)sizeof(header->mode)
               ? 0
               : err_set(err, -ENOTSUP, "IV generator '%s' is not supported", iv);
}

int luks_format_plan(const struct luks_format_options *options, struct luks_header *header,
                     struct err *err)
{
    const char *cipher = or_default(options->cipher_alg, "aes-256");
    struct sector_cipher_spec spec;
    uint64_t step, offset = FIRST_MATERIAL;
    EVP_MD *md;
    int r;

    *header = (struct luks_header){.cipher = "aes"};
    r = key_bytes_of(cipher, or_default(options->cipher_mode, "xts"), &header->key_bytes, err);
    r = r == 0 ? format_mode(header, options, err) : r;
    r = r == 0 ? sector_cipher_parse(&spec, header->cipher, header->mode, header->key_bytes, err)
               : r;
    if (r == 0 && options->iter_time > MAX_ITER_TIME) {
        r = err_set(err, -EINVAL, "iter-time is at most %d ms", MAX_ITER_TIME);
    }
    if (r != 0) {
        return r;
    }
    md = fetch_hash(or_default(options->hash_alg, "sha256"), err);
    if (md == NULL) {
        return -ENOTSUP;
    }
    libcrypto.EVP_MD_free(md);
    snprintf(header->hash, sizeof(header->hash), "%s", or_default(options->hash_alg, "sha256"));
    step = align_up(luks_material_bytes(header), FIRST_MATERIAL);
    for (unsigned i = 0; i < LUKS_SLOTS; i++, offset += step) {
        header->slots[i].key_offset = offset;
    }
    header->payload_offset = offset;
    return 0;
}

/* How many iterations take `milliseconds` of this processor's time. */
static int measure_iterations(const EVP_MD *md, size_t key_bytes, uint64_t milliseconds,
                              uint32_t *out)
{
    enum { ENOUGH_NS = 20 * 1000 * 1000 };
    static const uint8_t salt[LUKS_SALT];
    uint8_t key[LUKS_MAX_KEY];
    uint32_t n = LUKS_MIN_ITERATIONS;
    uint64_t ns, wanted;

    for (;;) {
        struct timespec from, to;
        int r;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        r = derive(md, "measure", 7, salt, n, key, key_bytes);
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

/* A random UUID (RFC 4122, version 4) as text. */
static int make_uuid(char text[LUKS_UUID])
{
    uint8_t u[16];
    char *at = text;

    if (libcrypto.RAND_bytes(u, sizeof(u)) != 1) {
        return -EIO;
    }
    u[6] = (uint8_t)((u[6] & 0x0f) | 0x40);
    u[8] = (uint8_t)((u[8] & 0x3f) | 0x80);
    for (unsigned i = 0; i < sizeof(u); i++) {
        at += sprintf(at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
    }
    return 0;
}

/* The master key is in work->master_key, all salts and iterations are in the header. */
static int fill_slot(struct luks_header *header, const EVP_MD *md,
                     const struct sector_cipher_spec *spec, const void *passphrase,
                     size_t passphrase_bytes, struct work *work, uint8_t *material)
{
    struct luks_slot *slot = &header->slots[0];
    struct iovec split = {.iov_base = work->material, .iov_len = luks_material_bytes(header)};
    struct sector_cipher *cipher = NULL;
    int r = derive(md, work->master_key, header->key_bytes, header->digest_salt,
                   header->digest_iterations, header->digest, LUKS_DIGEST);

    if (r == 0) {
        r = derive(md, passphrase, passphrase_bytes, slot->salt, slot->iterations, work->slot_key,
                   header->key_bytes);
    }
    if (r == 0) {
        r = luks_af_split(header->hash, work->master_key, header->key_bytes, LUKS_STRIPES,
                          work->material);
    }
    r = r == 0 ? sector_cipher_create(spec, work->slot_key, &cipher) : r;
    if (r == 0) {
        r = sector_cipher_encrypt(cipher, 0, &split, 1, 0, material, split.iov_len);
    }
    sector_cipher_destroy(cipher);
    slot->is_active = r == 0;
    return r;
}

int luks_format(const struct luks_format_options *options, struct luks_header *header,
                const void *passphrase, size_t passphrase_bytes, uint8_t *material,
                struct sector_cipher **out, struct err *err)
{
    uint64_t time = options->iter_time != 0 ? options->iter_time : DEFAULT_ITER_TIME;
    struct luks_slot *slot = &header->slots[0];
    struct sector_cipher_spec spec;
    struct work *work = NULL;
    EVP_MD *md;
    int r = sector_cipher_parse(&spec, header->cipher, header->mode, header->key_bytes, err);

    if (r == 0 && passphrase_bytes > LUKS_MAX_PASSPHRASE) {
        r = err_set(err, -EINVAL, "A key has at most %d bytes", LUKS_MAX_PASSPHRASE);
    }
    if (r != 0) {
        return r;
    }
    md = fetch_hash(header->hash, err);
    if (md == NULL) {
        return -ENOTSUP;
    }
    work = secret_alloc(sizeof(*work));
    r = work == NULL ? -ENOMEM : make_uuid(header->uuid);
    if (r == 0 && (libcrypto.RAND_bytes(header->digest_salt, LUKS_SALT) != 1 ||
                   libcrypto.RAND_bytes(slot->salt, LUKS_SALT) != 1 ||
                   libcrypto.RAND_priv_bytes(work->master_key, (int)header->key_bytes) != 1)) {
        r = -EIO;
    }
    if (r == 0) {
        r = measure_iterations(md, header->key_bytes, time, &slot->iterations);
    }
    if (r == 0) {
        r = measure_iterations(md, LUKS_DIGEST, div_round_up(time, DIGEST_SHARE),
                               &header->digest_iterations);
    }
    if (r == 0) {
        r = fill_slot(header, md, &spec, passphrase, passphrase_bytes, work, material);
    }
    if (r == 0 && out != NULL) {
        r = sector_cipher_create(&spec, work->master_key, out);
    }
    secret_free(work, sizeof(*work));
    libcrypto.EVP_MD_free(md);
    return r != 0 ? err_set_errno(err, r, "Could not make a LUKS header") : 0;
}
