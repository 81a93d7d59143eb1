/*
 * fixed_files.c - registering the files of a chain with a ring.
 *
 * The kernel gives registered files back some time after a process was killed. An image's locks would stay with
 * them, so each file is opened anew, which is a file of its own to locks (of open file descriptions). For reads
 * alone: a write that is on its way when its process is killed has to keep the locks until it is done, or somebody
 * else's would meet it (file_lock.c). Reads of a process that is gone hurt nobody.
 *
 * One at a time, so that a long chain does not need twice as many descriptors.
 */
#include "fixed_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LAYER_FILES = 2 };

/* The descriptor through which the kernel reads one of a layer's files by itself, or -1. */
static int plain_fd(const struct blk *layer, int index)
{
    struct file *file = index == 0 ? layer->file : layer->data_file;

    return file != NULL ? file_plain_fd(file, 0, NULL, 0) : -1;
}

/* Another open file of what `fd` is, or a negative errno value. */
static int open_anew(int fd)
{
    char path[sizeof("/proc/self/fd/") + 12];
    int flags = fcntl(fd, F_GETFL), file;
    struct stat old, new;

    if (flags < 0) {
        return -errno;
    }
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    file = open(path, O_RDONLY | O_CLOEXEC | (flags & (O_DIRECT | O_NOATIME)));
    if (file < 0) {
        return -errno;
    }
    /* Whatever is mounted there. */
    if (fstat(fd, &old) != 0 || fstat(file, &new) != 0 || old.st_dev != new.st_dev ||
        old.st_ino != new.st_ino) {
        (void)close(file);
        return -ESTALE;
    }
    return file;
}

static int register_file(struct ring *ring, int fd)
{
    int file = open_anew(fd), r;

    if (file < 0) {
        return file;
    }
    r = ring_register_file(ring, fd, file);
    (void)close(file);
    return r;
}

static int register_layer(struct ring *ring, const struct blk *layer, struct err *err)
{
    int r = 0;

    for (int i = 0; i < LAYER_FILES && r == 0; i++) {
        int fd = plain_fd(layer, i);

        r = fd >= 0 ? register_file(ring, fd) : 0;
    }
    return r == 0 ? 0
                  : err_set_errno(err, r, "'%s': could not register the file with io_uring",
                                  layer->path);
}

static unsigned count_descriptors(const struct blk *top)
{
    int last = -1;

    for (const struct blk *layer = top; layer != NULL; layer = layer->backing) {
        for (int i = 0; i < LAYER_FILES; i++) {
            int fd = plain_fd(layer, i);

            last = fd > last ? fd : last;
        }
    }
    return (unsigned)(last + 1);
}

int fixed_files_register(const struct blk *top, struct ring *ring, struct err *err)
{
    unsigned count = count_descriptors(top);
    int r = count > 0 ? ring_reserve_files(ring, count) : 0;

    if (r != 0) {
        return err_set_errno(err, r, "'%s': could not register files with io_uring", top->path);
    }
    for (const struct blk *layer = top; count > 0 && r == 0 && layer != NULL;
         layer = layer->backing) {
        r = register_layer(ring, layer, err);
    }
    return r;
}
