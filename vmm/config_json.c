/*
 * config_json.c - see config_json.h. Every value becomes the text that the command line would have
 * given, so that one function checks each setting (settings.h).
 */
#include "config_json.h"

#include "settings.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Thirty disks with the longest paths fit in a fraction of it. */
enum { FILE_MAX = 1 << 20, NUMBER_TEXT_MAX = 24 };

/* ---- reading ---- */

static int read_all(int fd, char *text, size_t *length)
{
    *length = 0;
    while (*length <= FILE_MAX) {
        ssize_t n = read(fd, text + *length, FILE_MAX + 1 - *length);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        *length += (size_t)n;
    }
    return -EFBIG;
}

/* The file's text, to be freed; NULL with *rc and a message when it cannot be read. */
static char *read_file(const char *path, size_t *length, int *rc, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    char *text;

    if (fd < 0) {
        *rc = err_set_errno(err, -errno, "cannot open %s", path);
        return NULL;
    }
    text = malloc(FILE_MAX + 1);
    *rc = text != NULL ? read_all(fd, text, length) : -ENOMEM;
    close(fd);
    if (*rc < 0) {
        (void)err_set_errno(err, *rc, "cannot read %s", path);
        free(text);
        return NULL;
    }
    return text;
}

/* ---- values as text ---- */

/* The text of a scalar: its own, or in `number`; NULL for anything else. */
static const char *scalar_text(const json_t *value, char number[NUMBER_TEXT_MAX])
{
    if (json_is_string(value))
        return json_string_value(value);
    if (json_is_boolean(value))
        return json_is_true(value) ? "on" : "off";
    if (json_is_integer(value)) {
        (void)snprintf(number, NUMBER_TEXT_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return number;
    }
    return NULL;
}

static bool kind_accepts(enum setting_kind kind, const json_t *value)
{
    switch (kind) {
    case SETTING_NUMBER:
        return json_is_integer(value) || json_is_string(value);
    case SETTING_SWITCH:
        return json_is_boolean(value) || json_is_string(value);
    default:
        return json_is_string(value);
    }
}

static const char *kind_name(enum setting_kind kind)
{
    switch (kind) {
    case SETTING_NUMBER:
        return "an integer or a string";
    case SETTING_SWITCH:
        return "true or false";
    default:
        return "a string";
    }
}

/* ---- disks ---- */

static int add_disk_object(struct vm_config *config, json_t *object, struct err *err)
{
    struct optstr opts = {.items = calloc(json_object_size(object) + 1, sizeof(*opts.items))};
    const char *key;
    json_t *value;
    int rc = opts.items != NULL ? 0 : -ENOMEM;

    json_object_foreach(object, key, value)
    {
        struct optstr_item *item = &opts.items[opts.count];
        char number[NUMBER_TEXT_MAX];
        const char *text = scalar_text(value, number);

        if (rc < 0)
            break;
        if (text == NULL) {
            rc = err_set(err, -EINVAL, "%s: expected a string, a number, true or false", key);
            break;
        }
        item->key = strdup(key);
        item->value = strdup(text);
        opts.count++;
        if (item->key == NULL || item->value == NULL)
            rc = -ENOMEM;
    }
    if (rc == -ENOMEM)
        (void)err_set(err, rc, "out of memory");
    if (rc == 0)
        rc = setting_add_disk(config, &opts, err);
    optstr_free(&opts);
    return rc;
}

static int add_disk(struct vm_config *config, const struct setting *setting, json_t *value,
                    struct err *err)
{
    if (json_is_object(value))
        return add_disk_object(config, value, err);
    if (json_is_string(value))
        return setting->set(config, json_string_value(value), err);
    return err_set(err, -EINVAL, "expected a string or an object");
}

static int add_disks(struct vm_config *config, const struct setting *setting, json_t *value,
                     struct err *err)
{
    size_t index;
    json_t *item;

    if (!json_is_array(value))
        return add_disk(config, setting, value, err);
    json_array_foreach(value, index, item)
    {
        int rc = add_disk(config, setting, item, err);

        if (rc < 0)
            return err_prefix(err, rc, "%zu", index + 1);
    }
    return 0;
}

/* ---- the file ---- */

static const struct setting *find_setting(const char *key)
{
    for (unsigned i = 0; i < SETTINGS_COUNT; i++) {
        if (strcmp(settings[i].name, key) == 0)
            return &settings[i];
    }
    return NULL;
}

static int unknown_key(const char *key, struct err *err)
{
    const char *names[SETTINGS_COUNT + 1] = {NULL};
    const char *nearest;

    for (unsigned i = 0; i < SETTINGS_COUNT; i++)
        names[i] = settings[i].name;
    nearest = optstr_nearest(key, names);
    if (nearest != NULL)
        return err_set(err, -EINVAL, "unknown key '%s' (did you mean '%s'?)", key, nearest);
    return err_set(err, -EINVAL, "unknown key '%s'", key);
}

static int apply(struct vm_config *config, const char *key, json_t *value, struct err *err)
{
    const struct setting *setting = find_setting(key);
    char number[NUMBER_TEXT_MAX];
    int rc;

    if (setting == NULL)
        return unknown_key(key, err);
    if (setting->kind == SETTING_DISK)
        rc = add_disks(config, setting, value, err);
    else if (kind_accepts(setting->kind, value))
        rc = setting->set(config, scalar_text(value, number), err);
    else
        rc = err_set(err, -EINVAL, "expected %s", kind_name(setting->kind));
    return rc < 0 ? err_prefix(err, rc, "%s", key) : 0;
}

int config_json_load(struct vm_config *config, const char *path, struct err *err)
{
    json_error_t where;
    size_t length = 0;
    json_t *root, *value;
    const char *key;
    int rc = 0;
    char *text = read_file(path, &length, &rc, err);

    if (text == NULL)
        return rc;
    root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &where);
    free(text);
    if (root == NULL)
        return err_set(err, -EINVAL, "%s:%d:%d: %s", path, where.line, where.column, where.text);
    if (!json_is_object(root))
        rc = err_set(err, -EINVAL, "expected one JSON object");
    json_object_foreach(root, key, value)
    {
        if (rc == 0)
            rc = apply(config, key, value, err);
    }
    json_decref(root);
    return rc < 0 ? err_prefix(err, rc, "%s", path) : 0;
}
