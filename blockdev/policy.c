/*
 * policy.c - where a name that stands in an image may lead.
 *
 * An image can come from anybody, and a guest can write one: so a name in it is a path and nothing
 * else, and with a backing root it must end below that directory once all links are resolved. What is
 * judged is the open file, not its name: a link that changes in between gains nothing. Opening has no
 * effect on a regular file, and does not block on anything else (file_posix.c), which also keeps such
 * names away from /proc and /sys.
 */
#include "block.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "proto:": letters, digits, '+', '-' and '.', then ':' before any '/'. */
static bool has_protocol(const char *name)
{
    const char *p = name;

    while (isalnum((unsigned char)*p) || *p == '+' || *p == '-' || *p == '.') {
        p++;
    }
    return p > name && *p == ':';
}

int blk_backing_path(const char *image_path, const char *name, char **out, struct err *err)
{
    const char *slash = strrchr(image_path, '/');
    int folder = slash != NULL ? (int)(slash - image_path) + 1 : 0;

    *out = NULL;
    if (name[0] == '\0') {
        return err_set(err, -EINVAL, "'%s': the file name in it is empty", image_path);
    }
    if (has_protocol(name)) {
        return err_set(err, -EINVAL,
                       "'%s': file name '%s' is not a path (json: and protocol names are "
                       "refused; put ./ in front of a file name with a colon)",
                       image_path, name);
    }
    if (asprintf(out, "%.*s%s", name[0] == '/' ? 0 : folder, image_path, name) < 0) {
        *out = NULL;
        return err_set_errno(err, -ENOMEM, "'%s': the file name in it", image_path);
    }
    return 0;
}

static bool is_below(const char *root, const char *path)
{
    size_t n = strlen(root);

    return strncmp(root, path, n) == 0 && (root[n - 1] == '/' || path[n] == '/');
}

int policy_check_root(const char *root, const struct file *file, struct err *err)
{
    char real_root[PATH_MAX], real_path[PATH_MAX], link[64];
    ssize_t n;

    if (realpath(root, real_root) == NULL) {
        return err_set_errno(err, -errno, "Backing root '%s'", root);
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file->fd);
    n = readlink(link, real_path, sizeof(real_path) - 1);
    if (n < 0) {
        return err_set_errno(err, -errno, "Could not find out where '%s' leads", file->path);
    }
    real_path[n] = '\0';
    if (!is_below(real_root, real_path)) {
        return err_set(err, -EACCES, "'%s' lies outside the backing root '%s'", file->path, root);
    }
    return 0;
}

int blk_check_backing_root(const char *root, const char *path, struct err *err)
{
    char real_root[PATH_MAX], real_path[PATH_MAX];
    const char *slash = strrchr(path, '/');
    char *folder = NULL, *where = NULL;
    int rc = 0;

    if (realpath(root, real_root) == NULL) {
        return err_set_errno(err, -errno, "Backing root '%s'", root);
    }
    if (realpath(path, real_path) != NULL) {
        where = strdup(real_path);
    } else if (errno == ENOENT) {
        folder = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
        if (folder != NULL && realpath(folder, real_path) == NULL) {
            rc = err_set_errno(err, -errno, "Could not find out where '%s' leads", path);
        } else if (folder != NULL &&
                   asprintf(&where, "%s/%s", real_path, slash == NULL ? path : slash + 1) < 0) {
            where = NULL;
        }
    } else {
        rc = err_set_errno(err, -errno, "Could not find out where '%s' leads", path);
    }
    if (rc == 0 && where == NULL) {
        rc = err_set_errno(err, -ENOMEM, "'%s'", path);
    }
    if (rc == 0 && !is_below(real_root, where)) {
        rc = err_set(err, -EACCES, "'%s' lies outside the backing root '%s'", path, root);
    }
    free(folder);
    free(where);
    return rc;
}

const char *blk_format_by_name(const char *path)
{
    static const char *const formats[] = {"qcow2", "raw"};
    const char *dot = strrchr(path, '.');

    for (size_t i = 0; dot && i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(dot + 1, formats[i]) == 0)
            return formats[i];
    }
    return NULL;
}
