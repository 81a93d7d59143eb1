/*
 * file_lock.c - image locks, QEMU's protocol.
 *
 * Every process holds shared (F_RDLCK) OFD locks on single bytes: 100+p for each permission p that
 * it uses and 200+p for each one that it does not share. Then it asks whether anybody else holds
 * the byte that would contradict it: somebody who does not share what it uses, or uses what it does
 * not share. Taking first and asking then means that of two processes that start at once at least
 * one fails.
 *
 * Whoever is in the way may be gone: what a process that was killed had given to the kernel (ring.h) is still
 * carried out, and keeps its descriptor and the locks until then. So nobody opens a file to which old writes
 * are on their way; they are waited for, but not for long.
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

enum {
    PERM_COUNT = 4,
    BASE_USED = 100,
    BASE_UNSHARED = 200,
    TRIES = 20,
    PAUSE_MS = 5,
};

static const char *const perm_names[PERM_COUNT] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

static int lock_byte(const struct file *file, short type, int byte)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };

    return fcntl(file->fd, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
}

/* Whether another open of the file holds `byte`. */
static int byte_is_taken(const struct file *file, int byte, bool *taken)
{
    struct flock lock = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };

    if (fcntl(file->fd, F_OFD_GETLK, &lock) != 0) {
        return -errno;
    }
    *taken = lock.l_type != F_UNLCK;
    return 0;
}

static int lock_mask(const struct file *file, int base, unsigned mask, short type)
{
    for (int p = 0; p < PERM_COUNT; p++) {
        if (mask & (1U << p)) {
            int r = lock_byte(file, type, base + p);

            if (r != 0) {
                return r;
            }
        }
    }
    return 0;
}

static int refuse_conflict(const struct file *file, int base, unsigned mask, const char *how,
                           struct err *err)
{
    for (int p = 0; p < PERM_COUNT; p++) {
        bool taken = false;
        int r = mask & (1U << p) ? byte_is_taken(file, base + p, &taken) : 0;

        if (r != 0) {
            return err_set_errno(err, r, "Could not examine the locks of '%s'", file->path);
        }
        if (taken) {
            return err_set(err, -EAGAIN,
                           "Failed to get %s\"%s\" lock: Is another process using the image [%s]?",
                           how, perm_names[p], file->path);
        }
    }
    return 0;
}

static int try_lock(struct file *file, unsigned used, unsigned shared, struct err *err)
{
    unsigned unshared = FILE_PERM_ALL & ~shared;
    unsigned new_used = used & ~file->lock_used, new_unshared = unshared & ~file->lock_unshared;
    int r;

    r = lock_mask(file, BASE_USED, new_used, F_RDLCK);
    if (r == 0) {
        r = lock_mask(file, BASE_UNSHARED, new_unshared, F_RDLCK);
    }
    if (r != 0) {
        err_set_errno(err, r, "Could not lock '%s'", file->path);
    } else {
        r = refuse_conflict(file, BASE_UNSHARED, used, "", err);
    }
    if (r == 0) {
        r = refuse_conflict(file, BASE_USED, unshared, "shared ", err);
    }
    if (r != 0) {
        lock_mask(file, BASE_USED, new_used, F_UNLCK);
        lock_mask(file, BASE_UNSHARED, new_unshared, F_UNLCK);
        return r;
    }
    lock_mask(file, BASE_USED, file->lock_used & ~used, F_UNLCK);
    lock_mask(file, BASE_UNSHARED, file->lock_unshared & ~unshared, F_UNLCK);
    file->lock_used = used;
    file->lock_unshared = unshared;
    return 0;
}

int file_lock(struct file *file, unsigned used, unsigned shared, struct err *err)
{
    int r = file->fd < 0 ? 0 : try_lock(file, used, shared, err);

    for (int i = 1; r == -EAGAIN && i < TRIES; i++) {
        (void)poll(NULL, 0, PAUSE_MS);
        r = try_lock(file, used, shared, err);
    }
    return r;
}
