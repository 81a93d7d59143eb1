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

#include <errno.h>
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

enum { QCOW2_SPARE_BUFFERS = 4 };

struct qcow2 {
    struct blk *blk;
    struct file *file;
    struct qcow2_header header; /* as on disk */
    unsigned cluster_bits;
    uint64_t cluster_size;
    unsigned l2_bits;       /* log2 of the entries of an L2 table */
    unsigned slice_bits;    /* log2 of the bytes of a slice */
    unsigned refcount_bits; /* 1 to 64 */
    unsigned refblock_bits; /* log2 of the refcounts in a block */
    bool writable;
    bool check_only; /* open for blk_check, which works on the file: -EPERM for all else */

    pthread_mutex_t lock;   /* everything below */
    pthread_cond_t changed; /* a slice was loaded, a range left flight, a commit or growth ended */
    struct qcow2_table l1, reftable;
    struct qcow2_cache cache;

    uint64_t file_size;     /* of the host file: every allocated cluster lies below */
    uint64_t file_end;      /* end of the last cluster that may be in use */
    uint64_t never_written; /* clusters at or above were never written and read as zeros */
    bool is_corrupt;        /* no more writes: -EIO */

    uint64_t *metadata; /* hash set of the clusters that hold L2 tables and refcount blocks */
    uint64_t metadata_count, metadata_room;

    struct qcow2_inflight *inflight;
    uint64_t free_hint;    /* no free cluster below this index */
    uint64_t free_changes; /* counts what may have lowered free_hint */
    bool growing;          /* one thread adds a refcount block or a larger refcount table */

    struct qcow2_runs freed;    /* unlinked in memory; the change is not yet stable */
    struct qcow2_runs draining; /* unlinked on disk; waits for I/O that began before. Committer's */
    int draining_hold;          /* which holds it waits for */
    int current_hold;           /* 0 or 1: what new I/O takes */
    atomic_uint holds[2];

    bool needs_barrier;    /* a new entry in memory leads to what may not be stable */
    bool committing;       /* one thread writes metadata */
    uint64_t flush_wanted; /* tickets of flushes: handed out, */
    uint64_t flush_done;   /* served, */
    int flush_result;      /* and the last result */
    int sync_failed;       /* sticky: nothing is claimed durable any more */

    uint8_t *spare[QCOW2_SPARE_BUFFERS]; /* copy-on-write buffers, two clusters each, or NULL */
};

static inline struct qcow2 *qcow2_of(const struct blk *blk)
{
    return blk->state;
}

static inline int qcow2_refuse_if_broken(const struct qcow2 *q)
{
    return q->check_only ? -EPERM : q->is_corrupt ? -EIO : q->sync_failed;
}

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
/* Notes the problem, stops all writes, sets the corrupt bit where there is one. */
void qcow2_note_corruption(struct qcow2 *q, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* The same, with -EIO as its value: a macro, so that checkers know that it is never 0. */
#define qcow2_mark_corrupt(...) (qcow2_note_corruption(__VA_ARGS__), -EIO)

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

/* refcount.c */
/* The refcount block for a block index, 0 if there is none. */
int qcow2_refblock_get(struct qcow2 *q, uint64_t block, uint64_t *offset);
/* Pins the slice with the refcount of a host cluster, which is entry *index of it; -EIO (corrupt)
 * when there is none. May drop the lock. */
int qcow2_refcount_slice(struct qcow2 *q, uint64_t host_offset, struct qcow2_slice **slice,
                         unsigned *index);
int qcow2_refcount_get(struct qcow2 *q, uint64_t host_offset, uint64_t *count);
/* Takes one reference from each cluster of a run. Nothing on disk may refer to it, and no I/O be on
 * its way to it: see free.c. May drop the lock. */
int qcow2_refcount_release(struct qcow2 *q, uint64_t host_offset, uint64_t clusters);

/* alloc.c */
struct qcow2_allocation {
    uint64_t offset;
    uint64_t clusters;
    bool is_fresh; /* reads as zeros */
};
/* Allocates up to `want` clusters in one run, refcount 1. May drop the lock. */
int qcow2_alloc(struct qcow2 *q, uint64_t want, struct qcow2_allocation *out);
/* Makes a cluster read as zeros on disk. Drops the lock. */
int qcow2_zero_cluster(struct qcow2 *q, uint64_t offset);

/* grow.c: refcount blocks and the refcount table */
/* Makes the refcount block `block`, whose table entry must be empty. May drop the lock, and may
 * return 0 because somebody else was at it: look again. */
int qcow2_add_refblock(struct qcow2 *q, uint64_t block);
/* Makes the refcount table reach `block`; the same. */
int qcow2_grow_reftable(struct qcow2 *q, uint64_t block);

/* Allocates exactly `clusters` in one run, refcount 1, however many that are. For whoever has the
 * image to himself. May drop the lock. */
int qcow2_alloc_run(struct qcow2 *q, uint64_t clusters, uint64_t *offset);

/* l2.c */
/* Like qcow2_l2_get, for a change: makes the table when there is none. The caller has the guest
 * range in flight. May drop the lock. */
int qcow2_l2_get_writable(struct qcow2 *q, uint64_t guest_offset, struct qcow2_slice **slice,
                          unsigned *index);
void qcow2_l2_set(struct qcow2 *q, struct qcow2_slice *slice, unsigned index, uint64_t entry);
/* The end of the guest range whose entries share a slice with `guest_offset`'s. */
uint64_t qcow2_slice_end(const struct qcow2 *q, uint64_t guest_offset);

/* inflight.c */
/* Waits while the range overlaps one in flight; true if it waited, and so dropped the lock. */
bool qcow2_inflight_wait(struct qcow2 *q, uint64_t start, uint64_t end);
void qcow2_inflight_add(struct qcow2 *q, struct qcow2_inflight *range, uint64_t start,
                        uint64_t end);
void qcow2_inflight_remove(struct qcow2 *q, struct qcow2_inflight *range);

/* free.c */
/* Begins an I/O to a host cluster that was just looked up; qcow2_unhold ends it, without the lock.
 */
int qcow2_hold(struct qcow2 *q);
void qcow2_unhold(struct blk *blk, int hold);
/* Gives back clusters whose L2 entry was just changed in memory. */
void qcow2_free_later(struct qcow2 *q, uint64_t host_offset, uint64_t clusters);
/* The committer's: takes `freed` for the commit that begins, as far as holds allow. */
void qcow2_freed_take(struct qcow2 *q, struct qcow2_runs *batch);
void qcow2_freed_restore(struct qcow2 *q, struct qcow2_runs *batch);
/* The committer's: the batch's changes are stable. */
void qcow2_freed_drain(struct qcow2 *q, struct qcow2_runs *batch);
/* The committer's: releases `draining` if no I/O is left that began before. May drop the lock; true
 * if it released anything. */
bool qcow2_freed_reap(struct qcow2 *q);
void qcow2_runs_free(struct qcow2_runs *runs);

/* commit.c */
/* Writes the dirty metadata in the declared order; `durable`: and syncs. Drops the lock. */
int qcow2_commit(struct qcow2 *q, bool durable);
/* Runs the committer when too much is dirty. May drop the lock. */
int qcow2_throttle(struct qcow2 *q);
/* Waits for the committer's role and takes it; given back with end. May drop the lock. */
void qcow2_commit_begin(struct qcow2 *q);
void qcow2_commit_end(struct qcow2 *q);
/* fdatasync, without the lock; a failure is sticky and ends all writing. */
int qcow2_sync(struct qcow2 *q);
/* Ends all writing for good because the state on disk is not known; returns `code`. Without the
 * lock. */
int qcow2_break(struct qcow2 *q, int code);
int qcow2_flush(struct blk *blk);

/* header_update.c; all without the lock */
int qcow2_header_write_features(struct qcow2 *q, uint64_t incompatible, uint64_t autoclear);
int qcow2_header_write_reftable(struct qcow2 *q, uint64_t offset, uint32_t clusters);
int qcow2_header_write_l1(struct qcow2 *q, uint64_t offset, uint32_t entries);
int qcow2_header_write_size(struct qcow2 *q, uint64_t size);
int qcow2_set_backing(struct blk *blk, const char *name, const char *format, struct err *err);

/* write.c, zero.c, resize.c, empty.c: the format's operations; without the lock */
int qcow2_write(struct blk *blk, uint64_t offset, const struct iovec *iov, int count,
                uint64_t length);
int qcow2_write_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags);
int qcow2_discard(struct blk *blk, uint64_t offset, uint64_t length);
int qcow2_resize(struct blk *blk, uint64_t size, struct err *err);
int qcow2_make_empty(struct blk *blk, struct err *err);

#endif
