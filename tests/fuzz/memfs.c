/*
 * memfs.c - files in memory under names, and the engine's opener, which is sent here by the linker.
 */
#include "checked.h"
#include "finding.h"
#include "iov.h"
#include "memfile.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_NAMES = 8,
    MAX_OPENS = 24, /* files at once: an image that names itself would otherwise take long */
};

struct mem_handle {
    struct file file;
    struct memfile *mem;
};

static struct {
    const char *path;
    struct memfile *mem;
} names[MAX_NAMES];
static unsigned name_count, open_count, outside_count;
static char allowed[PATH_MAX];

static struct memfile *mem_of(struct file *file)
{
    return ((struct mem_handle *)(void *)file)->mem;
}

static int mem_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    if (!range_within(offset, iov_length(iov, count), INT64_MAX)) {
        return -EINVAL;
    }
    for (int i = 0; i < count; i++) {
        memfile_read(mem_of(file), offset, iov[i].iov_base, iov[i].iov_len);
        offset += iov[i].iov_len;
    }
    return 0;
}

/* Every change passes here first. */
static int begin_change(struct file *file)
{
    struct memfile *mem = mem_of(file);

    if (mem->read_only || !file->writable) {
        finding("'%s' is changed, which is open for reading alone", file->path);
    }
    mem->changes++;
    if (mem->fail_at != 0 &&
        (mem->changes == mem->fail_at || (mem->fail_sticky && mem->changes > mem->fail_at))) {
        return -ENOSPC;
    }
    return 0;
}

static int mem_pwritev(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    int r = begin_change(file);

    if (r == 0 && !range_within(offset, iov_length(iov, count), INT64_MAX)) {
        r = -EFBIG;
    }
    for (int i = 0; i < count && r == 0; i++) {
        r = memfile_write(mem_of(file), offset, iov[i].iov_base, iov[i].iov_len) ? 0 : -ENOSPC;
        offset += iov[i].iov_len;
    }
    return r;
}

static int mem_sync(struct file *file)
{
    (void)file;
    return 0;
}

static int mem_size(struct file *file, uint64_t *bytes)
{
    *bytes = mem_of(file)->size;
    return 0;
}

static int mem_truncate(struct file *file, uint64_t bytes)
{
    int r = begin_change(file);

    return r != 0 ? r : memfile_resize(mem_of(file), bytes) ? 0 : -EFBIG;
}

static int mem_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    static const uint8_t zeros[MEM_PAGE];
    struct memfile *mem = mem_of(file);
    int r = begin_change(file);

    (void)punch;
    if (r != 0 || offset >= mem->size) {
        return r;
    }
    length = min_u64(length, mem->size - offset);
    for (const struct mem_page *page = memfile_next(mem, offset / MEM_PAGE);
         page != NULL && page->index * MEM_PAGE < offset + length;
         page = memfile_next(mem, page->index + 1)) {
        uint64_t from = max_u64(offset, page->index * MEM_PAGE);
        uint64_t to = min_u64(offset + length, (page->index + 1) * MEM_PAGE);

        (void)memfile_write(mem, from, zeros, to - from);
    }
    return 0;
}

static int mem_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    struct memfile *mem = mem_of(file);
    int r = begin_change(file);

    if (r != 0 || length == 0) {
        return r;
    }
    if (!range_within(offset, length, (uint64_t)MEM_MAX_PAGES * MEM_PAGE)) {
        return -ENOSPC;
    }
    return memfile_resize(mem, max_u64(mem->size, offset + length)) ? 0 : -EFBIG;
}

static int mem_extent(struct file *file, uint64_t offset, bool *is_data, uint64_t *end)
{
    const struct memfile *mem = mem_of(file);
    const struct mem_page *page = memfile_next(mem, offset / MEM_PAGE);

    *is_data = offset < mem->size && page != NULL && page->index == offset / MEM_PAGE;
    *end = *is_data       ? min_u64((page->index + 1) * MEM_PAGE, mem->size)
           : page == NULL ? max_u64(offset, mem->size)
                          : min_u64(page->index * MEM_PAGE, max_u64(offset, mem->size));
    return 0;
}

static void mem_close(struct file *file)
{
    open_count--;
    free(file->path);
    free(file);
}

static const struct file_ops mem_ops = {
    .preadv = mem_preadv,
    .pwritev = mem_pwritev,
    .sync = mem_sync,
    .size = mem_size,
    .truncate = mem_truncate,
    .zero = mem_zero,
    .allocate = mem_allocate,
    .extent = mem_extent,
    .close = mem_close,
};

static int mem_open(struct memfile *mem, const char *path, bool writable, struct file **out,
                    struct err *err)
{
    struct mem_handle *handle;

    if (open_count >= MAX_OPENS) {
        return err_set_errno(err, -EMFILE, "Could not open '%s'", path);
    }
    handle = calloc(1, sizeof(*handle));
    if (handle == NULL || (handle->file.path = strdup(path)) == NULL) {
        free(handle);
        return err_set_errno(err, -ENOMEM, "Could not open '%s'", path);
    }
    open_count++;
    handle->file.ops = &mem_ops;
    handle->file.fd = -1;
    handle->file.writable = writable;
    handle->file.alignment = 1;
    handle->mem = mem;
    *out = &handle->file;
    return 0;
}

void memfs_add(const char *path, struct memfile *mem)
{
    if (name_count == MAX_NAMES) {
        abort();
    }
    names[name_count].path = path;
    names[name_count++].mem = mem;
}

void memfs_clear(void)
{
    if (open_count != 0) {
        finding("%u files were not closed", open_count);
    }
    name_count = 0;
}

void memfs_allow_directory(const char *directory)
{
    snprintf(allowed, sizeof(allowed), "%s", directory != NULL ? directory : "");
    outside_count = 0;
}

unsigned memfs_outside(void)
{
    return outside_count;
}

/* Names that do not exist yet count as where their folder is. */
static bool is_allowed(const char *path)
{
    char real[PATH_MAX];
    size_t n = strlen(allowed);

    return n > 0 && realpath(path, real) != NULL && strncmp(real, allowed, n) == 0 &&
           (real[n] == '/' || real[n] == '\0');
}

int __real_file_open_posix(const char *path, const struct file_open_options *options,
                           struct file **out, struct err *err);
int __wrap_file_open_posix(const char *path, const struct file_open_options *options,
                           struct file **out, struct err *err);

int __wrap_file_open_posix(const char *path, const struct file_open_options *options,
                           struct file **out, struct err *err)
{
    for (unsigned i = 0; i < name_count; i++) {
        if (strcmp(names[i].path, path) == 0) {
            return mem_open(names[i].mem, path, options->writable, out, err);
        }
    }
    if (is_allowed(path)) {
        return __real_file_open_posix(path, options, out, err);
    }
    outside_count++;
    return err_set_errno(err, -ENOENT, "Could not open '%s'", path);
}
