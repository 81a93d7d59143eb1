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
#include "crypto/luks.h"
#include "qcow2/format.h"
#include "qcow2/redo_log.h"
#include "qcow2/window.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

/* ---- header.c ---- */

/* The bitmaps extension, as it is. */
struct qcow2_bitmaps_extension {
    uint64_t at; /* of its data in the file; 0: there is none */
    uint32_t count, reserved;
    uint64_t directory_size, directory_offset;
};

/* The header and what follows it in cluster 0. */
struct qcow2_header_info {
    struct qcow2_header header;
    char *backing_name;   /* or NULL; owned */
    char *backing_format; /* or NULL; owned */
    char *data_name;      /* of the external data file, or NULL; owned */
    struct qcow2_bitmaps_extension bitmaps;
    uint64_t used_bytes; /* of cluster 0: header, extensions and backing name lie below */
    bool for_check;      /* as it was read */
};

/* Reads and checks everything that does not need a look at the tables: limits, alignment, tables
 * inside the file (not `for_check`: what is missing reads as zeros there, a name ends at a zero byte, and an
 * encryption header may lie on tables). Features that this engine lacks are refused by name (-ENOTSUP). The
 * text of *err does not name the file. */
int qcow2_header_read(struct file *file, bool for_check, struct qcow2_header_info *info,
                      struct err *err);
void qcow2_header_free(struct qcow2_header_info *info);
/* The same for where the snapshot table is and how many entries it has, which a check can repair. */
int qcow2_header_check_snapshots(const struct qcow2_header *h, uint64_t file_size, struct err *err);

/* ---- check.c ---- */

/* Repairs the image in blk->file, which no layer is open on, and takes its dirty bit back. */
int qcow2_repair_dirty(struct blk *blk, const struct qcow2_header *header,
                       struct blk_check_result *result, struct err *err);
/* Behind a layer that was closed and could not write all, because the disk is full: clusters that are counted in
 * blk->file and not linked are given back, and a dirty image's refcounts put right. */
void qcow2_repair_full(struct blk *blk, const struct qcow2_header *header);
int qcow2_check(struct blk *blk, unsigned fix, void (*report)(void *opaque, const char *line),
                void *opaque, struct blk_check_result *result, struct err *err);

/* Counts all references of the image in blk->file, which no layer is open on. -EIO: it has errors. With
 * refcounts of another width, new ones are put in place. `is_downgrade`: -ENOTSUP where an entry has the
 * zero flag. */
int qcow2_change_refcount_bits(struct blk *blk, const struct qcow2_header *header, unsigned bits,
                               bool is_downgrade, struct err *err);
/* Opens the layer afresh, because the file has changed: without a key, and `for_check` as in
 * blk_open_options. */
int qcow2_reopen(struct blk *blk, bool for_check, struct err *err);

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

#define QCOW2_NO_GUEST UINT64_MAX

enum { QCOW2_MAX_SLICE_BITS = 12 };

struct qcow2_slice {
    uint64_t offset; /* in the file */
    enum qcow2_slice_kind kind;
    unsigned pins; /* > 0: stays in memory */
    bool dirty;
    bool loading; /* being read: wait on `changed` */
    bool
        suspect; /* holds an entry that failed its check, or may change: check each one when used */
    bool used;   /* since the clock's hand passed */
    bool is_mapped;
    uint8_t *data; /* slice_bytes, big-endian: in the mapping (not to be written to), or */
    uint8_t *own;  /* the slice's own; or NULL */
    /* L2, with an external data file: the guest offset of the first entry, or QCOW2_NO_GUEST. */
    uint64_t guest_start;
    struct qcow2_slice *next_in_bucket;
};

struct qcow2_cache {
    struct qcow2_slice **buckets;
    unsigned bucket_mask;
    struct qcow2_slice **slices; /* all of them, for the clock and the committer */
    unsigned count, room, hand;
    unsigned limit; /* in slices; exceeded only while all are dirty or pinned */
    unsigned dirty_count, dirty_l2_count; /* the second is part of the first */
    uint8_t **slabs;                /* what the slices' own bytes are parts of, a few slices each */
    unsigned slab_count, slab_left; /* slices that are left of the last one */
};

/* ---- mapping.c ---- */

struct qcow2_mapping {
    bool is_wanted;   /* the file is to be mapped when a table is looked for */
    uint8_t *start;   /* of the file; NULL: not mapped */
    uint64_t length;  /* whole pages below the end that the file had */
    atomic_bool lost; /* somebody shortened the file: what is read there may be zeros */
};

struct qcow2;
/* At open. */
void qcow2_mapping_init(struct qcow2 *q);
/* Maps the file if that is wanted; nothing happens where it cannot be. With the lock. */
void qcow2_mapping_open(struct qcow2 *q);
/* When nobody uses the layer any more. */
void qcow2_mapping_close(struct qcow2 *q);

/* ---- entry.c ---- */

/* A decoded L2 entry. Bit n of a mask is subcluster n; none has both bits. */
struct qcow2_cluster {
    uint64_t host_offset; /* 0: none, but see qcow2_has_place() */
    uint32_t data;        /* the subclusters whose data lies there */
    uint32_t zero;        /* those that read as zeros; what is in neither shows the layer below */
    bool is_copied;
    bool is_compressed;                    /* host_offset and the masks are 0, */
    uint64_t packed_offset, packed_length; /* and here, in bytes, lies the data */
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

/* ---- compressed.c: decompressed clusters that were read lately ---- */

enum { QCOW2_UNPACKED_MAX = 16 };

struct qcow2_unpacked {
    uint64_t offset, length; /* of the compressed bytes; length 0: nothing that can be found */
    unsigned pins;
    bool loading;
    uint64_t used;
    uint8_t *data; /* a cluster, or NULL */
};

struct qcow2_unpacked_cache {
    pthread_mutex_t lock; /* everything here; inside the layer's lock */
    pthread_cond_t loaded;
    struct qcow2_unpacked entries[QCOW2_UNPACKED_MAX];
    unsigned count;
    uint64_t clock;
};

/* ---- metadata.c ---- */

struct qcow2_metadata_slot {
    uint64_t cluster; /* host offset; 0: free */
    uint32_t uses;
    bool is_refblock;
};

/* ---- lookaside.c ---- */

struct qcow2_slot;

struct qcow2_lookaside {
    struct qcow2_slot *slots; /* NULL: there are none */
    uint64_t mask;
    atomic_bool is_open; /* requests may go by the slots */
    void *memory;        /* which they lie in */
    uint64_t used;       /* of the slots */
    uint8_t *hosts;      /* which host clusters they may lead to: a counting filter */
};

/* ---- inflight.c ---- */

struct qcow2_inflight {
    uint64_t start, end; /* guest range, whole subclusters */
    struct qcow2_inflight *next;
};

/* ---- crypto.c ---- */

struct qcow2_crypto {
    struct luks_header luks;
    struct sector_cipher *cipher; /* NULL: opened without a key */
    /* Shared: I/O of whole sectors of the layer's clusters. Exclusive: a part of a sector is changed. */
    pthread_rwlock_t sectors;
};

/* ---- the state of an open layer ---- */

enum { QCOW2_SPARE_BUFFERS = 4 };

struct qcow2 {
    struct blk *blk;
    struct file *file;
    struct qcow2_header header; /* as on disk */
    unsigned cluster_bits;
    uint64_t cluster_size;
    unsigned l2_entry_bits; /* log2 of the bytes of an L2 entry */
    unsigned l2_bits;       /* log2 of the entries of an L2 table */
    bool has_subclusters;   /* extended L2 entries */
    unsigned subclusters;   /* of a cluster: 32 or 1 */
    unsigned subcluster_bits;
    uint64_t subcluster_size;
    unsigned slice_bits;    /* log2 of the bytes of a slice */
    unsigned refcount_bits; /* 1 to 64 */
    unsigned refblock_bits; /* log2 of the refcounts in a block */
    bool writable;
    bool check_only; /* open for blk_check, which works on the file: -EPERM for all else */

    pthread_mutex_t lock;   /* everything below */
    pthread_cond_t changed; /* a slice was loaded, a range left flight, a commit or growth ended */
    struct qcow2_table l1, reftable;
    struct qcow2_cache cache;
    struct qcow2_mapping mapping;
    struct blk_counters counters; /* for blk_get_counters() */

    uint64_t file_size;     /* of the host file: every allocated cluster lies below */
    uint64_t file_end;      /* end of the last cluster that may be in use */
    uint64_t never_written; /* clusters at or above were never written and read as zeros */
    bool is_corrupt;        /* no more writes: -EIO */

    /* Hash set of the clusters that hold L2 tables, refcount blocks, snapshots and bitmaps. */
    struct qcow2_metadata_slot *metadata;
    uint64_t metadata_count, metadata_room;

    struct qcow2_inflight *inflight;
    uint64_t free_hint;    /* no free cluster below this index, but what windows keep */
    uint64_t free_changes; /* counts what may have lowered free_hint */
    bool growing;          /* one thread adds a refcount block or a larger refcount table */
    struct qcow2_windows windows;

    struct qcow2_runs freed;    /* unlinked in memory; the change is not yet stable */
    struct qcow2_runs draining; /* unlinked on disk; waits for I/O that began before. Committer's */
    int draining_hold;          /* which holds it waits for */
    atomic_int current_hold;    /* 0 or 1: what new I/O takes */
    struct qcow2_holds *holds;  /* QCOW2_HOLD_STRIPES of them; writable layers */
    struct qcow2_lookaside lookaside;

    bool is_lazy;          /* refcounts may lag behind while the dirty bit is set: lazy.c */
    uint64_t stable_size;  /* the file has at least this size after a power cut */
    bool needs_barrier;    /* a new entry in memory leads to what may not be stable */
    bool committing;       /* one thread writes metadata */
    uint64_t flush_wanted; /* tickets of flushes: handed out, */
    uint64_t flush_done;   /* served, */
    int flush_result;      /* and the last result */
    int sync_failed;       /* sticky: nothing is claimed durable any more */

    struct qcow2_crypto *crypto;       /* NULL: not encrypted */
    struct qcow2_snapshots *snapshots; /* snapshot.h; NULL: none, or not read yet */
    struct qcow2_bitmaps *bitmaps;     /* bitmap.h; NULL: none */
    struct qcow2_unpacked_cache unpacked;
    struct qcow2_redo_log redo;
    uint64_t packed_end; /* compressed data goes on here, inside a cluster in use; 0: nowhere */

    uint8_t *spare[QCOW2_SPARE_BUFFERS]; /* copy-on-write buffers, two clusters each, or NULL */
};

static inline struct qcow2 *qcow2_of(const struct blk *blk)
{
    return blk->state;
}

/* Guest data lies in an external data file: no refcounts, and the place is the guest's offset. */
static inline bool qcow2_has_data_file(const struct qcow2 *q)
{
    return q->blk->has_data_file;
}

/* That file by itself reads as the guest's disk does: not if it is encrypted. */
static inline bool qcow2_data_is_raw(const struct qcow2 *q)
{
    return qcow2_has_data_file(q) && q->header.crypt_method == 0 &&
           (q->header.autoclear_features & QCOW2_AUTOCLEAR_RAW_DATA) != 0;
}

/* The file with the guest's data; NULL: one that is not open. */
static inline struct file *qcow2_data_file(const struct qcow2 *q)
{
    return qcow2_has_data_file(q) ? q->blk->data_file : q->file;
}

/* Whether a standard cluster has a place in that file: in a data file it may be 0. */
static inline bool qcow2_has_place(const struct qcow2_cluster *cluster)
{
    return cluster->host_offset != 0 || cluster->data != 0;
}

static inline int qcow2_refuse_if_broken(const struct qcow2 *q)
{
    return q->check_only ? -EPERM : q->is_corrupt ? -EIO : q->sync_failed;
}

/* Everything from here on is called with the lock held, unless it says otherwise. */

/* data.c: all guest data goes through here; without the lock */
int qcow2_data_pwritev(struct qcow2 *q, uint64_t host_offset, const struct iovec *iov, int count);
/* A range of an external data file reads as zeros afterwards, its space is given back with `punch`.
 * Behind the device's end nothing is done. */
int qcow2_data_zero(struct qcow2 *q, uint64_t offset, uint64_t length, bool punch);

/* crypto.c: guest data of encrypted images; without the lock. What lies in the file is encrypted in
 * sectors of 512 bytes, whose numbers are their places in the file. */
int qcow2_crypto_open(struct qcow2 *q, const struct blk_open_options *options, struct err *err);
void qcow2_crypto_free(struct qcow2 *q);
/* Where its key material is; lives as long as the layer. */
struct luks_area qcow2_crypto_area(struct qcow2 *q);
bool qcow2_encryption(struct blk *blk, struct blk_encryption *encryption);
/* Whole sectors; the vector is only read. */
int qcow2_crypto_pwritev(struct qcow2 *q, struct file *file, uint64_t host_offset,
                         const struct iovec *iov, int count);
/* Any bytes of an extent of encrypted DATA. */
int qcow2_crypto_read(struct qcow2 *q, const struct layer_extent *extent, const struct iovec *iov,
                      int count, uint64_t skip);
/* Around an overwrite of clusters in use: `parts`: it changes parts of sectors, whose other bytes
 * qcow2_crypto_read_sector() reads meanwhile. */
void qcow2_crypto_lock(struct qcow2 *q, bool parts);
void qcow2_crypto_unlock(struct qcow2 *q);
int qcow2_crypto_read_sector(struct qcow2 *q, struct file *file, uint64_t host_offset,
                             uint8_t sector[CRYPTO_SECTOR]);

/* codec.c: one cluster, compressed as the image's compression type says; without the lock. */
/* -EIO unless the bytes give at least `length` bytes; what they give beyond is ignored. */
int qcow2_codec_unpack(unsigned type, const uint8_t *packed, size_t packed_length, uint8_t *out,
                       size_t length);
/* Into `out`, which has room for `length` bytes. *packed_length: 0 when it would not be shorter. */
int qcow2_codec_pack(unsigned type, const uint8_t *data, size_t length, uint8_t *out,
                     size_t *packed_length);

/* pack.c */
/* References to host clusters are about to go: no compressed data is put there any more. */
void qcow2_pack_forget(struct qcow2 *q, uint64_t host_offset, uint64_t clusters);
/* The format's compress() and write_packed(); without the lock. */
int qcow2_compress(struct blk *blk, const void *buf, size_t length, void *packed,
                   size_t *packed_length);
int qcow2_write_packed(struct blk *blk, uint64_t offset, const void *packed, size_t length);

/* compressed.c */
/* What a compressed L2 entry says; no check. */
void qcow2_packed_decode(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *length);
/* The entry for `length` bytes (at least 1, less than a cluster) at `offset`, 0 if it cannot say that. */
uint64_t qcow2_packed_encode(const struct qcow2 *q, uint64_t offset, uint64_t length);
bool qcow2_packed_is_sound(const struct qcow2 *q, uint64_t entry);
/* The host clusters that a decoded L2 entry holds a reference to, each one: their number, 0 if none,
 * and the first one's offset. */
uint64_t qcow2_cluster_references(const struct qcow2 *q, const struct qcow2_cluster *cluster,
                                  uint64_t *host_offset);
/* Gives back what an L2 entry held that was just changed in memory. */
void qcow2_give_up(struct qcow2 *q, const struct qcow2_cluster *cluster);
void qcow2_unpacked_init(struct qcow2 *q);
void qcow2_unpacked_free(struct qcow2 *q);
/* The host cluster became free: what was compressed there is not known any more. */
void qcow2_unpacked_forget(struct qcow2 *q, uint64_t host_cluster);
/* The format's read(); without the lock. */
int qcow2_read(struct blk *blk, uint64_t offset, const struct layer_extent *extent,
               const struct iovec *iov, int count, uint64_t skip);

/* cache.c. The size is in bytes, 0: default. init and free: without the lock. */
int qcow2_cache_init(struct qcow2 *q, uint64_t bytes);
void qcow2_cache_free(struct qcow2 *q);
/* Pins the slice at `offset`, a multiple of its size, to be given back with put. May drop the lock.
 */
int qcow2_cache_get(struct qcow2 *q, enum qcow2_slice_kind kind, uint64_t offset,
                    struct qcow2_slice **out);
/* The same; -EAGAIN where it would have to wait for storage, or for somebody who reads it. */
int qcow2_cache_try_get(struct qcow2 *q, enum qcow2_slice_kind kind, uint64_t offset,
                        struct qcow2_slice **out);
void qcow2_cache_put(struct qcow2_slice *slice);
void qcow2_cache_mark_dirty(struct qcow2 *q, struct qcow2_slice *slice);
void qcow2_cache_mark_clean(struct qcow2 *q, struct qcow2_slice *slice);
/* Drops what is cached of a range, dirty or not; nothing of it may be pinned. */
void qcow2_cache_forget(struct qcow2 *q, uint64_t offset, uint64_t length);

/* metadata.c */
/* Whether a host cluster holds part of the header, the L1 table or the refcount table. */
bool qcow2_is_fixed_metadata(const struct qcow2 *q, uint64_t cluster);
/* The same, and (writable layers) what stands in the set. */
bool qcow2_is_metadata(const struct qcow2 *q, uint64_t cluster);
/* One more use of a cluster for metadata, and one less. */
int qcow2_metadata_add(struct qcow2 *q, uint64_t cluster);
int qcow2_metadata_add_refblock(struct qcow2 *q, uint64_t cluster);
enum qcow2_metadata_kind {
    QCOW2_NO_METADATA,
    QCOW2_FIXED_METADATA, /* the header, or what is two things at once */
    QCOW2_L1_TABLE,
    QCOW2_REFCOUNT_TABLE,
    QCOW2_REFCOUNT_BLOCK,
    QCOW2_LUKS,  /* the encryption header */
    QCOW2_TABLE, /* an L2 table, or what bitmaps and snapshots keep */
};
/* Of a writable layer. */
enum qcow2_metadata_kind qcow2_metadata_kind_of(const struct qcow2 *q, uint64_t cluster);
void qcow2_metadata_remove(struct qcow2 *q, uint64_t cluster);
/* Notes the problem, stops all writes, sets the corrupt bit where there is one. */
void qcow2_note_corruption(struct qcow2 *q, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* The same, with -EIO as its value: a macro, so that checkers know that it is never 0. */
#define qcow2_mark_corrupt(...) (qcow2_note_corruption(__VA_ARGS__), -EIO)

/* entry.c */
static inline unsigned qcow2_l2_entries_per_slice(const struct qcow2 *q)
{
    return 1U << (q->slice_bits - q->l2_entry_bits);
}
bool qcow2_l2_entry_is_sound(const struct qcow2 *q, const struct qcow2_slice *slice,
                             unsigned index);
bool qcow2_l2_check_slice(const struct qcow2 *q, const struct qcow2_slice *slice);
int qcow2_l2_decode(struct qcow2 *q, const struct qcow2_slice *slice, unsigned index,
                    struct qcow2_cluster *cluster);
/* Entry `index` is that of the guest offset's cluster. */
void qcow2_l2_set(struct qcow2 *q, struct qcow2_slice *slice, unsigned index, uint64_t guest_offset,
                  const struct qcow2_cluster *cluster);
static inline uint32_t qcow2_subcluster_mask(unsigned first, unsigned count)
{
    return (uint32_t)((UINT64_C(1) << count) - 1) << first;
}
enum blk_extent_kind qcow2_subcluster_kind(const struct qcow2_cluster *cluster, unsigned n);
/* How many subclusters of the cluster, from `first` on, stand in the mask. */
unsigned qcow2_subcluster_run(const struct qcow2 *q, uint32_t mask, unsigned first);
/* How many of them share the kind of `first`. */
unsigned qcow2_subcluster_kind_run(const struct qcow2 *q, const struct qcow2_cluster *cluster,
                                   unsigned first);

/* overlap.c */
enum qcow2_writes {
    QCOW2_WRITES_DATA, /* guest data, or a hole */
    QCOW2_WRITES_L2,
    QCOW2_WRITES_REFBLOCK,
    QCOW2_WRITES_L1,
    QCOW2_WRITES_REFTABLE,
    QCOW2_WRITES_NEW,   /* metadata where there was none: the clusters are not in the set yet */
    QCOW2_WRITES_EXTRA, /* what bitmaps and snapshots keep, once its clusters are in the set */
    QCOW2_WRITES_LUKS,
};
/* Every write to clusters goes through here before it is made: -EIO (corrupt) when it would hit other
 * metadata than it is for. Under the lock. */
int qcow2_check_overlap(struct qcow2 *q, enum qcow2_writes what, uint64_t offset, uint64_t length);

/* lookaside.c */
/* At open, when all else is done. */
int qcow2_lookaside_init(struct qcow2 *q);
void qcow2_lookaside_free(struct qcow2 *q);
/* What the cluster's entry says now. */
void qcow2_lookaside_put(struct qcow2 *q, uint64_t guest_offset,
                         const struct qcow2_cluster *cluster);
/* Entries change otherwise than by qcow2_l2_set(). */
void qcow2_lookaside_clear(struct qcow2 *q);
/* A host cluster becomes metadata: whatever entry leads there is wrong. */
void qcow2_lookaside_forget_host(struct qcow2 *q, uint64_t host_offset);
/* From now on requests take the lock. With or without it. */
void qcow2_lookaside_close(struct qcow2 *q);
/* Without the lock: as the format's map(), for a range inside of a cluster; false: unknown. */
bool qcow2_lookaside_map(struct qcow2 *q, uint64_t offset, uint64_t length, bool hold,
                         struct layer_extent *extent);
/* Without the lock: where data may be overwritten in place, held; false: unknown, or not. */
bool qcow2_lookaside_overwrite(struct qcow2 *q, uint64_t offset, uint64_t length,
                               uint64_t *host_offset, int *hold);

/* map.c */
/* The L2 table for a guest offset, 0 if there is none. */
int qcow2_l1_get(struct qcow2 *q, uint64_t guest_offset, uint64_t *l2_offset);
/* Pins the slice with the guest offset's entry, which is entry *index of it. May drop the lock. */
int qcow2_l2_get(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset,
                 struct qcow2_slice **slice, unsigned *index);
/* The same; -EAGAIN where it would have to come from storage. */
int qcow2_l2_try_get(struct qcow2 *q, uint64_t guest_offset, uint64_t l2_offset,
                     struct qcow2_slice **slice, unsigned *index);
/* The format's map_overwrite(), overwrite.c; without the lock. */
bool qcow2_map_overwrite(struct blk *blk, uint64_t offset, uint64_t length,
                         struct layer_extent *extent);
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
/* The same, of a block that the table need not name yet. */
int qcow2_refblock_slice(struct qcow2 *q, uint64_t block_offset, uint64_t cluster,
                         struct qcow2_slice **slice, unsigned *index);
static inline unsigned qcow2_refcounts_per_slice(const struct qcow2 *q)
{
    return 1U << (q->slice_bits + 3 - q->header.refcount_order);
}
uint64_t qcow2_refcount_load(const struct qcow2 *q, const struct qcow2_slice *slice,
                             unsigned index);
/* The value must fit (qcow2_refcount_limit()). Marks the slice dirty. */
void qcow2_refcount_store(struct qcow2 *q, struct qcow2_slice *slice, unsigned index,
                          uint64_t value);
int qcow2_refcount_get(struct qcow2 *q, uint64_t host_offset, uint64_t *count);
/* Takes one reference from each cluster of a run. Nothing on disk may refer to it, and no I/O be on
 * its way to it: see free.c. May drop the lock. */
int qcow2_refcount_release(struct qcow2 *q, uint64_t host_offset, uint64_t clusters);
/* Adds one reference to each cluster of a run, all of them in use already; all or nothing. -ERANGE:
 * the refcounts are too narrow for one more. May drop the lock. */
int qcow2_refcount_raise(struct qcow2 *q, uint64_t host_offset, uint64_t clusters);

/* alloc.c */
struct qcow2_allocation {
    uint64_t offset;
    uint64_t clusters;
    bool is_fresh; /* reads as zeros */
};
/* Allocates up to `want` clusters in one run, refcount 1. `guest`: they are for guest data, to be written from that byte
 * offset on, and better lie behind what was allocated for the data in front of it; or QCOW2_NO_STREAM. May drop the lock. */
int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t guest, struct qcow2_allocation *out);
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
/* The end of the guest range whose entries share a slice with `guest_offset`'s. */
uint64_t qcow2_slice_end(const struct qcow2 *q, uint64_t guest_offset);

/* inflight.c */
/* Waits while the range overlaps one in flight; true if it waited, and so dropped the lock. */
bool qcow2_inflight_wait(struct qcow2 *q, uint64_t start, uint64_t end);
void qcow2_inflight_add(struct qcow2 *q, struct qcow2_inflight *range, uint64_t start,
                        uint64_t end);
void qcow2_inflight_remove(struct qcow2 *q, struct qcow2_inflight *range);

/* free.c */
int qcow2_holds_init(struct qcow2 *q);
void qcow2_holds_free(struct qcow2 *q);
/* How many are held. Without the lock. */
unsigned qcow2_holds_count(const struct qcow2 *q);
/* Begins an I/O to a host cluster that was just looked up, or, without the lock, before it is (lookaside.c);
 * qcow2_unhold ends it, without the lock. */
int qcow2_hold(struct qcow2 *q);
void qcow2_unhold(struct blk *blk, int hold);
/* Counts a look-up that took no lock, and their number. */
void qcow2_count_quick(struct qcow2 *q);
uint64_t qcow2_quick_count(const struct qcow2 *q);
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
/* The same, and refcounts are exact on disk afterwards: the dirty bit is cleared, if no refcount had
 * to be left behind. */
int qcow2_settle(struct qcow2 *q);
/* Runs the committer when too much is dirty. May drop the lock. */
int qcow2_throttle(struct qcow2 *q);
/* Waits for the committer's role and takes it; given back with end. May drop the lock. */
void qcow2_commit_begin(struct qcow2 *q);
void qcow2_commit_end(struct qcow2 *q);
/* fdatasync of the image and its data file, without the lock; a failure is sticky and ends all writing. */
int qcow2_sync(struct qcow2 *q);
/* Ends all writing for good because the state on disk is not known; returns `code`. Without the
 * lock. */
int qcow2_break(struct qcow2 *q, int code);
int qcow2_flush(struct blk *blk);
int qcow2_to_file(struct blk *blk);

/* lazy.c */
/* The committer's: sets the dirty bit, stable, unless it is. Drops the lock. */
int qcow2_lazy_begin(struct qcow2 *q);
/* The committer's: takes the dirty bit back once all that was written is stable. Drops the lock. */
int qcow2_lazy_end(struct qcow2 *q);
/* An entry in memory leads to something new in the file. `zeros_do`: until what it holds is stable it
 * does no harm if it reads as zeros. */
void qcow2_entry_leads_to(struct qcow2 *q, uint64_t offset, uint64_t length, bool is_fresh,
                          bool zeros_do);

/* header_update.c; all without the lock */
int qcow2_header_write_features(struct qcow2 *q, uint64_t incompatible, uint64_t autoclear);
int qcow2_header_write_reftable(struct qcow2 *q, uint64_t offset, uint32_t clusters);
int qcow2_header_write_l1(struct qcow2 *q, uint64_t offset, uint32_t entries);
int qcow2_header_write_size(struct qcow2 *q, uint64_t size);
/* Size, L1 table, refcount table and snapshot table, all in one write. */
int qcow2_header_write_tables(struct qcow2 *q, const struct qcow2_header *header);
int qcow2_set_backing(struct blk *blk, const char *name, const char *format, struct err *err);
/* Makes it a header of version 2 or 3 of an image without any of version 3's features; everything else
 * is stable. */
int qcow2_header_rewrite_version(struct qcow2 *q, unsigned version, struct err *err);
/* Takes the extension of that type out of the header and puts `data` (NULL: nothing) in; one write.
 * -EFBIG: it does not fit. Syncs. */
int qcow2_header_rewrite_extension(struct qcow2 *q, uint32_t type, const void *data,
                                   uint32_t length);

/* snapshot.c; without the lock, by who has the image to himself */
/* Reads the snapshots of a layer that is opened for writing and keeps their tables' places. */
int qcow2_snapshots_open(struct qcow2 *q, struct err *err);
void qcow2_snapshots_free(struct qcow2 *q);
extern const struct blk_snapshot_ops qcow2_snapshot_ops;

/* bitmap.c; without the lock, and but for qcow2_bitmaps_track by who has the image to himself */
/* Reads the bitmaps that the header names; NULL of q->bitmaps: there are none. */
int qcow2_bitmaps_open(struct qcow2 *q, const struct qcow2_bitmaps_extension *extension,
                       struct err *err);
/* Whether a program that knows no bitmaps has written the image. */
bool qcow2_bitmaps_outdated(const struct qcow2 *q);
/* Stores what was recorded; before the last commit. */
int qcow2_bitmaps_save(struct qcow2 *q, struct err *err);
void qcow2_bitmaps_free(struct qcow2 *q);
/* A request is about to change the guest's data. Any thread. */
int qcow2_bitmaps_track(struct blk *blk, uint64_t offset, uint64_t length);
/* Takes the extension out of the header and puts it in again, around a rewrite that would move it
 * across sectors: half moved, it would make the image unreadable. */
int qcow2_bitmaps_detach(struct qcow2 *q, struct err *err);
int qcow2_bitmaps_attach(struct qcow2 *q, struct err *err);
/* Around a change of the device's size; `end` whether or not it came to it. */
int qcow2_bitmaps_begin_resize(struct qcow2 *q, uint64_t size, struct err *err);
int qcow2_bitmaps_end_resize(struct qcow2 *q, struct err *err);
extern const struct blk_bitmap_ops qcow2_bitmap_ops;

/* empty.c; for whoever has the image to himself */
/* Gives up what the layer holds from guest offset `from` on, a multiple of the cluster size. May drop
 * the lock. */
int qcow2_drop_tail(struct qcow2 *q, uint64_t from);
/* Makes what was given up stable and cuts the file behind the last cluster in use. Drops the lock. */
int qcow2_give_space_back(struct qcow2 *q);

/* write.c, zero.c, resize.c, empty.c, amend.c: the format's operations; without the lock */
int qcow2_write(struct blk *blk, uint64_t offset, const struct iovec *iov, int count,
                uint64_t length);
int qcow2_write_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags);
int qcow2_discard(struct blk *blk, uint64_t offset, uint64_t length);
int qcow2_resize(struct blk *blk, uint64_t size, struct err *err);
/* Puts a larger L1 table of `count` entries in place. For who has the image to himself. */
int qcow2_grow_l1(struct qcow2 *q, uint64_t count);
/* Makes what the table says to be zeros unallocated, or data where something lies below. */
int qcow2_unflag_zeroes(struct qcow2 *q);
int qcow2_amend(struct blk *blk, const struct blk_amend_options *options, struct err *err);
/* vm_state.c */
int qcow2_vm_state(struct blk *blk, bool is_write, uint64_t offset, const struct iovec *iov,
                   int count, uint64_t length);
int qcow2_make_empty(struct blk *blk, struct err *err);
int qcow2_preallocate(struct blk *blk, uint64_t offset, uint64_t length, enum blk_prealloc mode,
                      struct err *err);

#endif
