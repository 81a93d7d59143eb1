/*
 * check.h - the parts of blk_check() for qcow2. What is checked against what: check.c.
 */
#ifndef QCOW2_CHECK_H
#define QCOW2_CHECK_H

#include "blockdev.h"
#include "file.h"
#include "qcow2/format.h"

/* ---- check_refs.c: how often each host cluster is referred to ---- */

struct check_chunk;

/* One counter a host cluster of the file; memory follows what is counted. */
struct check_refs {
    uint64_t clusters;          /* of the file: no cluster at or above is ever counted */
    struct check_chunk **slots; /* a hash table of `room` places, half of them free */
    size_t room;
    struct check_chunk **chunks; /* the same ones, `count` of them */
    size_t count;
    bool is_sorted; /* `chunks` stand in the order of their clusters */
};

void check_refs_init(struct check_refs *refs, uint64_t clusters);
void check_refs_free(struct check_refs *refs);
/* Forgets all counts. */
void check_refs_clear(struct check_refs *refs);
/* Lets `clusters` clusters be counted, if that is more than now. */
void check_refs_grow(struct check_refs *refs, uint64_t clusters);
uint32_t check_refs_get(const struct check_refs *refs, uint64_t cluster);
/* Counts `times` more; a counter stays at its greatest value. */
int check_refs_add(struct check_refs *refs, uint64_t cluster, uint32_t times);
/* The count, which becomes 0. */
uint32_t check_refs_take(struct check_refs *refs, uint64_t cluster);
/* Moves *cluster on to the next one below `stop` that was ever counted; false when there is none. */
bool check_refs_next(struct check_refs *refs, uint64_t *cluster, uint64_t stop);
/* Whether any of `count` clusters from `first` on was ever counted. */
bool check_refs_touched(struct check_refs *refs, uint64_t first, uint64_t count);

/* ---- the check ---- */

/* The range that references beyond the end of the file lead to; end 0: there are none. */
struct check_beyond {
    uint64_t start, end;
};

enum { CHECK_SNAPSHOT_ENTRY = 40 };

/* What the header says of bitmaps. */
struct check_bitmaps {
    bool are_there;
    uint32_t count;
    uint64_t offset, size; /* of the directory */
};

struct check_snapshot {
    uint64_t at;                             /* of the entry in the file */
    unsigned char raw[CHECK_SNAPSHOT_ENTRY]; /* without extra data, id and name */
    uint32_t name_bytes;                     /* id and name */
    uint32_t extra, kept_extra; /* bytes of extra data: on disk, and as a repair leaves them */
};

struct check {
    struct file *file;
    struct qcow2_header header;
    const char *path;
    unsigned fix; /* BLK_FIX_* */
    uint64_t cluster_size;
    unsigned cluster_bits;
    unsigned refcount_bits;
    unsigned l2_entry_bits; /* log2 of the bytes of an L2 entry */
    uint64_t refblock_entries;
    uint64_t file_bytes;
    uint64_t file_clusters; /* grows when a reference reaches past the end of the file */

    struct check_refs refs;
    /* How often each cluster is referred to as an L2 table, by the active L1 table and by those of
     * snapshots: so each table is walked once, however many lead to it. */
    struct check_refs active_tables, other_tables;
    struct check_refs bitmap_tables; /* clusters in which tables of bitmaps lie, for a repair */
    struct check_beyond beyond[64];  /* index n: of those that begin in [2^n, 2^(n+1)) */
    unsigned unaligned_tables;       /* that were walked all the same */
    uint64_t l1_bytes;               /* of all L1 tables so far */
    uint64_t bitmap_bytes;           /* of all tables of bitmaps so far */
    uint64_t *reftable;              /* host order */
    uint64_t reftable_entries;
    struct check_bitmaps bitmaps;
    /* The snapshot table, without what a repair drops (check_snapshots.c). */
    struct check_snapshot *snapshots;
    uint32_t snapshot_count;
    uint64_t snapshot_bytes;  /* that it takes on disk now */
    uint64_t snapshot_faults; /* that a new table would be without */

    bool has_data_file;  /* guest clusters lie there, and have no refcounts */
    uint64_t zero_flags; /* L2 entries with bit 0 set, compressed ones left out */
    bool needs_rebuild;  /* refcounts cannot be put right one by one */
    bool wrote;          /* something was repaired */

    /* The refcount block that was read last, and whether it is to be written back. */
    unsigned char *block;
    uint64_t block_index; /* UINT64_MAX: none */
    int block_status;     /* 0, or why it could not be read */
    bool block_dirty;

    struct blk_check_result *result;
    void (*report)(void *opaque, const char *line);
    void *opaque;
    bool quiet; /* nothing is reported: a further walk */
};

/* Begins to look at the image in c->file, which no layer is open on; check_end() is called in any case. */
int check_begin(struct check *c, const struct qcow2_header *header);
void check_end(struct check *c);

/* One line for the report. */
void check_say(const struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for one corruption, which is counted. */
void check_corruption(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for one that was met `times` times. */
void check_corruptions(struct check *c, uint64_t times, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* check_walk.c: counts the references of everything but the refcount structures. */
int check_walk_image(struct check *c);
/* Counts the references to the clusters of [offset, offset + length); what lies beyond the end of the
 * file, or has more references than a refcount can say, is a corruption instead. */
int check_count_range(struct check *c, uint64_t offset, uint64_t length);
/* The same, `times` over. */
int check_count_times(struct check *c, uint64_t offset, uint64_t length, uint32_t times);
/* Reads `count` big-endian entries into a new array of host order; what lies beyond the end of the
 * file is 0. */
int check_read_table(const struct check *c, uint64_t offset, uint64_t count, uint64_t **out);

/* check_snapshots.c. Load: an error is a table that cannot be walked, or read. */
int check_load_snapshots(struct check *c, struct err *err);
/* Writes a repaired table, once refcounts and references agree. */
int check_fix_snapshots(struct check *c);

/* check_extra.c: what snapshots and bitmaps refer to. */
int check_walk_snapshots(struct check *c);
/* Fills c->bitmaps. */
int check_find_bitmaps(struct check *c);
int check_walk_bitmaps(struct check *c);
/* check_walk.c: one L1 table; what the L2 tables below it refer to is counted later. */
int check_walk_l1(struct check *c, uint64_t offset, uint64_t entries, bool active);
/* Whether one more L2 table that is not aligned may be walked: such tables overlap, and only so many
 * are worth the time. */
bool check_may_walk_unaligned(struct check *c);

/* Whether something that an open needs lies where entries of an L2 table, or of the active L1 table, stand:
 * the header, the refcount table, the encryption header, the snapshot table, the bitmap directory, a table of
 * a bitmap or (an L2 table's) the active L1 table. A repair must not make an image unreadable. */
bool check_is_taken(const struct check *c, bool is_l2, uint64_t where, uint64_t length);
/* Writes such entries back. -EIO after a finding: the place is taken. */
int check_write_entries(struct check *c, bool is_l2, uint64_t where, const void *entries,
                        size_t length);

/* check_copied.c: the COPIED flags of the active tables against the refcounts on disk. */
int check_copied_flags(struct check *c);

/* check_refcounts.c: the refcount structures. */
int check_load_reftable(struct check *c);
int check_count_refblocks(struct check *c);
/* The refcount on disk; 0 where there is no block. */
int check_get_refcount(struct check *c, uint64_t cluster, uint64_t *refcount);
/* Writes the block back that check_get_refcount() read last, if it was changed. */
int check_flush_block(struct check *c);
/* Compares all refcounts with the references; `fix` as in blk_check(). */
int check_compare(struct check *c, unsigned fix);
/* A run of clusters that have neither references nor refcounts gets one each. -ENOSPC: there is none
 * for which there are refcount blocks. */
int check_alloc(struct check *c, uint64_t clusters, uint64_t *first);
/* check_rebuild.c: new refcount structures behind the end of the file. */
int check_rebuild(struct check *c);

#endif
