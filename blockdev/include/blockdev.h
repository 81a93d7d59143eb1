/*
 * blockdev.h - the block engine's only public header.
 *
 * A `struct blk` is an open image: a raw file, or a qcow2 file with the chain of backing files below
 * it. The chain looks like one flat device of blk_length() bytes. Only the top layer is ever written;
 * everything below is opened read-only and locked against writers.
 *
 * Errors: every int function returns 0 (or a count) or a negative errno value; where it takes a
 * `struct err`, that holds one line which names the file. -ENOTSUP: the image uses a feature, named
 * in the text, that this engine does not have. -EINVAL: the image or an argument is malformed.
 * -EAGAIN: another process holds a conflicting lock. -EIO: the image is corrupt, or a device failed.
 *
 * Threads: blk_open, blk_close, blk_set_*, blk_resize, blk_check and blk_make_empty need the image to
 * themselves (no request in flight). Requests come through queue contexts: one thread a queue at a
 * time, any number of queues on one image at once. The synchronous wrappers (blk_pread ...) may be
 * called from any thread at any time.
 *
 * Units are bytes everywhere, unless a name says otherwise. Any offset and length within the device
 * are allowed: the engine aligns by itself.
 */
#ifndef BLOCKDEV_H
#define BLOCKDEV_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct blk;
struct blk_queue;

/* ---- open and close ---- */

enum blk_cache {
    BLK_CACHE_WRITEBACK, /* page cache, a flush is an fdatasync: the default */
    BLK_CACHE_DIRECT,    /* O_DIRECT for the top layer; bases stay in the shared page cache */
    BLK_CACHE_UNSAFE,    /* a flush orders nothing and waits for nothing: for throwaway data only */
};

struct blk_open_options {
    const char *path;
    const char *format; /* "raw", "qcow2", or NULL: probe (see "image policy" below) */
    bool writable;      /* open the top layer read-write */
    bool no_backing;    /* leave the chain closed: unallocated ranges read as zeros */
    bool trust_probe;   /* a probed qcow2 may name a backing file (tools that a person drives) */
    bool force_share;   /* take no conflicting locks (-U); read-only opens alone */
    bool discard;       /* BLK_DISCARD frees space; without it a discard is a successful no-op */
    bool for_check;     /* for blk_check alone: whatever state it is in; no other writes */
    enum blk_cache cache;
    const char *backing_root; /* every backing file must lie below this directory, or NULL */
    uint64_t
        metadata_cache; /* bound on cached L2 tables and refcount blocks in bytes; 0: default */
};

/*
 * Opens an image and, unless no_backing, its chain. On success *out is the caller's, to be given back
 * with blk_close(). The options are copied.
 *
 * Image policy: a format is explicit or probed; probing sees only raw and qcow2. A probed qcow2 that
 * names a backing file is refused unless trust_probe. A backing file without a recorded format is
 * probed, and a qcow2 found that way may not name a backing file of its own unless trust_probe. Names
 * that look like a protocol or json: are refused. A raw image whose format was probed refuses writes
 * that would make its first sector probe as another format (-EPERM for that request).
 */
int blk_open(const struct blk_open_options *options, struct blk **out, struct err *err);

/* Flushes what is dirty, marks the image clean, releases locks, frees everything, whatever happens on
 * the way; returns the first error. No queue of the image may exist any more. NULL is allowed. */
int blk_close(struct blk *blk, struct err *err);

uint64_t blk_length(const struct blk *blk); /* virtual size in bytes */
bool blk_writable(const struct blk *blk);
const char *blk_path(const struct blk *blk);      /* as given to blk_open; lives as long as blk */
const char *blk_format(const struct blk *blk);    /* "raw" or "qcow2" */
unsigned blk_cluster_size(const struct blk *blk); /* allocation unit of the top layer; 0 for raw */
/* The open image right below the top layer, or NULL. Owned by `blk`; never closed by the caller. */
struct blk *blk_backing(struct blk *blk);

/* ---- requests ---- */

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES };

enum {
    BLK_REQ_FUA = 1,       /* WRITE, WRITE_ZEROES: durable at completion */
    BLK_REQ_MAY_UNMAP = 2, /* WRITE_ZEROES: clusters may be given back */
    /* WRITE_ZEROES: the top layer itself holds the zeros, even where what lies below shows zeros as
     * well: for use before the backing file changes. */
    BLK_REQ_HIDE = 4,
};

/*
 * One request. The caller owns it and its iovec, and leaves both alone from blk_submit() until done()
 * was called. READ and WRITE: `length` equals the bytes of the iovec. FLUSH: offset, length and iovec
 * are ignored; when it completes, every write that had completed before the flush was submitted is
 * durable. Requests in flight at once may be carried out in any order.
 */
struct blk_request {
    enum blk_op op;
    unsigned flags;
    uint64_t offset;
    uint64_t length;
    const struct iovec *iov;
    int iovcnt;
    /* Called exactly once with 0 or a negative errno value, in the thread that runs
     * blk_queue_complete() on the queue; never from inside blk_submit(). It may submit again. */
    void (*done)(struct blk_request *request, int result);
    void *opaque; /* the caller's */

    struct blk_request *next; /* the engine's while in flight */
    int result;
};

/* A queue context, used by one thread at a time. Destroyed only when nothing is in flight. */
int blk_queue_create(struct blk *blk, struct blk_queue **out, struct err *err);
void blk_queue_destroy(struct blk_queue *queue);

/* Hands a request over. Never fails: every error, a range beyond the device included, arrives through
 * done(). May return before anything has happened; blk_queue_complete() makes it happen. */
void blk_submit(struct blk_queue *queue, struct blk_request *request);

/* Starts what was submitted, carries out or collects what can be, and calls done() for each request
 * that has finished. Returns how many completed. */
unsigned blk_queue_complete(struct blk_queue *queue);

/* A descriptor that polls readable while requests may be completed by blk_queue_complete(), for the
 * event loop of the queue's thread; -1 when every request completes within blk_queue_complete(). */
int blk_queue_fd(const struct blk_queue *queue);

/* Requests submitted and not yet completed. */
unsigned blk_queue_in_flight(const struct blk_queue *queue);

/* ---- synchronous wrappers ---- */

int blk_pread(struct blk *blk, uint64_t offset, void *buf, size_t length);
int blk_pwrite(struct blk *blk, uint64_t offset, const void *buf, size_t length);
int blk_preadv(struct blk *blk, uint64_t offset, const struct iovec *iov, int count);
int blk_pwritev(struct blk *blk, uint64_t offset, const struct iovec *iov, int count);
int blk_pwrite_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags);
int blk_pdiscard(struct blk *blk, uint64_t offset, uint64_t length);
int blk_flush(struct blk *blk);

/* ---- what lies where ---- */

enum blk_extent_kind {
    BLK_EXTENT_DATA,        /* stored in `layer` at `host_offset` */
    BLK_EXTENT_ZERO,        /* reads as zeros without anything stored, or stored and flagged zero */
    BLK_EXTENT_COMPRESSED,  /* stored compressed in `layer` */
    BLK_EXTENT_UNALLOCATED, /* no layer of the chain holds it: reads as zeros */
};

struct blk_extent {
    enum blk_extent_kind kind;
    uint64_t length;      /* bytes that share this answer, at least 1 */
    unsigned depth;       /* 0: the top layer; n: the n-th image below it */
    bool has_host_offset; /* host_offset holds for the whole extent */
    uint64_t host_offset; /* in the file of the layer at `depth` */
};

enum { BLK_MAP_TOP_ONLY = 1 /* stop at the top layer: UNALLOCATED means "not in this layer" */ };

/* What the device holds at `offset`, for at most `length` bytes. For raw layers holes are found with
 * SEEK_HOLE. The answer is a snapshot: concurrent requests may change it. */
int blk_map(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
            struct blk_extent *extent);

/* ---- facts for tools ---- */

struct blk_info {
    uint64_t virtual_size;
    uint64_t disk_size;         /* bytes that the file system has allocated (512 * st_blocks) */
    unsigned cluster_size;      /* 0 for raw */
    const char *backing_name;   /* as written in the image, or NULL; lives as long as blk */
    const char *backing_format; /* as written in the image, or NULL */
    const char *backing_path;   /* resolved against the image's folder, or NULL */
    bool is_dirty;              /* dirty bit */
    bool is_corrupt;            /* corrupt bit */
    unsigned compat;            /* qcow2: 2 ("0.10") or 3 ("1.1"); 0 for raw */
    unsigned refcount_bits;
    bool lazy_refcounts;
    bool extended_l2;
    const char *compression_type; /* "zlib" or "zstd" */
};

int blk_get_info(struct blk *blk, struct blk_info *info, struct err *err);

/* Whether a request has met something in the image that a person should know of (a corrupt table, an
 * unsupported cluster, a failed sync); then *err holds the first such line. Any thread. */
bool blk_problem(struct blk *blk, struct err *err);

/* "raw" or "qcow2", by the first bytes of a file. */
int blk_probe(const char *path, const char **format, struct err *err);

/* The path of a backing file called `name` in an image at `image_path`: names that do not begin with
 * '/' are relative to the image's folder. -EINVAL for json: and protocol names. The caller frees. */
int blk_backing_path(const char *image_path, const char *name, char **out, struct err *err);

/* ---- making and changing images ---- */

struct blk_create_options {
    const char *path;
    const char *format;       /* "raw" or "qcow2" */
    uint64_t size;            /* virtual size */
    const char *backing_name; /* written as it is, or NULL; existence and format are the caller's */
    const char *backing_format; /* "raw" or "qcow2"; required with backing_name */
    unsigned cluster_size;      /* qcow2: 512 .. 2 MiB, a power of two; 0: 65536 */
    unsigned compat;            /* qcow2: 2 or 3; 0: 3 */
    bool lazy_refcounts;        /* qcow2 v3 */
    enum {
        BLK_PREALLOC_OFF,
        BLK_PREALLOC_METADATA,
        BLK_PREALLOC_FALLOC,
        BLK_PREALLOC_FULL
    } prealloc;
};

/* Creates the file, or empties one that exists (after taking its locks). On failure a file that was
 * newly made is removed. */
int blk_create(const struct blk_create_options *options, struct err *err);

/* Grows (or, raw only, shrinks) the device. What is gained reads as zeros, whatever a larger backing
 * file holds there. */
int blk_resize(struct blk *blk, uint64_t size, struct err *err);

/* Rewrites the backing name and format in the header (NULL: none) in one write; data is untouched and
 * the open chain stays as it is. */
int blk_set_backing(struct blk *blk, const char *name, const char *format, struct err *err);

/* Gives every cluster of the top layer back, so that it reads as its backing file. qcow2 only. */
int blk_make_empty(struct blk *blk, struct err *err);

/* ---- check ---- */

enum { BLK_FIX_LEAKS = 1, BLK_FIX_ERRORS = 2 };

struct blk_check_result {
    uint64_t corruptions, leaks, check_errors; /* what is wrong now (after repair, if asked) */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t image_end_offset; /* behind the last cluster in use */
    uint64_t total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters;
};

/* Compares refcounts with references over the whole top layer; repairs what `fix` allows. `report`
 * (may be NULL) gets one line a finding, in qemu-img's words. Returns 0 when the check itself could be
 * done, whatever it found; -ENOTSUP for a format without a check (raw). */
int blk_check(struct blk *blk, unsigned fix, void (*report)(void *opaque, const char *line),
              void *opaque, struct blk_check_result *result, struct err *err);

#endif
