/*
 * check_walk.c - follows every reference of an image and counts it.
 *
 * An entry that cannot be right is reported and not followed. Repairs here keep what the guest sees:
 * a preallocated zero cluster with a broken offset becomes a zero cluster without one.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

int check_read_table(const struct check *c, uint64_t offset, uint64_t count, uint64_t **out)
{
    uint64_t *table = calloc(count + 1, sizeof(*table));
    int rc;

    if (table == NULL)
        return -ENOMEM;
    rc = file_pread(c->file, offset, table, count * sizeof(*table));
    if (rc < 0) {
        free(table);
        return rc;
    }
    for (uint64_t i = 0; i < count; i++)
        table[i] = be64toh(table[i]);
    *out = table;
    return 0;
}

int check_count_range(struct check *c, uint64_t offset, uint64_t length)
{
    uint64_t end, first, last;

    if (length == 0)
        return 0;
    /* The last cluster of a file may be cut short. */
    if (!add_u64(offset, length, &end) ||
        (end > c->file_bytes && end - c->file_bytes >= c->cluster_size)) {
        check_corruption(c,
                         "ERROR: counting reference for region exceeding the end of the file by "
                         "one cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64,
                         offset, length);
        return 0;
    }
    first = offset >> c->cluster_bits;
    last = (end - 1) >> c->cluster_bits;
    if (last >= c->file_clusters) {
        /* By less than a cluster, as at the end of compressed data: that cluster is in use. */
        int rc = check_refs_grow(&c->refs, last + 1);

        if (rc < 0)
            return rc;
        c->file_clusters = last + 1;
    }
    for (uint64_t cluster = first; cluster <= last; cluster++) {
        int rc = 0;

        if (c->refcount_bits < 32 &&
            check_refs_get(&c->refs, cluster) == (UINT32_C(1) << c->refcount_bits) - 1)
            check_corruption(c, "ERROR: overflow cluster offset=0x%" PRIx64,
                             cluster << c->cluster_bits);
        else
            rc = check_refs_add(&c->refs, cluster);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The bytes that a compressed cluster takes: specification, "Compressed Clusters Descriptor". */
static int count_compressed(struct check *c, uint64_t entry)
{
    unsigned x = 62 - (c->cluster_bits - 8);
    uint64_t offset = entry & ((UINT64_C(1) << x) - 1);
    uint64_t sectors = ((entry & ~(QCOW2_ENTRY_COPIED | QCOW2_L2_COMPRESSED)) >> x) + 1;

    if (entry & QCOW2_ENTRY_COPIED)
        check_corruption(c,
                         "ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for "
                         "compressed clusters",
                         offset);
    return check_count_range(c, offset, sectors * 512 - (offset & 511));
}

/* Writes one entry of a table. */
static int repair_entry(struct check *c, uint64_t where, uint64_t value)
{
    unsigned char raw[QCOW2_ENTRY_SIZE];
    int rc;

    store_be64(raw, value);
    rc = file_pwrite(c->file, where, raw, sizeof(raw));
    if (rc == 0) {
        c->wrote = true;
        c->result->corruptions_fixed++;
    }
    return rc;
}

/* An L2 entry whose offset is not aligned to a cluster: true when it may be counted all the same. */
static int handle_unaligned(struct check *c, uint64_t where, uint64_t entry, bool *dropped)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    int rc;

    *dropped = false;
    if ((entry & QCOW2_L2_ZERO) == 0) {
        check_corruption(c,
                         "ERROR offset=%" PRIx64 ": Cluster is not properly aligned; L2 entry "
                         "corrupted.",
                         offset);
        return 0;
    }
    if ((c->fix & BLK_FIX_ERRORS) == 0 || c->quiet) {
        check_corruption(c,
                         "ERROR offset=%" PRIx64 ": Preallocated cluster is not properly aligned; "
                         "L2 entry corrupted.",
                         offset);
        return 0;
    }
    check_say(c,
              "Repairing offset=%" PRIx64 ": Preallocated cluster is not properly aligned; L2 "
              "entry corrupted.",
              offset);
    rc = repair_entry(c, where, QCOW2_L2_ZERO);
    *dropped = rc == 0;
    return rc;
}

/* `next` is where the data would go on if it were contiguous; 0 at the start of a table. */
static void count_statistics(struct check *c, uint64_t offset, uint64_t *next)
{
    c->result->allocated_clusters++;
    if (*next != 0 && offset != *next)
        c->result->fragmented_clusters++;
    *next = offset + c->cluster_size;
}

static int count_l2_entry(struct check *c, uint64_t entry, uint64_t where, bool statistics,
                          uint64_t *next)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    bool dropped = false;
    int rc = 0;

    if (entry & QCOW2_L2_COMPRESSED) {
        if (statistics) {
            c->result->allocated_clusters++;
            c->result->compressed_clusters++;
            c->result->fragmented_clusters++;
        }
        return count_compressed(c, entry);
    }
    if (entry & QCOW2_L2_RESERVED)
        check_corruption(c, "ERROR found l2 entry with reserved bits set: %" PRIx64, entry);
    if (offset == 0)
        return 0;
    if (!is_aligned(offset, c->cluster_size))
        rc = handle_unaligned(c, where, entry, &dropped);
    if (rc < 0 || dropped)
        return rc;
    if (statistics)
        count_statistics(c, offset, next);
    return check_count_range(c, offset, c->cluster_size);
}

static int walk_l2(struct check *c, uint64_t table, unsigned char *buf, bool statistics)
{
    uint64_t next = 0;
    int rc = file_pread(c->file, table, buf, c->cluster_size);

    if (rc < 0) {
        check_say(c, "ERROR: I/O error in check_refcounts_l2");
        c->result->check_errors++;
        return 0;
    }
    for (uint64_t i = 0; rc == 0 && i < c->cluster_size / QCOW2_ENTRY_SIZE; i++) {
        uint64_t entry = load_be64(buf + i * QCOW2_ENTRY_SIZE);

        if (entry != 0)
            rc = count_l2_entry(c, entry, table + i * QCOW2_ENTRY_SIZE, statistics, &next);
    }
    return rc;
}

int check_walk_l1(struct check *c, uint64_t offset, uint64_t entries, bool active)
{
    unsigned char *buf = NULL;
    uint64_t *l1 = NULL;
    int rc;

    rc = check_count_range(c, offset, entries * QCOW2_ENTRY_SIZE);
    if (rc == 0)
        rc = check_read_table(c, offset, entries, &l1);
    if (rc == 0 && (buf = malloc(c->cluster_size)) == NULL)
        rc = -ENOMEM;
    for (uint64_t i = 0; rc == 0 && i < entries; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET_MASK;

        if (l1[i] & QCOW2_L1_RESERVED)
            check_corruption(c, "ERROR found L1 entry with reserved bits set: %" PRIx64, l1[i]);
        if (table == 0)
            continue;
        rc = check_count_range(c, table, c->cluster_size);
        if (!is_aligned(table, c->cluster_size))
            check_corruption(c,
                             "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry "
                             "corrupted",
                             table);
        if (rc == 0)
            rc = walk_l2(c, table, buf, active && !c->quiet);
    }
    free(l1);
    free(buf);
    return rc;
}

int check_walk_image(struct check *c)
{
    const struct qcow2_header *h = &c->header;
    int rc = check_count_range(c, 0, c->cluster_size);

    if (rc == 0)
        rc = check_walk_l1(c, h->l1_table_offset, h->l1_size, true);
    if (rc == 0)
        rc = check_walk_snapshots(c);
    if (rc == 0)
        rc = check_walk_bitmaps(c);
    return rc;
}
