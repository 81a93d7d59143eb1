/*
 * luks_header.c - the LUKS1 header's bytes: see luks.h.
 */
#include "bytes.h"
#include "checked.h"
#include "crypto/luks.h"

#include <errno.h>
#include <inttypes.h>

enum {
    AT_VERSION = 6,
    AT_CIPHER = 8,
    AT_MODE = 40,
    AT_HASH = 72,
    AT_PAYLOAD = 104,
    AT_KEY_BYTES = 108,
    AT_DIGEST = 112,
    AT_DIGEST_SALT = 132,
    AT_DIGEST_ITERATIONS = 164,
    AT_UUID = 168,
    AT_SLOTS = 208,
    SLOT_BYTES = 48,
};

#define SLOT_ACTIVE   UINT32_C(0x00ac71f3)
#define SLOT_INACTIVE UINT32_C(0x0000dead)

static const uint8_t magic[] = {'L', 'U', 'K', 'S', 0xba, 0xbe};

size_t luks_material_bytes(const struct luks_header *header)
{
    return align_up(header->key_bytes * LUKS_STRIPES, CRYPTO_SECTOR);
}

/* Texts are shown to people: printable, and with an end. */
static bool parse_text(char *out, const uint8_t *raw, size_t room)
{
    size_t i;

    memcpy(out, raw, room);
    for (i = 0; i < room && raw[i] != 0; i++) {
        if (raw[i] <= ' ' || raw[i] > '~') {
            return false;
        }
    }
    return i < room;
}

static int parse_slot(struct luks_header *header, unsigned number, const uint8_t *raw,
                      uint64_t area_bytes, struct err *err)
{
    struct luks_slot *slot = &header->slots[number];
    uint64_t bytes = luks_material_bytes(header);
    uint32_t active = load_be32(raw);

    *slot = (struct luks_slot){
        .is_active = active == SLOT_ACTIVE,
        .iterations = load_be32(raw + 4),
        .key_offset = (uint64_t)load_be32(raw + 40) * CRYPTO_SECTOR,
    };
    memcpy(slot->salt, raw + 8, LUKS_SALT);
    if (active != SLOT_ACTIVE && active != SLOT_INACTIVE) {
        return err_set(err, -EINVAL, "LUKS key slot %u is neither active nor inactive", number);
    }
    if (load_be32(raw + 44) != LUKS_STRIPES) {
        return err_set(err, -EINVAL, "LUKS key slot %u has %" PRIu32 " stripes and not %d", number,
                       load_be32(raw + 44), LUKS_STRIPES);
    }
    if (slot->is_active && slot->iterations == 0) {
        return err_set(err, -EINVAL, "LUKS key slot %u has no iterations", number);
    }
    if (slot->key_offset < LUKS_HEADER_BYTES ||
        !range_within(slot->key_offset, bytes, area_bytes)) {
        return err_set(err, -EINVAL, "LUKS key slot %u lies outside the encryption header", number);
    }
    for (unsigned i = 0; i < number; i++) {
        if (ranges_overlap(slot->key_offset, bytes, header->slots[i].key_offset, bytes)) {
            return err_set(err, -EINVAL, "LUKS key slots %u and %u overlap", i, number);
        }
    }
    return 0;
}

int luks_header_parse(struct luks_header *header, const uint8_t raw[LUKS_HEADER_BYTES],
                      uint64_t area_bytes, struct err *err)
{
    if (memcmp(raw, magic, sizeof(magic)) != 0) {
        return err_set(err, -EINVAL, "The encryption header is not a LUKS header");
    }
    if (load_be16(raw + AT_VERSION) != 1) {
        return err_set(err, -ENOTSUP, "LUKS version %u is not supported",
                       load_be16(raw + AT_VERSION));
    }
    *header = (struct luks_header){
        .payload_offset = (uint64_t)load_be32(raw + AT_PAYLOAD) * CRYPTO_SECTOR,
        .key_bytes = load_be32(raw + AT_KEY_BYTES),
        .digest_iterations = load_be32(raw + AT_DIGEST_ITERATIONS),
    };
    memcpy(header->digest, raw + AT_DIGEST, LUKS_DIGEST);
    memcpy(header->digest_salt, raw + AT_DIGEST_SALT, LUKS_SALT);
    if (!parse_text(header->cipher, raw + AT_CIPHER, LUKS_TEXT) ||
        !parse_text(header->mode, raw + AT_MODE, LUKS_TEXT) ||
        !parse_text(header->hash, raw + AT_HASH, LUKS_TEXT) ||
        !parse_text(header->uuid, raw + AT_UUID, LUKS_UUID)) {
        return err_set(err, -EINVAL, "A text of the LUKS header is damaged");
    }
    if (header->key_bytes == 0 || header->key_bytes > LUKS_MAX_KEY) {
        return err_set(err, -EINVAL, "LUKS key length %zu is invalid", header->key_bytes);
    }
    if (header->digest_iterations == 0) {
        return err_set(err, -EINVAL, "The LUKS master key's digest has no iterations");
    }
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        int r = parse_slot(header, i, raw + AT_SLOTS + (size_t)i * SLOT_BYTES, area_bytes, err);

        if (r != 0) {
            return r;
        }
    }
    return 0;
}

void luks_header_encode(const struct luks_header *header, uint8_t raw[LUKS_HEADER_BYTES])
{
    memset(raw, 0, LUKS_HEADER_BYTES);
    memcpy(raw, magic, sizeof(magic));
    store_be16(raw + AT_VERSION, 1);
    memcpy(raw + AT_CIPHER, header->cipher, LUKS_TEXT);
    memcpy(raw + AT_MODE, header->mode, LUKS_TEXT);
    memcpy(raw + AT_HASH, header->hash, LUKS_TEXT);
    store_be32(raw + AT_PAYLOAD, (uint32_t)(header->payload_offset / CRYPTO_SECTOR));
    store_be32(raw + AT_KEY_BYTES, (uint32_t)header->key_bytes);
    memcpy(raw + AT_DIGEST, header->digest, LUKS_DIGEST);
    memcpy(raw + AT_DIGEST_SALT, header->digest_salt, LUKS_SALT);
    store_be32(raw + AT_DIGEST_ITERATIONS, header->digest_iterations);
    memcpy(raw + AT_UUID, header->uuid, LUKS_UUID);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *slot = &header->slots[i];
        uint8_t *at = raw + AT_SLOTS + (size_t)i * SLOT_BYTES;

        store_be32(at, slot->is_active ? SLOT_ACTIVE : SLOT_INACTIVE);
        store_be32(at + 4, slot->iterations);
        memcpy(at + 8, slot->salt, LUKS_SALT);
        store_be32(at + 40, (uint32_t)(slot->key_offset / CRYPTO_SECTOR));
        store_be32(at + 44, LUKS_STRIPES);
    }
}
