/*
 * block.c - facts about an open image, and the operations that need it to themselves.
 */
#include "block.h"
#include "checked.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

uint64_t blk_length(const struct blk *blk)
{
    return blk->length;
}

bool blk_writable(const struct blk *blk)
{
    return blk->writable;
}

const char *blk_path(const struct blk *blk)
{
    return blk->path;
}

const char *blk_format(const struct blk *blk)
{
    return blk->format->name;
}

unsigned blk_cluster_size(const struct blk *blk)
{
    struct blk_info info = {0};

    blk->format->info((struct blk *)(uintptr_t)blk, &info);
    return info.cluster_size;
}

struct blk *blk_backing(struct blk *blk)
{
    return blk->backing;
}

int blk_get_info(struct blk *blk, struct blk_info *info, struct err *err)
{
    struct stat st;

    *info = (struct blk_info){
        .virtual_size = blk->length,
        .backing_name = blk->backing_name,
        .backing_format = blk->backing_format,
        .backing_path = blk->backing_path,
        .data_name = blk->data_name,
        .has_data_file = blk->has_data_file,
    };
    if (blk->file->fd >= 0) {
        if (fstat(blk->file->fd, &st) != 0) {
            return err_set_errno(err, -errno, "Could not examine '%s'", blk->path);
        }
        info->disk_size = (uint64_t)st.st_blocks * 512;
    }
    if (blk->shown != NULL) {
        struct blk_info below;
        int r = blk_get_info(blk->shown, &below, err);

        if (r != 0) {
            return r;
        }
        info->disk_size = below.disk_size;
        info->cluster_size = below.cluster_size;
        info->is_dirty = below.is_dirty;
    }
    blk->format->info(blk, info);
    return 0;
}

bool blk_get_encryption(struct blk *blk, struct blk_encryption *encryption)
{
    return blk->format->encryption != NULL && blk->format->encryption(blk, encryption);
}

bool blk_unsettled(struct blk *blk)
{
    if (blk->shown != NULL) {
        return blk_unsettled(blk->shown);
    }
    return blk->format->unsettled != NULL && blk->format->unsettled(blk);
}

size_t blk_redo_log_size(struct blk *blk)
{
    return blk->writable && blk->format->redo_log != NULL ? blk->format->redo_log_size() : 0;
}

int blk_redo_log(struct blk *blk, void *memory, size_t bytes, struct err *err)
{
    return blk_redo_log_size(blk) > 0 ? blk->format->redo_log(blk, memory, bytes, err) : 0;
}

void blk_get_counters(struct blk *blk, struct blk_counters *counters)
{
    uint64_t allocations = 0;

    *counters = (struct blk_counters){0};
    for (struct blk *layer = blk; layer != NULL; layer = layer->backing) {
        if (layer->format->count != NULL) {
            layer->format->count(layer, counters);
        }
        /* Below the top nobody writes, but for what a repair at open did. */
        allocations = layer == blk ? counters->allocations : allocations;
    }
    counters->allocations = allocations;
}

/* Where the bytes of an extent of a raw layer are: in the whole of its file, or of that of the image on which it
 * lies. */
static int look_through(struct blk *layer, struct blk_extent *extent)
{
    uint64_t offset = extent->host_offset + layer->file->fd_offset;
    unsigned depth = extent->depth;
    int r;

    extent->host_offset = offset;
    if (layer->shown == NULL || offset >= layer->shown->length) {
        return 0;
    }
    r = blk_map(layer->shown, offset, min_u64(extent->length, layer->shown->length - offset), 0,
                extent);
    extent->has_host_offset = extent->has_host_offset && extent->depth == 0;
    extent->depth = depth;
    return r;
}

int blk_map(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
            struct blk_extent *extent)
{
    struct layer_extent found;
    struct blk *layer = blk;
    unsigned depth = 0;
    int r;

    if (length == 0 || !range_within(offset, length, blk->length)) {
        return -EINVAL;
    }
    if (flags & BLK_MAP_TOP_ONLY) {
        r = blk->format->map(blk, offset, length, LAYER_MAP_PRECISE, &found);
    } else {
        r = chain_map(blk, offset, length, LAYER_MAP_PRECISE, &layer, &depth, &found);
    }
    if (r != 0) {
        return r;
    }
    *extent = (struct blk_extent){
        .kind = found.kind,
        .length = found.length,
        .depth = depth,
        .has_host_offset = found.has_host_offset && !found.is_encrypted,
        .host_offset = found.host_offset,
        .is_hole = found.is_hole,
    };
    return layer != NULL && layer->format == &raw_format ? look_through(layer, extent) : 0;
}

static int require_writable(const struct blk *blk, const char *what, struct err *err)
{
    return blk->writable
               ? 0
               : err_set(err, -EROFS, "Could not %s '%s': it is open read-only", what, blk->path);
}

int blk_resize(struct blk *blk, uint64_t size, struct err *err)
{
    int r = require_writable(blk, "resize", err);

    return r != 0 ? r : blk->format->resize(blk, size, err);
}

int blk_preallocate(struct blk *blk, uint64_t offset, uint64_t length, enum blk_prealloc mode,
                    struct err *err)
{
    int r = require_writable(blk, "preallocate", err);

    if (r != 0 || mode == BLK_PREALLOC_OFF || length == 0) {
        return r;
    }
    return blk->format->preallocate(blk, offset, length, mode, err);
}

int blk_resize_preallocated(struct blk *blk, uint64_t size, enum blk_prealloc mode, struct err *err)
{
    uint64_t old = blk->length;
    int r = blk_resize(blk, size, err);

    if (r == 0 && size > old) {
        r = blk_preallocate(blk, old, size - old, mode, err);
        if (r != 0) {
            blk_resize(blk, old, NULL);
        }
    }
    return r;
}

int blk_vm_state_pread(struct blk *blk, uint64_t offset, void *buf, size_t length)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};

    return blk->format->vm_state == NULL
               ? -ENOTSUP
               : blk->format->vm_state(blk, false, offset, &iov, 1, length);
}

int blk_vm_state_pwrite(struct blk *blk, uint64_t offset, const void *buf, size_t length)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = length};

    if (blk->format->vm_state == NULL) {
        return -ENOTSUP;
    }
    return blk->writable ? blk->format->vm_state(blk, true, offset, &iov, 1, length) : -EROFS;
}

int blk_amend(struct blk *blk, const struct blk_amend_options *options, struct err *err)
{
    int r = require_writable(blk, "change", err);

    if (r == 0 && blk->format->amend == NULL) {
        r = err_set(err, -ENOTSUP, "Format driver '%s' does not support option amendment",
                    blk->format->name);
    }
    return r == 0 ? blk->format->amend(blk, options, err) : r;
}

int blk_set_backing(struct blk *blk, const char *name, const char *format, struct err *err)
{
    int r = require_writable(blk, "change", err);

    if (r != 0) {
        return r;
    }
    if (blk->format->set_backing == NULL) {
        return err_set(err, -ENOTSUP, "'%s': the %s format has no backing files", blk->path,
                       blk->format->name);
    }
    return blk->format->set_backing(blk, name, format, err);
}

int blk_make_empty(struct blk *blk, struct err *err)
{
    int r = require_writable(blk, "empty", err);

    if (r != 0) {
        return r;
    }
    if (blk->format->make_empty == NULL) {
        return err_set(err, -ENOTSUP, "'%s': a %s image cannot be emptied", blk->path,
                       blk->format->name);
    }
    return blk->format->make_empty(blk, err);
}

int blk_note_problem(struct blk *blk, int code, const char *fmt, ...)
{
    char text[sizeof(blk->problem.text)];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    pthread_mutex_lock(&blk->problem_lock);
    if (blk->problem.text[0] == '\0') {
        err_set(&blk->problem, code, "'%s': %s", blk->path, text);
    }
    pthread_mutex_unlock(&blk->problem_lock);
    return code;
}

bool blk_problem(struct blk *blk, struct err *err)
{
    bool found = false;

    for (; blk != NULL && !found; blk = blk->shown != NULL ? blk->shown : blk->backing) {
        pthread_mutex_lock(&blk->problem_lock);
        found = blk->problem.text[0] != '\0';
        if (found) {
            *err = blk->problem;
        }
        pthread_mutex_unlock(&blk->problem_lock);
    }
    return found;
}
