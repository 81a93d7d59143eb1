/*
 * raw.c - a raw image: the file, or a part of it, is the device.
 *
 * A raw image whose format was guessed is a trap: its guest may write a qcow2 header into sector 0,
 * and whoever guesses next opens files of the guest's choice. So on such an image a write that
 * touches the magic number is looked at first: if the result would be one, it is refused. The look
 * and the write are made under first_sector_lock, so that two harmless writes cannot add up to a
 * harmful one.
 */
#include "block.h"
#include "checked.h"
#include "file_part.h"
#include "iov.h"

#include <errno.h>
#include <string.h>

enum { MAGIC_BYTES = 4, SECTOR_BYTES = 512, ZEROES_CHUNK = 256 << 10 };

static int raw_open(struct blk *blk, const struct blk_open_options *options, struct err *err)
{
    const struct blk_part *part = options->place.raw_part;
    uint64_t size;
    int r = part != NULL ? file_part_wrap(&blk->file, part, err) : 0;

    if (r != 0) {
        return r;
    }
    r = blk->file->ops->size(blk->file, &size);
    if (r != 0) {
        return err_set_errno(err, r, "Could not read the file's size");
    }
    /* Disks consist of sectors (QEMU rounds likewise): what the file lacks of the last one is zero. */
    blk->length = align_up(size, SECTOR_BYTES);
    return 0;
}

static int raw_close(struct blk *blk, struct err *err)
{
    int r = blk->writable ? blk->file->ops->sync(blk->file) : 0;

    return r != 0 ? err_set_errno(err, r, "Could not flush '%s'", blk->path) : 0;
}

static int raw_map(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
                   struct layer_extent *extent)
{
    uint64_t end = offset + length;
    bool is_data = true;

    if (flags & LAYER_MAP_PRECISE) {
        int r = blk->file->ops->extent(blk->file, offset, &is_data, &end);

        if (r != 0) {
            is_data = true;
            end = offset + length;
        }
        /* The file may have been cut by somebody else since it was opened. */
        end = end > offset ? min_u64(end, offset + length) : offset + length;
    }
    *extent = (struct layer_extent){
        .kind = is_data ? BLK_EXTENT_DATA : BLK_EXTENT_ZERO,
        .length = end - offset,
        .has_host_offset = true,
        .host_offset = offset,
        .file = blk->file,
        .hold = BLK_NOT_HELD,
    };
    return 0;
}

static void raw_unhold(struct blk *blk, int hold)
{
    (void)blk;
    (void)hold;
}

static int write_checked(struct blk *blk, uint64_t offset, const struct iovec *iov, int count)
{
    uint8_t magic[MAGIC_BYTES];
    int r;

    pthread_mutex_lock(&blk->first_sector_lock);
    r = file_pread(blk->file, 0, magic, MAGIC_BYTES);
    if (r == 0) {
        iov_to_buf(iov, count, 0, magic + offset, MAGIC_BYTES - (size_t)offset);
        if (blk_probe_bytes(magic, MAGIC_BYTES) != &raw_format) {
            r = blk_note_problem(blk, -EPERM,
                                 "a write that would turn this raw image, whose format was "
                                 "guessed, into a qcow2 image was refused; give format=raw to "
                                 "allow it");
        } else {
            r = file_pwritev(blk->file, offset, iov, count);
        }
    }
    pthread_mutex_unlock(&blk->first_sector_lock);
    return r;
}

static int raw_write(struct blk *blk, uint64_t offset, const struct iovec *iov, int count,
                     uint64_t length)
{
    (void)length;
    if (blk->is_probed && offset < MAGIC_BYTES) {
        return write_checked(blk, offset, iov, count);
    }
    return file_pwritev(blk->file, offset, iov, count);
}

static bool raw_map_overwrite(struct blk *blk, uint64_t offset, uint64_t length,
                              struct layer_extent *extent)
{
    return !(blk->is_probed && offset < MAGIC_BYTES) &&
           raw_map(blk, offset, length, LAYER_MAP_HOLD, extent) == 0;
}

/* Zeros have no magic number, so the first sector needs no look. */
static int raw_write_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags)
{
    int r = blk->file->ops->zero(blk->file, offset, length,
                                 (flags & BLK_REQ_MAY_UNMAP) != 0 && blk->can_discard);

    return r == -ENOTSUP ? file_write_zeroes(blk->file, offset, length) : r;
}

static int raw_discard(struct blk *blk, uint64_t offset, uint64_t length)
{
    int r = blk->file->ops->zero(blk->file, offset, length, true);

    return r == -ENOTSUP ? 0 : r;
}

static int raw_flush(struct blk *blk)
{
    int r = blk->file->ops->sync(blk->file);

    return r != 0 ? blk_note_problem(blk, r, "flush failed: %s", strerror(-r)) : 0;
}

static int raw_preallocate(struct blk *blk, uint64_t offset, uint64_t length,
                           enum blk_prealloc mode, struct err *err)
{
    if (mode == BLK_PREALLOC_METADATA) {
        return err_set(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
    }
    return file_preallocate(blk->file, offset, length, mode == BLK_PREALLOC_FULL, err);
}

static int raw_resize(struct blk *blk, uint64_t size, struct err *err)
{
    int r;

    if (blk->file->is_fixed) {
        return err_set(err, -ENOTSUP, "Cannot resize fixed-size raw disks");
    }
    r = blk->file->ops->truncate(blk->file, size);
    if (r != 0) {
        return err_set_errno(err, r, "Could not resize '%s'", blk->path);
    }
    blk->length = size;
    return 0;
}

static void raw_info(struct blk *blk, struct blk_info *info)
{
    (void)blk;
    (void)info;
}

const struct blk_format raw_format = {
    .name = "raw",
    .open = raw_open,
    .close = raw_close,
    .map = raw_map,
    .unhold = raw_unhold,
    .write = raw_write,
    .map_overwrite = raw_map_overwrite,
    .write_zeroes = raw_write_zeroes,
    .discard = raw_discard,
    .flush = raw_flush,
    .resize = raw_resize,
    .preallocate = raw_preallocate,
    .info = raw_info,
};
