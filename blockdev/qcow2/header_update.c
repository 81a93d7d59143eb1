/*
 * header_update.c - changes to the header of an open image. Each is one write within the first sector,
 * so that a crash leaves the old or the new (a new backing file: write_rewritten()); the caller
 * syncs. Everything that is not ours (unknown header bytes, unknown extensions) stays as it is.
 *
 * Offsets: format.h.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512 }; /* what a disk writes whole */

enum {
    AT_VERSION = 4,
    AT_BACKING_OFFSET = 8,
    AT_BACKING_SIZE = 16,
    AT_SIZE = 24,
    AT_L1_SIZE = 36,
    AT_REFTABLE_OFFSET = 48,
    AT_REFCOUNT_ORDER = 96,
    AT_HEADER_LENGTH = 100,
};

int qcow2_header_write_features(struct qcow2 *q, uint64_t incompatible, uint64_t autoclear)
{
    uint8_t raw[24];
    int r;

    store_be64(raw, incompatible);
    store_be64(raw + 8, q->header.compatible_features);
    store_be64(raw + 16, autoclear);
    r = file_pwrite(q->file, QCOW2_AT_INCOMPATIBLE, raw, sizeof(raw));
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

int qcow2_header_write_tables(struct qcow2 *q, const struct qcow2_header *header)
{
    uint8_t raw[48];
    int r;

    store_be64(raw, header->size);
    store_be32(raw + 8, q->header.crypt_method); /* lies between them */
    store_be32(raw + 12, header->l1_size);
    store_be64(raw + 16, header->l1_table_offset);
    store_be64(raw + 24, header->refcount_table_offset);
    store_be32(raw + 32, header->refcount_table_clusters);
    store_be32(raw + 36, header->nb_snapshots);
    store_be64(raw + 40, header->snapshots_offset);
    r = file_pwrite(q->file, AT_SIZE, raw, sizeof(raw));
    if (r == 0) {
        q->header.size = header->size;
        q->header.l1_size = header->l1_size;
        q->header.l1_table_offset = header->l1_table_offset;
        q->header.refcount_table_offset = header->refcount_table_offset;
        q->header.refcount_table_clusters = header->refcount_table_clusters;
        q->header.nb_snapshots = header->nb_snapshots;
        q->header.snapshots_offset = header->snapshots_offset;
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

/* What a new cluster 0 holds; all other extensions stay. */
struct content {
    const char *backing_name, *backing_format; /* or NULL */
    uint32_t type;                             /* of an extension that goes; 0: none */
    const void *data;                          /* what comes in its place; or NULL */
    uint32_t length;
    bool without_names; /* the table of feature names goes too: nothing needs it */
    unsigned version;   /* that it becomes; 0: as it was */
};

/* A new cluster 0. */
struct rewritten {
    uint8_t *raw;
    uint64_t extensions_end;
    uint64_t name_at, name_length;
};

/* Where the new name goes. One that does not fit into the first sector must leave the old one alone,
 * which counts until that sector is written; where there is no room for both it goes as far to the
 * front as it can. */
static uint64_t place_name(const struct qcow2 *q, uint64_t length, uint64_t old_end, uint64_t end)
{
    const struct qcow2_header *h = &q->header;
    uint64_t at = align_up(max_u64(old_end, end), SECTOR);

    if (end + length <= SECTOR) {
        return end;
    }
    if (ranges_overlap(at, length, h->backing_file_offset, h->backing_file_size)) {
        at = align_up(h->backing_file_offset + h->backing_file_size, SECTOR);
    }
    return range_within(at, length, q->cluster_size) ? at : end;
}

/* The fixed part of a header of that version, which knows no features yet. Returns its length. */
static uint64_t put_version(uint8_t *raw, unsigned version)
{
    store_be32(raw + AT_VERSION, version);
    if (version < 3) {
        return QCOW2_V2_HEADER_LENGTH;
    }
    memset(raw + QCOW2_V2_HEADER_LENGTH, 0, QCOW2_V3_HEADER_LENGTH - QCOW2_V2_HEADER_LENGTH);
    store_be32(raw + AT_REFCOUNT_ORDER, QCOW2_DEFAULT_REFCOUNT_ORDER);
    store_be32(raw + AT_HEADER_LENGTH, QCOW2_V3_HEADER_LENGTH);
    return QCOW2_V3_HEADER_LENGTH;
}

/* Builds it from the old one; false when it does not fit. */
static bool build(const struct qcow2 *q, const uint8_t *old, const struct content *content,
                  struct rewritten *new)
{
    const struct qcow2_header *h = &q->header;
    const char *name = content->backing_name, *format = content->backing_format;
    uint64_t end = h->backing_file_offset != 0 ? h->backing_file_offset : q->cluster_size;
    uint64_t at = h->header_length, to = at;
    bool fits = true;

    memcpy(new->raw, old, q->cluster_size);
    if (content->version != 0) {
        to = put_version(new->raw, content->version);
    }
    if (format != NULL) {
        fits = put_extension(new->raw, q->cluster_size, &to, QCOW2_EXT_BACKING_FORMAT, format,
                             (uint32_t)strlen(format));
    }
    while (fits && at + 8 <= end) {
        uint32_t type = load_be32(old + at), length = load_be32(old + at + 4);

        if (type == QCOW2_EXT_END || length > end - at - 8) {
            break;
        }
        if (type != QCOW2_EXT_BACKING_FORMAT && type != content->type &&
            !(content->without_names && type == QCOW2_EXT_FEATURE_NAMES)) {
            fits = put_extension(new->raw, q->cluster_size, &to, type, old + at + 8, length);
        }
        at = min_u64(end, at + 8 + align_up(length, 8));
    }
    if (fits && content->data != NULL) {
        fits = put_extension(new->raw, q->cluster_size, &to, content->type, content->data,
                             content->length);
    }
    fits = fits && put_extension(new->raw, q->cluster_size, &to, QCOW2_EXT_END, NULL, 0);
    if (!fits) {
        return false;
    }
    new->extensions_end = to;
    new->name_length = name != NULL ? strlen(name) : 0;
    new->name_at = place_name(q, new->name_length, min_u64(end, at + 8), to);
    if (!range_within(new->name_at, new->name_length, q->cluster_size)) {
        return false;
    }
    if (name != NULL) {
        put_bytes(new->raw + new->name_at, name, new->name_length);
    }
    store_be64(new->raw + AT_BACKING_OFFSET, name != NULL ? new->name_at : 0);
    store_be32(new->raw + AT_BACKING_SIZE, (uint32_t) new->name_length);
    return true;
}

/*
 * The first sector switches over: header, extensions, and where the name lies. So a crash leaves the
 * old name or the new one. A name behind that sector is written and synced first, where nothing counts
 * yet. Only extensions that change behind the first sector, or a name for which there is no free room,
 * need a write of several sectors, which a crash may tear.
 */
static int write_rewritten(struct qcow2 *q, const struct rewritten *new)
{
    uint64_t used = new->extensions_end;
    int r = 0;

    if (new->name_length > 0 && is_aligned(new->name_at, SECTOR)) {
        r = file_pwrite(q->file, new->name_at, new->raw + new->name_at, new->name_length);
        r = r == 0 ? qcow2_sync(q) : r;
    } else {
        used = new->name_at + new->name_length;
    }
    used = min_u64(q->cluster_size, align_up(used, SECTOR));
    r = r == 0 ? file_pwrite(q->file, 0, new->raw, used) : r;
    return r == 0 ? qcow2_sync(q) : r;
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

/* Builds it from what is on disk; `new->raw` is to be freed in any case. -EFBIG: it does not fit. */
static int prepare(struct qcow2 *q, const struct content *content, struct rewritten *new,
                   struct err *err)
{
    uint8_t *old = calloc(1, q->cluster_size);
    int r;

    *new = (struct rewritten){.raw = calloc(1, q->cluster_size)};
    r = old != NULL && new->raw != NULL ? file_pread(q->file, 0, old, q->cluster_size) : -ENOMEM;
    if (r != 0) {
        err_set_errno(err, r, "Could not read the header of '%s'", q->blk->path);
    } else if (!build(q, old, content, new)) {
        r = -EFBIG;
    }
    free(old);
    return r;
}

/* -EFBIG: it does not fit. */
static int rewrite(struct qcow2 *q, const struct content *content, struct err *err)
{
    struct rewritten new;
    int r = prepare(q, content, &new, err);

    if (r == 0) {
        r = write_rewritten(q, &new);
        if (r != 0) {
            err_set_errno(err, r, "Could not write the header of '%s'", q->blk->path);
        } else {
            q->header.backing_file_offset = load_be64(new.raw + AT_BACKING_OFFSET);
            q->header.backing_file_size = load_be32(new.raw + AT_BACKING_SIZE);
        }
    }
    free(new.raw);
    return r;
}

/* Whether there will be room for the bitmaps extension, which is put in again last, at the price of the
 * feature names (qcow2_header_rewrite_extension) if need be. Changes nothing. */
static int leave_room(struct qcow2 *q, struct content content, struct err *err)
{
    struct rewritten new;
    int r;

    content.without_names = true;
    r = prepare(q, &content, &new, err);
    free(new.raw);
    return r;
}

/* The header on disk has a new backing file. */
static int keep_names(struct blk *blk, const char *name, const char *format, struct err *err)
{
    int r = replace_text(&blk->backing_name, name);

    r = r == 0 ? replace_text(&blk->backing_format, format) : r;
    r = r == 0 ? replace_text(&blk->backing_path, NULL) : r;
    if (r == 0 && name != NULL) {
        /* As when it was opened: a name that is no path has no resolved form. */
        blk_backing_path(blk->path, name, &blk->backing_path, NULL);
    }
    return r != 0 ? err_set_errno(err, r, "'%s'", blk->path) : 0;
}

int qcow2_set_backing(struct blk *blk, const char *name, const char *format, struct err *err)
{
    const struct content content = {
        .backing_name = name,
        .backing_format = name != NULL ? format : NULL,
    };
    struct qcow2 *q = qcow2_of(blk);
    bool moves_extensions, is_detached = false;
    int r = qcow2_refuse_if_broken(q);

    if (r != 0) {
        return err_set_errno(err, r, "Could not change '%s'", blk->path);
    }
    if (name != NULL && (name[0] == '\0' || strlen(name) > QCOW2_MAX_BACKING_NAME)) {
        return err_set(err, -EINVAL, "'%s': a backing file name has 1 to %d bytes", blk->path,
                       QCOW2_MAX_BACKING_NAME);
    }
    if (name != NULL && qcow2_data_is_raw(q)) {
        return err_set(err, -EINVAL,
                       "'%s': an image with a raw external data file has no backing file",
                       blk->path);
    }
    /* What was written with the old backing file in mind must not become stable after the new name. */
    r = qcow2_flush(blk);
    if (r != 0) {
        return err_set_errno(err, r, "Could not flush '%s'", blk->path);
    }
    moves_extensions = (content.backing_format == NULL) != (blk->backing_format == NULL);
    if (moves_extensions) {
        r = leave_room(q, content, err);
        r = r == 0 ? qcow2_bitmaps_detach(q, err) : r;
        if (r != 0 && r != -EFBIG) {
            return r;
        }
        is_detached = r == 0;
    }
    r = r == 0 ? rewrite(q, &content, err) : r;
    if (r == -EFBIG) {
        r = err_set(err, -ENOSPC, "'%s': the backing file name does not fit into the header",
                    blk->path);
    }
    if (r == 0) {
        r = keep_names(blk, name, content.backing_format, err);
    }
    if (is_detached) {
        /* May write the header anew, with the names that the layer has now. */
        int attached = qcow2_bitmaps_attach(q, r == 0 ? err : NULL);

        r = r == 0 ? attached : r;
    }
    return r;
}

int qcow2_header_rewrite_extension(struct qcow2 *q, uint32_t type, const void *data,
                                   uint32_t length)
{
    struct content content = {
        .backing_name = q->blk->backing_name,
        .backing_format = q->blk->backing_format,
        .type = type,
        .data = data,
        .length = length,
    };
    int r = rewrite(q, &content, NULL);

    if (r == -EFBIG) {
        content.without_names = true;
        r = rewrite(q, &content, NULL);
    }
    return r;
}

int qcow2_header_rewrite_version(struct qcow2 *q, unsigned version, struct err *err)
{
    const struct content content = {
        .backing_name = q->blk->backing_name,
        .backing_format = q->blk->backing_format,
        .without_names = true, /* version 2 has none of these features */
        .version = version,
    };
    int r = rewrite(q, &content, err);

    if (r == -EFBIG) {
        return err_set(err, r, "'%s': a header of that version has too little room", q->blk->path);
    }
    if (r == 0) {
        q->header.version = version;
        q->header.header_length = version < 3 ? QCOW2_V2_HEADER_LENGTH : QCOW2_V3_HEADER_LENGTH;
        q->header.refcount_order = QCOW2_DEFAULT_REFCOUNT_ORDER;
        q->header.incompatible_features = 0;
        q->header.compatible_features = 0;
        q->header.autoclear_features = 0;
        q->is_lazy = false;
    }
    return r;
}
