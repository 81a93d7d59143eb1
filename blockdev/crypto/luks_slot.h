/*
 * luks_slot.h - one key slot of a LUKS1 header: opening it and filling it. Private to crypto/luks*.c.
 *
 * Threads: pure functions of their context, which one thread uses.
 */
#ifndef CRYPTO_LUKS_SLOT_H
#define CRYPTO_LUKS_SLOT_H

#include "crypto/crypto_library.h"
#include "crypto/luks.h"

/* Everything that is secret while a slot is opened or filled: lies in memory of secret_alloc(). */
struct luks_work {
    uint8_t slot_key[LUKS_MAX_KEY], master_key[LUKS_MAX_KEY];
    uint8_t material[LUKS_MAX_KEY * LUKS_STRIPES];
};

/* A header's algorithms, and room to work in. */
struct luks_context {
    const struct luks_header *header; /* the caller's */
    struct sector_cipher_spec spec;
    int hash;
    struct luks_work *work;
};

/* -ENOTSUP names an algorithm that is not known; -ENOMEM. To be freed in any case. */
int luks_context_init(struct luks_context *context, const struct luks_header *header,
                      struct err *err);
/* Wipes the keys. */
void luks_context_free(struct luks_context *context);

/* -EINVAL: too long. */
int luks_check_passphrase(const struct luks_passphrase *passphrase, struct err *err);
/* -EINVAL: more than a minute. */
int luks_check_iter_time(uint64_t milliseconds, struct err *err);

/* libgcrypt's number of a digest, by the name that it has in LUKS headers and in QEMU. -ENOTSUP. The
 * library is ready after it. */
int luks_hash(const char *name, struct err *err);

/* PBKDF2; the salt has LUKS_SALT bytes. */
int luks_derive(int hash, const void *secret, size_t secret_bytes, const uint8_t *salt,
                uint32_t iterations, uint8_t *out, size_t length);

/* How many iterations take `milliseconds` of this processor's time, LUKS_MIN_ITERATIONS at least. */
int luks_measure_iterations(int hash, size_t key_bytes, uint64_t milliseconds, uint32_t *out);

/* The slot's material is in work->material: 0 and the master key is in work->master_key, or
 * -EKEYREJECTED. -EINVAL: a wrong passphrase may give a key that libgcrypt does not like. */
int luks_slot_open(struct luks_context *context, const struct luks_slot *slot,
                   const struct luks_passphrase *passphrase);

/* The master key is in work->master_key: makes a salt, finds out how many iterations take `iter_time`
 * milliseconds, and fills `material` (luks_material_bytes()). The rest of the slot stays as it is. */
int luks_slot_fill(struct luks_context *context, struct luks_slot *slot,
                   const struct luks_passphrase *passphrase, uint64_t iter_time, uint8_t *material);

#endif
