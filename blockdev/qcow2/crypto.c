/*
 * crypto.c - encrypted images: crypt_method 2, LUKS. Source: qcow2 specification, "Full disk encryption
 * header pointer" and "Data encryption".
 *
 * Guest data is encrypted in sectors of 512 bytes. The IV of a sector is made of its place in the file it
 * lies in, so bytes differ from cluster to cluster, and a cluster cannot be moved. Metadata and
 * compressed clusters are not encrypted; so nothing is written compressed here.
 *
 * Nothing is encrypted or decrypted where the guest can see it: a guest may look at its buffers, and
 * change them, while a request runs. Writes encrypt from the guest's memory into a buffer that goes to
 * the file; reads decrypt from a buffer into the guest's memory.
 *
 * A write of part of a sector has to read the rest. Whoever reads or writes the other bytes of the
 * sector at the same moment must not notice, so it has the layer's sectors to itself (`sectors`). No
 * guest does that: its sectors are these.
 */
#include "checked.h"
#include "iov.h"
#include "qcow2/qcow2.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 128 << 10, ALIGNMENT = 4096 };

_Static_assert((int)BLK_KEY_SLOTS == (int)LUKS_SLOTS, "as in the LUKS header");

/* ---- opening ---- */

static int read_area(void *opaque, uint64_t offset, void *buf, size_t length)
{
    struct qcow2 *q = opaque;

    return file_pread(q->file, q->header.luks_offset + offset, buf, length);
}

struct luks_area qcow2_crypto_area(struct qcow2 *q)
{
    return (struct luks_area){.read = read_area, .opaque = q};
}

static int unlock(struct qcow2 *q, const struct blk_open_options *options, struct err *err)
{
    const struct blk_key *key = options->key_count != 0 ? &options->keys[0] : NULL;
    struct luks_area area = qcow2_crypto_area(q);

    if (options->metadata_only || options->for_check) {
        return 0;
    }
    if (key == NULL || key->bytes == NULL) {
        return err_set(err, -ENOKEY, "The image is encrypted and no key for it was given");
    }
    area.max_iterations = options->max_key_iterations;
    return luks_unlock(&q->crypto->luks, &area, &(struct luks_passphrase){key->bytes, key->length},
                       &q->crypto->cipher, err);
}

int qcow2_crypto_open(struct qcow2 *q, const struct blk_open_options *options, struct err *err)
{
    uint8_t raw[LUKS_HEADER_BYTES];
    pthread_rwlockattr_t attributes;
    int r;

    q->crypto = calloc(1, sizeof(*q->crypto));
    if (q->crypto == NULL) {
        return err_set_errno(err, -ENOMEM, "Could not read the encryption header");
    }
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&q->crypto->sectors, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    r = read_area(q, 0, raw, sizeof(raw));
    if (r != 0) {
        return err_set_errno(err, r, "Could not read the encryption header");
    }
    r = luks_header_parse(&q->crypto->luks, raw, q->header.luks_length, err);
    return r != 0 ? r : unlock(q, options, err);
}

void qcow2_crypto_free(struct qcow2 *q)
{
    if (q->crypto != NULL) {
        sector_cipher_destroy(q->crypto->cipher);
        pthread_rwlock_destroy(&q->crypto->sectors);
        free(q->crypto);
        q->crypto = NULL;
    }
}

/* ---- what tools show ---- */

bool qcow2_encryption(struct blk *blk, struct blk_encryption *e)
{
    const struct qcow2_crypto *crypto = qcow2_of(blk)->crypto;
    const struct luks_header *luks;
    size_t mode, iv;

    if (crypto == NULL) {
        return false;
    }
    luks = &crypto->luks;
    /* MODE-IV or MODE-IV:HASH */
    mode = strcspn(luks->mode, "-");
    iv = strcspn(luks->mode + mode, ":");
    *e = (struct blk_encryption){
        .payload_offset = luks->payload_offset,
        .master_key_iterations = luks->digest_iterations,
        .stripes = LUKS_STRIPES,
    };
    snprintf(e->cipher_mode, sizeof(e->cipher_mode), "%.*s", (int)mode, luks->mode);
    snprintf(e->cipher_alg, sizeof(e->cipher_alg), "%s-%zu", luks->cipher,
             luks->key_bytes * 8 / (strcmp(e->cipher_mode, "xts") == 0 ? 2 : 1));
    if (iv > 0) {
        snprintf(e->ivgen_alg, sizeof(e->ivgen_alg), "%.*s", (int)iv - 1, luks->mode + mode + 1);
    }
    if (luks->mode[mode + iv] == ':') {
        snprintf(e->ivgen_hash_alg, sizeof(e->ivgen_hash_alg), "%s", luks->mode + mode + iv + 1);
    }
    snprintf(e->hash_alg, sizeof(e->hash_alg), "%s", luks->hash);
    snprintf(e->uuid, sizeof(e->uuid), "%s", luks->uuid);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        e->slots[i].is_active = luks->slots[i].is_active;
        e->slots[i].iterations = luks->slots[i].iterations;
        e->slots[i].key_offset = luks->slots[i].key_offset;
    }
    return true;
}

/* ---- data ---- */

static uint8_t *new_buffer(uint64_t bytes)
{
    return aligned_alloc(ALIGNMENT, align_up(min_u64(bytes, CHUNK), ALIGNMENT));
}

int qcow2_crypto_pwritev(struct qcow2 *q, struct file *file, uint64_t host_offset,
                         const struct iovec *iov, int count)
{
    uint64_t length = iov_length(iov, count), n;
    uint8_t *buffer;
    int r = 0;

    if (q->crypto->cipher == NULL) {
        return -ENOKEY;
    }
    if (!is_aligned(host_offset | length, CRYPTO_SECTOR)) {
        return -EINVAL;
    }
    buffer = new_buffer(length);
    if (buffer == NULL) {
        return -ENOMEM;
    }
    for (uint64_t done = 0; done < length && r == 0; done += n) {
        n = min_u64(length - done, CHUNK);
        r = sector_cipher_encrypt(q->crypto->cipher, (host_offset + done) / CRYPTO_SECTOR, iov,
                                  count, done, buffer, n);
        r = r == 0 ? file_pwrite(file, host_offset + done, buffer, n) : r;
    }
    free(buffer);
    return r;
}

/* `n` bytes of whole sectors in `buffer`, from `at` on: those of [from, from + length) into the vector. */
static int decrypt_part(struct qcow2 *q, uint8_t *buffer, uint64_t at, uint64_t n, uint64_t from,
                        uint64_t length, const struct iovec *iov, int count, uint64_t skip)
{
    struct iovec in_place = {.iov_base = buffer, .iov_len = n};
    uint64_t sector = at / CRYPTO_SECTOR;
    int r;

    if (at == from && n == length) {
        return sector_cipher_decrypt(q->crypto->cipher, sector, buffer, iov, count, skip, n);
    }
    r = sector_cipher_decrypt(q->crypto->cipher, sector, buffer, &in_place, 1, 0, n);
    if (r == 0) {
        (void)iov_from_buf(iov, count, skip, buffer + (from - at), length);
    }
    return r;
}

int qcow2_crypto_read(struct qcow2 *q, const struct layer_extent *extent, const struct iovec *iov,
                      int count, uint64_t skip)
{
    uint64_t from = extent->host_offset, end = from + extent->length;
    uint64_t sectors_end = align_up(end, CRYPTO_SECTOR);
    uint8_t *buffer;
    int r = 0;

    if (q->crypto->cipher == NULL) {
        return -ENOKEY;
    }
    buffer = new_buffer(sectors_end - align_down(from, CRYPTO_SECTOR));
    if (buffer == NULL) {
        return -ENOMEM;
    }
    if (q->writable) {
        qcow2_crypto_lock(q, false);
    }
    while (from < end && r == 0) {
        uint64_t at = align_down(from, CRYPTO_SECTOR), n = min_u64(sectors_end - at, CHUNK);
        uint64_t length = min_u64(end, at + n) - from;

        r = file_pread(extent->file, at, buffer, n);
        r = r == 0 ? decrypt_part(q, buffer, at, n, from, length, iov, count, skip) : r;
        from += length;
        skip += length;
    }
    if (q->writable) {
        qcow2_crypto_unlock(q);
    }
    free(buffer);
    return r;
}

void qcow2_crypto_lock(struct qcow2 *q, bool parts)
{
    if (parts) {
        pthread_rwlock_wrlock(&q->crypto->sectors);
    } else {
        pthread_rwlock_rdlock(&q->crypto->sectors);
    }
}

void qcow2_crypto_unlock(struct qcow2 *q)
{
    pthread_rwlock_unlock(&q->crypto->sectors);
}

int qcow2_crypto_read_sector(struct qcow2 *q, struct file *file, uint64_t host_offset,
                             uint8_t sector[CRYPTO_SECTOR])
{
    struct iovec iov = {.iov_base = sector, .iov_len = CRYPTO_SECTOR};
    int r;

    if (q->crypto->cipher == NULL) {
        return -ENOKEY;
    }
    if (file == NULL) {
        return -ENOMEDIUM;
    }
    r = file_pread(file, host_offset, sector, CRYPTO_SECTOR);
    return r != 0 ? r
                  : sector_cipher_decrypt(q->crypto->cipher, host_offset / CRYPTO_SECTOR, sector,
                                          &iov, 1, 0, CRYPTO_SECTOR);
}
