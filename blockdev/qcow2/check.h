/*
 * check.h - the parts of blk_check() for qcow2. What is checked against what: check.c.
 */
#ifndef QCOW2_CHECK_H
#define QCOW2_CHECK_H

#include "blockdev.h"
#include "file.h"
#include "qcow2/format.h"

/* ---- check_refs.c: how often each host cluster is referred to ---- */

/*
 * One counter a host cluster of the file, in chunks that exist once something in them is counted, so
 * that memory follows what an image uses and not what its file's size claims.
 */
struct check_refs {
    uint32_t **chunks;
    uint64_t clusters; /* of the file: no cluster at or above is ever counted */
    uint64_t chunk_count;
};

int check_refs_init(struct check_refs *refs, uint64_t clusters);
void check_refs_free(struct check_refs *refs);
/* Forgets all counts. */
void check_refs_clear(struct check_refs *refs);
/* Makes room for `clusters` clusters, if that is more than now. */
int check_refs_grow(struct check_refs *refs, uint64_t clusters);
uint32_t check_refs_get(const struct check_refs *refs, uint64_t cluster);
/* Counts one more; a counter stays at its greatest value. */
int check_refs_add(struct check_refs *refs, uint64_t cluster);
/* Whether any of `count` clusters from `first` on was ever counted (may err on the side of yes). */
bool check_refs_touched(const struct check_refs *refs, uint64_t first, uint64_t count);

/* ---- the check ---- */

struct check {
    struct file *file;
    struct qcow2_header header;
    const char *path;
    unsigned fix; /* BLK_FIX_* */
    uint64_t cluster_size;
    unsigned cluster_bits;
    unsigned refcount_bits;
    uint64_t refblock_entries;
    uint64_t file_bytes;
    uint64_t file_clusters; /* grows when a reference reaches past the end of the file */

    struct check_refs refs;
    uint64_t *reftable; /* host order */
    uint64_t reftable_entries;
    bool needs_rebuild; /* refcounts cannot be put right one by one */
    bool wrote;         /* something was repaired */

    /* The refcount block that was read last, and whether it is to be written back. */
    unsigned char *block;
    uint64_t block_index; /* UINT64_MAX: none */
    int block_status;     /* 0, or why it could not be read */
    bool block_dirty;

    struct blk_check_result *result;
    void (*report)(void *opaque, const char *line);
    void *opaque;
    bool quiet; /* nothing is reported or counted as damage: a second walk */
};

/* One line for the report. */
void check_say(const struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for one corruption, which is counted. */
void check_corruption(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* check_walk.c: counts the references of everything but the refcount structures. */
int check_walk_image(struct check *c);
/* Counts the references to the clusters of [offset, offset + length); what lies beyond the end of the
 * file, or has more references than a refcount can say, is a corruption instead. */
int check_count_range(struct check *c, uint64_t offset, uint64_t length);
/* Reads `count` big-endian entries into a new array of host order. */
int check_read_table(const struct check *c, uint64_t offset, uint64_t count, uint64_t **out);

/* check_extra.c: snapshots and bitmaps. */
int check_walk_snapshots(struct check *c);
int check_walk_bitmaps(struct check *c);
/* check_walk.c: one L1 table with all below it; `active`: also counts for the statistics. */
int check_walk_l1(struct check *c, uint64_t offset, uint64_t entries, bool active);

/* check_copied.c: the COPIED flags of the active tables against the refcounts on disk. */
int check_copied_flags(struct check *c);

/* check_refcounts.c: the refcount structures. */
int check_load_reftable(struct check *c);
int check_count_refblocks(struct check *c);
/* The refcount on disk; 0 where there is no block. */
int check_get_refcount(struct check *c, uint64_t cluster, uint64_t *refcount);
/* Writes the block back that check_get_refcount() read last, if it was changed. */
int check_flush_block(struct check *c);
uint64_t check_refcount_decode(const unsigned char *block, unsigned bits, uint64_t index);
void check_refcount_encode(unsigned char *block, unsigned bits, uint64_t index, uint64_t value);
/* Compares all refcounts with the references; `fix` as in blk_check(). */
int check_compare(struct check *c, unsigned fix);
/* check_rebuild.c: new refcount structures behind the end of the file. */
int check_rebuild(struct check *c);

#endif
