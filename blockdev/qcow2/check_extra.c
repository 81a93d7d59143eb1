/*
 * check_extra.c - references from what this engine does not use itself but must not free: internal
 * snapshots and bitmaps. Source: qcow2 specification, "Snapshots" and "Bitmaps".
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/bitmap.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_OVERLAP = 16,
    BITMAP_ENTRY = 24,
    BITMAPS_EXTENSION = 24,
    MAX_BITMAPS = 65535,
    MAX_BITMAP_TABLE = 1 << 22,
    EXTENSION_AREA = 64 << 10, /* what is read of cluster 0 */
};
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
    if (entries > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE) {
        check_corruption(c,
                         "ERROR snapshot %" PRIu32 " l1_size=%#" PRIx32
                         ": L1 table is too large; snapshot table entry corrupted",
                         index, entries);
        return 0;
    }
    /* L1 tables that do not overlap are together smaller than the file. */
    c->l1_bytes += min_u64((uint64_t)entries * QCOW2_ENTRY_SIZE, c->file_bytes);
    if (c->l1_bytes / MAX_OVERLAP > c->file_bytes) {
        check_say(c, "ERROR snapshot %" PRIu32 ": too many L1 tables overlap", index);
        c->result->check_errors++;
        return 0;
    }
    return check_walk_l1(c, offset, entries, false);
}

int check_walk_snapshots(struct check *c)
{
    int rc = check_count_range(c, c->header.snapshots_offset, c->snapshot_bytes);

    /* They would share guest data, which has no refcounts there. Nothing repairs that. */
    if (c->has_data_file && c->snapshot_count > 0)
        check_corruption(c, "ERROR %" PRIu32 " snapshots in image with data file",
                         c->snapshot_count);
    for (uint32_t i = 0; rc == 0 && i < c->snapshot_count; i++)
        rc = walk_snapshot_l1(c, i, load_be64(c->snapshots[i].raw),
                              load_be32(c->snapshots[i].raw + 8));
    return rc;
}

static bool is_directory_sane(const struct check *c)
{
    return c->bitmaps.count <= MAX_BITMAPS && c->bitmaps.size <= MAX_BITMAP_DIRECTORY &&
           range_within(c->bitmaps.offset, c->bitmaps.size,
                        align_up(c->file_bytes, c->cluster_size));
}

/* A walk through the directory, which is sane. */
struct bitmap_cursor {
    uint32_t index;
    uint64_t at;      /* of the next entry, in the directory */
    uint64_t table;   /* the bitmap's table: where, */
    uint32_t entries; /* and how long */
};

/* 1; 0 behind the last; -EINVAL: the entry does not fit. */
static int next_bitmap(const struct check *c, struct bitmap_cursor *cursor)
{
    unsigned char raw[BITMAP_ENTRY];
    uint64_t left = c->bitmaps.size - cursor->at;
    int rc;

    if (cursor->index == c->bitmaps.count)
        return 0;
    if (left < BITMAP_ENTRY)
        return -EINVAL;
    rc = file_pread(c->file, c->bitmaps.offset + cursor->at, raw, sizeof(raw));
    if (rc < 0)
        return rc;
    cursor->index++;
    cursor->table = load_be64(raw);
    cursor->entries = load_be32(raw + 8);
    cursor->at += min_u64(
        left, align_up((uint64_t)BITMAP_ENTRY + load_be16(raw + 18) + load_be32(raw + 20), 8));
    return 1;
}

/* Those that lie in the file, as far as they do not overlap more than a sound image's could. */
static int mark_bitmap_tables(struct check *c)
{
    struct bitmap_cursor cursor = {0};
    uint64_t left = c->file_bytes;
    int rc = 0;

    check_refs_clear(&c->bitmap_tables);
    if (c->fix == 0 || !c->bitmaps.are_there || !is_directory_sane(c))
        return 0;
    while ((rc = next_bitmap(c, &cursor)) > 0) {
        uint64_t bytes = (uint64_t)cursor.entries * QCOW2_ENTRY_SIZE;

        if (!range_within(cursor.table, bytes, c->file_bytes) || bytes > left)
            continue;
        left -= bytes;
        for (uint64_t at = align_down(cursor.table, c->cluster_size); at < cursor.table + bytes;
             at += c->cluster_size) {
            rc = check_refs_add(&c->bitmap_tables, at >> c->cluster_bits, 1);
            if (rc < 0)
                return rc;
        }
    }
    return rc == -EINVAL ? 0 : rc;
}

int check_find_bitmaps(struct check *c)
{
    const struct qcow2_header *h = &c->header;
    uint64_t area = min_u64(EXTENSION_AREA, c->cluster_size);
    unsigned char *raw;
    int rc;

    c->bitmaps = (struct check_bitmaps){0};
    /* Without the autoclear bit the bitmaps are invalid, and their clusters garbage. */
    if ((h->autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) == 0)
        return 0;
    raw = malloc(area);
    rc = raw != NULL ? file_pread(c->file, 0, raw, area) : -ENOMEM;
    if (h->backing_file_offset != 0)
        area = min_u64(area, h->backing_file_offset);
    for (uint64_t at = h->header_length; rc == 0 && at + 8 <= area;) {
        uint32_t type = load_be32(raw + at), length = load_be32(raw + at + 4);

        if (type == QCOW2_EXT_END || length > area - at - 8)
            break;
        if (type == QCOW2_EXT_BITMAPS && length >= BITMAPS_EXTENSION)
            c->bitmaps = (struct check_bitmaps){
                .are_there = true,
                .count = load_be32(raw + at + 8),
                .size = load_be64(raw + at + 16),
                .offset = load_be64(raw + at + 24),
            };
        at += 8 + align_up(length, 8);
    }
    free(raw);
    return rc == 0 ? mark_bitmap_tables(c) : rc;
}

static int walk_bitmap_table(struct check *c, uint64_t offset, uint32_t entries)
{
    uint64_t *table;
    int rc;

    if (entries > MAX_BITMAP_TABLE) {
        check_corruption(c, "ERROR bitmap table at %#" PRIx64 " is too large", offset);
        return 0;
    }
    /* As with L1 tables. */
    c->bitmap_bytes += min_u64((uint64_t)entries * QCOW2_ENTRY_SIZE, c->file_bytes);
    if (c->bitmap_bytes / MAX_OVERLAP > c->file_bytes) {
        check_say(c, "ERROR too many bitmap tables overlap");
        c->result->check_errors++;
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

        /* What it leads to is counted all the same: nobody else may have it. */
        if ((table[i] & BITMAP_TABLE_RESERVED) != 0 ||
            (data != 0 &&
             ((table[i] & BITMAP_ALL_ONES) != 0 || !is_aligned(data, c->cluster_size))))
            check_corruption(c,
                             "ERROR entry %" PRIu32 " of the bitmap table at %#" PRIx64
                             " is malformed: %#" PRIx64,
                             i, offset, table[i]);
        if (data != 0)
            rc = check_count_range(c, data, c->cluster_size);
    }
    free(table);
    return rc;
}

int check_walk_bitmaps(struct check *c)
{
    struct bitmap_cursor cursor = {0};
    int rc;

    if (!c->bitmaps.are_there)
        return 0;
    c->bitmap_bytes = 0;
    if (!is_directory_sane(c)) {
        check_corruption(c, "ERROR bitmap directory is malformed");
        return 0;
    }
    rc = check_count_range(c, c->bitmaps.offset, c->bitmaps.size);
    while (rc == 0 && (rc = next_bitmap(c, &cursor)) > 0)
        rc = walk_bitmap_table(c, cursor.table, cursor.entries);
    if (rc == -EINVAL) {
        check_corruption(c, "ERROR bitmap directory is malformed");
        rc = 0;
    }
    return rc;
}
