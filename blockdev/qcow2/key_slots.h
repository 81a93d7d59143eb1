/*
 * key_slots.h - another passphrase for an encrypted image, or one less: its LUKS header's key slots.
 *
 * What a power cut may leave, numbered for the tests:
 *   1. A slot is active only while its salt, iterations and key material are whole and stable. Whether it
 *      is active is one word, and so in one sector: it goes last when a slot is filled, first and
 *      by itself when one is erased, with a sync on either side.
 *   2. An erased slot's material is overwritten with random bytes, synced each time.
 *   3. A slot that is overwritten is erased, then filled. The new passphrase has a free slot of its own
 *      meanwhile, so that the old or the new one opens the image at any moment. Where no slot is free there
 *      are seven others.
 *   4. Unless everything is to be erased (force), some slot is active.
 *
 * Threads: nobody else uses the image.
 */
#ifndef QCOW2_KEY_SLOTS_H
#define QCOW2_KEY_SLOTS_H

#include "qcow2/qcow2.h"

struct qcow2_key_plan {
    unsigned erased;         /* bit n: slot n */
    bool fills;              /* a slot, which `erased` may have too */
    unsigned filled;         /* which one */
    struct luks_slot secret; /* its salt and iterations */
    uint8_t *material;
};

/* Looks at everything that may be refused and derives all keys, which takes seconds; changes nothing.
 * -EINVAL and other errors with QEMU's words. The plan is to be freed in any case. */
int qcow2_key_slots_plan(struct qcow2 *q, const struct blk_key_change *change,
                         struct qcow2_key_plan *plan, struct err *err);
void qcow2_key_slots_free(struct qcow2_key_plan *plan);

/* Writes it. -EIO: the image is corrupt, so that a slot lies on other metadata. */
int qcow2_key_slots_carry_out(struct qcow2 *q, const struct qcow2_key_plan *plan, struct err *err);

#endif
