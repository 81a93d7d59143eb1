/*
 * sector_cipher.h - encrypts and decrypts sectors of 512 bytes, each with an IV of its own that is made
 * of its number: AES in XTS or CBC mode, as dm-crypt and QEMU do it.
 *
 * Threads: encrypt and decrypt may be called from any thread at any time; each call has a context of its
 * own, from a pool. No system call but for memory.
 */
#ifndef CRYPTO_SECTOR_CIPHER_H
#define CRYPTO_SECTOR_CIPHER_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { CRYPTO_SECTOR = 512 };

enum sector_cipher_mode { SECTOR_CIPHER_XTS, SECTOR_CIPHER_CBC };

enum sector_cipher_iv {
    SECTOR_IV_PLAIN,        /* the low 32 bits of the sector's number, little-endian */
    SECTOR_IV_PLAIN64,      /* all 64 */
    SECTOR_IV_ESSIV_SHA256, /* plain64, encrypted with AES-256 and the SHA-256 of the key */
};

struct sector_cipher_spec {
    enum sector_cipher_mode mode;
    enum sector_cipher_iv iv;
    size_t key_bytes; /* CBC: 16, 24 or 32; XTS: twice that */
};

/* By LUKS's names: cipher "aes", mode "xts-plain64", "cbc-essiv:sha256" and so on. -ENOTSUP names what
 * is not known. */
int sector_cipher_parse(struct sector_cipher_spec *spec, const char *cipher, const char *mode,
                        size_t key_bytes, struct err *err);

struct sector_cipher;

/* Copies the key. -ENOMEM, or -EINVAL when libgcrypt does not take the key. */
int sector_cipher_create(const struct sector_cipher_spec *spec, const uint8_t *key,
                         struct sector_cipher **out);
void sector_cipher_destroy(struct sector_cipher *cipher); /* NULL is allowed */

/*
 * `length` bytes, a multiple of CRYPTO_SECTOR, of which the first belongs to `sector`. The vector's bytes
 * from `skip` on are read once, and never written (encrypt), or written once, and never read (decrypt):
 * it may be a guest's memory. The flat buffer holds nothing but ciphertext. -EIO: libgcrypt failed.
 */
int sector_cipher_encrypt(struct sector_cipher *cipher, uint64_t sector, const struct iovec *iov,
                          int count, uint64_t skip, uint8_t *out, size_t length);
int sector_cipher_decrypt(struct sector_cipher *cipher, uint64_t sector, const uint8_t *in,
                          const struct iovec *iov, int count, uint64_t skip, size_t length);

#endif
