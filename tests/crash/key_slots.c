/*
 * key_slots.c - `minivmm-img amend` of key slots. CRASH_KEY opens the image all the time, whatever is done to
 * the slot that it is in; and no slot is ever active that none of the two keys opens.
 */
#include "checked.h"
#include "img.h"
#include "keys.h"
#include "ops.h"
#include "qcow2/qcow2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const changes[] = {
    /* The only one is overwritten: another one is filled, and erased, meanwhile. */
    "encrypt.state=active,encrypt.new-secret=a,encrypt.keyslot=0,encrypt.iter-time=0",
    /* This slot's record lies in two sectors. */
    "encrypt.state=active,encrypt.new-secret=b,encrypt.keyslot=6,encrypt.iter-time=0",
    "encrypt.state=inactive,encrypt.old-secret=b",
};

/* Where this process works: --object takes keys from files alone. */
static void write_key(const char *name, const char *key)
{
    FILE *f = fopen(name, "w");

    if (f == NULL || fputs(key, f) == EOF || fclose(f) != 0) {
        abort();
    }
}

static int amend(int argc, char **argv)
{
    int status = keys_take_options(&argc, argv) ? cmd_amend(argc, argv) : 1;

    keys_free();
    return status;
}

int op_key_slots(struct world *world, uint64_t arg)
{
    char text[128];
    char *argv[] = {(char[]){"amend"},
                    (char[]){"--force"},
                    (char[]){"--image-opts"},
                    (char[]){"--object"},
                    (char[]){"secret,id=a,file=key"},
                    (char[]){"--object"},
                    (char[]){"secret,id=b,file=key2"},
                    (char[]){"-o"},
                    text,
                    (char[]){"driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=a"},
                    NULL};

    /* One that failed may be what keeps CRASH_KEY from what the next one erases. */
    if (world->disk.fault_fired) {
        return 0;
    }
    (void)snprintf(text, sizeof(text), "%s", changes[arg]);
    write_key("key", CRASH_KEY);
    write_key("key2", CRASH_KEY2);
    return world_run_command(world, amend, argv);
}

bool key_slots_are_whole(struct blk *blk, char *why, size_t size)
{
    static const struct luks_passphrase keys[] = {{CRASH_KEY, sizeof(CRASH_KEY) - 1},
                                                  {CRASH_KEY2, sizeof(CRASH_KEY2) - 1}};
    struct qcow2 *q = qcow2_of(blk);
    const struct luks_header *luks = &q->crypto->luks;
    const struct luks_area area = qcow2_crypto_area(q);
    unsigned left = 0;

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        left |= luks->slots[i].is_active ? 1U << i : 0;
    }
    for (unsigned k = 0; k < ARRAY_LEN(keys) && left != 0; k++) {
        unsigned opened = left;
        struct err err = {""};

        if (luks_find_slots(luks, &area, &keys[k], &opened, &err) != 0) {
            snprintf(why, size, "the key slots: %.200s", err.text);
            return false;
        }
        left &= ~opened;
    }
    if (left != 0) {
        snprintf(why, size, "no key opens the active slots 0x%x", left);
    }
    return left == 0;
}
