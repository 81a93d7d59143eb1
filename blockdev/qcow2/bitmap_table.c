/*
 * bitmap_table.c - bitmap tables and what they lead to, on disk. A table is read when it is needed
 * and not kept; each time its entries are checked as if they had never been seen.
 *
 * A layer that is opened for writing knows the place of each cluster that bitmaps use, as it does of
 * other metadata (metadata.c): no two of them, and nothing else that is known, may share one. So
 * what bitmap_store.c overwrites or gives back is nobody else's. A bitmap that was in use when
 * it was opened may be outdated in everything: if its table makes no sense, it is kept, and when it
 * is removed its clusters are leaked, not freed.
 */
#include "bytes.h"
#include "qcow2/bitmap.h"

#include <stdlib.h>
#include <string.h>

static bool is_sound(const struct qcow2 *q, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if ((entry & BITMAP_TABLE_RESERVED) != 0) {
        return false;
    }
    if (offset == 0) {
        return true;
    }
    return (entry & BITMAP_ALL_ONES) == 0 && is_aligned(offset, q->cluster_size) &&
           range_within(offset, q->cluster_size, q->file_end);
}

int bitmap_table_load(struct qcow2 *q, const struct bitmap *b, uint64_t **entries)
{
    uint64_t bytes = (uint64_t)b->now.table_size * QCOW2_ENTRY_SIZE, *table;
    int r;

    if (!range_within(b->now.table_offset, bytes, q->file_end)) {
        return -EINVAL;
    }
    table = malloc(max_u64(bytes, 1));
    if (table == NULL) {
        return -ENOMEM;
    }
    r = bytes > 0 ? file_pread(q->file, b->now.table_offset, table, bytes) : 0;
    for (uint32_t i = 0; i < b->now.table_size && r == 0; i++) {
        table[i] = load_be64(&table[i]);
        r = is_sound(q, table[i]) ? 0 : -EINVAL;
    }
    if (r != 0) {
        free(table);
        return r;
    }
    *entries = table;
    return 0;
}

int bitmap_cluster_read(struct qcow2 *q, const struct bitmap *b, const uint64_t *entries,
                        uint64_t index, uint8_t *buf, bool *is_zero)
{
    uint64_t at = index * q->cluster_size;
    bool is_stored = entries != NULL && !b->now.is_cleared && index < b->now.table_size;
    uint64_t entry = is_stored ? entries[index] : 0;
    int r = 0;

    if (entry == 0 && !bitmap_bits_touch(b, at, q->cluster_size)) {
        *is_zero = true;
        return 0;
    }
    if (entry == 0 || entry == BITMAP_ALL_ONES) {
        memset(buf, entry == 0 ? 0 : 0xff, q->cluster_size);
    } else {
        r = file_pread(q->file, entry, buf, q->cluster_size);
    }
    if (r == 0) {
        bitmap_bits_mask(buf, q->cluster_size, at * 8,
                         min_u64(b->now.bits, bitmap_bits_for(b, q->blk->length)));
        bitmap_bits_merge(b, at, buf, q->cluster_size);
        *is_zero = buf[0] == 0 && memcmp(buf, buf + 1, q->cluster_size - 1) == 0;
    }
    return r;
}

/* ---- places ---- */

static int register_run(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + align_up(bytes, q->cluster_size);
    int r = range_within(offset, end - offset, q->file_end) ? 0 : -EINVAL;

    for (uint64_t at = offset; at < end && r == 0; at += q->cluster_size) {
        r = qcow2_is_metadata(q, at) ? -EINVAL : qcow2_metadata_add(q, at);
    }
    return r;
}

static int register_bitmap(struct qcow2 *q, const struct bitmap *b)
{
    uint64_t *entries;
    int r = bitmap_table_load(q, b, &entries);

    if (r != 0) {
        return r;
    }
    r = register_run(q, b->now.table_offset, (uint64_t)b->now.table_size * QCOW2_ENTRY_SIZE);
    for (uint32_t i = 0; i < b->now.table_size && r == 0; i++) {
        uint64_t offset = entries[i] & QCOW2_OFFSET_MASK;

        r = offset != 0 ? register_run(q, offset, q->cluster_size) : 0;
    }
    free(entries);
    return r;
}

int bitmap_register_clusters(struct qcow2 *q, struct err *err)
{
    struct qcow2_bitmaps *set = q->bitmaps;
    uint64_t tables = 0;
    int r = register_run(q, set->directory_offset, set->directory_size);

    if (r != 0) {
        return err_set_errno(err, r, "Bitmap directory overlaps other metadata");
    }
    for (unsigned i = 0; i < set->count; i++) {
        struct bitmap *b = set->list[i];

        tables += (uint64_t)b->now.table_size * QCOW2_ENTRY_SIZE;
        if (tables > BITMAP_MAX_TABLES) {
            return err_set(err, -EFBIG, "Bitmap tables are too large");
        }
        r = register_bitmap(q, b);
        if (r == -EINVAL && b->now.is_inconsistent) {
            b->has_bad_table = true;
        } else if (r != 0) {
            return err_set_errno(
                err, r, "Could not read bitmap_table table from image for bitmap '%s'", b->name);
        }
    }
    return 0;
}

/* ---- content ---- */

struct runs {
    int (*run)(void *opaque, uint64_t first, uint64_t bits);
    void *opaque;
    uint64_t first, end; /* the run that is open; empty: none */
};

static int close_run(struct runs *runs)
{
    int r =
        runs->end > runs->first ? runs->run(runs->opaque, runs->first, runs->end - runs->first) : 0;

    runs->first = runs->end = 0;
    return r;
}

static int add_bits(struct runs *runs, uint64_t first, uint64_t bits)
{
    int r = 0;

    if (runs->end != first || runs->end == runs->first) {
        r = close_run(runs);
        runs->first = first;
    }
    runs->end = first + bits;
    return r;
}

static int scan_cluster(struct runs *runs, const uint8_t *buf, uint64_t length, uint64_t first)
{
    int r = 0;

    for (uint64_t i = 0; i < length && r == 0; i++) {
        if (buf[i] == 0xff) {
            r = add_bits(runs, first + i * 8, 8);
            continue;
        }
        for (unsigned bit = 0; buf[i] != 0 && bit < 8 && r == 0; bit++) {
            if (buf[i] >> bit & 1) {
                r = add_bits(runs, first + i * 8 + bit, 1);
            }
        }
    }
    return r;
}

int bitmap_each_run(struct qcow2 *q, const struct bitmap *b,
                    int (*run)(void *opaque, uint64_t first, uint64_t bits), void *opaque)
{
    uint64_t count = bitmap_table_entries(q, bitmap_bits_for(b, q->blk->length));
    struct runs runs = {.run = run, .opaque = opaque};
    uint64_t *entries = NULL;
    uint8_t *buf = malloc(q->cluster_size);
    int r = buf == NULL                ? -ENOMEM
            : b->now.table_offset != 0 ? bitmap_table_load(q, b, &entries)
                                       : 0;

    for (uint64_t i = 0; i < count && r == 0; i++) {
        bool is_zero;

        r = bitmap_cluster_read(q, b, entries, i, buf, &is_zero);
        if (r == 0 && !is_zero) {
            r = scan_cluster(&runs, buf, q->cluster_size, i * q->cluster_size * 8);
        }
    }
    r = r == 0 ? close_run(&runs) : r;
    free(entries);
    free(buf);
    return r;
}
