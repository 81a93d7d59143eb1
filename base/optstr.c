#include "optstr.h"

#include "size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool key_char(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.';
}

/* Copies one item up to a single comma, undoubling ",,"; *text moves behind the comma or to the
 * end. */
static char *take_item(const char **text)
{
    const char *p = *text;
    char *item = calloc(1, strlen(p) + 1);
    size_t n = 0;

    if (item == NULL)
        return NULL;
    while (*p != '\0') {
        if (*p == ',') {
            if (p[1] != ',')
                break;
            p++;
        }
        item[n++] = *p++;
    }
    *text = *p == ',' ? p + 1 : p;
    return item;
}

static int add_item(struct optstr *opts, const char *key, size_t key_len, const char *value)
{
    struct optstr_item *items =
        realloc(opts->items, (opts->count + 1) * sizeof(struct optstr_item));

    if (items == NULL)
        return -ENOMEM;
    opts->items = items;
    struct optstr_item *item = &items[opts->count];
    item->key = strndup(key, key_len);
    item->value = strdup(value);
    item->used = false;
    if (item->key == NULL || item->value == NULL) {
        free(item->key);
        free(item->value);
        return -ENOMEM;
    }
    opts->count++;
    return 0;
}

int optstr_parse(struct optstr *opts, const char *text, const char *implied_key, struct err *err)
{
    bool first = true;

    *opts = (struct optstr){0};
    do {
        char *item = take_item(&text);
        size_t key_len = 0;
        int rc;

        if (item == NULL) {
            optstr_free(opts);
            return err_set(err, -ENOMEM, "out of memory");
        }
        while (key_char(item[key_len]))
            key_len++;
        if (key_len > 0 && item[key_len] == '=')
            rc = add_item(opts, item, key_len, item + key_len + 1);
        else if (first && implied_key != NULL)
            rc = add_item(opts, implied_key, strlen(implied_key), item);
        else if (key_len > 0 && item[key_len] == '\0')
            rc = add_item(opts, item, key_len, "on");
        else
            rc = err_set(err, -EINVAL, "'%s' is not of the form key=value", item);
        if (rc == -ENOMEM)
            rc = err_set(err, -ENOMEM, "out of memory");
        free(item);
        if (rc < 0) {
            optstr_free(opts);
            return rc;
        }
        first = false;
    } while (*text != '\0');
    return 0;
}

void optstr_free(struct optstr *opts)
{
    for (unsigned i = 0; i < opts->count; i++) {
        free(opts->items[i].key);
        free(opts->items[i].value);
    }
    free(opts->items);
    *opts = (struct optstr){0};
}

const char *optstr_get(struct optstr *opts, const char *key)
{
    const char *value = NULL;

    for (unsigned i = 0; i < opts->count; i++) {
        if (strcmp(opts->items[i].key, key) == 0) {
            opts->items[i].used = true;
            value = opts->items[i].value;
        }
    }
    return value;
}

int optstr_get_bool(struct optstr *opts, const char *key, bool *out, struct err *err)
{
    static const char *const words[] = {"off", "on", "no", "yes", "false", "true"};
    const char *value = optstr_get(opts, key);

    if (value == NULL)
        return 0;
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(value, words[i]) == 0) {
            *out = (i & 1) != 0;
            return 0;
        }
    }
    return err_set(err, -EINVAL, "%s=%s: expected 'on' or 'off'", key, value);
}

int optstr_get_number(struct optstr *opts, const char *key, uint64_t min, uint64_t max,
                      uint64_t *out, struct err *err)
{
    const char *value = optstr_get(opts, key);
    char *end;
    unsigned long long number;

    if (value == NULL)
        return 0;
    errno = 0;
    number = strtoull(value, &end, 10);
    if (!isdigit((unsigned char)value[0]) || *end != '\0')
        return err_set(err, -EINVAL, "%s=%s: expected a number", key, value);
    if (errno != 0 || number < min || number > max)
        return err_set(err, -EINVAL, "%s=%s: expected a number from %llu to %llu", key, value,
                       (unsigned long long)min, (unsigned long long)max);
    *out = number;
    return 0;
}

int optstr_get_size(struct optstr *opts, const char *key, uint64_t *out, struct err *err)
{
    const char *value = optstr_get(opts, key);

    if (value == NULL)
        return 0;
    if (size_parse(value, 'B', out) < 0)
        return err_set(err, -EINVAL, "%s=%s: expected a size such as 65536, 64K or 10G", key,
                       value);
    return 0;
}

int optstr_find_word(const char *value, const char *const *words, struct err *err)
{
    char list[128] = "";
    size_t used = 0;

    for (int i = 0; words[i] != NULL; i++) {
        int n;

        if (strcmp(value, words[i]) == 0)
            return i;
        n = snprintf(list + used, sizeof(list) - used, "%s'%s'",
                     i == 0                 ? ""
                     : words[i + 1] == NULL ? " or "
                                            : ", ",
                     words[i]);
        if (n > 0 && (size_t)n < sizeof(list) - used)
            used += (size_t)n;
    }
    return err_set(err, -EINVAL, "expected %s", list);
}

int optstr_get_word(struct optstr *opts, const char *key, const char *const *words, int *index,
                    struct err *err)
{
    const char *value = optstr_get(opts, key);
    int found;

    if (value == NULL)
        return 0;
    found = optstr_find_word(value, words, err);
    if (found < 0)
        return err_prefix(err, found, "%s=%s", key, value);
    *index = found;
    return 0;
}

/* Levenshtein distance, cut off at 32 characters: option names are short. */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[33];
    size_t a_len = strlen(a), b_len = strlen(b);

    if (a_len > 32 || b_len > 32)
        return 99;
    for (unsigned j = 0; j <= b_len; j++)
        row[j] = j;
    for (unsigned i = 1; i <= a_len; i++) {
        unsigned diagonal = row[0];

        row[0] = i;
        for (unsigned j = 1; j <= b_len; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[b_len];
}

const char *optstr_nearest(const char *word, const char *const *known)
{
    const char *best = NULL;
    /* Two edits of a short word are another word. */
    unsigned best_distance = strlen(word) < 4 ? 2 : 3;

    for (; *known != NULL; known++) {
        unsigned distance = edit_distance(word, *known);

        if (distance < best_distance) {
            best_distance = distance;
            best = *known;
        }
    }
    return best;
}

int optstr_reject_unused(const struct optstr *opts, const char *const *known, struct err *err)
{
    for (unsigned i = 0; i < opts->count; i++) {
        const struct optstr_item *item = &opts->items[i];
        const char *nearest;

        if (item->used)
            continue;
        nearest = optstr_nearest(item->key, known);
        if (nearest != NULL)
            return err_set(err, -EINVAL, "unknown key '%s' (did you mean '%s'?)", item->key,
                           nearest);
        return err_set(err, -EINVAL, "unknown key '%s'", item->key);
    }
    return 0;
}
