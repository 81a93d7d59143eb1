/*
 * image_luks.c - a LUKS header in which the key FUZZ_KEY opens slot 0. The slot's key material is zeros,
 * which cost an input nothing: any material decrypts and merges to some master key, and the digest in the
 * header is that key's. Iterations are as few as there can be.
 */
#include "bytes.h"
#include "crypto/luks_slot.h"
#include "finding.h"
#include "image.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 16, SLOT_ROOM = 64 << 10, FIRST_SLOT = 4096 };

static bool derive(const void *secret, size_t length, const uint8_t *salt, uint8_t *out,
                   size_t bytes)
{
    int hash = luks_hash("sha256", NULL);

    return hash > 0 && luks_derive(hash, secret, length, salt, 1, out, bytes) == 0;
}

static bool find_digest(struct luks_header *header)
{
    size_t bytes = luks_material_bytes(header);
    uint8_t *zeros = calloc(1, bytes), *split = malloc(bytes), key[KEY_BYTES];
    struct iovec iov = {.iov_base = split, .iov_len = bytes};
    struct sector_cipher *cipher = NULL;
    struct sector_cipher_spec spec;
    bool is_done = zeros != NULL && split != NULL &&
                   sector_cipher_parse(&spec, header->cipher, header->mode, KEY_BYTES, NULL) == 0 &&
                   derive(FUZZ_KEY, strlen(FUZZ_KEY), header->slots[0].salt, key, KEY_BYTES) &&
                   sector_cipher_create(&spec, key, &cipher) == 0 &&
                   sector_cipher_decrypt(cipher, 0, zeros, &iov, 1, 0, bytes) == 0 &&
                   luks_af_merge(header->hash, split, KEY_BYTES, LUKS_STRIPES, key) == 0 &&
                   derive(key, KEY_BYTES, header->digest_salt, header->digest, LUKS_DIGEST);

    sector_cipher_destroy(cipher);
    free(zeros);
    free(split);
    return is_done;
}

uint64_t image_luks_header(struct memfile *mem, uint64_t offset)
{
    static uint8_t raw[LUKS_HEADER_BYTES];
    static bool is_made;

    if (!is_made) {
        struct luks_header header = {
            .cipher = "aes",
            .mode = "cbc-plain64",
            .hash = "sha256",
            .uuid = "00000000-0000-4000-8000-000000000000",
            .payload_offset = IMAGE_LUKS_BYTES,
            .key_bytes = KEY_BYTES,
            .digest_iterations = 1,
        };

        for (unsigned i = 0; i < LUKS_SLOTS; i++) {
            header.slots[i].key_offset = FIRST_SLOT + (uint64_t)i * SLOT_ROOM;
        }
        header.slots[0].is_active = true;
        header.slots[0].iterations = 1;
        if (!find_digest(&header)) {
            finding("no LUKS header can be made");
        }
        luks_header_encode(&header, raw);
        is_made = true;
    }
    (void)memfile_write(mem, offset, raw, sizeof(raw));
    return IMAGE_LUKS_BYTES;
}
