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
 * -EAGAIN: another process holds a conflicting lock. -ENOKEY: the image is encrypted and no key was
 * given; -EKEYREJECTED: the key is not the image's. -EIO: the image is corrupt, or a device failed.
 *
 * Threads: blk_open, blk_close, blk_set_*, blk_resize, blk_check, blk_make_empty, blk_bitmap_*,
 * blk_vm_state_* and blk_snapshot_* need the image to themselves (no request in flight). Requests come through queue contexts: one thread a queue at a
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

/* What carries out requests that wait for storage. */
enum blk_aio {
    BLK_AIO_AUTO,     /* io_uring for simple reads and overwrites where there is one, and threads */
    BLK_AIO_IO_URING, /* the same, or blk_queue_create() fails */
    BLK_AIO_THREADS,
};

/* A throwaway overlay: the image and its chain are opened read-only, and what is written lies in a file
 * without a name that ends with the process, however that ends. */
enum blk_ephemeral {
    BLK_EPHEMERAL_OFF,
    BLK_EPHEMERAL_FILE, /* in options->tmpdir; with BLK_CACHE_DIRECT by O_DIRECT */
    BLK_EPHEMERAL_RAM,  /* in memory, which can be swapped */
};

/* A passphrase, byte for byte; bytes NULL: none. Borrowed for the duration of a call. */
struct blk_key {
    const void *bytes;
    size_t length;
};

/* A part of a file: `size` bytes from `offset` on, or all from there on, and then it can grow. */
struct blk_part {
    uint64_t offset;
    bool has_size;
    uint64_t size;
};

/* What of a file is an image. */
struct blk_place {
    /* parts[0] of the file, parts[1] of that part and so on; none: the whole file. */
    const struct blk_part *parts;
    unsigned part_count;
    /* NULL, or of a raw image there the part that is its disk: probing does not go by that. */
    const struct blk_part *raw_part;
    /* NULL, or what lies there is an image of this format ("qcow2"), opened as the raw image is, and the disk
     * that it shows is the raw image. For the top layer, with a format that was given, alone. */
    const char *image_format;
};

/* What lies below a layer, instead of what that names. */
struct blk_backing_choice {
    const char *path;   /* NULL: as the layer names it; "": nothing */
    const char *format; /* NULL: as the layer says, or else probe */
    struct blk_place place;
};

struct blk_open_options {
    const char *path;
    const char *format; /* "raw", "qcow2", or NULL: probe (see "image policy" below) */
    bool writable;      /* open the top layer read-write */
    bool no_backing;    /* leave the chain closed: unallocated ranges read as zeros */
    bool no_lock;       /* take no locks at all */
    bool no_data_file;  /* leave an external data file closed: guest data is -ENOMEDIUM */
    bool trust_probe;   /* a probed qcow2 may name other files (tools that a person drives) */
    bool force_share;   /* take no conflicting locks (-U); read-only opens alone */
    bool discard;       /* BLK_DISCARD frees space; without it a discard is a successful no-op */
    bool for_check;     /* for blk_check alone: whatever state it is in; no other writes */
    /* Keys of encrypted layers: the layer at depth n is opened with keys[n], deeper ones with the last
     * one. A layer that is not encrypted needs none. */
    const struct blk_key *keys;
    unsigned key_count;
    /* The layer at depth n stands on backings[n], deeper ones on what they name. The caller's word: not
     * bound by the rules for names in images, but for backing_root. */
    const struct blk_backing_choice *backings;
    unsigned backing_count;
    struct blk_place place;      /* within the file at `path` */
    uint32_t max_key_iterations; /* more in an image are refused; 0: the default, about a minute */
    bool metadata_only; /* guest data is left alone: needs no key; reads and writes are -ENOKEY */
    enum blk_cache cache;
    enum blk_aio aio;
    enum blk_ephemeral ephemeral; /* not OFF: `writable` is ignored; blk_path() is the base's */
    const char *tmpdir;           /* NULL: the environment's TMPDIR, or else /var/tmp */
    /* Called by blk_open() with a line that a person should see: the image was repaired. Or NULL. */
    void (*warn)(const char *line);
    /* NULL, or every backing and data file must lie below this directory. */
    const char *backing_root;
    bool
        path_is_named; /* `path` was read in an image: the rules for such names hold for it as well */
    uint64_t
        metadata_cache; /* bound on cached L2 tables and refcount blocks in bytes; 0: default */
};

/*
 * Opens an image and, unless no_backing, its chain. On success *out is the caller's, to be given back
 * with blk_close(). The options are copied.
 *
 * Image policy: a format is explicit or probed; probing sees only raw and qcow2. A probed qcow2 that
 * names a backing or a data file is refused unless trust_probe. A backing file without a recorded
 * format is probed, and a qcow2 found that way may not name files of its own unless trust_probe. Names
 * that look like a protocol or json: are refused, and so is what leads into /proc. A raw image whose
 * format was probed refuses writes that would make its first sector probe as another format (-EPERM
 * for that request).
 */
int blk_open(const struct blk_open_options *options, struct blk **out, struct err *err);

/* Flushes what is dirty, marks the image clean, releases locks, frees everything, whatever happens on
 * the way; returns the first error. No queue of the image may exist any more. NULL is allowed. */
int blk_close(struct blk *blk, struct err *err);

uint64_t blk_length(const struct blk *blk); /* virtual size in bytes */
bool blk_writable(const struct blk *blk);
const char *blk_path(const struct blk *blk);      /* as given to blk_open; lives as long as blk */
const char *blk_format(const struct blk *blk);    /* "raw", "qcow2" or "ephemeral" */
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
    /* FLUSH: it is enough that what has completed survives this process (blk_unsettled()); what a loss of
     * power leaves is as without it. */
    BLK_REQ_TO_FILE = 8,
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
/*
 * The same with something registered with the queue's io_uring, which makes what goes past the page cache cheaper:
 * memory, in which requests lie, and files. Memory is all there (touched, and locked) from then on, and stays mapped as it
 * is until the queue is destroyed. Files are registered for reads alone, those of all layers, opened anew through
 * /proc/self/fd; the chain stays as it is until the queue is destroyed. Fails where there is no io_uring or, for files,
 * no /proc; -EINVAL when the image was opened with BLK_AIO_THREADS, -ENOMEM beyond RLIMIT_MEMLOCK.
 */
struct blk_fixed {
    const struct iovec *regions;
    unsigned region_count; /* at most 4 */
    bool files;
};
int blk_queue_create_fixed(struct blk *blk, const struct blk_fixed *fixed, struct blk_queue **out,
                           struct err *err);
void blk_queue_destroy(struct blk_queue *queue);

/* "io_uring" or "threads": what carries out simple requests that wait for storage. */
const char *blk_queue_engine(const struct blk_queue *queue);
/* Why it is not io_uring, though it could have been (BLK_AIO_AUTO): a negative errno value; or 0. */
int blk_queue_engine_error(const struct blk_queue *queue);

/* Hands a request over. Never fails: every error, a range beyond the device included, arrives through
 * done(). May return before anything has happened; blk_queue_complete() makes it happen. */
void blk_submit(struct blk_queue *queue, struct blk_request *request);

/* Starts what was submitted, carries out or collects what can be, and calls done() for each request
 * that has finished. Returns how many completed; unless that is 0 there may be more without a wait. */
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

/*
 * Copies a range by the kernel (copy_file_range()), which shares the blocks where the file system can.
 * -ENOTSUP: not all of it could be, and part of it may have been; reading and writing does it. That is
 * so unless `to` is raw and `from` has stored every byte as it is. Any thread.
 */
int blk_copy_range(struct blk *from, uint64_t from_offset, struct blk *to, uint64_t to_offset,
                   uint64_t length);

/* ---- compressed writes ---- */

/*
 * Writes whole clusters compressed: `offset` is a multiple of the cluster size (blk_cluster_size()),
 * and so is `length`, but that the device's last cluster may be short. A cluster that compression does
 * not make smaller is written as blk_pwrite() writes it; so is any part that a guest writes later. What
 * the clusters held before does not matter, and other requests may run at the same time, compressed
 * writes too. -EINVAL: not whole clusters. -ENOTSUP: a format without compression, or an encrypted image. Any thread.
 */
int blk_pwrite_compressed(struct blk *blk, uint64_t offset, const void *buf, size_t length);

/*
 * The two halves of it for one cluster, so that many threads can compress and one can write in order.
 * blk_compress() looks at nothing but its arguments and the image's compression type: `packed` has room
 * for a cluster, *packed_length is 0 when the cluster is to be written as it is. blk_pwrite_packed()
 * takes what came out, and the cluster itself.
 */
int blk_compress(struct blk *blk, const void *buf, size_t length, void *packed,
                 size_t *packed_length);
int blk_pwrite_packed(struct blk *blk, uint64_t offset, const void *buf, size_t length,
                      const void *packed, size_t packed_length);
/* Whether the top layer can have compressed clusters: qcow2, not encrypted. */
bool blk_can_compress(const struct blk *blk);

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
    unsigned depth;       /* 0: the top layer; n: the n-th image below it. UNALLOCATED: the last
                           * layer of the chain that reaches as far as the offset */
    bool has_host_offset; /* host_offset holds for the whole extent, which lies there as it is */
    uint64_t
        host_offset; /* in the file of the layer at `depth`: a raw layer's whole file, others' part */
    bool is_hole;    /* DATA whose place was kept and never written: reads as zeros */
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
    bool has_data_file;         /* guest data lies in an external data file */
    bool data_file_raw;         /* which by itself is the guest's disk */
    const char *data_name;      /* its name as written in the image, or NULL */
    bool is_dirty;              /* dirty bit */
    bool is_corrupt;            /* corrupt bit */
    bool is_encrypted;          /* see blk_get_encryption() */
    unsigned compat;            /* qcow2: 2 ("0.10") or 3 ("1.1"); 0 for raw */
    unsigned refcount_bits;
    bool lazy_refcounts;
    bool extended_l2;
    const char *compression_type; /* "zlib" or "zstd" */
    /* The image's bitmaps do not count: a program that knows none has written it. */
    bool bitmaps_outdated;
};

int blk_get_info(struct blk *blk, struct blk_info *info, struct err *err);

enum { BLK_KEY_SLOTS = 8 };

/* The LUKS header of an encrypted image, in QEMU's words. */
struct blk_encryption {
    char cipher_alg[40], cipher_mode[32], ivgen_alg[32], hash_alg[32], uuid[40];
    char ivgen_hash_alg[32]; /* "": it has none */
    uint64_t payload_offset;
    uint32_t master_key_iterations;
    unsigned stripes;
    struct {
        bool is_active;
        uint32_t iterations; /* of an active one */
        uint64_t key_offset;
    } slots[BLK_KEY_SLOTS];
};

/* False when the top layer is not encrypted. Needs no key. */
bool blk_get_encryption(struct blk *blk, struct blk_encryption *encryption);

/* Whether something that completed requests have done would be lost with this process, because it is in its
 * memory alone: a mapping that is not in the file. After a flush it is not, nor after one with BLK_REQ_TO_FILE. What a throwaway overlay holds
 * does not count, nor do bitmaps. May be true once in a while where it need not. Any thread. */
bool blk_unsettled(struct blk *blk);

/*
 * A redo log: memory that outlives this process (somebody else has it mapped too), in which changes of the
 * mapping are written down, so that a change does not make the image unsettled. What a process that was
 * killed left there is first done again, and made durable. The memory is aligned to 8 bytes, all zeros when it
 * is new, and stays until it is given up: by NULL, which empties the log, or by other memory. It should be
 * blk_redo_log_size() bytes long (0: the image has no use for any); in less there is room for less. Whoever else writes there
 * can damage what the guest sees, and nothing more.
 *
 * No request is under way meanwhile; blk_resize() and the like are not for an image with a log. -EINVAL: what
 * was left there is of another image, or damaged, or does not fit the image any more; nothing has been
 * changed.
 */
size_t blk_redo_log_size(struct blk *blk);
int blk_redo_log(struct blk *blk, void *memory, size_t bytes, struct err *err);

/* What was done since the image was opened: clusters (of a throwaway overlay, blocks) of the top layer
 * that were newly written, and look-ups of tables of the whole chain that found theirs in memory, or had to
 * read it. Any thread. */
struct blk_counters {
    uint64_t allocations, cache_hits, cache_misses;
};

void blk_get_counters(struct blk *blk, struct blk_counters *counters);

/* Whether a request has met something in the image that a person should know of (a corrupt table, an
 * unsupported cluster, a failed sync); then *err holds the first such line. Any thread. */
bool blk_problem(struct blk *blk, struct err *err);

/* "raw" or "qcow2", by the first bytes of a file. */
int blk_probe(const char *path, const char **format, struct err *err);
/* The same for an image inside of the file; place->raw_part does not count. */
int blk_probe_place(const char *path, const struct blk_place *place, const char **format,
                    struct err *err);

/* "raw" or "qcow2" where a file's name ends in it, which no guest can change; else NULL. */
const char *blk_format_by_name(const char *path);

/* The path of a backing or data file called `name` in an image at `image_path`: names that do not begin with
 * '/' are relative to the image's folder. -EINVAL for json: and protocol names. The caller frees. */
int blk_backing_path(const char *image_path, const char *name, char **out, struct err *err);

/* Whether a file that an image is to name lies below the directory `root`, links followed; opens nothing. One
 * that is missing is judged by its folder: whoever opens the image judges again. -EACCES: it does not. */
int blk_check_backing_root(const char *root, const char *path, struct err *err);

/* ---- making and changing images ---- */

enum blk_prealloc {
    BLK_PREALLOC_OFF,
    BLK_PREALLOC_METADATA, /* qcow2: clusters have a place, which takes no space yet */
    BLK_PREALLOC_FALLOC,   /* and the file system keeps space for them */
    BLK_PREALLOC_FULL      /* and zeros are written there */
};

/* How a new image is encrypted; the texts are QEMU's names, NULL its defaults. */
struct blk_luks_options {
    struct blk_key key;
    const char *cipher_alg;     /* aes-128, aes-192, aes-256 (default) */
    const char *cipher_mode;    /* xts (default), cbc */
    const char *ivgen_alg;      /* plain64 (default), plain, essiv */
    const char *ivgen_hash_alg; /* with essiv: sha256 */
    const char *hash_alg;       /* sha256 (default), sha1, sha512 ... */
    uint64_t iter_time;         /* milliseconds that deriving the key shall take; 0: 2000 */
};

/* One change of the key slots of an encrypted image; its data stays under the same master key. */
struct blk_key_change {
    bool activate;        /* a slot gets `key`; else slots are erased */
    struct blk_key opens; /* activate: what opens the image now */
    /* Not activate: slots that it opens are meant alone; bytes NULL: whatever opens them. */
    struct blk_key key;
    bool set_slot;
    uint32_t slot; /* this one; else the first free one, or all that `key` opens */
    bool set_iter_time;
    uint64_t iter_time; /* activate: milliseconds that deriving the key shall take; not set: 2000 */
    bool force;         /* an active slot may be overwritten, the last one erased */
};

struct blk_create_options {
    const char *path;
    const char *format;       /* "raw" or "qcow2" */
    uint64_t size;            /* virtual size */
    const char *backing_name; /* written as it is, or NULL; existence and format are the caller's */
    const char *backing_format;          /* "raw" or "qcow2"; required with backing_name */
    unsigned cluster_size;               /* qcow2: 512 .. 2 MiB, a power of two; 0: 65536 */
    unsigned compat;                     /* qcow2: 2 or 3; 0: 3 */
    bool lazy_refcounts;                 /* qcow2 v3 */
    unsigned refcount_bits;              /* qcow2 v3: 1, 2, 4 ... 64 (v2: 16 alone); 0: 16 */
    bool extended_l2;                    /* qcow2 v3, clusters of 16 KiB or more: subclusters */
    const char *compression_type;        /* qcow2: "zlib" or (v3) "zstd"; NULL: zlib */
    const struct blk_luks_options *luks; /* qcow2: NULL: not encrypted */
    const char *data_file; /* qcow2 v3: name of an external data file, made or emptied; or NULL */
    bool data_file_raw;    /* which by itself is the guest's disk; not with a backing file */
    const char *backing_root; /* the data file must lie below this directory; or NULL */
    /* Hints to the file system, which need not take them: no copy-on-write of the file (btrfs), and in
     * what sizes to allocate it (XFS), in bytes; 0: as it likes. */
    bool nocow;
    uint64_t extent_size_hint;
    enum blk_prealloc prealloc;
};

/* Creates the file, or empties one that exists (after taking its locks), and so with the data file. On
 * failure a file that was newly made is removed. */
int blk_create(const struct blk_create_options *options, struct err *err);

/* How much such an image takes besides the guest's data, once every cluster has a place. No file is
 * touched; the text begins with options->path. -EFBIG: the format has no images so large. */
int blk_create_measure(const struct blk_create_options *options, uint64_t *bytes, struct err *err);

/* Grows or shrinks the device. What is gained reads as zeros, whatever a larger backing file holds
 * there. What is cut off is gone; a qcow2 image gives its clusters back.
 * -ENOTSUP: a qcow2 image of version 2 with snapshots. */
int blk_resize(struct blk *blk, uint64_t size, struct err *err);

/* blk_resize() and, for what is gained, blk_preallocate(). When it fails the size is what it was. */
int blk_resize_preallocated(struct blk *blk, uint64_t size, enum blk_prealloc mode,
                            struct err *err);

/* Finds room for a range that was gained right before and has not been written to. -ENOTSUP: a mode that
 * the format does not have. When it fails part of it may have been done. */
int blk_preallocate(struct blk *blk, uint64_t offset, uint64_t length, enum blk_prealloc mode,
                    struct err *err);

/* Rewrites the backing name and format in the header (NULL: none) in one write; data is untouched and
 * the open chain stays as it is. */
int blk_set_backing(struct blk *blk, const char *name, const char *format, struct err *err);

/* Gives every cluster of the top layer back, so that it reads as its backing file. qcow2 only. */
int blk_make_empty(struct blk *blk, struct err *err);

/* What blk_amend() changes; what is 0 or not `set` stays as it is. */
struct blk_amend_options {
    unsigned compat;        /* 2 or 3 */
    unsigned refcount_bits; /* 1, 2, 4 ... 64; 16 alone with compat 2 */
    bool set_lazy_refcounts, lazy_refcounts;
    bool set_data_file_raw, data_file_raw; /* it can be taken away alone */
    bool set_data_file;                    /* the image has one; it takes the other name */
    const char *data_file;                 /* "": none is written down */
    uint64_t size;
    const struct blk_key_change *keys; /* NULL: key slots stay as they are */
};

/*
 * Changes what an image is, without a change of what it shows (but for `size`). What cannot be had is
 * refused with QEMU's words (-EINVAL, -ENOTSUP) before anything was changed; a crash or an error later
 * leaves a sound image with some of the changes. To be closed afterwards: an encrypted image may have
 * forgotten its key. -EIO: the image has errors.
 */
int blk_amend(struct blk *blk, const struct blk_amend_options *options, struct err *err);

/* ---- VM state (qcow2) ---- */

/*
 * What a virtual machine's devices and memory are, kept with its disk: bytes from 0 on, as far as the
 * tables reach, which read as zeros where nothing was written. They need the image to themselves.
 * Durable after blk_flush(). -ENOTSUP: a format without, or an external data file. -EFBIG: too far.
 */
int blk_vm_state_pread(struct blk *blk, uint64_t offset, void *buf, size_t length);
int blk_vm_state_pwrite(struct blk *blk, uint64_t offset, const void *buf, size_t length);

/* ---- persistent dirty bitmaps (qcow2 version 3) ---- */

struct blk_bitmap_info {
    const char *name; /* lives until the bitmaps change */
    uint64_t granularity;
    bool is_in_use;       /* marked on disk as not (yet) to be believed */
    bool is_enabled;      /* records every write ("auto") */
    bool is_inconsistent; /* was in use when the image was opened: can only be removed */
};

/* Bitmap `index` of the top layer; false when there are not so many. */
bool blk_bitmap_get(struct blk *blk, unsigned index, struct blk_bitmap_info *info);

/*
 * Changes, each of which is durable or has not happened. They need the image to themselves. -ENOENT:
 * no such bitmap; -EEXIST; -EUCLEAN: it is inconsistent.
 *
 * An enabled bitmap has a bit for each `granularity` bytes (a power of two from 512 to 2^31; 0: the
 * cluster size, but 4 to 64 KiB) that a write, write-zeroes or discard has touched. It is marked in
 * use on disk before the first of these, and stored by blk_close().
 */
int blk_bitmap_add(struct blk *blk, const char *name, uint64_t granularity, bool enabled,
                   struct err *err);
int blk_bitmap_remove(struct blk *blk, const char *name, struct err *err);
int blk_bitmap_clear(struct blk *blk, const char *name, struct err *err);
int blk_bitmap_enable(struct blk *blk, const char *name, bool enabled, struct err *err);
/* Adds what bitmap `source_name` of `source`, which may be the same image, has. */
int blk_bitmap_merge(struct blk *blk, const char *name, struct blk *source, const char *source_name,
                     struct err *err);
/* Calls back with each dirty extent of the device, in order and apart from each other; a result
 * other than 0 ends it and is returned. */
int blk_bitmap_dirty(struct blk *blk, const char *name,
                     int (*extent)(void *opaque, uint64_t offset, uint64_t length), void *opaque,
                     struct err *err);

/* ---- internal snapshots (qcow2) ---- */

struct blk_snapshot_info {
    const char *id, *name; /* live until the snapshots change */
    uint32_t date_seconds; /* when it was taken, since the Epoch */
    uint32_t date_nanoseconds;
    uint64_t vm_clock;      /* how long the guest had run, in nanoseconds */
    uint64_t vm_state_size; /* bytes; 0: the disk alone was saved */
    uint64_t icount;        /* instructions, UINT64_MAX: not recorded */
    uint64_t disk_size;     /* of the device at that time */
};

/* Snapshot `index` of the top layer: 1, or 0 when there are not so many. -EINVAL: their table is
 * malformed. */
int blk_snapshot_get(struct blk *blk, unsigned index, struct blk_snapshot_info *info,
                     struct err *err);

/* The first snapshot with that id and that name (NULL: any). -ENOENT: there is none. */
int blk_snapshot_find(struct blk *blk, const char *id, const char *name, unsigned *index,
                      struct err *err);

/*
 * Changes, each of which is durable or has not happened, whatever fails or cuts it short; at worst
 * clusters are leaked. They need the image to themselves, and an image that is open for writing. -ENOTSUP:
 * a format without snapshots, or an external data file. -ERANGE: refcounts are too narrow for one more
 * reference. -EIO: the image is corrupt. An index counts until the snapshots change.
 */

/* Takes a snapshot of the device as it is, with what else is stored in the L1 table. Of `info` name (at
 * most 65535 bytes), date, clock and icount count; an id is found, and no VM state is recorded. -EFBIG:
 * too many. */
int blk_snapshot_create(struct blk *blk, const struct blk_snapshot_info *info, struct err *err);
/* Makes the device what it was, its size included; the snapshot stays. -EBUSY: there are bitmaps. */
int blk_snapshot_apply(struct blk *blk, unsigned index, struct err *err);
int blk_snapshot_delete(struct blk *blk, unsigned index, struct err *err);

/* An image that is open read-only shows that snapshot from now on. The same image to oneself. */
int blk_snapshot_show(struct blk *blk, unsigned index, struct err *err);

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
