/*
 * header_extension.c - the bitmaps extension in the header of an open image. Everything else in
 * cluster 0 stays as it is.
 *
 * Each step is one write that a crash cannot tear, because it changes one sector, or bytes that
 * nothing leads to yet. The autoclear bit says whether the extension counts:
 *
 *   another directory   the 24 bytes of data; if a sector ends within them, with the autoclear bit
 *                       taken away meanwhile
 *   appended            data and a new end mark are written behind the end mark of the list, then the
 *                       type over the end mark; then the autoclear bit is set. A backing file
 *                       name in the way is first copied behind, and its offset changed
 *   removed             the autoclear bit goes; then an end mark takes the type's place
 *
 * Where other extensions follow the one that is removed, or the list has no end mark, what changes
 * of cluster 0 is written anew in one write (header_update.c), the autoclear bit being away.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    AT_BACKING_OFFSET = 8,
    SECTOR = 512,
    EXTENSION_HEAD = 8,
    END_MARK = 8,
    WHOLE = EXTENSION_HEAD + QCOW2_BITMAPS_EXTENSION_BYTES,
};

/* The header as it is on disk now, and where its list of extensions ends. */
struct area {
    struct qcow2_header_info info;
    uint8_t *raw;
    uint64_t bytes; /* of raw: as much of cluster 0 as is ever read */
    uint64_t end_mark;
    bool has_end_mark;
};

static int area_read(struct qcow2 *q, struct area *area)
{
    const struct qcow2_header *h = &area->info.header;
    int r = qcow2_header_read(q->file, false, &area->info, NULL);
    uint64_t at, end;

    if (r != 0) {
        return r;
    }
    area->bytes = min_u64(QCOW2_HEADER_AREA, q->cluster_size);
    area->raw = malloc(area->bytes);
    r = area->raw == NULL ? -ENOMEM : file_pread(q->file, 0, area->raw, area->bytes);
    if (r != 0) {
        return r;
    }
    end = h->backing_file_offset != 0 ? h->backing_file_offset : area->bytes;
    for (at = h->header_length; at + EXTENSION_HEAD <= end;) {
        if (load_be32(area->raw + at) == QCOW2_EXT_END) {
            area->end_mark = at;
            area->has_end_mark = true;
            break;
        }
        at += EXTENSION_HEAD + align_up(load_be32(area->raw + at + 4), 8);
    }
    return 0;
}

static void area_free(struct area *area)
{
    qcow2_header_free(&area->info);
    free(area->raw);
}

static int write_synced(struct qcow2 *q, uint64_t offset, const void *bytes, size_t length)
{
    int r = file_pwrite(q->file, offset, bytes, length);

    return r == 0 ? qcow2_sync(q) : r;
}

static int set_autoclear(struct qcow2 *q, bool on)
{
    uint64_t old = q->header.autoclear_features;
    uint64_t bits = on ? old | QCOW2_AUTOCLEAR_BITMAPS : old & ~QCOW2_AUTOCLEAR_BITMAPS;
    int r = 0;

    if (bits != old) {
        r = qcow2_header_write_features(q, q->header.incompatible_features, bits);
        r = r == 0 ? qcow2_sync(q) : r;
    }
    return r;
}

/* Makes `room` bytes behind the end mark free of the backing file name. */
static int move_backing_name(struct qcow2 *q, struct area *area, uint64_t room)
{
    struct qcow2_header *h = &area->info.header;
    uint64_t from = h->backing_file_offset, size = h->backing_file_size;
    uint64_t to = align_up(max_u64(area->end_mark + room, from + size), 8);
    uint8_t raw[8];
    int r;

    if (from == 0 || from >= area->end_mark + room) {
        return 0;
    }
    if (!range_within(to, size, area->bytes)) {
        return -EFBIG;
    }
    r = write_synced(q, to, area->raw + from, size);
    store_be64(raw, to);
    r = r == 0 ? write_synced(q, AT_BACKING_OFFSET, raw, sizeof(raw)) : r;
    if (r == 0) {
        q->header.backing_file_offset = to;
    }
    return r;
}

static int append(struct qcow2 *q, struct area *area, const uint8_t *data)
{
    uint8_t tail[QCOW2_BITMAPS_EXTENSION_BYTES + END_MARK] = {0}, head[EXTENSION_HEAD];
    int r = -EFBIG;

    if (area->has_end_mark && range_within(area->end_mark, WHOLE + END_MARK, area->bytes)) {
        r = move_backing_name(q, area, WHOLE + END_MARK);
    }
    if (r == -EFBIG) {
        return qcow2_header_rewrite_extension(q, QCOW2_EXT_BITMAPS, data,
                                              QCOW2_BITMAPS_EXTENSION_BYTES);
    }
    memcpy(tail, data, QCOW2_BITMAPS_EXTENSION_BYTES);
    store_be32(head, QCOW2_EXT_BITMAPS);
    store_be32(head + 4, QCOW2_BITMAPS_EXTENSION_BYTES);
    r = r == 0 ? write_synced(q, area->end_mark + EXTENSION_HEAD, tail, sizeof(tail)) : r;
    return r == 0 ? write_synced(q, area->end_mark, head, sizeof(head)) : r;
}

static int take_away(struct qcow2 *q, struct area *area)
{
    static const uint8_t end_mark[END_MARK];
    uint64_t at = area->info.bitmaps.at;
    int r = set_autoclear(q, false);

    if (r != 0 || at == 0) {
        return r;
    }
    if (area->has_end_mark && area->end_mark == at + QCOW2_BITMAPS_EXTENSION_BYTES) {
        return write_synced(q, at - EXTENSION_HEAD, end_mark, sizeof(end_mark));
    }
    return qcow2_header_rewrite_extension(q, QCOW2_EXT_BITMAPS, NULL, 0);
}

static int replace(struct qcow2 *q, struct area *area, const uint8_t *data)
{
    uint64_t at = area->info.bitmaps.at;
    bool is_torn_by_sector = at / SECTOR != (at + QCOW2_BITMAPS_EXTENSION_BYTES - 1) / SECTOR;
    int r = is_torn_by_sector ? set_autoclear(q, false) : 0;

    return r == 0 ? write_synced(q, at, data, QCOW2_BITMAPS_EXTENSION_BYTES) : r;
}

int qcow2_header_write_bitmaps(struct qcow2 *q, uint32_t count, uint64_t directory_offset,
                               uint64_t directory_size, struct err *err)
{
    uint8_t data[QCOW2_BITMAPS_EXTENSION_BYTES] = {0};
    struct area area = {.raw = NULL};
    int r = area_read(q, &area);

    if (r != 0) {
        area_free(&area);
        return err_set_errno(err, r, "Could not read the header of '%s'", q->blk->path);
    }
    store_be32(data, count);
    store_be64(data + 8, directory_size);
    store_be64(data + 16, directory_offset);
    if (count == 0) {
        r = take_away(q, &area);
    } else {
        r = area.info.bitmaps.at != 0 ? replace(q, &area, data) : append(q, &area, data);
        r = r == 0 ? set_autoclear(q, true) : r;
    }
    area_free(&area);
    /* Which directory the header on disk names is not known, unless there was no room at all. */
    if (r != 0 && r != -EFBIG) {
        qcow2_break(q, r);
    }
    return r != 0 ? err_set_errno(err, r, "Could not write the header of '%s'", q->blk->path) : 0;
}
