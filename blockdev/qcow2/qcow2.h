/*
 * qcow2.h - an open qcow2 layer. Design and write order: commit.c. Everything private to qcow2/.
 *
 * Memory: the L1 table and the refcount table are held whole ("tables"). L2 tables and refcount
 * blocks are cached in pieces of at most 4 KiB ("slices"), in disk byte order, changed in place and
 * written back only by the committer.
 *
 * One lock a layer. It is held for look-ups and changes in memory, never during data I/O or a
 * metadata write. A function whose comment says "may drop the lock" may wait or read metadata with
 * the lock dropped: what its caller looked up before is stale then, unless it is registered in
 * flight.
 *
 * Four things keep concurrent requests from harming each other:
 *   pins       (cache.c)    a pinned slice stays in memory;
 *   in flight  (inflight.c) a guest range that changes its mapping belongs to one request at a
 * time; holds      (free.c)     a host cluster is not reused while an I/O that looked it up still
 * runs; committing (commit.c)   one thread at a time writes metadata.
 */
#ifndef QCOW2_QCOW2_H
#define QCOW2_QCOW2_H

#include "block.h"
#include "qcow2/format.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- header.c ---- */

/* The header and what follows it in cluster 0. */
struct qcow2_header_info {
    struct qcow2_header header;
    char *backing_name;   /* or NULL; owned */
    char *backing_format; /* or NULL; owned */
    bool has_bitmaps;     /* the bitmaps extension is there */
    uint64_t used_bytes;  /* of cluster 0: header, extensions and backing name lie below */
};

/* Reads and checks everything that does not need a look at the tables: limits, alignment, tables
 * inside the file. Features that this engine lacks are refused by name (-ENOTSUP). The text of *err
 * does not name the file. */
int qcow2_header_read(struct file *file, struct qcow2_header_info *info, struct err *err);
void qcow2_header_free(struct qcow2_header_info *info);

/* ---- check.c ---- */

int qcow2_check(struct blk *blk, unsigned fix, void (*report)(void *opaque, const char *line),
                void *opaque, struct blk_check_result *result, struct err *err);

/* ---- table.c: the L1 table and the refcount table ---- */

enum { QCOW2_TABLE_SECTOR_ENTRIES = 64 }; /* what one dirty bit covers: 512 bytes on disk */

struct qcow2_table {
    uint64_t *entries; /* host order */
    uint64_t offset;   /* in the file */
    uint64_t count;
    uint8_t *dirty; /* one byte a sector */
    bool any_dirty;
};

int qcow2_table_load(struct qcow2_table *table, struct file *file, uint64_t offset, uint64_t count);
void qcow2_table_free(struct qcow2_table *table);
void qcow2_table_set(struct qcow2_table *table, uint64_t index, uint64_t value);

/* ---- cache.c ---- */

enum qcow2_slice_kind { QCOW2_SLICE_L2, QCOW2_SLICE_REFCOUNT };

struct qcow2_slice {
    uint64_t offset; /* in the file */
    enum qcow2_slice_kind kind;
    unsigned pins; /* > 0: stays in memory */
    bool dirty;
    bool loading;  /* being read: wait on `changed` */
    bool suspect;  /* holds an entry that failed its check: check each one when used */
    bool used;     /* since the clock's hand passed */
    uint8_t *data; /* slice_bytes, big-endian */
    struct qcow2_slice *next_in_bucket;
};

struct qcow2_cache {
    struct qcow2_slice **buckets;
    unsigned bucket_mask;
    struct qcow2_slice **slices; /* all of them, for the clock and the committer */
    unsigned count, room, hand;
    unsigned limit; /* in slices; exceeded only while all are dirty or pinned */
    unsigned dirty_count;
};

/* ---- map.c ---- */

/* A decoded L2 entry. */
struct qcow2_cluster {
    enum blk_extent_kind kind;
    uint64_t host_offset; /* 0: none */
    bool is_copied;
};

/* ---- free.c ---- */

struct qcow2_run {
    uint64_t offset, clusters;
};

struct qcow2_runs {
    struct qcow2_run *runs;
    size_t count, room;
    uint64_t clusters; /* in all */
};

/* ---- inflight.c ---- */

struct qcow2_inflight {
    uint64_t start, end; /* guest range, whole clusters */
    struct qcow2_inflight *next;
};

/* ---- the state of an open layer ---- */

struct qcow2 {
    struct blk *blk;
    struct file *file;
    struct qcow2_header header; /* as on disk; constant but for resize and features */
    unsigned cluster_bits;
    uint64_t cluster_size;
    unsigned l2_bits;       /* log2 of the entries of an L2 table */
    unsigned slice_bits;    /* log2 of the bytes of a slice */
    unsigned refcount_bits; /* 1 to 64 */
    unsigned refblock_bits; /* log2 of the refcounts in a block */
    bool writable;

    pthread_mutex_t lock;   /* everything below */
    pthread_cond_t changed; /* a slice was loaded, a range left flight, a commit ended */
    struct qcow2_table l1, reftable;
    struct qcow2_cache cache;
    uint64_t file_end;      /* clusters at or above lie beyond what is in use or in the file */
    uint64_t never_written; /* clusters at or above read as zeros: the file was never longer */
    bool is_corrupt;        /* no more writes: -EIO */

    uint64_t *metadata; /* hash set of the clusters that hold L2 tables and refcount blocks */
    uint64_t metadata_count, metadata_room;

    struct qcow2_inflight *inflight;
    uint64_t free_hint; /* no free cluster below this index */

    struct qcow2_runs freed;    /* unlinked in memory, the change is not yet stable */
    struct qcow2_runs draining; /* unlinked on disk, waiting for I/O that began before */
    int draining_hold;          /* which holds it waits for */
    int current_hold;           /* 0 or 1: what new I/O takes */
    atomic_uint holds[2];

    bool links_data;     /* an L2 entry in memory refers to data that may not be stable */
    bool autoclear_done; /* unknown autoclear bits are gone from the header */
    bool committing;
    int commit_result;                 /* of the last commit */
    uint64_t flush_wanted, flush_done; /* tickets: see commit.c */
    int sync_failed;                   /* sticky: nothing is claimed durable any more */
};

/* Everything from here on is called with the lock held, unless it says otherwise. */

/* cache.c. The size is in bytes, 0: default. init and free: without the lock. */
int qcow2_cache_init(struct qcow2 *q, uint64_t bytes);
void qcow2_cache_free(struct qcow2 *q);
/* Pins the slice at `offset`, a multiple of its size, to be given back with put. May drop the lock.
 */
int qcow2_cache_get(struct qcow2 *q, enum qcow2_slice_kind kind, uint64_t offset,
                    struct qcow2_slice **out);
void qcow2_cache_put(struct qcow2_slice *slice);
void qcow2_cache_mark_dirty(struct qcow2 *q, struct qcow2_slice *slice);
void qcow2_cache_mark_clean(struct qcow2 *q, struct qcow2_slice *slice);
/* Drops what is cached of a range, dirty or not; nothing of it may be pinned. */
void qcow2_cache_forget(struct qcow2 *q, uint64_t offset, uint64_t length);

/* metadata.c */
/* Whether a host cluster holds part of the header, the L1 table or the refcount table. */
bool qcow2_is_fixed_metadata(const struct qcow2 *q, uint64_t cluster);
/* The same, and (writable layers) L2 tables and refcount blocks. */
bool qcow2_is_metadata(const struct qcow2 *q, uint64_t cluster);
int qcow2_metadata_add(struct qcow2 *q, uint64_t cluster);
void qcow2_metadata_remove(struct qcow2 *q, uint64_t cluster);
/* Notes the problem, stops all writes, sets the corrupt bit where there is one; returns -EIO. */
int qcow2_mark_corrupt(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* map.c */
bool qcow2_l2_entry_is_sound(const struct qcow2 *q, uint64_t entry);
bool qcow2_l2_check_slice(const struct qcow2 *q, const struct qcow2_slice *slice);
int qcow2_l2_decode(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                    struct qcow2_cluster *cluster);
/* The L2 table for a guest offset, 0 if there is none. */
int qcow2_l1_get(struct qcow2 *q, uint64_t guest_offset, uint64_t *l2_offset);
/* Pins the slice with the guest offset's entry, which is entry *index of it. May drop the lock. */
int qcow2_l2_get(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset,
                 struct qcow2_slice **slice, unsigned *index);
/* The format's map(); without the lock. */
int qcow2_map(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
              struct layer_extent *extent);

/* free.c */
/* Begins an I/O to a host cluster that was just looked up; qcow2_unhold ends it, without the lock.
 */
int qcow2_hold(struct qcow2 *q);
void qcow2_unhold(struct blk *blk, int hold);

static inline struct qcow2 *qcow2_of(const struct blk *blk)
{
    return blk->state;
}

#endif
