/*
 * open.c - opens an image and the chain below it, layer by layer from the top, and closes it again.
 *
 * Image policy: see blk_open() in blockdev.h. Each layer carries how far it is trusted to name
 * another file: explicitly given and recorded formats are, guessed ones only with trust_probe.
 */
#include "block.h"
#include "bytes.h"
#include "checked.h"
#include "file_disk.h"
#include "file_part.h"
#include "merged.h"
#include "qcow2/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct blk_format *const formats[] = {&raw_format, &qcow2_format};

static const struct blk_format *find_format(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        if (strcmp(formats[i]->name, name) == 0) {
            return formats[i];
        }
    }
    return NULL;
}

/* By the magic number alone: whatever begins with it is qcow2 or refused, never a raw disk. */
const struct blk_format *blk_probe_bytes(const uint8_t *bytes, size_t length)
{
    return length >= 4 && load_be32(bytes) == QCOW2_MAGIC ? &qcow2_format : &raw_format;
}

static int probe_file(struct file *file, const struct blk_format **format, struct err *err)
{
    uint8_t bytes[PROBE_BYTES];
    int r = file_pread(file, 0, bytes, sizeof(bytes));

    if (r != 0) {
        return err_set_errno(err, r, "Could not read the first sector of '%s'", file->path);
    }
    *format = blk_probe_bytes(bytes, sizeof(bytes));
    return 0;
}

int blk_probe(const char *path, const char **format, struct err *err)
{
    return blk_probe_place(path, &(struct blk_place){0}, format, err);
}

int blk_probe_place(const char *path, const struct blk_place *place, const char **format,
                    struct err *err)
{
    const struct file_open_options options = {0};
    const struct blk_format *found = &raw_format;
    struct file *file;
    int r = file_open_posix(path, &options, &file, err);

    if (r != 0) {
        return r;
    }
    r = file_part_wrap_all(&file, place->parts, place->part_count, err);
    r = r == 0 ? probe_file(file, &found, err) : r;
    file_close(file);
    if (r == 0) {
        *format = found->name;
    }
    return r;
}

static int lock_file(struct file *file, const struct blk_open_options *options, struct err *err)
{
    unsigned used = FILE_PERM_CONSISTENT_READ;
    unsigned shared = FILE_PERM_CONSISTENT_READ | FILE_PERM_WRITE_UNCHANGED;

    if (options->no_lock) {
        return 0;
    }
    if (options->force_share) {
        shared = FILE_PERM_ALL;
    } else if (options->writable) {
        used |= FILE_PERM_WRITE | FILE_PERM_RESIZE;
    }
    return file_lock(file, used, shared, err);
}

void blk_free_layer(struct blk *blk)
{
    file_close(blk->file);
    file_close(blk->data_file);
    free(blk->data_name);
    free(blk->path);
    free(blk->backing_name);
    free(blk->backing_format);
    free(blk->backing_path);
    merged_free(blk->merged);
    pthread_mutex_destroy(&blk->first_sector_lock);
    pthread_mutex_destroy(&blk->problem_lock);
    free(blk);
}

static void identify(const struct file *file, dev_t *device, ino_t *inode)
{
    struct stat st;

    if (file->fd >= 0 && fstat(file->fd, &st) == 0) {
        *device = st.st_dev;
        *inode = st.st_ino;
    }
}

struct blk *blk_new_layer(struct file *file, const struct blk_open_options *options,
                          struct err *err)
{
    struct blk *blk = calloc(1, sizeof(*blk));

    if (blk == NULL) {
        file_close(file);
        err_set_errno(err, -ENOMEM, "Could not open '%s'", options->path);
        return NULL;
    }
    pthread_mutex_init(&blk->first_sector_lock, NULL);
    pthread_mutex_init(&blk->problem_lock, NULL);
    blk->file = file;
    identify(file, &blk->device, &blk->inode);
    blk->writable = options->writable;
    blk->can_discard = options->discard;
    blk->aio = options->aio;
    blk->path = strdup(options->path);
    if (blk->path == NULL) {
        blk_free_layer(blk);
        err_set_errno(err, -ENOMEM, "Could not open '%s'", options->path);
        return NULL;
    }
    return blk;
}

/* Makes a layer of an open file, which it owns from then on. */
static int open_layer(struct file *file, const struct blk_open_options *options, struct blk **out,
                      struct err *err)
{
    struct blk *blk = blk_new_layer(file, options, err);
    int r;

    if (blk == NULL) {
        return -ENOMEM;
    }
    r = lock_file(file, options, err);
    if (r != 0) {
        goto fail;
    }
    if (options->format != NULL) {
        blk->format = find_format(options->format);
        if (blk->format == NULL) {
            r = err_set(err, -ENOTSUP, "Could not open '%s': Unknown format '%s'", options->path,
                        options->format);
            goto fail;
        }
    } else {
        r = probe_file(file, &blk->format, err);
        if (r != 0) {
            goto fail;
        }
        blk->is_probed = true;
    }
    r = blk->format->open(blk, options, err);
    if (r != 0) {
        err_prefix(err, r, "Could not open '%s'", options->path);
        blk->writable = false;
        blk->format->close(blk, NULL);
        goto fail;
    }
    *out = blk;
    return 0;

fail:
    blk_free_layer(blk);
    return r;
}

/* Refuses a file that is already part of the chain; before its locks are asked for, which the chain
 * itself may hold. Another part of the same file is another image. */
static int check_loop(const struct blk *top, const struct file *file, struct err *err)
{
    struct stat st;

    if (file->fd < 0 || fstat(file->fd, &st) != 0) {
        return 0;
    }
    for (const struct blk *blk = top; blk != NULL; blk = blk->backing) {
        if ((blk->inode == st.st_ino && blk->device == st.st_dev &&
             blk->file->fd_offset == file->fd_offset) ||
            (blk->data_inode == st.st_ino && blk->data_device == st.st_dev)) {
            return err_set(err, -ELOOP, "The backing chain of '%s' is a loop: '%s' is in it twice",
                           top->path, file->path);
        }
    }
    return 0;
}

/* A file that `parent` names, of the kind `what`, or the part of it at `place`; `top` leads to what is open
 * already. On failure *file is NULL, as it was. */
static int open_named(const char *what, const char *path, const struct blk_place *place,
                      const struct file_open_options *file_options, const struct blk *top,
                      const struct blk *parent, const struct blk_open_options *options,
                      struct file **file, struct err *err)
{
    int r;

    if (parent->is_probed && !options->trust_probe && file_options->is_named) {
        return err_set(err, -EPERM,
                       "'%s' names a %s file, but its format was guessed: give format=qcow2 "
                       "(or record the backing format in the image above it) if you trust it",
                       parent->path, what);
    }
    r = file_open_posix(path, file_options, file, err);
    if (r != 0) {
        return r;
    }
    if (options->backing_root != NULL) {
        r = policy_check_root(options->backing_root, *file, err);
    }
    r = r == 0 ? file_part_wrap_all(file, place->parts, place->part_count, err) : r;
    r = r == 0 ? check_loop(top, *file, err) : r;
    if (r != 0) {
        file_close(*file);
        *file = NULL;
    }
    return r;
}

/* Opens the data file of a layer, as the layer itself is opened. */
static int open_data(struct blk *top, struct blk *blk, const struct blk_open_options *options,
                     struct err *err)
{
    const struct file_open_options file_options = {
        .writable = blk->writable,
        .direct = blk == top && options->cache == BLK_CACHE_DIRECT,
        .no_sync = blk == top && options->cache == BLK_CACHE_UNSAFE,
        .is_named = true,
    };
    const struct blk_open_options lock_options = {.writable = blk->writable,
                                                  .force_share = options->force_share,
                                                  .no_lock = options->no_lock};
    const struct blk_place whole = {0};
    struct file *file = NULL;
    char *path;
    int r;

    if (!blk->has_data_file || options->no_data_file) {
        return 0;
    }
    if (blk->data_name == NULL) {
        return err_set(err, -EINVAL, "'%s' does not name its external data file", blk->path);
    }
    r = blk_backing_path(blk->path, blk->data_name, &path, err);
    r = r != 0 ? r : open_named("data", path, &whole, &file_options, top, blk, options, &file, err);
    free(path);
    if (file != NULL) {
        blk->data_file = file;
        identify(file, &blk->data_device, &blk->data_inode);
        r = lock_file(file, &lock_options, err);
    }
    return r != 0 ? err_prefix(err, r, "Could not open data file of '%s'", blk->path) : 0;
}

/* What the caller wants below the layer at `depth`. */
static const struct blk_backing_choice *find_choice(const struct blk_open_options *options,
                                                    unsigned depth)
{
    static const struct blk_backing_choice none;

    return depth < options->backing_count ? &options->backings[depth] : &none;
}

/* Sets backing_path of the layer at `depth`; it stays NULL where nothing lies below. */
static int find_below(struct blk *blk, unsigned depth, const struct blk_open_options *options,
                      struct err *err)
{
    const struct blk_backing_choice *choice = find_choice(options, depth);

    if (choice->path == NULL) {
        return blk->backing_name != NULL
                   ? blk_backing_path(blk->path, blk->backing_name, &blk->backing_path, err)
                   : 0;
    }
    if (choice->path[0] == '\0') {
        return 0;
    }
    if (blk->backing_name == NULL && (blk->writable || blk->format == &raw_format)) {
        /* Zeros are left unallocated in an image that names nothing below. */
        return err_set(err, -EINVAL, "'%s' names no backing file, so it can be given one %s",
                       blk->path, blk->writable ? "for reading alone" : "only if it is not raw");
    }
    blk->backing_path = strdup(choice->path);
    return blk->backing_path != NULL
               ? 0
               : err_set_errno(err, -ENOMEM, "Could not open '%s'", blk->path);
}

/* `depth`: of the layer that is opened. */
static int open_below(struct blk *top, struct blk *parent, unsigned depth,
                      const struct blk_open_options *options, struct err *err)
{
    unsigned key = depth < options->key_count ? depth : options->key_count - 1;
    const struct blk_backing_choice *choice = find_choice(options, depth - 1);
    const struct file_open_options file_options = {.is_named = choice->path == NULL};
    struct blk_open_options below = {
        .path = parent->backing_path,
        .format = choice->format != NULL ? choice->format : parent->backing_format,
        .place = choice->place,
        .no_data_file = options->no_data_file,
        .force_share = options->force_share,
        .metadata_cache = options->metadata_cache,
        .keys = options->key_count != 0 ? &options->keys[key] : NULL,
        .key_count = options->key_count != 0,
        .max_key_iterations = options->max_key_iterations,
        .metadata_only = options->metadata_only,
    };
    struct file *file = NULL;
    int r;

    r = open_named("backing", parent->backing_path, &choice->place, &file_options, top, parent,
                   options, &file, err);
    r = file != NULL ? open_layer(file, &below, &parent->backing, err) : r;
    r = parent->backing != NULL ? open_data(top, parent->backing, options, err) : r;
    return r != 0 ? err_prefix(err, r, "Could not open backing file of '%s'", parent->path) : 0;
}

int blk_open_file(struct file *file, const struct blk_open_options *options, struct blk **out,
                  struct err *err)
{
    struct blk *top = NULL, *last;
    unsigned depth = 0;
    int r = open_layer(file, options, &top, err);

    if (top == NULL) {
        return r;
    }
    r = open_data(top, top, options, err);
    for (last = top; r == 0 && last != NULL; last = last->backing) {
        r = find_below(last, depth, options, options->no_backing ? NULL : err);
        if (options->no_backing) {
            /* A name that cannot be opened is still a fact that tools want to show. */
            r = 0;
            break;
        }
        if (r != 0 || last->backing_path == NULL) {
            break;
        }
        if (++depth > BLK_MAX_DEPTH) {
            r = err_set(err, -ELOOP, "The backing chain of '%s' is deeper than %d images",
                        top->path, BLK_MAX_DEPTH);
        } else {
            r = open_below(top, last, depth, options, err);
        }
    }
    if (r != 0) {
        blk_close(top, NULL);
        return r;
    }
    top->merged = merged_create(top);
    *out = top;
    return 0;
}

/* A raw image that lies on another one. */
static int open_on_image(const struct blk_open_options *options, struct blk **out, struct err *err)
{
    struct blk_open_options below = *options;
    struct file *file = NULL;
    struct blk *shown = NULL;
    int r;

    if (options->format == NULL || strcmp(options->format, raw_format.name) != 0) {
        return err_set(err, -EINVAL, "Driver '%s' can be below driver 'raw' alone",
                       options->place.image_format);
    }
    below.format = options->place.image_format;
    below.place.image_format = NULL;
    below.place.raw_part = NULL;
    r = blk_open(&below, &shown, err);
    if (r != 0) {
        return r;
    }
    r = file_disk_open(shown, &file);
    r = r == 0 ? blk_open_file(file, options, out, err)
               : err_set_errno(err, r, "Could not open '%s'", options->path);
    if (r != 0) {
        (void)blk_close(shown, NULL);
        return r;
    }
    (*out)->shown = shown;
    return 0;
}

int blk_open(const struct blk_open_options *options, struct blk **out, struct err *err)
{
    const struct file_open_options file_options = {
        .writable = options->writable,
        .direct = options->cache == BLK_CACHE_DIRECT,
        .no_sync = options->cache == BLK_CACHE_UNSAFE,
        .is_named = options->path_is_named,
    };
    struct file *file;
    int r;

    if (options->ephemeral != BLK_EPHEMERAL_OFF) {
        return ephemeral_open(options, out, err);
    }
    if (options->force_share && options->writable) {
        return err_set(err, -EINVAL, "force-share=on can only be used with read-only images");
    }
    if (options->place.image_format != NULL) {
        return open_on_image(options, out, err);
    }
    r = file_open_posix(options->path, &file_options, &file, err);
    if (r != 0) {
        return r;
    }
    if (options->path_is_named && options->backing_root != NULL) {
        r = policy_check_root(options->backing_root, file, err);
    }
    r = r == 0 ? file_part_wrap_all(&file, options->place.parts, options->place.part_count, err)
               : r;
    if (r != 0) {
        file_close(file);
        return r;
    }
    return blk_open_file(file, options, out, err);
}

int blk_close(struct blk *blk, struct err *err)
{
    int result = 0;

    while (blk != NULL) {
        struct blk *below = blk->shown != NULL ? blk->shown : blk->backing;
        int r = blk->format->close(blk, result == 0 ? err : NULL);

        result = result != 0 ? result : r;
        blk_free_layer(blk);
        blk = below;
    }
    return result;
}
