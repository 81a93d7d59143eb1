/*
 * check_rebuild.c - new refcount structures from what was counted.
 *
 * The new blocks and the new table are written behind the end of the file, synced, and then one write
 * switches the header over: at any moment the header names a whole set, and nothing that the old set
 * or the image refers to is overwritten. The clusters of the old set are free in the new one.
 *
 * Entries that lead beyond the end of the file would lead to the new structures if those were put
 * right there. So they go behind the place that such entries lead to, if there is a gap; the file
 * then reaches further, and what an entry leads to between the old and the new end counts as in use
 * and reads as zeros.
 *
 * Behind the end of a huge sparse file no refcount table may reach. There the place behind the last cluster
 * in use, the old set included, does as well.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADER_REFTABLE = 48, /* refcount_table_offset, then refcount_table_clusters */
    HEADER_REFCOUNT_ORDER = 96,
    HEADER_SWITCH_BYTES = 100 - HEADER_REFTABLE,
};

struct plan {
    uint64_t first_cluster; /* of the new structures: the blocks, then the table */
    uint64_t blocks, table_clusters;
    uint64_t ranges; /* refcount blocks that the image's clusters could need */
};

static bool range_needs_block(struct check *c, const struct plan *p, uint64_t range)
{
    uint64_t first = range * c->refblock_entries;

    return ranges_overlap(first, c->refblock_entries, p->first_cluster,
                          p->blocks + p->table_clusters) ||
           check_refs_touched(&c->refs, first, c->refblock_entries);
}

/* More blocks cover more clusters: climbs until the structures hold themselves as well. */
static int make_plan(struct check *c, struct plan *p)
{
    p->blocks = p->table_clusters = 1;
    for (;;) {
        uint64_t end = p->first_cluster + p->blocks + p->table_clusters;
        uint64_t blocks = 0, table;

        p->ranges = div_round_up(end, c->refblock_entries);
        table = div_round_up(p->ranges * QCOW2_ENTRY_SIZE, c->cluster_size);
        if (table * c->cluster_size > QCOW2_MAX_REFCOUNT_TABLE_BYTES)
            return -EFBIG;
        for (uint64_t range = 0; range < p->ranges; range++)
            blocks += range_needs_block(c, p, range);
        if (blocks <= p->blocks && table <= p->table_clusters) {
            check_refs_grow(&c->refs, end);
            return 0;
        }
        p->blocks = max_u64(blocks, p->blocks);
        p->table_clusters = max_u64(table, p->table_clusters);
    }
}

static int write_block(struct check *c, uint64_t range, uint64_t offset)
{
    uint64_t first = range * c->refblock_entries;

    memset(c->block, 0, c->cluster_size);
    for (uint64_t i = 0; i < c->refblock_entries; i++) {
        uint64_t value = check_refs_get(&c->refs, first + i);

        if (value != 0)
            qcow2_refcount_encode(c->block, c->refcount_bits, i, value);
    }
    return file_pwrite(c->file, offset, c->block, c->cluster_size);
}

static int write_structures(struct check *c, const struct plan *p)
{
    size_t table_bytes = p->table_clusters * c->cluster_size;
    uint64_t offset = p->first_cluster * c->cluster_size;
    unsigned char *table = calloc(1, table_bytes);
    int rc = table == NULL ? -ENOMEM : 0;

    for (uint64_t range = 0; rc == 0 && range < p->ranges; range++) {
        if (!range_needs_block(c, p, range))
            continue;
        store_be64(table + range * QCOW2_ENTRY_SIZE, offset);
        rc = write_block(c, range, offset);
        offset += c->cluster_size;
    }
    if (rc == 0)
        rc = file_pwrite(c->file, (p->first_cluster + p->blocks) * c->cluster_size, table,
                         table_bytes);
    free(table);
    return rc;
}

static int switch_header(struct check *c, const struct plan *p)
{
    unsigned char raw[HEADER_SWITCH_BYTES];
    size_t bytes = c->header.version >= 3 ? sizeof(raw) : 12;
    int rc = c->file->ops->sync(c->file);

    c->header.refcount_table_offset = (p->first_cluster + p->blocks) * c->cluster_size;
    c->header.refcount_table_clusters = (uint32_t)p->table_clusters;
    if (rc == 0)
        rc = file_pread(c->file, HEADER_REFTABLE, raw, bytes);
    store_be64(raw, c->header.refcount_table_offset);
    store_be32(raw + 8, c->header.refcount_table_clusters);
    if (c->header.version >= 3) /* it may be another one (check_amend.c) */
        store_be32(raw + (HEADER_REFCOUNT_ORDER - HEADER_REFTABLE), c->header.refcount_order);
    if (rc == 0)
        rc = file_pwrite(c->file, HEADER_REFTABLE, raw, bytes);
    if (rc == 0)
        rc = c->file->ops->sync(c->file);
    return rc;
}

/* Counts afresh, without the structures that are to go, as if the file had `clusters` clusters. */
static int count_again(struct check *c, uint64_t clusters)
{
    struct blk_check_result *r = c->result;

    if (clusters > c->file_clusters) {
        c->file_clusters = clusters;
        c->file_bytes = clusters << c->cluster_bits;
    }
    check_refs_grow(&c->refs, c->file_clusters);
    check_refs_grow(&c->active_tables, c->file_clusters);
    check_refs_grow(&c->other_tables, c->file_clusters);
    check_refs_clear(&c->refs);
    r->corruptions = r->check_errors = 0;
    r->allocated_clusters = r->compressed_clusters = r->fragmented_clusters = 0;
    return check_walk_image(c);
}

/* The end of the first dangling range that [first_cluster, ...) of the plan meets, in clusters; 0 when
 * it meets none. */
static uint64_t end_of_collision(const struct check *c, const struct plan *p)
{
    uint64_t start = p->first_cluster << c->cluster_bits;
    uint64_t length = (p->blocks + p->table_clusters) << c->cluster_bits;

    for (size_t i = 0; i < ARRAY_LEN(c->beyond); i++) {
        const struct check_beyond *b = &c->beyond[i];

        if (b->end != 0 && ranges_overlap(start, length, b->start, b->end - b->start))
            return div_round_up(b->end, c->cluster_size);
    }
    return 0;
}

/* Counts all references and finds the place for the new structures. Each turn moves them behind a
 * range that dangling entries lead to, of which there are at most as many as powers of two. */
static int count_and_plan(struct check *c, struct plan *p)
{
    int rc = count_again(c, c->file_clusters);

    p->first_cluster = c->file_clusters;
    for (;;) {
        uint64_t beyond;

        if (rc == 0)
            rc = make_plan(c, p);
        if (rc < 0)
            return rc;
        beyond = end_of_collision(c, p);
        if (beyond == 0)
            return 0;
        p->first_cluster = beyond;
        c->quiet = true;
        rc = count_again(c, beyond);
        c->quiet = false;
    }
}

/* Behind the last cluster that is referred to, by the old structures too. */
static uint64_t end_of_use(struct check *c)
{
    uint64_t at = 0, end = 1;

    for (; check_refs_next(&c->refs, &at, c->file_clusters); at++)
        end = at + 1;
    return end;
}

int check_rebuild(struct check *c)
{
    uint64_t inside = end_of_use(c); /* before everything is counted anew */
    struct plan p = {0};
    int rc = count_and_plan(c, &p);

    if (rc == -EFBIG && inside < c->file_clusters) {
        p.first_cluster = inside;
        rc = make_plan(c, &p);
    }

    for (uint64_t i = 0; rc == 0 && i < p.blocks + p.table_clusters; i++)
        rc = check_refs_add(&c->refs, p.first_cluster + i, 1);
    c->block_index = UINT64_MAX;
    if (rc == 0)
        rc = write_structures(c, &p);
    if (rc == 0)
        rc = switch_header(c, &p);
    if (rc < 0)
        return rc;
    c->wrote = true;
    c->file_clusters = max_u64(c->file_clusters, p.first_cluster + p.blocks + p.table_clusters);
    c->file_bytes = max_u64(c->file_bytes, c->file_clusters * c->cluster_size);
    return check_load_reftable(c);
}
