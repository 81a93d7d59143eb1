/*
 * check_walk.c - follows every reference of an image and counts it.
 *
 * An entry that cannot be right is reported and not followed. Repairs here keep what the guest sees:
 * a preallocated zero cluster with a broken offset becomes a zero cluster without one.
 *
 * Time and memory: an L2 table is read once, however many L1 entries of however many snapshots lead
 * to it; what it refers to is then counted as often. So what is read is at most the file once, plus
 * the L1 tables (check_extra.c bounds those of snapshots), plus a few tables that are not aligned.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int check_read_table(const struct check *c, uint64_t offset, uint64_t count, uint64_t **out)
{
    uint64_t *table = calloc(count + 1, sizeof(*table));
    uint64_t there = offset < c->file_bytes ? c->file_bytes - offset : 0;
    int rc = 0;

    if (table == NULL)
        return -ENOMEM;
    if (there > 0)
        rc = file_pread(c->file, offset, table, min_u64(count * sizeof(*table), there));
    if (rc < 0) {
        free(table);
        return rc;
    }
    for (uint64_t i = 0; i < count; i++)
        table[i] = be64toh(table[i]);
    *out = table;
    return 0;
}

/* A refcount cannot say more than its width allows: each reference beyond is a corruption. */
static int count_cluster(struct check *c, uint64_t cluster, uint32_t times)
{
    uint64_t limit = qcow2_refcount_limit(c->refcount_bits);
    uint64_t room = limit - min_u64(limit, check_refs_get(&c->refs, cluster));

    if (times > room) {
        check_corruptions(c, times - room, "ERROR: overflow cluster offset=0x%" PRIx64,
                          cluster << c->cluster_bits);
        times = (uint32_t)room;
    }
    return times > 0 ? check_refs_add(&c->refs, cluster, times) : 0;
}

/* Where dangling references lead, by powers of two: a rebuild keeps away from there. */
static void note_beyond(struct check *c, uint64_t offset, uint64_t length)
{
    struct check_beyond *beyond = &c->beyond[63 - __builtin_clzll(offset | 1)];
    uint64_t end;

    if (!add_u64(offset, length, &end))
        end = UINT64_MAX;
    if (beyond->end == 0)
        beyond->start = offset;
    beyond->start = min_u64(beyond->start, offset);
    beyond->end = max_u64(beyond->end, end);
}

int check_count_times(struct check *c, uint64_t offset, uint64_t length, uint32_t times)
{
    uint64_t end, first, last;
    int rc = 0;

    if (length == 0)
        return 0;
    /* The last cluster of a file may be cut short. */
    if (!add_u64(offset, length, &end) ||
        (end > c->file_bytes && end - c->file_bytes >= c->cluster_size)) {
        check_corruptions(c, times,
                          "ERROR: counting reference for region exceeding the end of the file by "
                          "one cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64,
                          offset, length);
        note_beyond(c, offset, length);
        return 0;
    }
    first = offset >> c->cluster_bits;
    last = (end - 1) >> c->cluster_bits;
    if (last >= c->file_clusters) {
        /* By less than a cluster, as at the end of compressed data: that cluster is in use. */
        check_refs_grow(&c->refs, last + 1);
        c->file_clusters = last + 1;
    }
    for (uint64_t cluster = first; cluster <= last && rc == 0; cluster++)
        rc = count_cluster(c, cluster, times);
    return rc;
}

int check_count_range(struct check *c, uint64_t offset, uint64_t length)
{
    return check_count_times(c, offset, length, 1);
}

/* Where in a compressed cluster's entry the offset ends. */
static unsigned packed_offset_bits(const struct check *c)
{
    return 62 - (c->cluster_bits - 8);
}

static void check_packed_flag(struct check *c, uint64_t entry, uint32_t times)
{
    if (entry & QCOW2_ENTRY_COPIED)
        check_corruptions(c, times,
                          "ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for "
                          "compressed clusters",
                          entry & ((UINT64_C(1) << packed_offset_bits(c)) - 1));
}

/* The bytes that a compressed cluster takes: specification, "Compressed Clusters Descriptor". */
static int count_compressed(struct check *c, uint64_t entry, uint32_t times)
{
    unsigned x = packed_offset_bits(c);
    uint64_t offset = entry & ((UINT64_C(1) << x) - 1);
    uint64_t sectors = ((entry & ~(QCOW2_ENTRY_COPIED | QCOW2_L2_COMPRESSED)) >> x) + 1;

    return check_count_times(c, offset, sectors * 512 - (offset & 511), times);
}

static bool is_in_bitmap_table(const struct check *c, uint64_t where, uint64_t length)
{
    uint64_t end = div_round_up(where + length, c->cluster_size);

    for (uint64_t i = where >> c->cluster_bits; i < end; i++) {
        if (check_refs_get(&c->bitmap_tables, i) > 0)
            return true;
    }
    return false;
}

bool check_is_taken(const struct check *c, bool is_l2, uint64_t where, uint64_t length)
{
    const struct qcow2_header *h = &c->header;
    uint64_t l1_bytes = (uint64_t)h->l1_size * QCOW2_ENTRY_SIZE;
    uint64_t reftable_bytes = c->reftable_entries * QCOW2_ENTRY_SIZE;

    return where < c->cluster_size ||
           ranges_overlap(where, length, h->refcount_table_offset, reftable_bytes) ||
           ranges_overlap(where, length, h->luks_offset, h->luks_length) ||
           ranges_overlap(where, length, h->snapshots_offset, c->snapshot_bytes) ||
           (c->bitmaps.are_there &&
            ranges_overlap(where, length, c->bitmaps.offset, c->bitmaps.size)) ||
           (is_l2 && ranges_overlap(where, length, h->l1_table_offset, l1_bytes)) ||
           is_in_bitmap_table(c, where, length);
}

int check_write_entries(struct check *c, bool is_l2, uint64_t where, const void *entries,
                        size_t length)
{
    if (check_is_taken(c, is_l2, where, length)) {
        check_say(c, "ERROR: Overlap check failed");
        return -EIO;
    }
    c->wrote = true;
    return file_pwrite(c->file, where, entries, length);
}

/* Writes one entry of an L2 table. */
static int repair_entry(struct check *c, uint64_t where, uint64_t value)
{
    unsigned char raw[QCOW2_ENTRY_SIZE];
    int rc;

    store_be64(raw, value);
    rc = check_write_entries(c, true, where, raw, sizeof(raw));
    if (rc == 0)
        c->result->corruptions_fixed++;
    return rc;
}

/* How often a table is referred to. */
struct uses {
    uint32_t active, all;
};

/* An L2 entry as it stands on disk; the bitmap of subclusters is 0 in standard ones. */
struct l2_entry {
    uint64_t entry, bitmap;
    uint64_t where; /* in the file */
};

static bool has_subclusters(const struct check *c)
{
    return (c->header.incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) != 0;
}

/* Whether a standard cluster is allocated: in an external data file it may be at 0. */
static bool has_place(const struct check *c, const struct l2_entry *e)
{
    return (e->entry & QCOW2_OFFSET_MASK) != 0 ||
           (c->has_data_file &&
            (e->entry & (QCOW2_ENTRY_COPIED | QCOW2_L2_ZERO)) == QCOW2_ENTRY_COPIED);
}

/* An L2 entry whose offset is not aligned to a cluster; *dropped: it is not any more. */
static int handle_unaligned(struct check *c, const struct l2_entry *e, const struct uses *uses,
                            bool *dropped)
{
    uint64_t offset = e->entry & QCOW2_OFFSET_MASK;
    bool has_data = has_subclusters(c) ? (uint32_t)e->bitmap != 0 : (e->entry & QCOW2_L2_ZERO) == 0;
    int rc;

    *dropped = false;
    if (has_data) {
        check_corruptions(c, uses->all,
                          "ERROR offset=%" PRIx64
                          ": Data cluster is not properly aligned; L2 entry "
                          "corrupted.",
                          offset);
        return 0;
    }
    if ((c->fix & BLK_FIX_ERRORS) == 0) {
        check_corruptions(c, uses->all,
                          "ERROR offset=%" PRIx64 ": Preallocated cluster is not properly "
                          "aligned; L2 entry corrupted.",
                          offset);
        return 0;
    }
    check_say(c,
              "Repairing offset=%" PRIx64 ": Preallocated cluster is not properly aligned; L2 "
              "entry corrupted.",
              offset);
    /* What reads as zeros among subclusters the bitmap goes on to say. */
    rc = repair_entry(c, e->where, has_subclusters(c) ? 0 : QCOW2_L2_ZERO);
    *dropped = rc == 0;
    return rc;
}

/* `next` is where the data would go on if it were contiguous; 0 at the start of a table. */
static void count_statistics(struct check *c, uint64_t offset, uint32_t times, uint64_t *next)
{
    c->result->allocated_clusters += times;
    if (*next != 0 && offset != *next)
        c->result->fragmented_clusters += times;
    *next = offset + c->cluster_size;
}

/* A subcluster has data or reads as zeros, and data lies in a host cluster. */
static void check_bitmap(struct check *c, const struct l2_entry *e, const struct uses *uses)
{
    uint64_t offset = e->entry & QCOW2_OFFSET_MASK;
    uint32_t data = (uint32_t)e->bitmap;

    if (data != 0 && !has_place(c, e))
        check_corruptions(c, uses->all,
                          "ERROR: Unallocated cluster has non-zero subcluster allocation map");
    else if (data & (uint32_t)(e->bitmap >> 32))
        check_corruptions(c, uses->all,
                          "ERROR offset=%" PRIx64 ": Allocated cluster has corrupted subcluster "
                          "allocation bitmap",
                          offset);
}

static int count_l2_entry(struct check *c, const struct l2_entry *e, const struct uses *uses,
                          uint64_t *next)
{
    uint64_t entry = e->entry, offset = entry & QCOW2_OFFSET_MASK;
    bool dropped = false;
    int rc = 0;

    if (entry & QCOW2_L2_COMPRESSED) {
        check_packed_flag(c, entry, uses->all);
        entry &= ~QCOW2_ENTRY_COPIED;
    }
    if ((entry & QCOW2_L2_COMPRESSED) && c->has_data_file) {
        uint64_t index = (e->where & (c->cluster_size - 1)) >> c->l2_entry_bits;

        check_corruptions(c, uses->all,
                          "ERROR compressed cluster %" PRIu64 " with data file, entry=0x%" PRIx64,
                          index, entry);
        return 0;
    }
    if (entry & QCOW2_L2_COMPRESSED) {
        if (e->bitmap != 0) {
            check_corruptions(c, uses->all,
                              "ERROR compressed cluster with non-zero subcluster allocation "
                              "bitmap, entry=0x%" PRIx64,
                              entry);
            return 0;
        }
        c->result->allocated_clusters += uses->active;
        c->result->compressed_clusters += uses->active;
        c->result->fragmented_clusters += uses->active;
        return count_compressed(c, entry, uses->all);
    }
    c->zero_flags += (entry & QCOW2_L2_ZERO) != 0;
    if (entry & QCOW2_L2_RESERVED)
        check_corruptions(c, uses->all, "ERROR found l2 entry with reserved bits set: %" PRIx64,
                          entry);
    check_bitmap(c, e, uses);
    if (!has_place(c, e))
        return 0;
    if (!is_aligned(offset, c->cluster_size))
        rc = handle_unaligned(c, e, uses, &dropped);
    if (rc < 0 || dropped)
        return rc;
    if (uses->active > 0)
        count_statistics(c, offset, uses->active, next);
    return c->has_data_file ? 0 : check_count_times(c, offset, c->cluster_size, uses->all);
}

static int walk_l2(struct check *c, uint64_t table, unsigned char *buf, struct uses uses)
{
    uint64_t next = 0;
    int rc = file_pread(c->file, table, buf, c->cluster_size);

    if (rc < 0) {
        check_say(c, "ERROR: I/O error in check_refcounts_l2");
        c->result->check_errors++;
        return rc; /* what the table refers to would look like leaks */
    }
    for (uint64_t at = 0; rc == 0 && at < c->cluster_size; at += UINT64_C(1) << c->l2_entry_bits) {
        struct l2_entry e = {
            .entry = load_be64(buf + at),
            .bitmap = has_subclusters(c) ? load_be64(buf + at + QCOW2_ENTRY_SIZE) : 0,
            .where = table + at,
        };

        if ((e.entry | e.bitmap) != 0)
            rc = count_l2_entry(c, &e, &uses, &next);
    }
    return rc;
}

bool check_may_walk_unaligned(struct check *c)
{
    enum { MAX_UNALIGNED = 256 };

    return c->unaligned_tables < MAX_UNALIGNED && c->unaligned_tables++ < MAX_UNALIGNED;
}

static int walk_l1_entry(struct check *c, uint64_t entry, bool active)
{
    uint64_t table = entry & QCOW2_OFFSET_MASK;
    unsigned char *buf;
    int rc;

    if (entry & QCOW2_L1_RESERVED)
        check_corruption(c, "ERROR found L1 entry with reserved bits set: %" PRIx64, entry);
    rc = check_count_range(c, table, c->cluster_size);
    if (rc < 0)
        return rc;
    if (is_aligned(table, c->cluster_size))
        return check_refs_add(active ? &c->active_tables : &c->other_tables,
                              table >> c->cluster_bits, 1);
    check_corruption(
        c, "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted", table);
    if (!check_may_walk_unaligned(c))
        return 0;
    buf = malloc(c->cluster_size);
    rc = buf != NULL ? walk_l2(c, table, buf, (struct uses){.active = active, .all = 1}) : -ENOMEM;
    free(buf);
    return rc;
}

int check_walk_l1(struct check *c, uint64_t offset, uint64_t entries, bool active)
{
    uint64_t *l1 = NULL;
    int rc = check_count_range(c, offset, entries * QCOW2_ENTRY_SIZE);

    if (rc == 0)
        rc = check_read_table(c, offset, entries, &l1);
    for (uint64_t i = 0; rc == 0 && i < entries; i++) {
        if (l1[i] != 0)
            rc = walk_l1_entry(c, l1[i], active);
    }
    free(l1);
    return rc;
}

/* The L2 tables that the L1 tables led to. */
static int walk_tables(struct check *c)
{
    unsigned char *buf = malloc(c->cluster_size);
    int rc = buf == NULL ? -ENOMEM : 0;

    for (uint64_t at = 0; rc == 0 && check_refs_next(&c->active_tables, &at, UINT64_MAX); at++) {
        uint32_t active = check_refs_get(&c->active_tables, at);
        uint64_t all = (uint64_t)active + check_refs_get(&c->other_tables, at);

        rc = walk_l2(c, at << c->cluster_bits, buf,
                     (struct uses){.active = active, .all = (uint32_t)min_u64(all, UINT32_MAX)});
    }
    for (uint64_t at = 0; rc == 0 && check_refs_next(&c->other_tables, &at, UINT64_MAX); at++) {
        if (check_refs_get(&c->active_tables, at) == 0)
            rc = walk_l2(c, at << c->cluster_bits, buf,
                         (struct uses){.all = check_refs_get(&c->other_tables, at)});
    }
    free(buf);
    return rc;
}

int check_walk_image(struct check *c)
{
    const struct qcow2_header *h = &c->header;
    int rc = check_count_range(c, 0, c->cluster_size);

    check_refs_clear(&c->active_tables);
    check_refs_clear(&c->other_tables);
    c->unaligned_tables = 0;
    c->l1_bytes = 0;
    memset(c->beyond, 0, sizeof(c->beyond));
    if (rc == 0)
        rc = check_find_bitmaps(c);
    if (rc == 0)
        rc = check_walk_l1(c, h->l1_table_offset, h->l1_size, true);
    if (rc == 0)
        rc = check_walk_snapshots(c);
    if (rc == 0)
        rc = check_count_range(c, h->luks_offset, h->luks_length);
    if (rc == 0)
        rc = walk_tables(c);
    if (rc == 0)
        rc = check_walk_bitmaps(c);
    return rc;
}
