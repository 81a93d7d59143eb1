/*
 * create.c - blk_create: new images of every format.
 *
 * An existing file is locked as a writer before a byte of it changes, so that an image in use
 * survives a mistyped name; an external data file likewise, and before the image. A file that was not there before is removed again when anything fails.
 */
#include "qcow2/create.h"
#include "block.h"
#include "checked.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { SECTOR = 512 };

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
    struct err problem;
    int rc = file_remake(file, size);

    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not resize file", options->path);
    if (options->prealloc != BLK_PREALLOC_OFF)
        rc = file_preallocate(file, 0, size, options->prealloc == BLK_PREALLOC_FULL, &problem);
    return rc == 0 ? 0 : err_set(err, rc, "%s: %s", options->path, problem.text);
}

static int raw_measure(const struct blk_create_options *options, uint64_t *bytes, struct err *err)
{
    (void)options;
    (void)err;
    *bytes = 0;
    return 0;
}

/* Each format: what can be refused before a file is touched, and the writing. */
static const struct creator {
    const char *format;
    int (*validate)(const struct blk_create_options *options, struct err *err);
    int (*write)(struct file *file, const struct blk_create_options *options, struct err *err);
    /* As blk_create_measure(). */
    int (*measure)(const struct blk_create_options *options, uint64_t *bytes, struct err *err);
} creators[] = {
    {"raw", raw_validate, raw_write, raw_measure},
    {"qcow2", qcow2_create_validate, qcow2_create_write, qcow2_create_measure},
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

/* `image` begins the messages. */
static int open_and_lock(const char *image, const char *path, struct file **file, bool *made,
                         struct err *err)
{
    int rc = open_target(path, file, made, err);

    if (rc == -EINVAL)
        return err_prefix(err, rc, "%s", image);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not create '%s'", image, path);
    rc = file_lock(*file, FILE_PERM_CONSISTENT_READ | FILE_PERM_WRITE | FILE_PERM_RESIZE,
                   FILE_PERM_CONSISTENT_READ | FILE_PERM_WRITE_UNCHANGED, err);
    if (rc < 0) {
        file_close(*file);
        if (*made)
            (void)unlink(path);
    }
    return rc;
}

/* Before the first byte: that is when they count. */
static void hint_file_system(struct file *file, const struct blk_create_options *options)
{
    struct fsxattr attributes;
    int flags;

    if (options->nocow && ioctl(file->fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        (void)ioctl(file->fd, FS_IOC_SETFLAGS, &flags);
    }
    if (options->extent_size_hint != 0 && ioctl(file->fd, FS_IOC_FSGETXATTR, &attributes) == 0) {
        attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attributes.fsx_extsize = (uint32_t)options->extent_size_hint;
        (void)ioctl(file->fd, FS_IOC_FSSETXATTR, &attributes);
    }
}

/* The external data file, as long as the device. It stands beside the image unless its name says
 * otherwise, as it will when the image is opened. */
static int create_data_file(const struct blk_create_options *options, char **path, bool *made,
                            struct err *err)
{
    struct blk_create_options data = *options;
    struct file *file;
    int rc = blk_backing_path(options->path, options->data_file, path, err);

    if (rc == 0)
        rc = open_and_lock(options->path, *path, &file, made, err);
    if (rc != 0)
        return rc;
    data.path = *path;
    if (data.prealloc == BLK_PREALLOC_METADATA)
        data.prealloc = BLK_PREALLOC_OFF;
    if (options->backing_root != NULL)
        rc = policy_check_root(options->backing_root, file, err);
    if (rc == 0) {
        hint_file_system(file, options);
        rc = raw_write(file, &data, err);
    }
    file_close(file);
    return rc;
}

int blk_create_measure(const struct blk_create_options *options, uint64_t *bytes, struct err *err)
{
    const struct creator *creator = creator_find(options->format);

    return creator != NULL ? creator->measure(options, bytes, err)
                           : err_set(err, -EINVAL, "%s: Unknown file format '%s'", options->path,
                                     options->format);
}

int blk_create(const struct blk_create_options *asked, struct err *err)
{
    const struct creator *creator = creator_find(asked->format);
    struct blk_create_options options = *asked;
    bool made, made_data = false;
    char *data_path = NULL;
    struct file *file;
    int rc;

    if (creator == NULL)
        return err_set(err, -EINVAL, "%s: Unknown file format '%s'", asked->path, asked->format);
    if (asked->extent_size_hint > UINT32_MAX)
        return err_set(err, -EINVAL, "%s: Extent size hint is too large", asked->path);
    if (asked->size > INT64_MAX - SECTOR)
        return err_set(err, -EFBIG, "%s: The image size is too large", asked->path);
    /* Disks consist of sectors; QEMU rounds up likewise. */
    options.size = align_up(asked->size, SECTOR);
    rc = creator->validate(&options, err);
    if (rc < 0)
        return rc;
    rc = open_and_lock(options.path, options.path, &file, &made, err);
    if (rc < 0)
        return rc;
    if (options.data_file != NULL)
        rc = create_data_file(&options, &data_path, &made_data, err);
    if (rc == 0) {
        hint_file_system(file, &options);
        rc = creator->write(file, &options, err);
    }
    file_close(file);
    if (rc < 0 && made)
        (void)unlink(options.path);
    if (rc < 0 && made_data)
        (void)unlink(data_path);
    free(data_path);
    return rc;
}
