/*
 * optstr.h - option strings in QEMU's form: "key=value,key=value", a comma inside a value doubled.
 *
 * The first item may be a bare value (the "implied key", as in `--disk PATH,format=raw`), later
 * items may be a bare key, which means key=on.
 *
 * Threads: an optstr is used by one thread. Ownership: optstr_parse allocates, optstr_free frees;
 * the strings that look-ups return live until then.
 */
#ifndef BASE_OPTSTR_H
#define BASE_OPTSTR_H

#include "err.h"

#include <stdbool.h>
#include <stdint.h>

struct optstr_item {
    char *key;
    char *value;
    bool used; /* a look-up asked for it */
};

struct optstr {
    struct optstr_item *items;
    unsigned count;
};

/* Splits `text`. With `implied_key` not NULL, a first item that has no "=" (or whose "=" stands
 * behind a character that no key has, such as '/') is the value of that key. Returns 0, -EINVAL or
 * -ENOMEM. */
int optstr_parse(struct optstr *opts, const char *text, const char *implied_key, struct err *err);
void optstr_free(struct optstr *opts);

/* The last value given for `key`, or NULL. Marks every item of that key as used. */
const char *optstr_get(struct optstr *opts, const char *key);

/* Typed look-ups: leave *out alone and return 0 when the key is absent; -EINVAL with a message when
 * the value is malformed or outside [min, max]. A size takes the suffixes of size_parse(). */
int optstr_get_bool(struct optstr *opts, const char *key, bool *out, struct err *err);
int optstr_get_number(struct optstr *opts, const char *key, uint64_t min, uint64_t max,
                      uint64_t *out, struct err *err);
int optstr_get_size(struct optstr *opts, const char *key, uint64_t *out, struct err *err);
/* One of the NULL-terminated `words`: its index. */
int optstr_get_word(struct optstr *opts, const char *key, const char *const *words, int *index,
                    struct err *err);

/* The index of `value` among the NULL-terminated `words`, or -EINVAL with a message that lists them. */
int optstr_find_word(const char *value, const char *const *words, struct err *err);

/* -EINVAL naming the first item that no look-up asked for, with the nearest of the NULL-terminated
 * `known` keys as a suggestion where one is near; 0 when all were used. */
int optstr_reject_unused(const struct optstr *opts, const char *const *known, struct err *err);

/* The entry of the NULL-terminated `known` nearest to `word` within two edits (one, of
 * a word of three letters or fewer), or NULL. */
const char *optstr_nearest(const char *word, const char *const *known);

#endif
