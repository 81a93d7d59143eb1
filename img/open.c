#include "img.h"
#include "keys.h"
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

struct blk *img_try_open(const struct blk_open_options *options, struct err *err)
{
    struct blk_open_options o = *options;
    struct blk_info info;
    struct blk *blk;

    if (o.keys == NULL)
        keys_apply(&o, o.path, 0);
    if (o.format != NULL && !img_known_format(o.format)) {
        (void)err_set(err, -EINVAL, "Unknown driver '%s'", o.format);
        return NULL;
    }
    o.trust_probe = true;
    o.backing_root = backing_root;
    o.warn = warn;
    if (blk_open(&o, &blk, err) < 0)
        return NULL;
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
    struct blk *blk = img_try_open(options, &err);

    if (blk == NULL)
        log_error("Could not open '%s': %s", options->path, err.text);
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
