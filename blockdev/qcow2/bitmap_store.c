/*
 * bitmap_store.c - persistent dirty bitmaps: how they come to the disk.
 *
 * A bitmap that is enabled ("auto") follows every write, write-zeroes and discard from the first one
 * after opening on. While that goes on its bits are in memory alone (bitmap_bits.c), and on disk it
 * is marked in use, which means: not to be believed. Order:
 *
 *   marking   the flags of the directory on disk, in place; sync; only then the first guest write
 *             goes on (bitmap_track). Nothing but the flags changes, so a torn write is harmless.
 *   storing   1. bits: in place where the bitmap is marked (what is on disk is not believed anyway),
 *                else to new clusters; all tables that changed and the directory to new clusters
 *             2. a durable commit: refcounts of the new clusters, all of 1, and all guest data
 *             3. the header extension leads to the new directory, whose flags are clean: one write
 *                of 24 bytes in a sector (header_extension.c); sync
 *             4. the old directory, old tables and clusters of bits that are left are given up, the
 *                way every cluster is (free.c)
 *
 * Invariants, whatever a crash cuts short:
 *   1. The header leads to a complete directory, that to complete tables, and all of their clusters
 *      have a refcount: new ones by stage 2, old ones until stage 4.
 *   2. A bitmap that is not in use on disk has every bit of what was written: marked before the
 *      first write, clean again with all bits stable.
 *   3. Clusters of a bitmap that is not in use are never overwritten: changes of one at rest (clear,
 *      merge, ...) are there as a whole or not at all.
 * So a crash leaves bitmaps in use, which tools then call inconsistent, and can leak clusters.
 *
 * A resize changes how many bits there are: all bitmaps are marked before the size changes on disk
 * and stored after it. A bitmap that could not be kept (no memory) stays marked.
 */
#include "bytes.h"
#include "iov.h"
#include "qcow2/bitmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Clusters that a store adds to the image, or takes from it. */
struct places {
    struct qcow2_run *runs;
    size_t count, room;
};

struct update {
    struct qcow2 *q;
    struct places added, dropped;
    uint8_t *buf; /* a cluster */
};

static int note_place(struct places *places, uint64_t offset, uint64_t clusters)
{
    if (places->count == places->room) {
        size_t room = places->room != 0 ? places->room * 2 : 64;
        struct qcow2_run *grown = realloc(places->runs, room * sizeof(grown[0]));

        if (grown == NULL) {
            return -ENOMEM;
        }
        places->runs = grown;
        places->room = room;
    }
    places->runs[places->count++] = (struct qcow2_run){.offset = offset, .clusters = clusters};
    return 0;
}

static int drop(struct update *u, uint64_t offset, uint64_t bytes)
{
    return note_place(&u->dropped, offset, div_round_up(bytes, u->q->cluster_size));
}

static void forget_places(struct qcow2 *q, const struct qcow2_run *run)
{
    for (uint64_t i = 0; i < run->clusters; i++) {
        qcow2_metadata_remove(q, run->offset + i * q->cluster_size);
    }
}

/* Allocates room for `bytes` in one run. */
static int add(struct update *u, uint64_t bytes, uint64_t *offset)
{
    struct qcow2 *q = u->q;
    uint64_t clusters = div_round_up(bytes, q->cluster_size);
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_alloc_run(q, clusters, offset);
    if (r == 0) {
        r = note_place(&u->added, *offset, clusters);
        r = r == 0 ? qcow2_check_overlap(q, QCOW2_WRITES_NEW, *offset, clusters << q->cluster_bits)
                   : r;
        for (uint64_t i = 0; i < clusters && r == 0; i++) {
            r = qcow2_metadata_add(q, *offset + i * q->cluster_size);
        }
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* Clusters that are known to be a bitmap's. */
static int write_over(struct qcow2 *q, uint64_t offset, const struct iovec *iov, int count)
{
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_check_overlap(q, QCOW2_WRITES_EXTRA, offset, iov_length(iov, count));
    pthread_mutex_unlock(&q->lock);
    return r == 0 ? file_pwritev(q->file, offset, iov, count) : r;
}

/* Writes `bytes` of a table or directory into whole clusters of its own. */
static int write_new(struct update *u, const uint8_t *raw, uint64_t bytes, uint64_t *offset)
{
    uint64_t tail = align_up(bytes, u->q->cluster_size) - bytes;
    struct iovec iov[] = {{.iov_base = (void *)(uintptr_t)raw, .iov_len = bytes},
                          {.iov_base = u->buf, .iov_len = tail}};
    int r = add(u, bytes, offset);

    memset(u->buf, 0, u->q->cluster_size);
    return r == 0 ? write_over(u->q, *offset, iov, tail > 0 ? 2 : 1) : r;
}

/* ---- tables and bits ---- */

/* Whether the content of entry `index` is not simply what it was. */
static bool is_changed(const struct qcow2 *q, const struct bitmap *b, uint64_t bits, uint64_t index)
{
    uint64_t cluster_bits = q->cluster_size * 8;

    if (bitmap_bits_touch(b, index * q->cluster_size, q->cluster_size)) {
        return true;
    }
    /* Where one end or the other lies, bits behind it must be zero. */
    return bits != b->now.bits &&
           (index == b->now.bits / cluster_bits || index == bits / cluster_bits);
}

/* One entry: *entry is what it was, and becomes what it will be. */
static int store_entry(struct update *u, const struct bitmap *b, uint64_t *old, uint64_t index,
                       uint64_t bits, uint64_t *entry)
{
    struct qcow2 *q = u->q;
    uint64_t was = old != NULL && index < b->now.table_size ? old[index] : 0;
    uint64_t place = was & QCOW2_OFFSET_MASK;
    struct iovec iov = {.iov_base = u->buf, .iov_len = q->cluster_size};
    bool is_zero = true;
    int r = 0;

    if (!is_changed(q, b, bits, index)) {
        *entry = b->now.is_cleared ? 0 : was;
        return b->now.is_cleared && place != 0 ? drop(u, place, q->cluster_size) : 0;
    }
    r = bitmap_cluster_read(q, b, old, index, u->buf, &is_zero);
    *entry = 0;
    if (r == 0 && !is_zero) {
        *entry = place;
        if (place == 0 || !b->now.is_marked) {
            r = add(u, q->cluster_size, entry);
        }
        r = r == 0 ? write_over(q, *entry, &iov, 1) : r;
    }
    return r == 0 && place != 0 && *entry != place ? drop(u, place, q->cluster_size) : r;
}

static int store_table(struct update *u, struct bitmap *b)
{
    struct qcow2 *q = u->q;
    uint64_t bits = bitmap_bits_for(b, q->blk->length);
    uint64_t count = bitmap_table_entries(q, bits);
    uint64_t *old = NULL, *new = calloc(count, QCOW2_ENTRY_SIZE);
    int r = new == NULL ? -ENOMEM : b->now.table_offset != 0 ? bitmap_table_load(q, b, &old) : 0;

    for (uint64_t i = 0; i < count && r == 0; i++) {
        uint64_t entry;

        r = store_entry(u, b, old, i, bits, &entry);
        if (r == 0) {
            store_be64(&new[i], entry);
        }
    }
    for (uint64_t i = count; old != NULL && i < b->now.table_size && r == 0; i++) {
        uint64_t place = old[i] & QCOW2_OFFSET_MASK;

        r = place != 0 ? drop(u, place, q->cluster_size) : 0;
    }
    if (r == 0 && b->now.table_offset != 0) {
        r = drop(u, b->now.table_offset, (uint64_t)b->now.table_size * QCOW2_ENTRY_SIZE);
    }
    if (r == 0) {
        r = write_new(u, (const uint8_t *)new, count * QCOW2_ENTRY_SIZE, &b->now.table_offset);
        b->now.table_size = (uint32_t)count;
        b->now.bits = bits;
        b->now.is_cleared = false;
    }
    free(old);
    free(new);
    return r;
}

static bool needs_table(const struct qcow2 *q, const struct bitmap *b)
{
    uint64_t bits = bitmap_bits_for(b, q->blk->length);

    return b->now.table_offset == 0 || b->now.is_cleared || b->now.bits != bits ||
           (b->page_count > 0 && bitmap_bits_touch(b, 0, b->page_count * BITMAP_PAGE_BYTES));
}

static int store_bitmap(struct update *u, struct bitmap *b)
{
    int r = 0;

    if (!bitmap_is_usable(b)) {
        return 0;
    }
    if (atomic_load(&b->is_lost)) {
        b->now.is_inconsistent = true;
    } else if (needs_table(u->q, b)) {
        r = store_table(u, b);
    }
    b->now.is_marked = false;
    return r;
}

static int drop_bitmap(struct update *u, const struct bitmap *b)
{
    uint64_t *entries = NULL;
    int r;

    if (b->has_bad_table || b->now.table_offset == 0) {
        return 0;
    }
    r = bitmap_table_load(u->q, b, &entries);
    for (uint32_t i = 0; i < b->now.table_size && r == 0; i++) {
        uint64_t place = entries[i] & QCOW2_OFFSET_MASK;

        r = place != 0 ? drop(u, place, u->q->cluster_size) : 0;
    }
    free(entries);
    return r == 0 ? drop(u, b->now.table_offset, (uint64_t)b->now.table_size * QCOW2_ENTRY_SIZE)
                  : r;
}

/* ---- directory ---- */

static int store_directory(struct update *u)
{
    struct qcow2_bitmaps *set = u->q->bitmaps;
    uint64_t bytes = bitmap_directory_bytes(set);
    uint8_t *raw;
    int r = 0;

    if (set->directory_offset != 0) {
        r = drop(u, set->directory_offset, set->directory_size);
    }
    set->directory_offset = 0;
    set->directory_size = bytes;
    if (r != 0 || bytes == 0) {
        return r;
    }
    raw = malloc(bytes);
    if (raw == NULL) {
        return -ENOMEM;
    }
    bitmap_directory_encode(set, raw);
    r = write_new(u, raw, bytes, &set->directory_offset);
    free(raw);
    return r;
}

static int stage_1(struct update *u, const struct bitmap *removed)
{
    struct qcow2_bitmaps *set = u->q->bitmaps;
    int r = removed != NULL ? drop_bitmap(u, removed) : 0;

    for (unsigned i = 0; i < set->count && r == 0; i++) {
        r = store_bitmap(u, set->list[i]);
    }
    return r == 0 ? store_directory(u) : r;
}

static int commit(struct qcow2 *q)
{
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_refuse_if_broken(q);
    r = r == 0 ? qcow2_commit(q, true) : r;
    pthread_mutex_unlock(&q->lock);
    return r;
}

static void finish(struct update *u, bool is_done)
{
    struct qcow2 *q = u->q;

    pthread_mutex_lock(&q->lock);
    for (size_t i = 0; i < u->dropped.count && is_done; i++) {
        forget_places(q, &u->dropped.runs[i]);
        qcow2_free_later(q, u->dropped.runs[i].offset, u->dropped.runs[i].clusters);
    }
    /* What a header of unknown state may lead to is leaked. */
    for (size_t i = 0; i < u->added.count && !is_done && qcow2_refuse_if_broken(q) == 0; i++) {
        forget_places(q, &u->added.runs[i]);
        qcow2_refcount_release(q, u->added.runs[i].offset, u->added.runs[i].clusters);
    }
    pthread_mutex_unlock(&q->lock);
    free(u->added.runs);
    free(u->dropped.runs);
    free(u->buf);
}

/* What is on disk has all bits now, or is in use for good; or it is what it was. */
static void settle(struct qcow2_bitmaps *set, bool is_done)
{
    for (unsigned i = 0; i < set->count; i++) {
        struct bitmap *b = set->list[i];

        if (is_done) {
            bitmap_bits_drop(set, b);
        } else {
            b->now = b->before;
        }
    }
    if (is_done) {
        atomic_store(&set->is_marked, false);
    }
}

int bitmap_store(struct qcow2 *q, const struct bitmap *removed, struct err *err)
{
    struct qcow2_bitmaps *set = q->bitmaps;
    uint64_t old_offset = set->directory_offset, old_size = set->directory_size;
    struct update u = {.q = q, .buf = malloc(q->cluster_size)};
    int r = u.buf == NULL ? -ENOMEM : qcow2_refuse_if_broken(q);

    for (unsigned i = 0; i < set->count; i++) {
        set->list[i]->before = set->list[i]->now;
    }
    r = r == 0 ? stage_1(&u, removed) : r;
    r = r == 0 ? commit(q) : r;
    if (r != 0) {
        err_set_errno(err, r, "Could not store the bitmaps");
    } else {
        r = qcow2_header_write_bitmaps(q, set->count, set->directory_offset, set->directory_size,
                                       err);
    }
    if (r != 0) {
        set->directory_offset = old_offset;
        set->directory_size = old_size;
    }
    settle(set, r == 0);
    finish(&u, r == 0);
    return r;
}

/* ---- marking ---- */

int bitmap_mark(struct qcow2 *q, bool all)
{
    struct qcow2_bitmaps *set = q->bitmaps;
    uint64_t bytes = bitmap_directory_bytes(set);
    uint8_t *raw = malloc(bytes);
    struct iovec iov = {.iov_base = raw, .iov_len = bytes};
    int r = raw == NULL ? -ENOMEM : qcow2_refuse_if_broken(q);

    for (unsigned i = 0; i < set->count && r == 0; i++) {
        struct bitmap *b = set->list[i];

        if (all || b->now.is_enabled) {
            b->now.is_marked = bitmap_is_usable(b);
            b->now.is_inconsistent = !b->now.is_marked;
        }
    }
    if (r == 0) {
        bitmap_directory_encode(set, raw);
        r = write_over(q, set->directory_offset, &iov, 1);
    }
    r = r == 0 ? qcow2_sync(q) : r;
    for (unsigned i = 0; i < set->count && r != 0; i++) {
        struct bitmap *b = set->list[i];

        /* What was marked before is still. */
        b->now.is_marked = b->now.is_marked && b->now.is_enabled && atomic_load(&set->is_marked);
    }
    free(raw);
    return r;
}
