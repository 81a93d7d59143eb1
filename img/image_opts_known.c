/*
 * image_opts_known.c - see image_opts_known.h. The options are those of QEMU 7.2's block layer, its drivers file, raw
 * and qcow2 ("qemu-system-x86_64 -blockdev", QAPI's BlockdevOptions).
 */
#include "image_opts_known.h"
#include "checked.h"
#include "image_opts_read.h"
#include "img.h"
#include "size.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, BOOL, SIZE, WORD };
enum driver { ANY, RAW, QCOW2 };

static const char *const overlap[] = {"none", "constant", "cached", "all", NULL};
static const char *const discard[] = {"ignore", "off", "unmap", "on", NULL};
static const char *const detect_zeroes[] = {"off", "on", "unmap", NULL};
static const char *const aio[] = {"threads", "native", "io_uring", NULL};
static const char *const locking[] = {"on", "off", "auto", NULL};

struct known {
    const char *key;
    enum driver driver;
    enum kind kind;
    const char *const *words;
    const char *before, *after; /* what a wrong word is answered with, around it; NULL: not shown */
};

#define BAD_VALUE "invalid parameter value: ", ""
#define BAD_OVERLAP                                                                                \
    "Unsupported value '",                                                                         \
        "' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, "   \
        "cached, all"

static const struct known of_all[] = {
    {"driver", ANY, TEXT, NULL, NULL, NULL},
    {"node-name", ANY, TEXT, NULL, NULL, NULL},
    {"read-only", ANY, BOOL, NULL, NULL, NULL},
    {"auto-read-only", ANY, BOOL, NULL, NULL, NULL},
    {"force-share", ANY, BOOL, NULL, NULL, NULL},
    {"cache.direct", ANY, BOOL, NULL, NULL, NULL},
    {"cache.no-flush", ANY, BOOL, NULL, NULL, NULL},
    {"discard", ANY, WORD, discard, "Invalid discard option", NULL},
    {"detect-zeroes", ANY, WORD, detect_zeroes, BAD_VALUE},
};

static const struct known of_formats[] = {
    {"backing", QCOW2, TEXT, NULL, NULL, NULL},
    {"filename", ANY, TEXT, NULL, NULL, NULL},
    {"offset", RAW, SIZE, NULL, NULL, NULL},
    {"size", RAW, SIZE, NULL, NULL, NULL},
    {"lazy-refcounts", QCOW2, BOOL, NULL, NULL, NULL},
    {"pass-discard-request", QCOW2, BOOL, NULL, NULL, NULL},
    {"pass-discard-snapshot", QCOW2, BOOL, NULL, NULL, NULL},
    {"pass-discard-other", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check", QCOW2, WORD, overlap, BAD_OVERLAP},
    {"overlap-check.template", QCOW2, WORD, overlap, BAD_OVERLAP},
    {"overlap-check.main-header", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.active-l1", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.active-l2", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.refcount-table", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.refcount-block", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.snapshot-table", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.inactive-l1", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.inactive-l2", QCOW2, BOOL, NULL, NULL, NULL},
    {"overlap-check.bitmap-directory", QCOW2, BOOL, NULL, NULL, NULL},
    {"cache-size", QCOW2, SIZE, NULL, NULL, NULL},
    {"l2-cache-size", QCOW2, SIZE, NULL, NULL, NULL},
    {"l2-cache-entry-size", QCOW2, SIZE, NULL, NULL, NULL},
    {"refcount-cache-size", QCOW2, SIZE, NULL, NULL, NULL},
    {"cache-clean-interval", QCOW2, SIZE, NULL, NULL, NULL},
    {"encrypt.format", QCOW2, TEXT, NULL, NULL, NULL},
    {"encrypt.key-secret", QCOW2, TEXT, NULL, NULL, NULL},
};

static const struct known of_files[] = {
    {"filename", ANY, TEXT, NULL, NULL, NULL},
    {"aio", ANY, WORD, aio, BAD_VALUE},
    {"locking", ANY, WORD, locking, BAD_VALUE},
    {"aio-max-batch", ANY, SIZE, NULL, NULL, NULL},
    {"drop-cache", ANY, BOOL, NULL, NULL, NULL},
    {"x-check-cache-dropped", ANY, BOOL, NULL, NULL, NULL},
};

enum { MAX_KNOWN = ARRAY_LEN(of_all) + ARRAY_LEN(of_formats) };

static const struct known *find(const struct known *table, size_t count, const char *key,
                                const char *driver)
{
    for (size_t i = 0; i < count; i++) {
        bool has_it =
            table[i].driver == ANY || (table[i].driver == QCOW2) == (strcmp(driver, "qcow2") == 0);

        if (has_it && strcmp(table[i].key, key) == 0)
            return &table[i];
    }
    return NULL;
}

/* Up to 2^64-1, as QEMU has it, where it is digits alone. */
static int parse_size(const char *value, uint64_t *size)
{
    int rc = size_parse(value, 'B', size);
    unsigned long long number;
    char *end;

    if (rc != -ERANGE || strchr(value, '-') != NULL)
        return rc == -ERANGE ? -EINVAL : rc;
    errno = 0;
    number = strtoull(value, &end, 10);
    if (errno != 0 || *end != '\0')
        return -ERANGE;
    *size = number;
    return 0;
}

int image_opts_get_size(struct optstr *options, const char *prefix, const char *key, uint64_t *size,
                        struct err *err)
{
    const char *value;
    char full[IMAGE_MAX_PREFIX + 32];
    int rc;

    (void)snprintf(full, sizeof(full), "%s%s", prefix, key);
    value = optstr_get(options, full);
    rc = value != NULL ? parse_size(value, size) : 0;
    if (rc == -ERANGE)
        return err_set(err, -EINVAL, "Value '%s' is out of range for parameter '%s'", value, key);
    return rc == 0 ? 0
                   : err_set(err, -EINVAL,
                             "Parameter '%s' expects a non-negative number below 2^64", key);
}

static int check_value(struct optstr *options, const struct known *known, const char *full_key,
                       const char *value, struct err *err)
{
    uint64_t size;
    bool is_on;
    int word;

    if (known->kind == BOOL && optstr_get_bool(options, full_key, &is_on, NULL) < 0)
        return err_set(err, -EINVAL, "Parameter '%s' expects 'on' or 'off'", known->key);
    if (known->kind == SIZE) {
        char prefix[IMAGE_MAX_PREFIX + 32];

        (void)snprintf(prefix, sizeof(prefix), "%.*s", (int)(strlen(full_key) - strlen(known->key)),
                       full_key);
        return image_opts_get_size(options, prefix, known->key, &size, err);
    }
    if (known->kind == WORD && optstr_get_word(options, full_key, known->words, &word, NULL) < 0) {
        bool is_shown = known->after != NULL;

        return err_set(err, -EINVAL, "%s%s%s", known->before, is_shown ? value : "",
                       is_shown ? known->after : "");
    }
    return 0;
}

/* The nearest key that `driver` has, as " (did you mean 'x'?)", or "". */
static const char *suggest(const char *key, bool is_file, const char *driver, char *text,
                           size_t room)
{
    const struct known *table = is_file ? of_files : of_formats;
    size_t count = is_file ? ARRAY_LEN(of_files) : ARRAY_LEN(of_formats), n = 0;
    const char *keys[MAX_KNOWN + 1], *nearest;

    for (size_t i = 0; i < ARRAY_LEN(of_all); i++)
        keys[n++] = of_all[i].key;
    for (size_t i = 0; i < count; i++) {
        if (find(&table[i], 1, table[i].key, driver) != NULL)
            keys[n++] = table[i].key;
    }
    keys[n] = NULL;
    nearest = optstr_nearest(key, keys);
    text[0] = '\0';
    if (nearest != NULL)
        (void)snprintf(text, room, " (did you mean '%s'?)", nearest);
    return text;
}

bool image_opts_is_tuning(const char *key, const char *driver)
{
    const struct known *known = find(of_formats, ARRAY_LEN(of_formats), key, driver);

    return strcmp(key, "detect-zeroes") == 0 ||
           (known != NULL && known->driver == QCOW2 && known->kind != TEXT);
}

/* The driver of the file below a layer or a driver, whose keys begin with the first `length` characters of
 * `key`: "raw" or "qcow2", or NULL: the file itself. */
static const char *driver_below(struct optstr *options, const char *key, size_t length)
{
    char full[IMAGE_MAX_PREFIX + 32];
    const char *driver;

    (void)snprintf(full, sizeof(full), "%.*sdriver", (int)length, key);
    driver = optstr_get(options, full);
    return driver != NULL && img_known_format(driver) ? driver : NULL;
}

static int check_option(struct optstr *options, const char *full, size_t length, const char *driver,
                        struct err *err)
{
    const char *value = optstr_get(options, full), *key = full + length;
    const struct known *known;
    bool is_file = false;
    char hint[80];

    while (!is_file && strncmp(key, "file.", 5) == 0) {
        const char *below = driver_below(options, full, (size_t)(key + 5 - full));

        key += 5;
        is_file = below == NULL;
        driver = below != NULL ? below : driver;
    }
    known = find(of_all, ARRAY_LEN(of_all), key, driver);
    if (known == NULL)
        known = is_file ? find(of_files, ARRAY_LEN(of_files), key, driver)
                        : find(of_formats, ARRAY_LEN(of_formats), key, driver);
    if (known == NULL && is_file)
        return err_set(err, -EINVAL, "Block protocol 'file' doesn't support the option '%s'%s", key,
                       suggest(key, true, driver, hint, sizeof(hint)));
    if (known == NULL)
        return err_set(err, -EINVAL, "Block format '%s' does not support the option '%s'%s", driver,
                       key, suggest(key, false, driver, hint, sizeof(hint)));
    return check_value(options, known, full, value, err);
}

int image_opts_check_layer(struct optstr *options, const char *prefix, const char *driver,
                           struct err *err)
{
    size_t length = strlen(prefix);
    int rc = 0;

    for (unsigned i = 0; i < options->count && rc == 0; i++) {
        const char *full = options->items[i].key;

        if (strncmp(full, prefix, length) == 0 && strncmp(full + length, "backing.", 8) != 0)
            rc = check_option(options, full, length, driver, err);
    }
    return rc;
}
