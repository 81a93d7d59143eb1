#include "amend_keys.h"

#include "checked.h"
#include "image_opts.h"
#include "keys.h"
#include "log.h"

#include <string.h>

static const char *const names[] = {"encrypt.state", "encrypt.new-secret", "encrypt.old-secret",
                                    "encrypt.keyslot", "encrypt.iter-time"};

bool amend_keys_are_given(struct create_options *options)
{
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (optstr_get(&options->items, names[i]) != NULL)
            return true;
    }
    return false;
}

int amend_keys_read_numbers(struct create_options *options, struct blk_key_change *change)
{
    uint64_t slot = 0;

    if (create_options_number(options, NULL, "encrypt.iter-time", &change->iter_time) < 0 ||
        create_options_number(options, NULL, "encrypt.keyslot", &slot) < 0)
        return -1;
    change->slot = (uint32_t)min_u64(slot, UINT32_MAX); /* -1 becomes what qemu-img calls it */
    change->set_slot = optstr_get(&options->items, "encrypt.keyslot") != NULL;
    change->set_iter_time = optstr_get(&options->items, "encrypt.iter-time") != NULL;
    return 0;
}

static int complain(const char *text)
{
    log_error("%s", text);
    return -1;
}

static int find_secret(const char *id, struct blk_key *key)
{
    if (id == NULL || keys_find(id, key))
        return 0;
    log_error("No secret with id '%s'", id);
    return -1;
}

int amend_keys_read(struct create_options *options, const char *path, struct blk_key_change *change)
{
    struct optstr *items = &options->items;
    const char *state = optstr_get(items, "encrypt.state"),
               *added = optstr_get(items, "encrypt.new-secret"),
               *old = optstr_get(items, "encrypt.old-secret");
    struct blk_open_options image = {.path = path};

    if (state == NULL)
        return complain("Parameter 'state' is missing");
    change->activate = strcmp(state, "active") == 0;
    if (!change->activate && strcmp(state, "inactive") != 0) {
        log_error("Parameter 'state' does not accept value '%s'", state);
        return -1;
    }
    if (change->activate && added == NULL)
        return complain("'new-secret' is required to activate a keyslot");
    if (change->activate && old != NULL)
        return complain("'old-secret' must not be given when activating keyslots");
    if (!change->activate && added != NULL)
        return complain("'new-secret' must not be given when erasing keyslots");
    if (!change->activate && change->set_iter_time)
        return complain("'iter-time' must not be given when erasing keyslots");
    image_opts_apply(&image, path, 0);
    if (image.key_count > 0)
        change->opens = image.keys[0];
    return find_secret(change->activate ? added : old, &change->key);
}
