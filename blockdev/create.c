/*
 * create.c - blk_create: new images of every format.
 *
 * An existing file is locked as a writer before a byte of it changes, so that an image in use
 * survives a mistyped name. A file that was not there before is removed again when anything fails.
 */
#include "qcow2/create.h"
#include "blockdev.h"
#include "checked.h"
#include "file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR = 512, CHUNK = 1 << 20 };

static int raw_validate(const struct blk_create_options *options, struct err *err)
{
    if (options->backing_name != NULL || options->backing_format != NULL)
        return err_set(err, -ENOTSUP, "%s: Backing file not supported for file format 'raw'",
                       options->path);
    if (options->prealloc == BLK_PREALLOC_METADATA)
        return err_set(err, -EINVAL, "%s: Unsupported preallocation mode: metadata", options->path);
    return 0;
}

static int raw_write(struct file *file, const struct blk_create_options *options, struct err *err)
{
    uint64_t size = options->size;
    int rc = file->ops->truncate(file, 0);

    if (rc == 0)
        rc = file->ops->truncate(file, size);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not resize file", options->path);
    if (options->prealloc == BLK_PREALLOC_FALLOC && size > 0)
        rc = file->ops->allocate(file, 0, size);
    if (options->prealloc == BLK_PREALLOC_FULL) {
        unsigned char *zeros = calloc(1, CHUNK);

        if (zeros == NULL)
            rc = -ENOMEM;
        for (uint64_t at = 0; rc == 0 && at < size; at += CHUNK)
            rc = file_pwrite(file, at, zeros, (size_t)min_u64(CHUNK, size - at));
        free(zeros);
    }
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not preallocate data", options->path);
    return 0;
}

/* Each format: what can be refused before a file is touched, and the writing. */
static const struct creator {
    const char *format;
    int (*validate)(const struct blk_create_options *options, struct err *err);
    int (*write)(struct file *file, const struct blk_create_options *options, struct err *err);
} creators[] = {
    {"raw", raw_validate, raw_write},
    {"qcow2", qcow2_create_validate, qcow2_create_write},
};

static const struct creator *creator_find(const char *format)
{
    for (size_t i = 0; i < ARRAY_LEN(creators); i++) {
        if (strcmp(creators[i].format, format) == 0)
            return &creators[i];
    }
    return NULL;
}

/* Opens the file, or makes it: *made says which. */
static int open_target(const char *path, struct file **file, bool *made, struct err *err)
{
    struct file_open_options options = {.writable = true};
    int rc = file_open_posix(path, &options, file, err);

    *made = false;
    if (rc != -ENOENT)
        return rc;
    options.create = true;
    rc = file_open_posix(path, &options, file, err);
    *made = rc == 0;
    return rc;
}

int blk_create(const struct blk_create_options *asked, struct err *err)
{
    const struct creator *creator = creator_find(asked->format);
    struct blk_create_options options = *asked;
    struct file *file;
    bool made;
    int rc;

    if (creator == NULL)
        return err_set(err, -EINVAL, "%s: Unknown file format '%s'", asked->path, asked->format);
    if (asked->size > INT64_MAX - SECTOR)
        return err_set(err, -EFBIG, "%s: The image size is too large", asked->path);
    /* Disks consist of sectors; QEMU rounds up likewise. */
    options.size = align_up(asked->size, SECTOR);
    rc = creator->validate(&options, err);
    if (rc < 0)
        return rc;
    rc = open_target(options.path, &file, &made, err);
    if (rc == -EINVAL)
        return err_prefix(err, rc, "%s", options.path);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not create '%s'", options.path, options.path);
    rc = file_lock(file, FILE_PERM_CONSISTENT_READ | FILE_PERM_WRITE | FILE_PERM_RESIZE,
                   FILE_PERM_CONSISTENT_READ | FILE_PERM_WRITE_UNCHANGED, err);
    if (rc == 0)
        rc = creator->write(file, &options, err);
    file_close(file);
    if (rc < 0 && made)
        (void)unlink(options.path);
    return rc;
}
