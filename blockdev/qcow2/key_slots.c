/*
 * key_slots.c - filling and erasing key slots: see key_slots.h.
 */
#include "qcow2/key_slots.h"

#include "random.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { WIPES = 4, ALL_SLOTS = (1 << LUKS_SLOTS) - 1 };

static unsigned active_slots(const struct luks_header *luks)
{
    unsigned active = 0;

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        active |= luks->slots[i].is_active ? 1U << i : 0;
    }
    return active;
}

static bool has(unsigned slots, unsigned slot)
{
    return (slots >> slot & 1) != 0;
}

/* LUKS_SLOTS: none is free. */
static unsigned first_free(const struct luks_header *luks)
{
    unsigned i = 0;

    while (i < LUKS_SLOTS && luks->slots[i].is_active) {
        i++;
    }
    return i;
}

/* ---- what is refused, and the keys ---- */

static int check_number(const struct blk_key_change *change, struct err *err)
{
    return !change->set_slot || change->slot < LUKS_SLOTS
               ? 0
               : err_set(err, -EINVAL,
                         "Invalid keyslot %" PRIu32 " specified, must be between 0 and %d",
                         change->slot, LUKS_SLOTS - 1);
}

static int plan_filling(struct qcow2 *q, const struct blk_key_change *change,
                        struct qcow2_key_plan *plan, struct err *err)
{
    const struct luks_passphrase opens = {change->opens.bytes, change->opens.length};
    const struct luks_passphrase added = {change->key.bytes, change->key.length};
    const struct luks_header *luks = &q->crypto->luks;
    const struct luks_area area = qcow2_crypto_area(q);

    plan->fills = true;
    plan->filled = change->set_slot ? change->slot : first_free(luks);
    if (plan->filled == LUKS_SLOTS) {
        return err_set(err, -EINVAL, "Can't add a keyslot - all keyslots are in use");
    }
    if (luks->slots[plan->filled].is_active) {
        plan->erased = 1U << plan->filled;
        if (!change->force) {
            return err_set(err, -EINVAL,
                           "Refusing to overwrite active keyslot %u - please erase it first",
                           plan->filled);
        }
    }
    plan->material = malloc(luks_material_bytes(luks));
    if (plan->material == NULL) {
        return err_set_errno(err, -ENOMEM, "No memory for a key slot");
    }
    return luks_add_key(luks, &area, &opens, &added,
                        change->set_iter_time ? change->iter_time : LUKS_DEFAULT_ITER_TIME,
                        &plan->secret, plan->material, err);
}

/* What `force` lets pass. */
static int check_erasing(const struct luks_header *luks, const struct blk_key_change *change,
                         unsigned erased, struct err *err)
{
    bool is_last = (active_slots(luks) & ~erased) == 0;

    if (change->set_slot && !luks->slots[change->slot].is_active) {
        return err_set(err, -EINVAL, "Given keyslot %" PRIu32 " is already erased (inactive) ",
                       change->slot);
    }
    if (change->set_slot && is_last) {
        return err_set(err, -EINVAL,
                       "Attempt to erase the only active keyslot %" PRIu32
                       " which will erase all the data in the image irreversibly - refusing "
                       "operation",
                       change->slot);
    }
    return is_last ? err_set(err, -EINVAL,
                             "All the active keyslots match the (old) password that was given and "
                             "erasing them will erase all the data in the image irreversibly - "
                             "refusing operation")
                   : 0;
}

static int plan_erasing(struct qcow2 *q, const struct blk_key_change *change,
                        struct qcow2_key_plan *plan, struct err *err)
{
    const struct luks_passphrase key = {change->key.bytes, change->key.length};
    const struct luks_area area = qcow2_crypto_area(q);
    unsigned opened = change->set_slot ? 1U << change->slot : ALL_SLOTS;
    int r = key.bytes != NULL ? luks_find_slots(&q->crypto->luks, &area, &key, &opened, err) : 0;

    if (r != 0) {
        return r;
    }
    if (change->set_slot && opened == 0) {
        return err_set(err, -EINVAL,
                       "Given keyslot %" PRIu32
                       " doesn't contain the given old password for erase operation",
                       change->slot);
    }
    if (opened == 0) {
        return err_set(err, -EINVAL, "No keyslots match given (old) password for erase operation");
    }
    if (!change->set_slot && key.bytes == NULL) {
        return err_set(err, -EINVAL,
                       "To erase keyslot(s), either explicit keyslot index or the password "
                       "currently contained in them must be given");
    }
    plan->erased = opened;
    return change->force ? 0 : check_erasing(&q->crypto->luks, change, plan->erased, err);
}

int qcow2_key_slots_plan(struct qcow2 *q, const struct blk_key_change *change,
                         struct qcow2_key_plan *plan, struct err *err)
{
    int r;

    *plan = (struct qcow2_key_plan){0};
    if (q->crypto == NULL) {
        return err_set(err, -EINVAL, "Can't amend encryption options - encryption not present");
    }
    r = check_number(change, err);
    if (r != 0) {
        return r;
    }
    return change->activate ? plan_filling(q, change, plan, err)
                            : plan_erasing(q, change, plan, err);
}

void qcow2_key_slots_free(struct qcow2_key_plan *plan)
{
    free(plan->material);
}

/* ---- writes ---- */

static int write_area(struct qcow2 *q, uint64_t offset, const void *bytes, size_t length)
{
    int r;

    offset += q->header.luks_offset;
    pthread_mutex_lock(&q->lock);
    r = qcow2_check_overlap(q, QCOW2_WRITES_LUKS, offset, length);
    pthread_mutex_unlock(&q->lock);
    return r == 0 ? file_pwrite(q->file, offset, bytes, length) : r;
}

/* Stable, and what memory says, afterwards. */
static int write_header(struct qcow2 *q, const struct luks_header *luks)
{
    uint8_t raw[LUKS_HEADER_BYTES];
    int r;

    luks_header_encode(luks, raw);
    r = write_area(q, 0, raw, sizeof(raw));
    r = r == 0 ? qcow2_sync(q) : r;
    if (r == 0) {
        q->crypto->luks = *luks;
    }
    return r;
}

static int fill(struct qcow2 *q, unsigned number, const struct qcow2_key_plan *plan)
{
    struct luks_header luks = q->crypto->luks;
    struct luks_slot *slot = &luks.slots[number];
    int r = write_area(q, slot->key_offset, plan->material, luks_material_bytes(&luks));

    slot->iterations = plan->secret.iterations;
    memcpy(slot->salt, plan->secret.salt, LUKS_SALT);
    r = r == 0 ? write_header(q, &luks) : r;
    slot->is_active = true;
    return r == 0 ? write_header(q, &luks) : r;
}

static int wipe(struct qcow2 *q, unsigned slots)
{
    size_t bytes = luks_material_bytes(&q->crypto->luks);
    uint8_t *random = malloc(bytes);
    int r = random != NULL ? 0 : -ENOMEM;

    for (unsigned n = 0; n < WIPES && r == 0; n++) {
        for (unsigned i = 0; i < LUKS_SLOTS && r == 0; i++) {
            if (has(slots, i)) {
                r = random_bytes(random, bytes);
                r = r == 0 ? write_area(q, q->crypto->luks.slots[i].key_offset, random, bytes) : r;
            }
        }
        r = r == 0 ? qcow2_sync(q) : r;
    }
    free(random);
    return r;
}

static int erase(struct qcow2 *q, unsigned slots)
{
    struct luks_header luks = q->crypto->luks;
    int r;

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        luks.slots[i].is_active = luks.slots[i].is_active && !has(slots, i);
    }
    r = write_header(q, &luks);
    r = r == 0 ? wipe(q, slots) : r;
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if (has(slots, i)) {
            luks.slots[i].iterations = 0;
            memset(luks.slots[i].salt, 0, LUKS_SALT);
        }
    }
    return r == 0 ? write_header(q, &luks) : r;
}

/* Erased slots, one that is filled, and overwriting, which is both with a spare. */
static int carry_out(struct qcow2 *q, const struct qcow2_key_plan *plan)
{
    unsigned spare = plan->fills && plan->erased != 0 ? first_free(&q->crypto->luks) : LUKS_SLOTS;
    int r = spare < LUKS_SLOTS ? fill(q, spare, plan) : 0;

    if (r == 0 && plan->erased != 0) {
        r = erase(q, plan->erased);
    }
    if (r == 0 && plan->fills) {
        r = fill(q, plan->filled, plan);
    }
    return r == 0 && spare < LUKS_SLOTS ? erase(q, 1U << spare) : r;
}

int qcow2_key_slots_carry_out(struct qcow2 *q, const struct qcow2_key_plan *plan, struct err *err)
{
    int r = carry_out(q, plan);

    return r == 0 ? 0
                  : err_set_errno(err, r, "Could not change the key slots of '%s'", q->blk->path);
}
