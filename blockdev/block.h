/*
 * block.h - one layer of a chain, and what a format is.
 *
 * The engine keeps three steps apart: mapping (where does this range lie), data I/O (with no lock
 * held), and, for writes that allocate, publishing (what was written becomes what the map says).
 * Reading is the same for every format: chain.c maps the range from the top layer down and reads
 * what it finds; so a format reads guest data itself only where it does not lie in a file as it is
 * (compressed, encrypted). Writing is the format's own business.
 *
 * Threads: everything may be called from any thread at any time, but for what blockdev.h says needs
 * the image to itself. Locks, in order: first_sector_lock (raw.c), a qcow2 layer's lock (qcow2.h),
 * problem_lock. No data I/O and no call into another layer happens under a qcow2 layer's lock.
 */
#ifndef BLOCKDEV_BLOCK_H
#define BLOCKDEV_BLOCK_H

#include "blockdev.h"
#include "file.h"

#include <pthread.h>
#include <stdatomic.h>

/* A chain deeper than this is refused; it bounds descriptors, and work per request. */
enum { BLK_MAX_DEPTH = 4096 };

enum { BLK_NOT_HELD = -1 };

/* What one layer knows about a range; UNALLOCATED: not in this layer. */
struct layer_extent {
    enum blk_extent_kind kind;
    uint64_t length;
    bool has_host_offset; /* DATA: always; ZERO: storage is kept for it */
    uint64_t host_offset;
    bool is_encrypted; /* what lies at host_offset; DATA: the format's read() reads it */
    bool is_hole;      /* DATA, with LAYER_MAP_PRECISE: its place in the file is a hole */
    struct file
        *file; /* DATA: where its bytes lie; the layer's. NULL: a data file that is not open */
    /* COMPRESSED, with LAYER_MAP_HOLD: where the compressed bytes of the extent's one cluster lie. */
    uint64_t packed_offset, packed_length;
    int hold; /* what unhold() takes back, or BLK_NOT_HELD */
};

enum {
    LAYER_MAP_HOLD = 1,    /* the host range must not be reused until unhold() */
    LAYER_MAP_PRECISE = 2, /* look for holes inside what is allocated (slow) */
    LAYER_MAP_NO_WAIT = 4, /* -EAGAIN where metadata would have to come from storage */
};

/* As the functions blk_bitmap_*; the image is writable where it changes. */
struct blk_bitmap_ops {
    bool (*get)(struct blk *blk, unsigned index, struct blk_bitmap_info *info);
    int (*add)(struct blk *blk, const char *name, uint64_t granularity, bool enabled,
               struct err *err);
    int (*remove)(struct blk *blk, const char *name, struct err *err);
    int (*clear)(struct blk *blk, const char *name, struct err *err);
    int (*enable)(struct blk *blk, const char *name, bool enabled, struct err *err);
    int (*merge)(struct blk *blk, const char *name, struct blk *source, const char *source_name,
                 struct err *err);
    int (*dirty)(struct blk *blk, const char *name,
                 int (*extent)(void *opaque, uint64_t offset, uint64_t length), void *opaque,
                 struct err *err);
};

/* As the functions blk_snapshot_*; the image is writable where it changes, and not for show(). */
struct blk_snapshot_ops {
    int (*get)(struct blk *blk, unsigned index, struct blk_snapshot_info *info, struct err *err);
    int (*create)(struct blk *blk, const struct blk_snapshot_info *info, struct err *err);
    int (*apply)(struct blk *blk, unsigned index, struct err *err);
    int (*delete)(struct blk *blk, unsigned index, struct err *err);
    int (*show)(struct blk *blk, unsigned index, struct err *err);
};

struct blk_format {
    const char *name;
    /* Reads the metadata through blk->file; sets length and state. */
    int (*open)(struct blk *blk, const struct blk_open_options *options, struct err *err);
    /* Writes back what is dirty and frees `state`; must cope with a half-done open. */
    int (*close)(struct blk *blk, struct err *err);
    /* Finds the longest range from `offset`, at most `length` bytes (> 0, inside the layer), that
     * shares one answer. */
    int (*map)(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
               struct layer_extent *extent);
    void (*unhold)(struct blk *blk, int hold);
    /* Reads what map() found at `offset`, the first extent->length bytes behind `skip` bytes of the
     * vector. Called for COMPRESSED extents and encrypted DATA: other DATA is read as it lies in
     * extent->file. */
    int (*read)(struct blk *blk, uint64_t offset, const struct layer_extent *extent,
                const struct iovec *iov, int count, uint64_t skip);
    /* A request is about to change the range; NULL: nobody wants to know. Not called for what the
     * engine itself writes without a change of what the guest sees. */
    int (*track)(struct blk *blk, uint64_t offset, uint64_t length);
    /* The range lies inside the layer and is not empty. */
    int (*write)(struct blk *blk, uint64_t offset, const struct iovec *iov, int count,
                 uint64_t length);
    /* Where a write of just this range may go, in extent->file, while extent->hold is held (always to be given
     * back): to data in one piece that is this layer's alone, and there is nothing else to be done. False: there
     * is more to it, or finding out could wait. NULL: always. */
    bool (*map_overwrite)(struct blk *blk, uint64_t offset, uint64_t length,
                          struct layer_extent *extent);
    int (*write_zeroes)(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags);
    int (*discard)(struct blk *blk, uint64_t offset, uint64_t length);
    /* One cluster, whole; NULL where the format cannot. compress() pads what is shorter with zeros;
     * *packed_length 0: it does not get smaller. */
    int (*compress)(struct blk *blk, const void *buf, size_t length, void *packed,
                    size_t *packed_length);
    int (*write_packed)(struct blk *blk, uint64_t offset, const void *packed, size_t length);
    int (*flush)(struct blk *blk);
    int (*to_file)(struct blk *blk); /* a flush with BLK_REQ_TO_FILE; NULL where nothing is kept */
    int (*resize)(struct blk *blk, uint64_t size, struct err *err);
    /* `mode` is not BLK_PREALLOC_OFF; the range reads as zeros. */
    int (*preallocate)(struct blk *blk, uint64_t offset, uint64_t length, enum blk_prealloc mode,
                       struct err *err);
    /* As blk_vm_state_pread() and _pwrite(); NULL where the format has none. */
    int (*vm_state)(struct blk *blk, bool is_write, uint64_t offset, const struct iovec *iov,
                    int count, uint64_t length);
    void (*info)(struct blk *blk, struct blk_info *info);
    /* As blk_unsettled(); NULL where the format keeps nothing. */
    bool (*unsettled)(struct blk *blk);
    /* As blk_redo_log_size() and blk_redo_log(); NULL where the format keeps nothing. */
    size_t (*redo_log_size)(void);
    int (*redo_log)(struct blk *blk, void *memory, size_t bytes, struct err *err);
    /* Adds this layer's; NULL where the format counts nothing. */
    void (*count)(struct blk *blk, struct blk_counters *counters);
    /* As blk_get_encryption(); NULL where the format has none. */
    bool (*encryption)(struct blk *blk, struct blk_encryption *encryption);
    /* NULL where the format cannot. */
    int (*set_backing)(struct blk *blk, const char *name, const char *format, struct err *err);
    int (*make_empty)(struct blk *blk, struct err *err);
    int (*amend)(struct blk *blk, const struct blk_amend_options *options, struct err *err);
    const struct blk_bitmap_ops *bitmaps;
    const struct blk_snapshot_ops *snapshots;
    /* As blk_check(); `fix` not 0 leaves the layer opened afresh, or, on failure, fit for close. */
    int (*check)(struct blk *blk, unsigned fix, void (*report)(void *opaque, const char *line),
                 void *opaque, struct blk_check_result *result, struct err *err);
};

extern const struct blk_format raw_format, qcow2_format;

struct blk {
    const struct blk_format *format;
    struct file *file;
    struct blk *backing;
    struct blk *shown; /* raw: the image whose disk `file` is (file_disk.h), or NULL; owned */
    char *path;
    uint64_t length;
    dev_t device; /* what the host file is; both 0: not known */
    ino_t inode;
    bool writable;
    enum blk_aio aio;       /* options.aio; the top layer's counts */
    bool is_volatile;       /* a flush has nothing to do */
    bool can_discard;       /* options.discard */
    bool is_probed;         /* the format was guessed from the first bytes */
    char *backing_name;     /* as written in the image, or NULL */
    char *backing_format;   /* as written in the image, or NULL */
    char *backing_path;     /* resolved, or NULL */
    char *data_name;        /* of the data file, as written in the image, or NULL */
    bool has_data_file;     /* guest data lies in a file of its own, not in `file` */
    struct file *data_file; /* that file; NULL: there is none, or it was not to be opened */
    dev_t data_device;
    ino_t data_inode;
    atomic_bool has_queues;                 /* or had some */
    atomic_uint writes_begun, writes_ended; /* in queues' own threads */
    void *state;                            /* the format's */
    struct merged *merged; /* what is known of the layers below this one, the top; or NULL */

    pthread_mutex_t first_sector_lock; /* raw.c: see there */
    pthread_mutex_t problem_lock;
    struct err problem; /* the first thing that went wrong while running; "" if none */
};

/* Opens on a file that is already open (any ops table); the blk owns it from then on, on failure
 * too. options->path is for messages and for relative backing names. Takes the locks when the file
 * has a descriptor. */
int blk_open_file(struct file *file, const struct blk_open_options *options, struct blk **out,
                  struct err *err);

/* ---- ephemeral.c ---- */
/* blk_open() with options->ephemeral. */
int ephemeral_open(const struct blk_open_options *options, struct blk **out, struct err *err);

/* ---- open.c ---- */
/* A layer of an open file, which it owns from then on, on failure (NULL) too; without a format yet. */
struct blk *blk_new_layer(struct file *file, const struct blk_open_options *options,
                          struct err *err);
/* The layer alone, once its format is through with it. */
void blk_free_layer(struct blk *blk);
enum { PROBE_BYTES = 512 };
/* Which format the first `length` bytes of a file are. */
const struct blk_format *blk_probe_bytes(const uint8_t *bytes, size_t length);

/* ---- policy.c ---- */
/* -EACCES unless the open file lies below the directory `root`, links resolved. */
int policy_check_root(const char *root, const struct file *file, struct err *err);

/* ---- chain.c ---- */
/* Where the chain from `top` down holds `offset`: *layer is the layer that answers, NULL when none
 * does; then *depth is that of the last one that reaches so far. extent->hold is set (to be given back with the format's unhold) only if LAYER_MAP_HOLD. */
int chain_map(struct blk *top, uint64_t offset, uint64_t length, unsigned flags, struct blk **layer,
              unsigned *depth, struct layer_extent *extent);
/* Gives back what chain_map() held; `layer` may be NULL. */
void chain_unhold(struct blk *layer, int hold);
/* Reads; what lies behind the end of `top` reads as zeros. */
int chain_readv(struct blk *top, uint64_t offset, const struct iovec *iov, int count,
                uint64_t length);
/* The same; -EAGAIN, with any of it read or not, where it could wait for storage, or takes long. */
int chain_try_readv(struct blk *top, uint64_t offset, const struct iovec *iov, int count,
                    uint64_t length);

/* ---- sync.c ---- */
/* Carries out one request in the calling thread and returns its result. */
int blk_run(struct blk *blk, enum blk_op op, unsigned flags, uint64_t offset, uint64_t length,
            const struct iovec *iov, int count);

/* A read, or -EAGAIN: see chain_try_readv(). */
int blk_try_read(struct blk *blk, uint64_t offset, uint64_t length, const struct iovec *iov,
                 int count);

/* Where the kernel may write the request by itself: the format's map_overwrite(). */
bool blk_map_overwrite(struct blk *blk, uint64_t offset, uint64_t length, const struct iovec *iov,
                       int count, struct layer_extent *extent);

/* Keeps the text if it is the first (see blk_problem()) and returns `code`. */
int blk_note_problem(struct blk *blk, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
