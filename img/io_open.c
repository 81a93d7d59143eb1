/*
 * io_open.c - open, close and reopen.
 */
#include "image_opts.h"
#include "image_opts_known.h"
#include "io.h"
#include "log.h"
#include "optstr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct io_settings io_default_settings(void)
{
    return (struct io_settings){.open = {.writable = true, .discard = true}, .writethrough = true};
}

int io_set_cache(struct io_settings *settings, const char *mode)
{
    if (!img_parse_cache(mode, "cache", &settings->open.cache))
        return -EINVAL;
    settings->writethrough = strcmp(mode, "writethrough") == 0 || strcmp(mode, "directsync") == 0;
    return 0;
}

int io_set_discard(struct io_settings *settings, const char *mode)
{
    settings->open.discard = strcmp(mode, "unmap") == 0 || strcmp(mode, "on") == 0;
    if (settings->open.discard || strcmp(mode, "ignore") == 0 || strcmp(mode, "off") == 0)
        return 0;
    log_error("Invalid discard option: %s", mode);
    return -EINVAL;
}

int io_set_engine(struct io_settings *settings, const char *mode)
{
    settings->open.aio = strcmp(mode, "threads") == 0 ? BLK_AIO_THREADS : BLK_AIO_AUTO;
    if (strcmp(mode, "threads") == 0 || strcmp(mode, "native") == 0 ||
        strcmp(mode, "io_uring") == 0)
        return 0;
    log_error("Invalid aio option: %s", mode);
    return -EINVAL;
}

int io_open(struct io *io, const struct io_settings *settings)
{
    const struct blk_open_options *open = &settings->open;
    struct err err;
    int rc;

    if (io->blk != NULL) {
        log_error("file open already, try 'help close'");
        return -EBUSY;
    }
    if (open->force_share && open->writable) {
        log_error("can't open device %s: force-share=on can only be used with read-only images",
                  open->path);
        return -EINVAL;
    }
    if (settings->copy_on_read && !open->writable) {
        log_error("can't open device %s: Can't use copy-on-read on read-only device", open->path);
        return -EINVAL;
    }
    io->blk = img_try_open(open, &err);
    if (io->blk == NULL) {
        log_error("can't open device %s: %s", open->path, err.text);
        return -EINVAL;
    }
    rc = blk_queue_create(io->blk, &io->queue, &err);
    if (rc < 0) {
        log_error("%s", err.text);
        (void)blk_close(io->blk, NULL);
        io->blk = NULL;
        return rc;
    }
    io->settings = *settings;
    return 0;
}

int io_close(struct io *io)
{
    int status = 0;

    if (io->blk == NULL)
        return 0;
    io_drain(io);
    blk_queue_destroy(io->queue);
    img_close(io->blk, &status);
    io->blk = NULL;
    io->queue = NULL;
    return status == 0 ? 0 : -EIO;
}

int io_close_command(struct io *io, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return io_close(io);
}

/* ---- open ---- */

/* Appends to an option string; false: there is no memory. */
static bool append(char **text, const char *key, const char *value, bool is_path)
{
    size_t had = *text != NULL ? strlen(*text) : 0;
    size_t room = had + strlen(key) + 2 * strlen(value) + 3;
    char *longer = realloc(*text, room), *at;

    if (longer == NULL)
        return false;
    *text = longer;
    at = longer + had;
    at += snprintf(at, room - had, "%s%s", had > 0 ? "," : "", key);
    for (; *value != '\0'; value++) {
        *at++ = *value;
        if (is_path && *value == ',') /* as option strings have it */
            *at++ = ',';
    }
    *at = '\0';
    return true;
}

static int parse_open_option(int c, struct io_settings *settings, char **options)
{
    switch (c) {
    case 'r':
        settings->open.writable = false;
        return 0;
    case 's':
        settings->open.ephemeral = BLK_EPHEMERAL_FILE;
        return 0;
    case 'C':
        settings->copy_on_read = true;
        return 0;
    case 'n':
        return io_set_cache(settings, "none");
    case 'k':
        return 0;
    case 'U':
        settings->open.force_share = true;
        return 0;
    case 't':
        return io_set_cache(settings, optarg);
    case 'd':
        return io_set_discard(settings, optarg);
    case 'i':
        return io_set_engine(settings, optarg);
    case 'o':
        return append(options, "", optarg, false) ? 0 : -ENOMEM;
    default:
        return io_usage("open");
    }
}

/* The path of what is named by options, by a path, or by both. It lives until the program ends. NULL
 * after a message. */
static const char *find_path(const char *word, char **options)
{
    const char *path;
    struct err err;

    if (word != NULL && !append(options, "file.filename=", word, true)) {
        log_error("out of memory");
        return NULL;
    }
    if (*options == NULL) {
        log_error("can't open: a file name is missing");
        return NULL;
    }
    path = image_opts_named(*options, &err);
    if (path == NULL)
        log_error("can't open%s%s: %s", word != NULL ? " device " : "", word != NULL ? word : "",
                  err.text);
    return path;
}

int io_open_command(struct io *io, int argc, char **argv)
{
    struct io_settings settings = io_default_settings();
    char *options = NULL;
    int c, rc = 0;

    while (rc == 0 && (c = getopt(argc, argv, "rsCnkUt:d:i:o:")) != -1)
        rc = parse_open_option(c, &settings, &options);
    if (rc == 0 && optind < argc - 1)
        rc = io_usage("open");
    if (rc == 0 && io->blk != NULL) {
        log_error("file open already, try 'help close'");
        rc = -EBUSY;
    }
    if (rc == 0) {
        settings.open.path = find_path(argv[optind], &options);
        rc = settings.open.path != NULL ? io_open(io, &settings) : -EINVAL;
    }
    free(options);
    return rc;
}

/* ---- reopen ---- */

/* cache.direct, cache.no-flush and discard, which are all that can change; what tunes QEMU alone changes
 * nothing. */
static int parse_changes(const char *text, bool has_cache, const char *driver,
                         struct io_settings *settings)
{
    static const char *const known[] = {"cache.direct", "cache.no-flush", "discard", NULL};
    bool direct = settings->open.cache == BLK_CACHE_DIRECT;
    bool no_flush = settings->open.cache == BLK_CACHE_UNSAFE;
    struct optstr options = {0};
    const char *discard;
    struct err err;
    int rc = optstr_parse(&options, text, NULL, &err);

    for (unsigned i = 0; rc == 0 && i < options.count; i++) {
        unsigned k = 0;

        while (known[k] != NULL && strcmp(known[k], options.items[i].key) != 0)
            k++;
        if (known[k] == NULL && image_opts_is_tuning(options.items[i].key, driver))
            continue;
        if (known[k] == NULL)
            rc = err_set(&err, -EINVAL, "Cannot change the option '%s'", options.items[i].key);
        else if (k < 2 && has_cache)
            rc = err_set(&err, -EINVAL, "Cannot set both -c and the cache options");
    }
    rc = rc == 0 ? image_opts_check_layer(&options, "", driver, &err) : rc;
    rc = rc == 0 ? optstr_get_bool(&options, known[0], &direct, &err) : rc;
    rc = rc == 0 ? optstr_get_bool(&options, known[1], &no_flush, &err) : rc;
    if (rc < 0)
        log_error("%s", err.text);
    discard = optstr_get(&options, "discard");
    if (rc == 0 && discard != NULL)
        rc = io_set_discard(settings, discard);
    settings->open.cache = direct     ? BLK_CACHE_DIRECT
                           : no_flush ? BLK_CACHE_UNSAFE
                                      : BLK_CACHE_WRITEBACK;
    optstr_free(&options);
    return rc;
}

/* The engine opens an image one way: so this one is closed first, and opened as it was when the new
 * way fails. */
static int change_settings(struct io *io, const struct io_settings *wanted)
{
    struct io_settings old = io->settings;
    int rc = io_close(io);

    rc = rc == 0 ? io_open(io, wanted) : rc;
    if (rc < 0)
        (void)io_open(io, &old);
    return rc;
}

int io_reopen_command(struct io *io, int argc, char **argv)
{
    struct io_settings wanted = io->settings;
    const char *options = NULL;
    bool has_mode = false, has_cache = false;
    int c, rc = 0;

    while ((c = getopt(argc, argv, "c:o:rw")) != -1) {
        switch (c) {
        case 'c':
            rc = io_set_cache(&wanted, optarg);
            if (rc < 0)
                return rc;
            has_cache = true;
            break;
        case 'o':
            options = optarg;
            break;
        case 'r':
        case 'w':
            if (has_mode) {
                log_error("Only one -r/-w option may be given");
                return -EINVAL;
            }
            wanted.open.writable = c == 'w';
            has_mode = true;
            break;
        default:
            return io_usage(argv[0]);
        }
    }
    if (optind != argc)
        return io_usage(argv[0]);
    if (options != NULL)
        rc = parse_changes(options, has_cache, io->blk != NULL ? blk_format(io->blk) : "raw",
                           &wanted);
    if (rc == 0 && wanted.open.ephemeral != BLK_EPHEMERAL_OFF) {
        log_error("what was written since 'open -s' would be lost");
        rc = -ENOTSUP;
    }
    if (rc == 0 && wanted.copy_on_read && !wanted.open.writable) {
        log_error("Can't set '%s' to r/o with copy-on-read enabled", wanted.open.path);
        rc = -EINVAL;
    }
    return rc < 0 ? rc : change_settings(io, &wanted);
}
