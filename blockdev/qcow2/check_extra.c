/*
 * check_extra.c - references from what this engine does not use itself but must not free: internal
 * snapshots and bitmaps. Source: qcow2 specification, "Snapshots" and "Bitmaps".
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SNAPSHOT_ENTRY = 40,
    SNAPSHOT_MAX_EXTRA = 1024,
    BITMAP_ENTRY = 24,
    BITMAPS_EXTENSION = 24,
    MAX_BITMAPS = 65535,
    MAX_BITMAP_TABLE = 1 << 22,
    EXTENSION_AREA = 64 << 10, /* what is read of cluster 0 */
};
#define MAX_SNAPSHOT_TABLE   (UINT64_C(64) << 20)
#define MAX_BITMAP_DIRECTORY (UINT64_C(64) << 20)

static int walk_snapshot_l1(struct check *c, uint32_t index, uint64_t offset, uint32_t entries)
{
    if (!is_aligned(offset, c->cluster_size)) {
        check_corruption(c,
                         "ERROR snapshot %" PRIu32 " l1_offset=%#" PRIx64
                         ": L1 table is not cluster aligned; snapshot table entry corrupted",
                         index, offset);
        return 0;
    }
    if (entries > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE ||
        !range_within(offset, (uint64_t)entries * QCOW2_ENTRY_SIZE,
                      align_up(c->file_bytes, c->cluster_size))) {
        check_corruption(c,
                         "ERROR snapshot %" PRIu32 ": L1 table is too large or outside the image; "
                         "snapshot table entry corrupted",
                         index);
        return 0;
    }
    return check_walk_l1(c, offset, entries, false);
}

int check_walk_snapshots(struct check *c)
{
    const struct qcow2_header *h = &c->header;
    uint64_t at = h->snapshots_offset;
    int rc = 0;

    if (h->nb_snapshots == 0)
        return 0;
    for (uint32_t i = 0; rc == 0 && i < h->nb_snapshots; i++) {
        unsigned char raw[SNAPSHOT_ENTRY];
        uint32_t extra;

        rc = file_pread(c->file, at, raw, sizeof(raw));
        extra = rc == 0 ? load_be32(raw + 36) : 0;
        if (rc == 0 && (extra > SNAPSHOT_MAX_EXTRA ||
                        at - h->snapshots_offset > MAX_SNAPSHOT_TABLE || at > c->file_bytes)) {
            check_corruption(c, "ERROR snapshot table entry %" PRIu32 " is malformed", i);
            break;
        }
        if (rc == 0)
            rc = walk_snapshot_l1(c, i, load_be64(raw), load_be32(raw + 8));
        at += align_up(SNAPSHOT_ENTRY + extra + load_be16(raw + 12) + load_be16(raw + 14), 8);
    }
    if (rc == 0)
        rc = check_count_range(c, h->snapshots_offset, at - h->snapshots_offset);
    return rc;
}

/* Finds the bitmaps extension: its payload in `out`. False when there is none. */
static int find_bitmaps(const struct check *c, unsigned char out[BITMAPS_EXTENSION], bool *found)
{
    const struct qcow2_header *h = &c->header;
    uint64_t area = min_u64(EXTENSION_AREA, c->cluster_size);
    unsigned char *raw = malloc(area);
    int rc = raw != NULL ? file_pread(c->file, 0, raw, area) : -ENOMEM;

    *found = false;
    if (h->backing_file_offset != 0)
        area = min_u64(area, h->backing_file_offset);
    for (uint64_t at = h->header_length; rc == 0 && at + 8 <= area;) {
        uint32_t type = load_be32(raw + at), length = load_be32(raw + at + 4);

        if (type == QCOW2_EXT_END || length > area - at - 8)
            break;
        if (type == QCOW2_EXT_BITMAPS && length >= BITMAPS_EXTENSION) {
            memcpy(out, raw + at + 8, BITMAPS_EXTENSION);
            *found = true;
        }
        at += 8 + align_up(length, 8);
    }
    free(raw);
    return rc;
}

static int walk_bitmap_table(struct check *c, uint64_t offset, uint32_t entries)
{
    uint64_t *table;
    int rc;

    if (entries > MAX_BITMAP_TABLE || !range_within(offset, (uint64_t)entries * QCOW2_ENTRY_SIZE,
                                                    align_up(c->file_bytes, c->cluster_size))) {
        check_corruption(c, "ERROR bitmap table at %#" PRIx64 " is outside the image", offset);
        return 0;
    }
    rc = check_count_range(c, offset, (uint64_t)entries * QCOW2_ENTRY_SIZE);
    if (rc < 0)
        return rc;
    rc = check_read_table(c, offset, entries, &table);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; rc == 0 && i < entries; i++) {
        uint64_t data = table[i] & QCOW2_OFFSET_MASK;

        if (data != 0)
            rc = check_count_range(c, data, c->cluster_size);
    }
    free(table);
    return rc;
}

int check_walk_bitmaps(struct check *c)
{
    unsigned char ext[BITMAPS_EXTENSION];
    uint64_t size, offset, at = 0;
    uint32_t count;
    bool found;
    int rc;

    /* Without the autoclear bit the bitmaps are invalid, and their clusters garbage. */
    if ((c->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) == 0)
        return 0;
    rc = find_bitmaps(c, ext, &found);
    if (rc < 0 || !found)
        return rc;
    count = load_be32(ext);
    size = load_be64(ext + 8);
    offset = load_be64(ext + 16);
    if (count > MAX_BITMAPS || size > MAX_BITMAP_DIRECTORY ||
        !range_within(offset, size, align_up(c->file_bytes, c->cluster_size))) {
        check_corruption(c, "ERROR bitmap directory is malformed");
        return 0;
    }
    rc = check_count_range(c, offset, size);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        unsigned char raw[BITMAP_ENTRY];

        if (size - at < BITMAP_ENTRY) {
            check_corruption(c, "ERROR bitmap directory is malformed");
            break;
        }
        rc = file_pread(c->file, offset + at, raw, sizeof(raw));
        if (rc == 0)
            rc = walk_bitmap_table(c, load_be64(raw), load_be32(raw + 8));
        at = min_u64(
            size,
            at + align_up((uint64_t)BITMAP_ENTRY + load_be16(raw + 18) + load_be32(raw + 20), 8));
    }
    return rc;
}
