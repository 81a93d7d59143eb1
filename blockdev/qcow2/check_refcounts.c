/*
 * check_refcounts.c - the refcount table and its blocks: comparing them with what was counted, and
 * putting single refcounts right.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* How far a repair extends a file: what ext4 allows. */
#define MAX_EXTENSION (UINT64_C(16) << 40)

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

/* A block behind the end of the file reads as zeros: all its refcounts are free, or lost. A repair
 * makes the file reach that far. */
static int block_outside(struct check *c, uint64_t index, uint64_t offset)
{
    uint64_t clusters = (offset >> c->cluster_bits) + 1;

    if ((c->fix & BLK_FIX_ERRORS) == 0) {
        check_corruption(c, "ERROR refcount block %" PRIu64 " is outside image", index);
        return 0;
    }
    if (offset > MAX_EXTENSION ||
        c->file->ops->truncate(c->file, clusters << c->cluster_bits) != 0) {
        check_corruption(c, "ERROR could not resize image for refcount block %" PRIu64, index);
        c->needs_rebuild = true;
        return 0;
    }
    check_say(c, "Repairing refcount block %" PRIu64 " is outside image", index);
    c->result->corruptions_fixed++;
    c->file_clusters = clusters;
    c->file_bytes = clusters << c->cluster_bits;
    c->wrote = true;
    check_refs_grow(&c->refs, clusters);
    return check_count_range(c, offset, c->cluster_size);
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
            rc = block_outside(c, i, offset);
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
    if (index < c->reftable_entries &&
        (!is_aligned(c->reftable[index] & ~QCOW2_REFTABLE_RESERVED, c->cluster_size) ||
         c->reftable[index] > INT64_MAX))
        return -EIO;
    if (offset == 0)
        return 0;
    if (index != c->block_index) {
        rc = check_flush_block(c);
        if (rc < 0)
            return rc;
        c->block_index = index;
        c->block_status = file_pread(c->file, offset, c->block, c->cluster_size);
    }
    if (c->block_status == 0)
        *refcount =
            qcow2_refcount_decode(c->block, c->refcount_bits, cluster % c->refblock_entries);
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
        qcow2_refcount_encode(c->block, c->refcount_bits, cluster % c->refblock_entries,
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

/* The next cluster at or after `at` with a block or a reference, in whose range neither is. */
static uint64_t skip_hole(struct check *c, uint64_t at, uint64_t *next_block)
{
    uint64_t next = c->file_clusters;

    *next_block = max_u64(*next_block, at / c->refblock_entries);
    while (*next_block < c->reftable_entries && block_offset(c, *next_block) == 0)
        ++*next_block;
    if (*next_block < c->reftable_entries)
        next = min_u64(next, *next_block * c->refblock_entries);
    return check_refs_next(&c->refs, &at, next) ? at : next;
}

int check_compare(struct check *c, unsigned fix)
{
    uint64_t end = 1; /* the header */
    uint64_t next_block = 0;
    int rc = 0;

    c->block_index = UINT64_MAX;
    for (uint64_t at = 0; rc == 0 && at < c->file_clusters;) {
        uint64_t index = at / c->refblock_entries;
        uint64_t stop = min_u64((index + 1) * c->refblock_entries, c->file_clusters);

        /* Nothing referred to and no block: a hole in a sparse file, however large. */
        if (block_offset(c, index) == 0 && !check_refs_touched(&c->refs, at, stop - at)) {
            at = skip_hole(c, stop, &next_block);
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

static int set_refcounts(struct check *c, uint64_t first, uint64_t clusters)
{
    uint64_t refcount;
    int rc = 0;

    for (uint64_t at = first; rc == 0 && at < first + clusters; at++) {
        rc = check_get_refcount(c, at, &refcount);
        if (rc == 0) {
            qcow2_refcount_encode(c->block, c->refcount_bits, at % c->refblock_entries, 1);
            c->block_dirty = true;
        }
    }
    return rc == 0 ? check_flush_block(c) : rc;
}

int check_alloc(struct check *c, uint64_t clusters, uint64_t *first)
{
    uint64_t run = 0, refcount;

    c->block_index = UINT64_MAX;
    for (uint64_t index = 0; index < c->reftable_entries; index++) {
        uint64_t at = index * c->refblock_entries;
        uint64_t stop = min_u64(at + c->refblock_entries, c->file_clusters + clusters);

        if (block_offset(c, index) == 0) {
            run = 0;
            continue;
        }
        for (; at < stop; at++) {
            int rc = check_get_refcount(c, at, &refcount);

            if (rc < 0)
                return rc;
            run = refcount == 0 && check_refs_get(&c->refs, at) == 0 ? run + 1 : 0;
            if (run == clusters) {
                *first = at + 1 - clusters;
                check_refs_grow(&c->refs, at + 1);
                c->file_clusters = max_u64(c->file_clusters, at + 1);
                c->file_bytes = max_u64(c->file_bytes, c->file_clusters << c->cluster_bits);
                return set_refcounts(c, *first, clusters);
            }
        }
    }
    return -ENOSPC;
}
