#include "image_opts.h"
#include "img.h"
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void warn(const char *line)
{
    log_warn("%s", line);
}

static const char *backing_root;

void img_set_backing_root(const char *root)
{
    backing_root = root;
}

const char *img_backing_root(void)
{
    return backing_root;
}

void img_explain(struct blk *blk, int code, struct err *problem)
{
    if (!blk_problem(blk, problem))
        (void)err_set(problem, code, "%s", strerror(-code));
}

/* The words are QEMU's; what is restricted: see raw.c. */
static void warn_of_guess(const char *path)
{
    fprintf(stderr,
            "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw images, write "
            "operations on block 0 will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the restrictions.\n",
            path);
}

void img_trim_open_error(const char *path, int rc, struct err *err)
{
    struct err whole = *err;
    size_t n = strlen("Could not open '") + strlen(path) + strlen("': ");
    char head[sizeof(whole.text)];
    int length = snprintf(head, sizeof(head), "Could not open '%s': ", path);

    /* That --key-file does as well is in the manual page. */
    if (rc == -ENOKEY && length == (int)n && strncmp(whole.text, head, n) == 0) {
        (void)err_set(err, rc, "Parameter 'encrypt.key-secret' is required for cipher");
        return;
    }
    if (length == (int)n && strncmp(whole.text, head, n) == 0 &&
        strcmp(whole.text + n, strerror(-rc)) != 0)
        (void)err_set(err, rc, "%s", whole.text + n);
}

struct blk *img_try_open(const struct blk_open_options *options, struct err *err)
{
    struct blk_open_options o = *options;
    struct blk_info info;
    struct blk *blk;
    int rc;

    if (o.keys == NULL)
        image_opts_apply(&o, o.path, 0);
    if (image_opts_check(&o, err) < 0)
        return NULL;
    if (o.format != NULL && !img_known_format(o.format)) {
        (void)err_set(err, -EINVAL, "Unknown driver '%s'", o.format);
        return NULL;
    }
    o.trust_probe = true;
    o.backing_root = backing_root;
    o.warn = warn;
    rc = blk_open(&o, &blk, err);
    if (rc < 0) {
        img_trim_open_error(o.path, rc, err);
        return NULL;
    }
    if (o.writable && o.format == NULL && o.ephemeral == BLK_EPHEMERAL_OFF &&
        strcmp(blk_format(blk), "raw") == 0)
        warn_of_guess(o.path);
    if (blk_get_info(blk, &info, NULL) == 0 && info.bitmaps_outdated) {
        log_warn("a program lacking bitmap support modified this file, so all bitmaps are now "
                 "considered inconsistent");
        fprintf(stderr,
                "Some clusters may be leaked, run '%s check -r' on the image file to fix.\n",
                log_program_name());
    }
    return blk;
}

struct blk *img_open(const struct blk_open_options *options)
{
    struct err err;
    struct blk *blk = NULL;

    if (image_opts_conflict(options)) {
        log_error("--image-opts and --format are mutually exclusive");
        return NULL;
    }
    blk = img_try_open(options, &err);
    if (blk == NULL)
        log_error("Could not open '%s': %s", image_opts_name(options->path), err.text);
    return blk;
}

void img_hint_bitmap(int rc)
{
    if (rc == -EUCLEAN)
        fputs("Try block-dirty-bitmap-remove to delete this bitmap from disk\n", stderr);
}

void img_close(struct blk *blk, int *status)
{
    struct err err;
    int rc = blk_close(blk, &err);

    if (rc == 0 || status == NULL)
        return;
    /* A full disk fails the command, and then what closing has still to write: the first message is enough. */
    if (*status != 1 || rc != -ENOSPC)
        log_error("%s", err.text);
    *status = 1;
}

const char *img_without_path(const char *text, const char *path)
{
    size_t n = strlen(path);

    return strncmp(text, path, n) == 0 && strncmp(text + n, ": ", 2) == 0 ? text + n + 2 : text;
}

void img_remove_made(const char *path)
{
    char *file = realpath(path, NULL);

    if (file != NULL)
        (void)unlink(file);
    free(file);
}

bool img_same_file(const char *a, const char *b)
{
    struct stat sa, sb;

    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

bool img_may_name(const char *image, const char *backing_path)
{
    struct err err;

    if (backing_root == NULL || blk_check_backing_root(backing_root, backing_path, &err) == 0)
        return true;
    log_error("%s: %s", image, err.text);
    return false;
}

const char *img_find_backing_format(const char *image, const char *backing_path)
{
    const char *format;
    struct err err;

    if (blk_probe(backing_path, &format, &err) < 0) {
        log_error("%s: Could not open '%s': %s", image, backing_path, err.text);
        return NULL;
    }
    log_warn("%s: no format (-F) was given for backing file '%s': found and recorded %s", image,
             backing_path, format);
    return format;
}
