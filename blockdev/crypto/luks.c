/*
 * luks.c - from a passphrase to the master key, and from there to a slot with another passphrase: see
 * luks.h.
 */
#include "crypto/luks.h"

#include "crypto/luks_slot.h"

#include <errno.h>
#include <inttypes.h>

static int check_iterations(const struct luks_header *header, const struct luks_area *area,
                            struct err *err)
{
    uint32_t limit = area->max_iterations != 0 ? area->max_iterations : LUKS_MAX_ITERATIONS;
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

/* To be followed by luks_context_free() in any case. */
static int begin(struct luks_context *context, const struct luks_header *header,
                 const struct luks_area *area, const struct luks_passphrase *passphrase,
                 struct err *err)
{
    int r = luks_context_init(context, header, err);

    r = r == 0 ? luks_check_passphrase(passphrase, err) : r;
    return r == 0 ? check_iterations(header, area, err) : r;
}

/* As luks_slot_open(), with a message of what is not the passphrase's fault. */
static int try_slot(struct luks_context *context, const struct luks_area *area, unsigned number,
                    const struct luks_passphrase *passphrase, struct err *err)
{
    const struct luks_slot *slot = &context->header->slots[number];
    int r;

    if (!slot->is_active) {
        return -EKEYREJECTED;
    }
    r = area->read(area->opaque, slot->key_offset, context->work->material,
                   luks_material_bytes(context->header));
    if (r != 0) {
        return err_set_errno(err, r, "Could not read LUKS key slot %u", number);
    }
    r = luks_slot_open(context, slot, passphrase);
    if (r == 0 || r == -EKEYREJECTED || r == -EINVAL) {
        return r == 0 ? 0 : -EKEYREJECTED;
    }
    return err_set_errno(err, r, "Could not try LUKS key slot %u", number);
}

/* The master key is in work->master_key afterwards. */
static int try_slots(struct luks_context *context, const struct luks_area *area,
                     const struct luks_passphrase *passphrase, struct err *err)
{
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        int r = try_slot(context, area, i, passphrase, err);

        if (r != -EKEYREJECTED) {
            return r;
        }
    }
    return err_set(err, -EKEYREJECTED, "Invalid password, cannot unlock any keyslot");
}

int luks_unlock(const struct luks_header *header, const struct luks_area *area,
                const struct luks_passphrase *passphrase, struct sector_cipher **out,
                struct err *err)
{
    struct luks_context context;
    int r = begin(&context, header, area, passphrase, err);

    r = r == 0 ? try_slots(&context, area, passphrase, err) : r;
    if (r == 0) {
        r = sector_cipher_create(&context.spec, context.work->master_key, out);
        if (r != 0) {
            err_set_errno(err, r, "Could not set up the cipher");
        }
    }
    luks_context_free(&context);
    return r;
}

int luks_find_slots(const struct luks_header *header, const struct luks_area *area,
                    const struct luks_passphrase *passphrase, unsigned *slots, struct err *err)
{
    struct luks_context context;
    int r = begin(&context, header, area, passphrase, err);

    for (unsigned i = 0; i < LUKS_SLOTS && r == 0; i++) {
        if ((*slots >> i & 1) != 0) {
            r = try_slot(&context, area, i, passphrase, err);
        }
        if (r == -EKEYREJECTED) {
            *slots &= ~(1U << i);
            r = 0;
        }
    }
    luks_context_free(&context);
    return r;
}

int luks_add_key(const struct luks_header *header, const struct luks_area *area,
                 const struct luks_passphrase *opens, const struct luks_passphrase *added,
                 uint64_t iter_time, struct luks_slot *slot, uint8_t *material, struct err *err)
{
    struct luks_context context;
    int r = begin(&context, header, area, opens, err);

    r = r == 0 ? luks_check_passphrase(added, err) : r;
    r = r == 0 ? luks_check_iter_time(iter_time, err) : r;
    r = r == 0 ? try_slots(&context, area, opens, err) : r;
    if (r == 0) {
        r = luks_slot_fill(&context, slot, added, iter_time, material);
        if (r != 0) {
            err_set_errno(err, r, "Could not make a LUKS key slot");
        }
    }
    luks_context_free(&context);
    return r;
}
