/*
 * luks_format.c - a new LUKS1 header with a new master key: see luks.h.
 */
#include "checked.h"
#include "crypto/luks_slot.h"
#include "random.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    FIRST_MATERIAL = 4096, /* as QEMU: key material is aligned to this */
    DIGEST_SHARE = 8,      /* of the time: QEMU's */
};

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
    int r;

    *header = (struct luks_header){.cipher = "aes"};
    r = key_bytes_of(cipher, or_default(options->cipher_mode, "xts"), &header->key_bytes, err);
    r = r == 0 ? format_mode(header, options, err) : r;
    r = r == 0 ? sector_cipher_parse(&spec, header->cipher, header->mode, header->key_bytes, err)
               : r;
    r = r == 0 ? luks_check_iter_time(options->iter_time, err) : r;
    if (r != 0) {
        return r;
    }
    r = luks_hash(or_default(options->hash_alg, "sha256"), err);
    if (r < 0) {
        return r;
    }
    snprintf(header->hash, sizeof(header->hash), "%s", or_default(options->hash_alg, "sha256"));
    step = align_up(luks_material_bytes(header), FIRST_MATERIAL);
    for (unsigned i = 0; i < LUKS_SLOTS; i++, offset += step) {
        header->slots[i].key_offset = offset;
    }
    header->payload_offset = offset;
    return 0;
}

/* A random UUID (RFC 4122, version 4) as text. */
static int make_uuid(char text[LUKS_UUID])
{
    uint8_t u[16];
    char *at = text;

    if (random_bytes(u, sizeof(u)) != 0) {
        return -EIO;
    }
    u[6] = (uint8_t)((u[6] & 0x0f) | 0x40);
    u[8] = (uint8_t)((u[8] & 0x3f) | 0x80);
    for (unsigned i = 0; i < sizeof(u); i++) {
        at += sprintf(at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
    }
    return 0;
}

/* The master key is in work->master_key. */
static int fill_digest(struct luks_context *context, struct luks_header *header, uint64_t iter_time)
{
    int r = random_bytes(header->digest_salt, LUKS_SALT);

    if (r == 0) {
        r = luks_measure_iterations(context->hash, LUKS_DIGEST,
                                    div_round_up(iter_time, DIGEST_SHARE),
                                    &header->digest_iterations);
    }
    return r != 0 ? r
                  : luks_derive(context->hash, context->work->master_key, header->key_bytes,
                                header->digest_salt, header->digest_iterations, header->digest,
                                LUKS_DIGEST);
}

int luks_format(const struct luks_format_options *options, struct luks_header *header,
                const struct luks_passphrase *passphrase, uint8_t *material,
                struct sector_cipher **out, struct err *err)
{
    uint64_t time = options->iter_time != 0 ? options->iter_time : LUKS_DEFAULT_ITER_TIME;
    struct luks_slot *slot = &header->slots[0];
    struct luks_context context;
    int r = luks_check_passphrase(passphrase, err);

    if (r != 0) {
        return r;
    }
    r = luks_context_init(&context, header, err);
    if (r != 0) {
        luks_context_free(&context);
        return r;
    }
    r = make_uuid(header->uuid);
    r = r == 0 ? random_bytes(context.work->master_key, header->key_bytes) : r;
    r = r == 0 ? fill_digest(&context, header, time) : r;
    r = r == 0 ? luks_slot_fill(&context, slot, passphrase, time, material) : r;
    slot->is_active = r == 0;
    if (r == 0 && out != NULL) {
        r = sector_cipher_create(&context.spec, context.work->master_key, out);
    }
    luks_context_free(&context);
    return r != 0 ? err_set_errno(err, r, "Could not make a LUKS header") : 0;
}
