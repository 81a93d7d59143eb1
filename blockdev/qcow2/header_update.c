/*
 * header_update.c - changes to the header of an open image. Each is one write, of the bytes that
 * change or of the part of cluster 0 that changes; the caller syncs. Everything that is not ours
 * (unknown header bytes, unknown extensions) stays as it is.
 *
 * Offsets: format.h.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    AT_BACKING_OFFSET = 8,
    AT_BACKING_SIZE = 16,
    AT_SIZE = 24,
    AT_L1_SIZE = 36,
    AT_REFTABLE_OFFSET = 48,
    AT_INCOMPATIBLE = 72,
};

int qcow2_header_write_features(struct qcow2 *q, uint64_t incompatible, uint64_t autoclear)
{
    uint8_t raw[24];
    int r;

    store_be64(raw, incompatible);
    store_be64(raw + 8, q->header.compatible_features);
    store_be64(raw + 16, autoclear);
    r = file_pwrite(q->file, AT_INCOMPATIBLE, raw, sizeof(raw));
    if (r == 0) {
        q->header.incompatible_features = incompatible;
        q->header.autoclear_features = autoclear;
    }
    return r;
}

int qcow2_header_write_reftable(struct qcow2 *q, uint64_t offset, uint32_t clusters)
{
    uint8_t raw[12];
    int r;

    store_be64(raw, offset);
    store_be32(raw + 8, clusters);
    r = file_pwrite(q->file, AT_REFTABLE_OFFSET, raw, sizeof(raw));
    if (r == 0) {
        q->header.refcount_table_offset = offset;
        q->header.refcount_table_clusters = clusters;
    }
    return r;
}

int qcow2_header_write_l1(struct qcow2 *q, uint64_t offset, uint32_t entries)
{
    uint8_t raw[12];
    int r;

    store_be32(raw, entries);
    store_be64(raw + 4, offset);
    r = file_pwrite(q->file, AT_L1_SIZE, raw, sizeof(raw));
    if (r == 0) {
        q->header.l1_size = entries;
        q->header.l1_table_offset = offset;
    }
    return r;
}

int qcow2_header_write_size(struct qcow2 *q, uint64_t size)
{
    uint8_t raw[8];
    int r;

    store_be64(raw, size);
    r = file_pwrite(q->file, AT_SIZE, raw, sizeof(raw));
    if (r == 0) {
        q->header.size = size;
    }
    return r;
}

/* Appends an extension; false when it does not fit. */
static bool put_extension(uint8_t *raw, uint64_t room, uint64_t *at, uint32_t type,
                          const void *data, uint32_t length)
{
    uint64_t bytes = 8 + align_up(length, 8);

    if (bytes > room - *at) {
        return false;
    }
    store_be32(raw + *at, type);
    store_be32(raw + *at + 4, length);
    memset(raw + *at + 8, 0, bytes - 8);
    if (length > 0) {
        memcpy(raw + *at + 8, data, length);
    }
    *at += bytes;
    return true;
}

static void put_bytes(uint8_t *to, const void *from, size_t length)
{
    memcpy(to, from, length);
}

/* Builds the new cluster 0 in `new`, up to *used bytes, from the old one in `old`. */
static bool build(const struct qcow2 *q, const uint8_t *old, uint8_t *new, const char *name,
                  const char *format, uint64_t *used)
{
    const struct qcow2_header *h = &q->header;
    uint64_t end = h->backing_file_offset != 0 ? h->backing_file_offset : q->cluster_size;
    uint64_t at = h->header_length, name_length = name != NULL ? strlen(name) : 0, to = at;
    bool fits = true;

    memcpy(new, old, h->header_length);
    if (format != NULL) {
        fits = put_extension(new, q->cluster_size, &to, QCOW2_EXT_BACKING_FORMAT, format,
                             (uint32_t)strlen(format));
    }
    while (fits && at + 8 <= end) {
        uint32_t type = load_be32(old + at), length = load_be32(old + at + 4);

        if (type == QCOW2_EXT_END || length > end - at - 8) {
            break;
        }
        if (type != QCOW2_EXT_BACKING_FORMAT) {
            fits = put_extension(new, q->cluster_size, &to, type, old + at + 8, length);
        }
        at = min_u64(end, at + 8 + align_up(length, 8));
    }
    fits = fits && put_extension(new, q->cluster_size, &to, QCOW2_EXT_END, NULL, 0) &&
           name_length <= q->cluster_size - to;
    if (!fits) {
        return false;
    }
    if (name != NULL) {
        put_bytes(new + to, name, name_length);
    }
    store_be64(new + AT_BACKING_OFFSET, name != NULL ? to : 0);
    store_be32(new + AT_BACKING_SIZE, (uint32_t)name_length);
    *used = to + name_length;
    return true;
}

static int replace_text(char **field, const char *text)
{
    char *copy = text != NULL ? strdup(text) : NULL;

    if (text != NULL && copy == NULL) {
        return -ENOMEM;
    }
    free(*field);
    *field = copy;
    return 0;
}

/* Writes the new cluster 0 as far as old and new contents reach, in one write. */
static int rewrite(struct qcow2 *q, const char *name, const char *format, struct err *err)
{
    const char *path = q->blk->path;
    uint8_t *old = calloc(1, q->cluster_size), *new = calloc(1, q->cluster_size);
    struct qcow2_header_info info = {0};
    uint64_t used;
    int r = -ENOMEM;

    if (old != NULL && new != NULL) {
        r = qcow2_header_read(q->file, &info, NULL);
        r = r == 0 ? file_pread(q->file, 0, old, q->cluster_size) : r;
    }
    if (r != 0) {
        err_set_errno(err, r, "Could not read the header of '%s'", path);
    } else if (!build(q, old, new, name, format, &used)) {
        r = err_set(err, -ENOSPC, "'%s': the backing file name does not fit into the header", path);
    } else {
        used = min_u64(q->cluster_size, align_up(max_u64(used, info.used_bytes), 512));
        r = file_pwrite(q->file, 0, new, used);
        if (r == 0) {
            r = qcow2_sync(q);
        }
        if (r != 0) {
            err_set_errno(err, r, "Could not write the header of '%s'", path);
        } else {
            q->header.backing_file_offset = load_be64(new + AT_BACKING_OFFSET);
            q->header.backing_file_size = load_be32(new + AT_BACKING_SIZE);
        }
    }
    qcow2_header_free(&info);
    free(old);
    free(new);
    return r;
}

int qcow2_set_backing(struct blk *blk, const char *name, const char *format, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    int r = qcow2_refuse_if_broken(q);

    if (r != 0) {
        return err_set_errno(err, r, "Could not change '%s'", blk->path);
    }
    if (name != NULL && (name[0] == '\0' || strlen(name) > QCOW2_MAX_BACKING_NAME)) {
        return err_set(err, -EINVAL, "'%s': a backing file name has 1 to %d bytes", blk->path,
                       QCOW2_MAX_BACKING_NAME);
    }
    /* What was written with the old backing file in mind must not become stable after the new name. */
    r = qcow2_flush(blk);
    if (r != 0) {
        return err_set_errno(err, r, "Could not flush '%s'", blk->path);
    }
    r = rewrite(q, name, name != NULL ? format : NULL, err);
    if (r == 0) {
        r = replace_text(&blk->backing_name, name);
        r = r == 0 ? replace_text(&blk->backing_format, name != NULL ? format : NULL) : r;
        r = r == 0 ? replace_text(&blk->backing_path, NULL) : r;
        if (r == 0 && name != NULL) {
            /* As when it was opened: a name that is no path has no resolved form. */
            blk_backing_path(blk->path, name, &blk->backing_path, NULL);
        }
        if (r != 0) {
            err_set_errno(err, r, "'%s'", blk->path);
        }
    }
    return r;
}
