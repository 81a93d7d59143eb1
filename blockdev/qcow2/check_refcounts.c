/*
 * check_refcounts.c - the refcount table and its blocks: reading them at any width, comparing them
 * with what was counted, and putting single refcounts right.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Specification, "Refcount block entry": below a byte, entry 0 is in the least significant bits. */
uint64_t check_refcount_decode(const unsigned char *block, unsigned bits, uint64_t index)
{
    switch (bits) {
    case 8:
        return block[index];
    case 16:
        return load_be16(block + index * 2);
    case 32:
        return load_be32(block + index * 4);
    case 64:
        return load_be64(block + index * 8);
    default:
        return (unsigned)block[index * bits / 8] >> (index * bits % 8) & ((1U << bits) - 1);
    }
}

void check_refcount_encode(unsigned char *block, unsigned bits, uint64_t index, uint64_t value)
{
    switch (bits) {
    case 8:
        block[index] = (unsigned char)value;
        break;
    case 16:
        store_be16(block + index * 2, (uint16_t)value);
        break;
    case 32:
        store_be32(block + index * 4, (uint32_t)value);
        break;
    case 64:
        store_be64(block + index * 8, value);
        break;
    default: {
        unsigned shift = (unsigned)(index * bits % 8);
        unsigned mask = ((1U << bits) - 1) << shift;
        unsigned char *byte = &block[index * bits / 8];

        *byte = (unsigned char)((*byte & ~mask) | ((unsigned)value << shift & mask));
    }
    }
}

int check_load_reftable(struct check *c)
{
    c->reftable_entries =
        (uint64_t)c->header.refcount_table_clusters * c->cluster_size / QCOW2_ENTRY_SIZE;
    free(c->reftable);
    c->reftable = NULL;
    c->block_index = UINT64_MAX;
    c->block_dirty = false;
    return check_read_table(c, c->header.refcount_table_offset, c->reftable_entries, &c->reftable);
}

/* A block behind the end of the file reads as zeros: all its refcounts are free, or lost. */
static void block_outside(struct check *c, uint64_t index)
{
    check_corruption(c, "ERROR refcount block %" PRIu64 " is outside image", index);
    c->needs_rebuild = true;
}

int check_count_refblocks(struct check *c)
{
    int rc = check_count_range(c, c->header.refcount_table_offset,
                               c->reftable_entries * QCOW2_ENTRY_SIZE);

    for (uint64_t i = 0; rc == 0 && i < c->reftable_entries; i++) {
        uint64_t offset = c->reftable[i] & ~QCOW2_REFTABLE_RESERVED;
        uint64_t cluster = offset >> c->cluster_bits;
        uint32_t refs;

        if (c->reftable[i] & QCOW2_REFTABLE_RESERVED) {
            check_corruption(c, "ERROR refcount table entry %" PRIu64 " has reserved bits set", i);
            c->needs_rebuild = true;
        } else if (!is_aligned(offset, c->cluster_size)) {
            check_corruption(c,
                             "ERROR refcount block %" PRIu64 " is not cluster aligned; refcount "
                             "table entry corrupted",
                             i);
            c->needs_rebuild = true;
        } else if (offset != 0 && cluster >= c->file_clusters) {
            block_outside(c, i);
        } else if (offset != 0) {
            rc = check_count_range(c, offset, c->cluster_size);
            refs = check_refs_get(&c->refs, cluster);
            if (refs != 1) {
                check_corruption(c, "ERROR refcount block %" PRIu64 " refcount=%" PRIu32, i, refs);
                c->needs_rebuild = true;
            }
        }
    }
    return rc;
}

/* Where the refcount block lies, 0 when there is none inside the file. Reserved bits do not matter. */
static uint64_t block_offset(const struct check *c, uint64_t index)
{
    uint64_t offset = index < c->reftable_entries ? c->reftable[index] : 0;

    offset &= ~QCOW2_REFTABLE_RESERVED;
    return offset >> c->cluster_bits < c->file_clusters ? offset : 0;
}

int check_flush_block(struct check *c)
{
    if (!c->block_dirty)
        return 0;
    c->block_dirty = false;
    c->wrote = true;
    return file_pwrite(c->file, block_offset(c, c->block_index), c->block, c->cluster_size);
}

int check_get_refcount(struct check *c, uint64_t cluster, uint64_t *refcount)
{
    uint64_t index = cluster / c->refblock_entries;
    uint64_t offset = block_offset(c, index);
    int rc;

    *refcount = 0;
    if (offset == 0)
        return 0;
    if (index != c->block_index) {
        rc = check_flush_block(c);
        if (rc < 0)
            return rc;
        c->block_index = index;
        c->block_status = is_aligned(offset, c->cluster_size)
                              ? file_pread(c->file, offset, c->block, c->cluster_size)
                              : -EIO;
    }
    if (c->block_status == 0)
        *refcount =
            check_refcount_decode(c->block, c->refcount_bits, cluster % c->refblock_entries);
    return c->block_status;
}

static int compare_one(struct check *c, unsigned fix, uint64_t cluster, uint64_t *end)
{
    uint64_t refcount, references = check_refs_get(&c->refs, cluster);
    int rc = check_get_refcount(c, cluster, &refcount);
    bool repair;

    if (rc < 0) {
        check_say(c, "Can't get refcount for cluster %" PRIu64, cluster);
        c->result->check_errors++;
        return 0;
    }
    if (refcount > 0 || references > 0)
        *end = cluster + 1;
    if (refcount == references)
        return 0;
    /* Without a refcount the cluster may be handed out again: one by one is not safe enough, and
     * there may be no block to write it to. */
    if (refcount == 0)
        c->needs_rebuild = true;
    repair = refcount > references ? (fix & BLK_FIX_LEAKS) != 0
                                   : (fix & BLK_FIX_ERRORS) != 0 && refcount > 0;
    check_say(c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
              repair                  ? "Repairing"
              : refcount < references ? "ERROR"
                                      : "Leaked",
              cluster, refcount, references);
    if (repair) {
        check_refcount_encode(c->block, c->refcount_bits, cluster % c->refblock_entries,
                              references);
        c->block_dirty = true;
        if (refcount > references)
            c->result->leaks_fixed++;
        else
            c->result->corruptions_fixed++;
    } else if (refcount < references) {
        c->result->corruptions++;
    } else {
        c->result->leaks++;
    }
    return 0;
}

int check_compare(struct check *c, unsigned fix)
{
    uint64_t end = 1; /* the header */
    int rc = 0;

    c->block_index = UINT64_MAX;
    for (uint64_t at = 0; rc == 0 && at < c->file_clusters;) {
        uint64_t index = at / c->refblock_entries;
        uint64_t stop = min_u64((index + 1) * c->refblock_entries, c->file_clusters);

        /* Nothing referred to and no block: a hole in a sparse file, however large. */
        if (block_offset(c, index) == 0 && !check_refs_touched(&c->refs, at, stop - at)) {
            at = stop;
            continue;
        }
        for (; rc == 0 && at < stop; at++)
            rc = compare_one(c, fix, at, &end);
    }
    if (rc == 0)
        rc = check_flush_block(c);
    c->result->image_end_offset = end << c->cluster_bits;
    return rc;
}
