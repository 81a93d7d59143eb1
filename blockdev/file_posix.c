/*
 * file_posix.c - host files through pread, pwrite and fallocate.
 *
 * A descriptor is opened without blocking and its type is checked before it is used, so that a FIFO
 * or a terminal in place of an image neither hangs nor is read. Only offsets are used, never the
 * descriptor's position (but for SEEK_DATA and SEEK_HOLE, whose answers do not depend on it), so
 * every operation may run in any thread.
 */
#include "checked.h"
#include "file.h"
#include "file_direct.h"
#include "iov.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Entries of a vector that one continued transfer describes; more only takes more turns. */
enum { SLICE_ENTRIES = 64 };

struct posix_file {
    struct file file;
    bool is_block_device;
    bool no_sync;
    atomic_bool has_no_nowait; /* the file system does not know RWF_NOWAIT */
};

static const struct file_ops posix_ops;

static struct posix_file *posix_of(const struct file *file)
{
    return (struct posix_file *)(uintptr_t)file;
}

/* Finishes a transfer of which `done` bytes are through. */
static int continue_read(int fd, uint64_t offset, const struct iovec *iov, int count, uint64_t done,
                         uint64_t total)
{
    struct iovec slice[SLICE_ENTRIES];

    while (done < total) {
        int entries = iov_slice(slice, SLICE_ENTRIES, iov, count, done, total - done);
        ssize_t n = preadv(fd, slice, entries, (off_t)(offset + done));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            iov_fill(iov, count, done, 0, total - done);
            return 0;
        }
        done += (uint64_t)n;
    }
    return 0;
}

/* One transfer. A single buffer, the usual case, spares the kernel a vector. */
static ssize_t read_once(int fd, const struct iovec *iov, int count, off_t offset)
{
    return count == 1 ? pread(fd, iov->iov_base, iov->iov_len, offset)
                      : preadv(fd, iov, count < IOV_MAX ? count : IOV_MAX, offset);
}

static ssize_t write_once(int fd, const struct iovec *iov, int count, off_t offset)
{
    return count == 1 ? pwrite(fd, iov->iov_base, iov->iov_len, offset)
                      : pwritev(fd, iov, count < IOV_MAX ? count : IOV_MAX, offset);
}

int file_fd_preadv(int fd, uint64_t offset, const struct iovec *iov, int count)
{
    uint64_t total = iov_length(iov, count);
    ssize_t n;

    if (!range_within(offset, total, INT64_MAX)) {
        return -EINVAL;
    }
    n = read_once(fd, iov, count, (off_t)offset);
    if (n < 0 && errno != EINTR) {
        return -errno;
    }
    if (n >= 0 && (uint64_t)n == total) {
        return 0;
    }
    return continue_read(fd, offset, iov, count, n > 0 ? (uint64_t)n : 0, total);
}

int file_fd_pwritev(int fd, uint64_t offset, const struct iovec *iov, int count)
{
    uint64_t total = iov_length(iov, count);
    struct iovec slice[SLICE_ENTRIES];
    uint64_t done = 0;
    ssize_t n;

    if (!range_within(offset, total, INT64_MAX)) {
        return -EFBIG;
    }
    n = write_once(fd, iov, count, (off_t)offset);
    for (;;) {
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        done += n > 0 ? (uint64_t)n : 0;
        if (done == total) {
            return 0;
        }
        if (n == 0) {
            return -ENOSPC;
        }
        n = pwritev(fd, slice, iov_slice(slice, SLICE_ENTRIES, iov, count, done, total - done),
                    (off_t)(offset + done));
    }
}

static int posix_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    return file_fd_preadv(file->fd, offset, iov, count);
}

static int posix_plain_fd(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    bool is_plain = count <= IOV_MAX && range_within(offset, iov_length(iov, count), INT64_MAX);

    return is_plain ? file->fd : -1;
}

static int posix_try_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    struct posix_file *posix = posix_of(file);
    ssize_t n;

    if (atomic_load_explicit(&posix->has_no_nowait, memory_order_relaxed)) {
        return posix_preadv(file, offset, iov, count);
    }
    if (count > IOV_MAX || !range_within(offset, iov_length(iov, count), INT64_MAX)) {
        return -EAGAIN; /* preadv knows what to do */
    }
    n = preadv2(file->fd, iov, count, (off_t)offset, RWF_NOWAIT);
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
        atomic_store_explicit(&posix->has_no_nowait, true, memory_order_relaxed);
        return posix_preadv(file, offset, iov, count);
    }
    return n >= 0 && (uint64_t)n == iov_length(iov, count) ? 0 : -EAGAIN;
}

static int posix_pwritev(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    return file_fd_pwritev(file->fd, offset, iov, count);
}

static int posix_sync(struct file *file)
{
    if (posix_of(file)->no_sync) {
        return 0;
    }
    /* Not repeated after EINTR: after a failure nobody knows which pages the kernel still holds. */
    return fdatasync(file->fd) == 0 ? 0 : -errno;
}

static int posix_size(struct file *file, uint64_t *bytes)
{
    struct stat st;
    off_t end;

    if (posix_of(file)->is_block_device) {
        end = lseek(file->fd, 0, SEEK_END);
        if (end < 0) {
            return -errno;
        }
        *bytes = (uint64_t)end;
        return 0;
    }
    if (fstat(file->fd, &st) != 0) {
        return -errno;
    }
    *bytes = (uint64_t)st.st_size;
    return 0;
}

static int posix_truncate(struct file *file, uint64_t bytes)
{
    uint64_t size = 0;
    int r;

    if (bytes > INT64_MAX) {
        return -EFBIG;
    }
    if (posix_of(file)->is_block_device) {
        r = posix_size(file, &size);
        return r != 0 ? r : bytes <= size ? 0 : -ENOSPC;
    }
    while (ftruncate(file->fd, (off_t)bytes) != 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int fallocate_retry(int fd, int mode, uint64_t offset, uint64_t length)
{
    if (!range_within(offset, length, INT64_MAX)) {
        return -EFBIG;
    }
    while (fallocate(fd, mode, (off_t)offset, (off_t)length) != 0) {
        if (errno == EOPNOTSUPP || errno == ENOSYS || errno == ENODEV) {
            return -ENOTSUP;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int posix_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    int r = -ENOTSUP;

    if (length == 0) {
        return 0;
    }
    if (punch) {
        r = fallocate_retry(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    }
    if (r == -ENOTSUP) {
        r = fallocate_retry(file->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
    }
    return r;
}

static int posix_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    return length == 0 ? 0 : fallocate_retry(file->fd, 0, offset, length);
}

static int posix_extent(struct file *file, uint64_t offset, bool *is_data, uint64_t *end)
{
    uint64_t size = 0;
    off_t data, hole;
    int r = posix_size(file, &size);

    if (r != 0) {
        return r;
    }
    if (posix_of(file)->is_block_device) {
        return -ENOTSUP;
    }
    *is_data = false;
    *end = max_u64(offset, size);
    if (offset >= size) {
        return 0;
    }
    data = lseek(file->fd, (off_t)offset, SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? 0 : errno == EINVAL ? -ENOTSUP : -errno;
    }
    if ((uint64_t)data > offset) {
        *end = min_u64((uint64_t)data, size);
        return 0;
    }
    hole = lseek(file->fd, (off_t)offset, SEEK_HOLE);
    if (hole < 0) {
        return errno == EINVAL || errno == ENXIO ? -ENOTSUP : -errno;
    }
    *is_data = true;
    *end = min_u64(max_u64((uint64_t)hole, offset + 1), size);
    return 0;
}

static void posix_close(struct file *file)
{
    close(file->fd);
    free(file->path);
    free(posix_of(file));
}

static const struct file_ops posix_ops = {
    .preadv = posix_preadv,
    .pwritev = posix_pwritev,
    .plain_fd = posix_plain_fd,
    .try_preadv = posix_try_preadv,
    .sync = posix_sync,
    .size = posix_size,
    .truncate = posix_truncate,
    .zero = posix_zero,
    .allocate = posix_allocate,
    .extent = posix_extent,
    .close = posix_close,
};

/* The words are QEMU's. */
static int check_type(const struct stat *st, const char *path, bool writable, struct err *err)
{
    if (S_ISDIR(st->st_mode) && writable) {
        return err_set_errno(err, -EISDIR, "Could not open '%s'", path);
    }
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode)) {
        return err_set(err, S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL,
                       "'file' driver requires '%s' to be a regular file", path);
    }
    return 0;
}

static int open_named(const char *path, int flags)
{
    struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

    /* Kernels before 5.6, and sandboxes that do not know the call. */
    return fd < 0 && (errno == ENOSYS || errno == EPERM) ? open(path, flags) : fd;
}

static int check_named(int fd, const char *path, struct err *err)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0) {
        return err_set_errno(err, -errno, "Could not examine '%s'", path);
    }
    return fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC
               ? err_set(err, -EINVAL, "'%s' is no file of a disk", path)
               : 0;
}

/* Opens and returns the descriptor. The type is looked at before, because merely opening some devices
 * does something, and after, because the name may lead elsewhere by then. */
static int open_checked(const char *path, int flags, bool is_named, struct stat *st,
                        struct err *err)
{
    int fd, r = stat(path, st) == 0 ? check_type(st, path, (flags & O_ACCMODE) == O_RDWR, err) : 0;

    if (r != 0) {
        return r;
    }
    fd = is_named ? open_named(path, flags) : open(path, flags, 0644);
    if (fd < 0) {
        return err_set_errno(err, -errno, "Could not open '%s'", path);
    }
    r = fstat(fd, st) == 0 ? check_type(st, path, (flags & O_ACCMODE) == O_RDWR, err)
                           : err_set_errno(err, -errno, "Could not examine '%s'", path);
    r = r == 0 && is_named ? check_named(fd, path, err) : r;
    if (r != 0) {
        close(fd);
        return r;
    }
    return fd;
}

/* The descriptor is the file's from then on, on failure too. */
static int wrap_fd(int fd, const char *path, const struct file_open_options *options,
                   bool is_block_device, struct file **out, struct err *err)
{
    struct posix_file *posix = calloc(1, sizeof(*posix));
    struct file *file;
    int r = 0;

    if (posix == NULL || (posix->file.path = strdup(path)) == NULL) {
        free(posix);
        close(fd);
        return err_set_errno(err, -ENOMEM, "Could not open '%s'", path);
    }
    file = &posix->file;
    file->ops = &posix_ops;
    posix->file.fd = fd;
    posix->file.writable = options->writable;
    posix->file.alignment = 1;
    posix->is_block_device = is_block_device;
    posix->no_sync = options->no_sync;
    if (options->direct) {
        r = file_direct_wrap(&file, err);
    }
    if (r != 0) {
        file_close(file);
        return r;
    }
    *out = file;
    return 0;
}

int file_open_posix(const char *path, const struct file_open_options *options, struct file **out,
                    struct err *err)
{
    int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (options->writable ? O_RDWR : O_RDONLY) |
                (options->create ? O_CREAT : 0);
    struct stat st;
    int fd = open_checked(path, flags, options->is_named, &st, err);

    if (fd < 0) {
        return fd;
    }
    /* Reading leaves no trace in the file; who does not own it has to leave one (-EPERM). */
    (void)fcntl(fd, F_SETFL, O_NONBLOCK | O_NOATIME);
    return wrap_fd(fd, path, options, S_ISBLK(st.st_mode), out, err);
}

int file_open_unnamed(const char *directory, bool direct, struct file **out, struct err *err)
{
    const struct file_open_options options = {.writable = true, .direct = direct, .no_sync = true};
    const char *tmp = directory != NULL ? directory : getenv("TMPDIR");
    char *path;
    int fd;

    tmp = tmp != NULL && tmp[0] != '\0' ? tmp : "/var/tmp";
    fd = open(tmp, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        /* A file system that knows only files with names. */
        if (asprintf(&path, "%s/minivmm.XXXXXX", tmp) < 0)
            return err_set_errno(err, -ENOMEM, "Could not make a file in '%s'", tmp);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            (void)unlink(path);
        free(path);
    }
    return fd < 0 ? err_set_errno(err, -errno, "Could not make a file in '%s'", tmp)
                  : wrap_fd(fd, tmp, &options, false, out, err);
}

int file_open_memory(const char *name, struct file **out, struct err *err)
{
    const struct file_open_options options = {.writable = true, .no_sync = true};
    int fd = memfd_create("minivmm", MFD_CLOEXEC);

    return fd < 0 ? err_set_errno(err, -errno, "Could not make a file in memory for '%s'", name)
                  : wrap_fd(fd, name, &options, false, out, err);
}

void file_close(struct file *file)
{
    if (file != NULL) {
        file->ops->close(file);
    }
}
