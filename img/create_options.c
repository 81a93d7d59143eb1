/*
 * create_options.c - `-o cluster_size=64k,compat=1.1,...` of create and convert.
 *
 * Every option that qemu-img 7.2 knows is known here as well: those that this program cannot carry out
 * are refused with their name unless their value asks for what happens anyway (extended_l2=off).
 */
#include "create_options.h"
#include "checked.h"
#include "img.h"
#include "keys.h"
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum format_bit { RAW = 1, QCOW2 = 2 };

static const struct known_option {
    const char *key;
    unsigned formats;
    const char *type, *help;
    const char *only_value; /* not NULL: any other value is refused */
} known[] = {
    {"backing_file", QCOW2, "str", "File name of a base image", NULL},
    {"backing_fmt", QCOW2, "str", "Image format of the base image", NULL},
    {"cluster_size", QCOW2, "size", "qcow2 cluster size", NULL},
    {"compat", QCOW2, "str", "Compatibility level (v2 [0.10] or v3 [1.1])", NULL},
    {"compression_type", QCOW2, "str", "Compression method used for image cluster compression",
     NULL},
    {"data_file", QCOW2, "str", "File name of an external data file", NULL},
    {"data_file_raw", QCOW2, "bool (on/off)",
     "The external data file must stay valid as a raw image", NULL},
    {"encrypt.cipher-alg", QCOW2, "str", "Name of encryption cipher algorithm", NULL},
    {"encrypt.cipher-mode", QCOW2, "str", "Name of encryption cipher mode", NULL},
    {"encrypt.format", QCOW2, "str", "Encrypt the image, format choices: 'luks'", NULL},
    {"encrypt.hash-alg", QCOW2, "str", "Name of encryption hash algorithm", NULL},
    {"encrypt.iter-time", QCOW2, "num", "Time to spend in PBKDF in milliseconds", NULL},
    {"encrypt.ivgen-alg", QCOW2, "str", "Name of IV generator algorithm", NULL},
    {"encrypt.ivgen-hash-alg", QCOW2, "str", "Name of IV generator hash algorithm", NULL},
    {"encrypt.key-secret", QCOW2, "str", "ID of secret providing LUKS passphrase", NULL},
    {"encryption", QCOW2, "bool (on/off)", NULL, "off"},
    {"extended_l2", QCOW2, "bool (on/off)", "Extended L2 tables", NULL},
    {"extent_size_hint", QCOW2 | RAW, "size", "Extent size hint for the image file, 0 to disable",
     NULL},
    {"lazy_refcounts", QCOW2, "bool (on/off)", "Postpone refcount updates", NULL},
    {"nocow", QCOW2 | RAW, "bool (on/off)", "Turn off copy-on-write (valid only on btrfs)", NULL},
    {"preallocation", QCOW2 | RAW, "str", NULL, NULL},
    {"refcount_bits", QCOW2, "num", "Width of a reference count entry in bits", NULL},
    {"size", QCOW2 | RAW, "size", "Virtual disk size", NULL},
};

static unsigned format_bit(const char *format)
{
    return strcmp(format, "raw") == 0 ? RAW : QCOW2;
}

int create_options_add(struct create_options *options, const char *text)
{
    char *joined;

    if (text[0] == '\0' || text[0] == ',' || text[strlen(text) - 1] == ',') {
        log_error("Invalid option list: %s", text);
        return -1;
    }
    if (options->text == NULL)
        joined = strdup(text);
    else if (asprintf(&joined, "%s,%s", options->text, text) < 0)
        joined = NULL;
    if (joined == NULL) {
        log_error("out of memory");
        return -1;
    }
    free(options->text);
    options->text = joined;
    return 0;
}

bool create_options_are(const char *key)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(known[i].key, key) == 0)
            return true;
    }
    return false;
}

bool create_options_asked(const struct create_options *options)
{
    const char *at = options->text;
    bool asked = false;

    while (at != NULL && *at != '\0' && !asked) {
        size_t n = strcspn(at, ",");

        asked = (n == 4 && strncmp(at, "help", 4) == 0) || (n == 1 && *at == '?');
        at += n + (at[n] == ',');
    }
    return asked;
}

/* Whether QEMU has it as an option of the file below the format. */
static bool is_of_file(const char *key, const char *format)
{
    return strcmp(key, "nocow") == 0 || strcmp(key, "extent_size_hint") == 0 ||
           (strcmp(key, "preallocation") == 0 && format_bit(format) == RAW);
}

bool create_options_help(const struct create_options *options, const char *format, bool has_target)
{
    if (!create_options_asked(options))
        return false;
    if (has_target)
        printf("Supported options:\n");
    else
        printf("Supported %s options:\n", format);
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        const char *help = known[i].help;
        char head[64];

        if ((known[i].formats & format_bit(format)) == 0 ||
            (!has_target && is_of_file(known[i].key, format)))
            continue;
        if (strcmp(known[i].key, "preallocation") == 0)
            help = format_bit(format) == RAW
                       ? "Preallocation mode (allowed values: off, falloc, full)"
                       : "Preallocation mode (allowed values: off, metadata, falloc, full)";
        if (help == NULL)
            continue;
        (void)snprintf(head, sizeof(head), "%s=<%s>", known[i].key, known[i].type);
        printf("  %-22s - %s", head, help);
        if (known[i].only_value != NULL)
            printf(" (%s alone)", known[i].only_value);
        printf("\n");
    }
    if (!has_target)
        printf("\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
    return true;
}

/* Prints "PATH: text"; returns -1. */
static int complain(const char *path, const char *text)
{
    if (path != NULL)
        log_error("%s: %s", path, text);
    else
        log_error("%s", text);
    return -1;
}

static int complain_value(const char *path, const char *key, const char *problem)
{
    char text[256];

    (void)snprintf(text, sizeof(text), "Parameter '%s' %s", key, problem);
    return complain(path, text);
}

/* Of a key that the format has not: with the nearest that it has. */
static int complain_key(const struct create_options *options, const char *key, const char *path)
{
    const char *keys[ARRAY_LEN(known) + 1], *nearest;
    char text[256];
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if ((known[i].formats & format_bit(options->blk.format)) != 0)
            keys[n++] = known[i].key;
    }
    keys[n] = NULL;
    nearest = optstr_nearest(key, keys);
    (void)snprintf(text, sizeof(text), "Invalid parameter '%s'%s%s%s", key,
                   nearest != NULL ? " (did you mean '" : "", nearest != NULL ? nearest : "",
                   nearest != NULL ? "'?)" : "");
    return complain(path, text);
}

/* Refuses unknown keys and the known ones with a value that cannot be had. */
static int check_keys(struct create_options *options, const char *path)
{
    for (unsigned i = 0; i < options->items.count; i++) {
        const struct optstr_item *item = &options->items.items[i];
        const struct known_option *k = NULL;
        char text[256];

        for (size_t j = 0; j < ARRAY_LEN(known); j++) {
            if (strcmp(known[j].key, item->key) == 0)
                k = &known[j];
        }
        if (k == NULL || (k->formats & format_bit(options->blk.format)) == 0) {
            return complain_key(options, item->key, path);
        }
        if (k->only_value != NULL && strcmp(k->only_value, item->value) != 0) {
            (void)snprintf(text, sizeof(text), "%s=%s is not supported", item->key, item->value);
            return complain(path, text);
        }
    }
    return 0;
}

bool create_options_preallocation(const char *text, enum blk_prealloc *mode)
{
    static const char *const names[] = {"off", "metadata", "falloc", "full"};

    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(names[i], text) == 0) {
            *mode = i;
            return true;
        }
    }
    return false;
}

static int parse_preallocation(struct create_options *options, const char *path)
{
    char problem[128];

    if (options->preallocation == NULL ||
        create_options_preallocation(options->preallocation, &options->blk.prealloc))
        return 0;
    (void)snprintf(problem, sizeof(problem), "does not accept value '%s'", options->preallocation);
    return complain_value(path, "preallocation", problem);
}

static int parse_compat(struct create_options *options, const char *path)
{
    const char *compat = options->compat;
    char problem[128];

    if (compat == NULL || strcmp(compat, "1.1") == 0 || strcmp(compat, "v3") == 0) {
        options->blk.compat = 3;
        return 0;
    }
    if (strcmp(compat, "0.10") == 0 || strcmp(compat, "v2") == 0) {
        options->blk.compat = 2;
        return 0;
    }
    (void)snprintf(problem, sizeof(problem), "does not accept value '%s'", compat);
    return complain_value(path, "version", problem);
}

static int parse_compression_type(const struct create_options *options, const char *path)
{
    const char *type = options->blk.compression_type;
    char problem[128];

    if (strcmp(type, "zlib") == 0 || strcmp(type, "zstd") == 0)
        return 0;
    (void)snprintf(problem, sizeof(problem), "does not accept value '%s'", type);
    return complain_value(path, "compression-type", problem);
}

/* A whole number as strtoull() takes it, a sign and octal digits included. */
int create_options_number(struct create_options *options, const char *path, const char *key,
                          uint64_t *number)
{
    const char *text = optstr_get(&options->items, key);
    char line[256], *end;
    uint64_t value;

    if (text == NULL)
        return 0;
    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno == ERANGE) {
        (void)snprintf(line, sizeof(line), "Value '%s' is too large for parameter '%s'", text, key);
        return complain(path, line);
    }
    if (end == text || *end != '\0')
        return complain_value(path, key, "expects a number");
    *number = value;
    return 0;
}

int create_options_refcount_bits(struct create_options *options, const char *path)
{
    options->refcount_bits = 16;
    if (optstr_get(&options->items, "refcount_bits") == NULL)
        return 0;
    if (create_options_number(options, path, "refcount_bits", &options->refcount_bits) < 0)
        return -1;
    /* 0 would mean the default there: what is no width becomes one that is refused as well. */
    options->blk.refcount_bits = options->refcount_bits >= 1 && options->refcount_bits <= 64
                                     ? (unsigned)options->refcount_bits
                                     : UINT_MAX;
    return 0;
}

int create_options_complain_size(const char *path, const char *key)
{
    complain_value(path, key, "expects a non-negative number below 2^64");
    fprintf(stderr, "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                    "and exabytes, respectively.\n");
    return -1;
}

/* LUKS or nothing: AES of qcow2, which encryption=on means as well, is not safe. */
static int get_encryption(struct create_options *options, const char *path)
{
    struct optstr *items = &options->items;
    const char *format = optstr_get(items, "encrypt.format");
    struct blk_luks_options *luks = &options->luks;
    char text[256];
    struct err err;

    *luks = (struct blk_luks_options){
        .cipher_alg = optstr_get(items, "encrypt.cipher-alg"),
        .cipher_mode = optstr_get(items, "encrypt.cipher-mode"),
        .ivgen_alg = optstr_get(items, "encrypt.ivgen-alg"),
        .ivgen_hash_alg = optstr_get(items, "encrypt.ivgen-hash-alg"),
        .hash_alg = optstr_get(items, "encrypt.hash-alg"),
    };
    options->key_secret = optstr_get(items, "encrypt.key-secret");
    if (optstr_get_number(items, "encrypt.iter-time", 1, UINT32_MAX, &luks->iter_time, &err) < 0)
        return complain(path, err.text);
    if (format == NULL) {
        if (options->key_secret == NULL && luks->cipher_alg == NULL && luks->cipher_mode == NULL &&
            luks->ivgen_alg == NULL && luks->ivgen_hash_alg == NULL && luks->hash_alg == NULL &&
            luks->iter_time == 0)
            return 0;
        return complain_value(path, "encrypt.format", "is missing");
    }
    if (strcmp(format, "luks") != 0) {
        (void)snprintf(text, sizeof(text), "encrypt.format=%s is not supported: luks alone is safe",
                       format);
        return complain(path, text);
    }
    if (options->key_secret != NULL && !keys_find(options->key_secret, &luks->key)) {
        (void)snprintf(text, sizeof(text), "No secret with id '%s'", options->key_secret);
        return complain(path, text);
    }
    if (options->key_secret == NULL && !keys_find(NULL, &luks->key))
        return complain_value(path, "encrypt.key-secret", "is required for cipher");
    options->blk.luks = luks;
    return 0;
}

/* What is for the file system. */
static int parse_hints(struct create_options *options, const char *path)
{
    uint64_t hint = 0;

    if (optstr_get_bool(&options->items, "nocow", &options->blk.nocow, NULL) < 0)
        return complain_value(path, "nocow", "expects 'on' or 'off'");
    if (optstr_get_size(&options->items, "extent_size_hint", &hint, NULL) < 0)
        return create_options_complain_size(path, "extent_size_hint");
    options->has_nocow = optstr_get(&options->items, "nocow") != NULL;
    options->has_extent_size_hint = optstr_get(&options->items, "extent_size_hint") != NULL;
    options->blk.extent_size_hint = hint;
    return 0;
}

int create_options_parse(struct create_options *options, const char *path)
{
    struct blk_create_options *blk = &options->blk;
    struct optstr *items = &options->items;
    struct err err;
    uint64_t cluster_size = 65536, size = 0;

    if (options->text != NULL && optstr_parse(items, options->text, NULL, &err) < 0)
        return complain(path, err.text);
    if (check_keys(options, path) < 0)
        return -1;
    if (optstr_get_size(items, "cluster_size", &cluster_size, NULL) < 0)
        return create_options_complain_size(path, "cluster_size");
    if (cluster_size > UINT32_MAX || cluster_size == 0)
        return complain(path, "Cluster size must be a power of two between 512 and 2048k");
    blk->cluster_size = (unsigned)cluster_size;
    if (optstr_get_size(items, "size", &size, NULL) < 0)
        return create_options_complain_size(path, "size");
    if (optstr_get(items, "size") != NULL) {
        options->has_size = true;
        blk->size = size;
    }
    if (optstr_get_bool(items, "lazy_refcounts", &blk->lazy_refcounts, NULL) < 0)
        return complain_value(path, "lazy_refcounts", "expects 'on' or 'off'");
    if (optstr_get_bool(items, "extended_l2", &blk->extended_l2, NULL) < 0)
        return complain_value(path, "extended_l2", "expects 'on' or 'off'");
    if (optstr_get_bool(items, "data_file_raw", &blk->data_file_raw, NULL) < 0)
        return complain_value(path, "data_file_raw", "expects 'on' or 'off'");
    if (create_options_refcount_bits(options, path) < 0 || parse_hints(options, path) < 0)
        return -1;
    options->has_data_file_raw = optstr_get(items, "data_file_raw") != NULL;
    blk->data_file = optstr_get(items, "data_file");
    blk->backing_root = img_backing_root();
    blk->compression_type = optstr_get(items, "compression_type");
    if (blk->compression_type == NULL)
        blk->compression_type = "zlib";
    if (get_encryption(options, path) < 0)
        return -1;
    options->compat = optstr_get(items, "compat");
    options->preallocation = optstr_get(items, "preallocation");
    blk->backing_name = optstr_get(items, "backing_file");
    blk->backing_format = optstr_get(items, "backing_fmt");
    return 0;
}

int create_options_finish(struct create_options *options, const char *path)
{
    if (parse_compat(options, path) < 0 || parse_preallocation(options, path) < 0 ||
        parse_compression_type(options, path) < 0)
        return -1;
    return 0;
}

/* A comma inside a value is doubled, so that the line can be parsed. */
static void print_value(const char *key, const char *value)
{
    printf(" %s=", key);
    for (; *value != '\0'; value++) {
        if (*value == ',')
            putchar(',');
        putchar(*value);
    }
}

static void print_encryption(const struct create_options *options)
{
    const struct blk_luks_options *luks = &options->luks;
    const struct {
        const char *key, *value;
    } given[] = {
        {"encrypt.format", "luks"},
        {"encrypt.key-secret", options->key_secret},
        {"encrypt.cipher-alg", luks->cipher_alg},
        {"encrypt.cipher-mode", luks->cipher_mode},
        {"encrypt.ivgen-alg", luks->ivgen_alg},
        {"encrypt.ivgen-hash-alg", luks->ivgen_hash_alg},
        {"encrypt.hash-alg", luks->hash_alg},
    };

    for (size_t i = 0; i < ARRAY_LEN(given); i++) {
        if (given[i].value != NULL)
            print_value(given[i].key, given[i].value);
    }
    if (luks->iter_time != 0)
        printf(" encrypt.iter-time=%llu", (unsigned long long)luks->iter_time);
}

void create_options_print(const struct create_options *options)
{
    const struct blk_create_options *blk = &options->blk;
    bool qcow2 = format_bit(blk->format) == QCOW2;

    printf("Formatting '%s', fmt=%s", blk->path, blk->format);
    if (blk->luks != NULL)
        print_encryption(options);
    if (qcow2) {
        printf(" cluster_size=%u extended_l2=%s", blk->cluster_size,
               blk->extended_l2 ? "on" : "off");
        if (options->preallocation != NULL)
            print_value("preallocation", options->preallocation);
        print_value("compression_type", blk->compression_type);
    }
    printf(" size=%llu", (unsigned long long)blk->size);
    if (options->compat != NULL)
        print_value("compat", options->compat);
    if (blk->backing_name != NULL)
        print_value("backing_file", blk->backing_name);
    if (blk->backing_format != NULL)
        print_value("backing_fmt", blk->backing_format);
    if (blk->data_file != NULL)
        print_value("data_file", blk->data_file);
    if (options->has_data_file_raw)
        print_value("data_file_raw", blk->data_file_raw ? "on" : "off");
    if (qcow2)
        printf(" lazy_refcounts=%s refcount_bits=%lld", blk->lazy_refcounts ? "on" : "off",
               (long long)options->refcount_bits);
    if (options->has_nocow)
        print_value("nocow", blk->nocow ? "on" : "off");
    if (!qcow2 && options->preallocation != NULL)
        print_value("preallocation", options->preallocation);
    if (options->has_extent_size_hint)
        printf(" extent_size_hint=%llu", (unsigned long long)blk->extent_size_hint);
    printf("\n");
    fflush(stdout);
}

void create_options_free(struct create_options *options)
{
    optstr_free(&options->items);
    free(options->text);
    options->text = NULL;
}
