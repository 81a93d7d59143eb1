/*
 * luks.h - the LUKS1 header and its key slots, as they lie in an area of an image file. Source: "LUKS1
 * On-Disk Format Specification" 1.2.3 (cryptsetup); what QEMU asks for beyond it is marked.
 *
 * Header, 592 bytes, big-endian; the texts end with a zero byte:
 *     0 magic(6) "LUKS" ba be   6 version(2)   8 cipher name(32)  40 cipher mode(32)  72 hash(32)
 *   104 payload offset(4), sectors  108 key bytes(4)  112 key digest(20)  132 its salt(32)
 *   164 its iterations(4)  168 UUID(40)  208 eight key slots of 48 bytes:
 *         0 active(4)  4 iterations(4)  8 salt(32)  40 key material offset(4), sectors  44 stripes(4)
 *
 * A passphrase opens a slot so: PBKDF2(passphrase, slot's salt and iterations) is the key that the slot's
 * material is encrypted with (the same cipher; IVs count from the material's first sector); decrypted it
 * is `stripes` pieces, which merge to the master key (anti-forensic split). That is the right one if its
 * PBKDF2 is the key digest.
 *
 * Units are bytes. Threads: pure functions, but for what their callbacks do. Nothing here is trusted: see
 * luks_header_parse().
 */
#ifndef CRYPTO_LUKS_H
#define CRYPTO_LUKS_H

#include "crypto/sector_cipher.h"

enum {
    LUKS_HEADER_BYTES = 592,
    LUKS_SLOTS = 8,
    LUKS_SALT = 32,
    LUKS_DIGEST = 20,
    LUKS_TEXT = 32,
    LUKS_UUID = 40,
    LUKS_STRIPES = 4000, /* what all programs use, and QEMU demands */
    LUKS_MAX_KEY = 64,
    LUKS_MIN_ITERATIONS = 1000,    /* of what we make */
    LUKS_DEFAULT_ITER_TIME = 2000, /* milliseconds */
    /* Hostile images: about 20 s of one processor for a slot, and for checking what came out of it. */
    LUKS_MAX_ITERATIONS = 1 << 25,
    LUKS_MAX_PASSPHRASE = 64 << 10,
};

struct luks_slot {
    bool is_active;
    uint32_t iterations;
    uint8_t salt[LUKS_SALT];
    uint64_t key_offset; /* from the header on */
};

struct luks_header {
    char cipher[LUKS_TEXT], mode[LUKS_TEXT], hash[LUKS_TEXT], uuid[LUKS_UUID];
    uint64_t payload_offset;
    size_t key_bytes;
    uint8_t digest[LUKS_DIGEST], digest_salt[LUKS_SALT];
    uint32_t digest_iterations;
    struct luks_slot slots[LUKS_SLOTS];
};

/* Checks everything that needs no key: the key material of all slots lies behind the header, inside the
 * area of `area_bytes`, and apart from each other. -EINVAL. Whether the algorithms are known is not
 * looked at: that is luks_unlock()'s. */
int luks_header_parse(struct luks_header *header, const uint8_t raw[LUKS_HEADER_BYTES],
                      uint64_t area_bytes, struct err *err);
void luks_header_encode(const struct luks_header *header, uint8_t raw[LUKS_HEADER_BYTES]);

/* Bytes that the key material of one slot takes: whole sectors. */
size_t luks_material_bytes(const struct luks_header *header);

/* The caller keeps the bytes. */
struct luks_passphrase {
    const void *bytes;
    size_t length;
};

/* Where a header's key material is. */
struct luks_area {
    int (*read)(void *opaque, uint64_t offset, void *buf, size_t length);
    void *opaque;
    uint32_t max_iterations; /* more in a header are -EINVAL; 0: LUKS_MAX_ITERATIONS */
};

/* Tries the passphrase on each active slot. -EKEYREJECTED: it opens none. -ENOTSUP names an algorithm
 * that is not known; -EINVAL: too many iterations. */
int luks_unlock(const struct luks_header *header, const struct luks_area *area,
                const struct luks_passphrase *passphrase, struct sector_cipher **out,
                struct err *err);

/* Leaves in *slots, of which bit n is slot n, the active ones that it opens. There may be none: 0. */
int luks_find_slots(const struct luks_header *header, const struct luks_area *area,
                    const struct luks_passphrase *passphrase, unsigned *slots, struct err *err);

/* What a slot takes to be opened by `added` from now on: its salt and iterations into *slot, whose other
 * fields are left alone, its key material into `material` (luks_material_bytes()), which does not
 * depend on the slot. `opens` gives the master key: errors as of luks_unlock(). The derivation shall take
 * `iter_time` milliseconds; 0: LUKS_MIN_ITERATIONS. Nothing is written. */
int luks_add_key(const struct luks_header *header, const struct luks_area *area,
                 const struct luks_passphrase *opens, const struct luks_passphrase *added,
                 uint64_t iter_time, struct luks_slot *slot, uint8_t *material, struct err *err);

struct luks_format_options {
    /* QEMU's names; NULL: its defaults. */
    const char *cipher_alg;     /* aes-128, aes-192, aes-256 (default) */
    const char *cipher_mode;    /* xts (default), cbc */
    const char *ivgen_alg;      /* plain64 (default), plain, essiv */
    const char *ivgen_hash_alg; /* of essiv: sha256 (default) */
    const char *hash_alg;       /* sha256 (default), sha1, sha224, sha384, sha512, ripemd160 */
    uint64_t iter_time;         /* milliseconds that deriving the key shall take; 0: 2000 */
};

/* The checks that luks_format() makes, and how long the area will be. -EINVAL, -ENOTSUP. */
int luks_format_plan(const struct luks_format_options *options, struct luks_header *header,
                     struct err *err);

/* Makes a master key, in slot 0 under the passphrase. `header` is from luks_format_plan(). `material`
 * has room for luks_material_bytes(), to be written at slots[0].key_offset. The area is payload_offset
 * bytes long; its other bytes are zeros. *out as luks_unlock() would give it; NULL: not wanted. */
int luks_format(const struct luks_format_options *options, struct luks_header *header,
                const struct luks_passphrase *passphrase, uint8_t *material,
                struct sector_cipher **out, struct err *err);

/* ---- luks_af.c: the anti-forensic splitter; `digest` is a name of libcrypto ---- */

/* Both give -ENOTSUP for an unknown digest. `key` has key_bytes, `split` stripes times as many. */
int luks_af_split(const char *digest, const uint8_t *key, size_t key_bytes, unsigned stripes,
                  uint8_t *split);
int luks_af_merge(const char *digest, const uint8_t *split, size_t key_bytes, unsigned stripes,
                  uint8_t *key);

#endif
