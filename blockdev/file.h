/*
 * file.h - the lowest layer: bytes of a host file, through one table of operations. The POSIX layer is
 * the everyday one; io_uring and the fault- and crash-injecting layers of the tests are others.
 *
 * Errors: negative errno values. pread and pwrite are complete or fail: a short transfer is continued;
 * reading past the end of the file gives zeros.
 *
 * Threads: every operation may be called from any thread at any time, but for close.
 */
#ifndef BLOCKDEV_FILE_H
#define BLOCKDEV_FILE_H

#include "err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct file;

struct file_ops {
    int (*preadv)(struct file *file, uint64_t offset, const struct iovec *iov, int count);
    int (*pwritev)(struct file *file, uint64_t offset, const struct iovec *iov, int count);
    /* The descriptor through which the kernel reads or writes just this, at fd_offset + offset; shorter than the
     * vector where the file ends, or for no reason. -1: there is more to it. NULL: always. */
    int (*plain_fd)(struct file *file, uint64_t offset, const struct iovec *iov, int count);
    /* As preadv; -EAGAIN, with any of it read or not, where that could wait for storage. NULL: the layer
     * cannot tell. */
    int (*try_preadv)(struct file *file, uint64_t offset, const struct iovec *iov, int count);
    /* Everything written before is durable on return. After a failure nothing may be claimed. */
    int (*sync)(struct file *file);
    int (*size)(struct file *file, uint64_t *bytes);
    int (*truncate)(struct file *file, uint64_t bytes);
    /* The range reads as zeros afterwards; its space is given back where `punch` and the file system
     * allow. -ENOTSUP: write zeros instead. Never extends the file. */
    int (*zero)(struct file *file, uint64_t offset, uint64_t length, bool punch);
    /* Reserves space so that writes to the range cannot fail with ENOSPC. May extend the file. */
    int (*allocate)(struct file *file, uint64_t offset, uint64_t length);
    /* Finds out whether `offset` lies in data or in a hole, and where that ends (clipped to the end of
     * the file). -ENOTSUP: treat all as data. */
    int (*extent)(struct file *file, uint64_t offset, bool *is_data, uint64_t *end);
    void (*close)(struct file *file);
};

struct file {
    const struct file_ops *ops;
    char *path; /* as opened, for messages; owned */
    int fd;     /* -1 for layers without one */
    /* Where this file begins in what `fd` is: who uses that adds it to every offset. */
    uint64_t fd_offset;
    bool writable;
    bool is_fixed;      /* neither longer nor shorter: a part of another file */
    unsigned alignment; /* of offset, length and memory that is fastest: 1, or O_DIRECT's */
    unsigned lock_used, lock_unshared; /* file_lock()'s: the bytes held at 100+p and 200+p */
};

struct file_open_options {
    bool writable;
    bool direct;  /* O_DIRECT; the layer bounces what is not aligned */
    bool create;  /* create when missing (mode 0644) */
    bool no_sync; /* sync succeeds at once (cache=unsafe) */
    /* The name stands in an image: it may not lead through a link of /proc to what this process has
     * open (-ELOOP), nor to a file that the kernel makes up (-EINVAL). */
    bool is_named;
};

/* Opens a regular file or a block device; anything else is refused by name (-EINVAL, a directory
 * -EISDIR), without blocking on a FIFO. O_CLOEXEC. */
int file_open_posix(const char *path, const struct file_open_options *options, struct file **out,
                    struct err *err);
void file_close(struct file *file);

/* A new file without a name, of mode 0600, which nobody else can open: in the directory (NULL: the
 * environment's TMPDIR, or else /var/tmp), or in memory. `name` is for messages. */
int file_open_unnamed(const char *directory, bool direct, struct file **out, struct err *err);
int file_open_memory(const char *name, struct file **out, struct err *err);

static inline int file_preadv(struct file *f, uint64_t offset, const struct iovec *iov, int count)
{
    return f->ops->preadv(f, offset, iov, count);
}

static inline int file_pwritev(struct file *f, uint64_t offset, const struct iovec *iov, int count)
{
    return f->ops->pwritev(f, offset, iov, count);
}

/* As preadv where the layer cannot tell. */
static inline int file_try_preadv(struct file *f, uint64_t offset, const struct iovec *iov,
                                  int count)
{
    return f->ops->try_preadv != NULL ? f->ops->try_preadv(f, offset, iov, count)
                                      : f->ops->preadv(f, offset, iov, count);
}

/* -1 where the layer has none. */
static inline int file_plain_fd(struct file *f, uint64_t offset, const struct iovec *iov, int count)
{
    return f->ops->plain_fd != NULL ? f->ops->plain_fd(f, offset, iov, count) : -1;
}

static inline int file_pread(struct file *f, uint64_t offset, void *buf, size_t length)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};

    return f->ops->preadv(f, offset, &iov, 1);
}

static inline int file_pwrite(struct file *f, uint64_t offset, const void *buf, size_t length)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = length};

    return f->ops->pwritev(f, offset, &iov, 1);
}

/* file_zero.c: writes zeros, whatever is there. */
int file_write_zeroes(struct file *file, uint64_t offset, uint64_t length);
/* Drops what the file held and makes it as long as that; a block device keeps both. */
int file_remake(struct file *file, uint64_t length);
/* Space for a range that reads as zeros; `by_writing` for file systems that promise none to ops->allocate().
 * An error's text ends with its reason. */
int file_preallocate(struct file *file, uint64_t offset, uint64_t length, bool by_writing,
                     struct err *err);

/*
 * Image locks: the byte-range OFD lock protocol of QEMU's file-posix driver, so that both programs
 * respect each other. Bit p of `used` and `shared`: permission p of FILE_PERM_*.
 */
enum {
    FILE_PERM_CONSISTENT_READ = 1 << 0,
    FILE_PERM_WRITE = 1 << 1,
    FILE_PERM_WRITE_UNCHANGED = 1 << 2,
    FILE_PERM_RESIZE = 1 << 3,
    FILE_PERM_ALL = 15,
};

/* Locks the file with the given permissions, or changes the ones it holds. On a conflict that lasts (a tenth of a
 * second) -EAGAIN and what was held before is kept; the text names the file. */
int file_lock(struct file *file, unsigned used, unsigned shared, struct err *err);

#endif
