/*
 * cmd_amend.c - `amend`: changes the options that an image was created with.
 *
 * Which options exist, in which order they are complained of and how is qemu-img's; what is done is the
 * engine's (blk_amend()).
 */
#include "amend_keys.h"
#include "checked.h"
#include "create_options.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "optstr.h"
#include "size.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_FORCE = 0x200, SECTOR = 512 };

struct amend_args {
    struct blk_open_options open;
    struct create_options options; /* their text alone */
    bool quiet, progress, force;
    const char *cache;
};

static const struct amend_option {
    const char *key, *type, *help;
} known[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"data_file", "str", "File name of an external data file"},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image"},
    {"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"encrypt.keyslot", "num", "Select a single keyslot to modify explicitly"},
    {"encrypt.new-secret", "str",
     "New secret to set in the matching keyslots. Empty string to erase"},
    {"encrypt.old-secret", "str", "Select all keyslots that match this password"},
    {"encrypt.state", "str", "Select new state of affected keyslots (active/inactive)"},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates"},
    {"refcount_bits", "num", "Width of a reference count entry in bits"},
    {"size", "size", "Virtual disk size"},
};

static bool is_known(const char *key)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(known[i].key, key) == 0)
            return true;
    }
    return false;
}

static int refuse_raw(const char *format)
{
    log_error("Format driver '%s' does not support option amendment", format);
    return 1;
}

static int print_options(const char *format)
{
    if (strcmp(format, "qcow2") != 0)
        return refuse_raw(format);
    printf("Amend options for '%s':\n", format);
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        char head[64];

        (void)snprintf(head, sizeof(head), "%s=<%s>", known[i].key, known[i].type);
        printf("  %-22s - %s\n", head, known[i].help);
    }
    return 0;
}

/* ---- command line ---- */

static bool parse_args(int argc, char **argv, struct amend_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"force", no_argument, NULL, OPT_FORCE},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":f:ho:pqt:", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->open.format = optarg;
            break;
        case 'o':
            if (create_options_add(&args->options, optarg) < 0)
                return false;
            break;
        case 'p':
            args->progress = true;
            break;
        case 'q':
            args->quiet = true;
            break;
        case 't':
            args->cache = optarg;
            break;
        case OPT_FORCE:
            args->force = true;
            break;
        default:
            return false;
        }
    }
    if (args->options.text == NULL) {
        *status = img_usage_error("Must specify options (-o)");
        return false;
    }
    if (args->open.format != NULL && create_options_asked(&args->options)) {
        *status = print_options(args->open.format);
        return false;
    }
    if (optind != argc - 1) {
        log_error("Expecting one image file name");
        return false;
    }
    if (args->cache != NULL && !img_parse_cache(args->cache, "cache", &args->open.cache))
        return false;
    args->open.path = image_opts_path(argv[optind], false);
    return args->open.path != NULL;
}

/* ---- options ---- */

static int check_names(const struct optstr *items)
{
    for (unsigned i = 0; i < items->count; i++) {
        const char *key = items->items[i].key;

        if (is_known(key))
            continue;
        log_error("Invalid parameter '%s'", key);
        if (create_options_are(key))
            fputs("This option is only supported for image creation\n", stderr);
        return -1;
    }
    return 0;
}

static int get_compat(const char *text, unsigned *compat)
{
    if (text == NULL)
        return 0;
    if (strcmp(text, "0.10") == 0 || strcmp(text, "v2") == 0) {
        *compat = 2;
    } else if (strcmp(text, "1.1") == 0 || strcmp(text, "v3") == 0) {
        *compat = 3;
    } else {
        log_error("Unknown compatibility level %s", text);
        return -1;
    }
    return 0;
}

static int get_bool(struct optstr *items, const char *key, bool *is_set, bool *value)
{
    if (optstr_get_bool(items, key, value, NULL) < 0) {
        log_error("Parameter '%s' expects 'on' or 'off'", key);
        return -1;
    }
    *is_set = optstr_get(items, key) != NULL;
    return 0;
}

static int get_size(const char *text, uint64_t *size)
{
    int rc = text == NULL ? 0 : strchr(text, '-') != NULL ? -EINVAL : size_parse(text, 'B', size);

    if (rc == -ERANGE)
        log_error("Value '%s' is out of range for parameter 'size'", text);
    else if (rc < 0)
        (void)create_options_complain_size(NULL, "size");
    return rc;
}

static int check_encrypted(struct blk *blk)
{
    struct blk_encryption encryption;

    if (blk_get_encryption(blk, &encryption))
        return 0;
    log_error("Can't amend encryption options - encryption not present");
    return -1;
}

/* What can be said of values alone comes before what they mean together. */
static int read_values(struct blk *blk, struct amend_args *args, struct blk_key_change *keys,
                       struct blk_amend_options *amend)
{
    struct optstr *items = &args->options.items;
    bool has_keys = amend_keys_are_given(&args->options);

    if (get_bool(items, "data_file_raw", &amend->set_data_file_raw, &amend->data_file_raw) < 0 ||
        get_bool(items, "lazy_refcounts", &amend->set_lazy_refcounts, &amend->lazy_refcounts) < 0 ||
        amend_keys_read_numbers(&args->options, keys) < 0 ||
        create_options_refcount_bits(&args->options, NULL) < 0)
        return -1;
    amend->refcount_bits = args->options.blk.refcount_bits; /* UINT_MAX: no width */
    if (get_size(optstr_get(items, "size"), &amend->size) < 0 ||
        (has_keys && check_encrypted(blk) < 0))
        return -1;
    amend->data_file = optstr_get(items, "data_file");
    amend->set_data_file = amend->data_file != NULL;
    amend->keys = has_keys ? keys : NULL;
    keys->force = args->force;
    if (get_compat(optstr_get(items, "compat"), &amend->compat) < 0)
        return -1;
    return has_keys ? amend_keys_read(&args->options, args->open.path, keys) : 0;
}

/* The backing file may be named, as it is. */
static int check_backing(struct blk *blk, struct optstr *items)
{
    const char *name = optstr_get(items, "backing_file"),
               *format = optstr_get(items, "backing_fmt");
    struct blk_info info;
    struct err err;

    if (name == NULL && format == NULL)
        return 0;
    if (blk_get_info(blk, &info, &err) < 0) {
        log_error("%s", err.text);
        return -1;
    }
    if (name != NULL && info.backing_name != NULL && strcmp(name, info.backing_name) == 0 &&
        (format == NULL) == (info.backing_format == NULL) &&
        (format == NULL || strcmp(format, info.backing_format) == 0))
        return 0;
    log_error("Cannot amend the backing file");
    fprintf(stderr, "You can use '%s rebase' instead.\n", log_program_name());
    return -1;
}

static int check_size(const struct blk_amend_options *amend)
{
    if (amend->size % SECTOR == 0)
        return 0;
    log_error("The new size must be a multiple of %d", SECTOR);
    return -1;
}

static int amend_image(struct blk *blk, struct amend_args *args)
{
    struct optstr *items = &args->options.items;
    struct blk_amend_options amend = {0};
    struct blk_key_change keys = {0};
    struct err err;
    int rc = optstr_parse(items, args->options.text, NULL, &err);

    if (rc == 0 && (check_names(items) < 0 || read_values(blk, args, &keys, &amend) < 0 ||
                    check_backing(blk, items) < 0 || check_size(&amend) < 0))
        return 1;
    rc = rc == 0 ? blk_amend(blk, &amend, &err) : rc;
    if (rc < 0)
        log_error("%s", err.text);
    return rc < 0;
}

int cmd_amend(int argc, char **argv)
{
    struct amend_args args = {.open = {.writable = true, .discard = true}};
    struct progress progress;
    struct blk *blk;
    int status;

    if (!parse_args(argc, argv, &args, &status)) {
        create_options_free(&args.options);
        return status;
    }
    blk = img_open(&args.open);
    status = 1;
    if (blk != NULL && create_options_asked(&args.options)) {
        status = print_options(blk_format(blk));
    } else if (blk != NULL && strcmp(blk_format(blk), "qcow2") != 0) {
        status = refuse_raw(blk_format(blk));
    } else if (blk != NULL) {
        progress_start(&progress, args.progress && !args.quiet);
        status = amend_image(blk, &args);
        progress_end(&progress, true);
    }
    img_close(blk, &status);
    create_options_free(&args.options);
    return status;
}
