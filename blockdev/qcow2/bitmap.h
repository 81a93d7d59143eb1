/*
 * bitmap.h - persistent dirty bitmaps: what the files bitmap*.c share. Design and order of writes:
 * bitmap_store.c. Source: qcow2 specification, "Bitmaps extension" and "Bitmaps".
 *
 * Directory entry (big-endian, padded to 8 bytes):
 *   0 bitmap_table_offset(8)  8 bitmap_table_size  12 flags  16 type(1)  17 granularity_bits(1)
 *   18 name_size(2)  20 extra_data_size  24 extra data, then the name
 * Table entry: the offset of a cluster of bits, or 0: all zeros, or 1: all ones.
 *
 * Threads: the list and its entries change only while the caller has the image to himself (open,
 * close, blk_bitmap_*, resize). While requests run, three things change: the pages of bits, which are
 * atomic, `is_marked` (under mark_lock, which is taken before the layer's lock), and `is_lost`.
 */
#ifndef QCOW2_BITMAP_H
#define QCOW2_BITMAP_H

#include "checked.h"
#include "qcow2/qcow2.h"

enum {
    BITMAP_ENTRY_BYTES = 24,
    BITMAP_MIN_GRANULARITY_BITS = 9,
    BITMAP_MAX_GRANULARITY_BITS = 31,
    BITMAP_MAX_NAME = 1023,
    BITMAP_MAX_COUNT = 65535,
    BITMAP_TYPE_DIRTY = 1,
    BITMAP_PAGE_WORDS = 512,
    BITMAP_PAGE_BYTES = BITMAP_PAGE_WORDS * 8,
};

/* QEMU's limits; what passes them is still checked against the file. */
#define BITMAP_MAX_DIRECTORY (UINT64_C(65535) * 1024)
#define BITMAP_MAX_BYTES     (UINT64_C(512) << 20) /* of one bitmap */
/* Ours: of all tables of a layer that is opened for writing, and of all bits in memory. */
#define BITMAP_MAX_TABLES (UINT64_C(128) << 20)
#define BITMAP_MAX_MEMORY (UINT64_C(1) << 30)

#define BITMAP_IN_USE           UINT32_C(1)
#define BITMAP_AUTO             UINT32_C(2)
#define BITMAP_EXTRA_COMPATIBLE UINT32_C(4)
#define BITMAP_FLAGS_KNOWN      UINT32_C(7)

#define BITMAP_ALL_ONES       UINT64_C(1) /* a table entry */
#define BITMAP_TABLE_RESERVED UINT64_C(0xff000000000001fe)

struct bitmap_page {
    _Atomic uint64_t words[BITMAP_PAGE_WORDS]; /* little-endian, as on disk */
};

typedef _Atomic(struct bitmap_page *) bitmap_page_ref;

/* How a bitmap stands on disk, and what of that counts. */
struct bitmap_state {
    uint64_t table_offset; /* 0: no table yet */
    uint32_t table_size;   /* entries */
    uint32_t flags;        /* of the directory entry */
    uint64_t bits;         /* as many as the table is for */
    bool is_cleared;       /* what the table leads to counts no more */
    bool is_enabled;       /* records writes */
    bool is_inconsistent;  /* in use when it was opened, or lost since: only kept, or removed */
    bool is_marked;        /* marked in use by us */
};

struct bitmap {
    char *name;
    struct bitmap_state now, before; /* `before`: bitmap_store()'s */
    unsigned granularity_bits;
    uint8_t *extra; /* extra_size bytes, kept as they are */
    uint32_t extra_size;

    bool is_foreign;    /* has extra data that we would have to know */
    bool has_bad_table; /* not to be trusted with freeing anything (only when inconsistent) */

    bitmap_page_ref *pages; /* bits set since it was opened, beside those on disk; or NULL */
    uint64_t page_count;
    atomic_bool is_lost; /* a bit could not be set for want of memory */
};

struct qcow2_bitmaps {
    struct bitmap **list;
    unsigned count;
    uint64_t directory_offset, directory_size; /* 0: none */
    bool is_recording;                         /* a bitmap follows the writes */
    bool is_outdated;                          /* the image was written by who knew no bitmaps */
    bool has_cut_name; /* a zero byte ended a name: written back, it would be another */
    pthread_mutex_t mark_lock;
    atomic_bool is_marked; /* on disk those that record are in use: writes may go on */
    atomic_uint_fast64_t memory;
};

static inline bool bitmap_is_usable(const struct bitmap *b)
{
    return !b->now.is_inconsistent && !b->is_foreign;
}

static inline uint64_t bitmap_bits_for(const struct bitmap *b, uint64_t length)
{
    return (length >> b->granularity_bits) +
           ((length & ((UINT64_C(1) << b->granularity_bits) - 1)) != 0);
}

static inline uint64_t bitmap_table_entries(const struct qcow2 *q, uint64_t bits)
{
    return div_round_up(div_round_up(bits, 8), q->cluster_size);
}

/* bitmap_dir.c */
void bitmap_free(struct qcow2_bitmaps *set, struct bitmap *b);
struct bitmap *bitmap_find(const struct qcow2_bitmaps *set, const char *name);
int bitmap_list_append(struct qcow2_bitmaps *set, struct bitmap *b);
/* Fills the list from a directory that should hold `count` entries; `what` is freed by the caller
 * whatever the result. Knows nothing of the image but its cluster size. */
int bitmap_directory_parse(struct qcow2_bitmaps *set, const uint8_t *raw, uint64_t size,
                           uint32_t count, unsigned cluster_bits, struct err *err);
uint64_t bitmap_directory_bytes(const struct qcow2_bitmaps *set);
void bitmap_directory_encode(const struct qcow2_bitmaps *set, uint8_t *raw);

/* bitmap_bits.c */
/* Makes room for `bits` bits in memory, or sets is_lost. */
void bitmap_bits_prepare(struct qcow2_bitmaps *set, struct bitmap *b, uint64_t bits);
void bitmap_bits_drop(struct qcow2_bitmaps *set, struct bitmap *b);
/* Sets bits [first, last]. Any thread. */
void bitmap_bits_set(struct qcow2_bitmaps *set, struct bitmap *b, uint64_t first, uint64_t last);
/* Gives `b` a copy of what `from` has in memory; or sets is_lost. */
void bitmap_bits_copy(struct qcow2_bitmaps *set, struct bitmap *b, const struct bitmap *from);
/* Drops what lies at `bits` and above. */
void bitmap_bits_cut(struct bitmap *b, uint64_t bits);
/* Whether a bit in memory is set in bytes [offset, offset + length) of the bitmap, multiples of 8. */
bool bitmap_bits_touch(const struct bitmap *b, uint64_t offset, uint64_t length);
/* Adds the bits in memory to such a range in `buf`. */
void bitmap_bits_merge(const struct bitmap *b, uint64_t offset, uint8_t *buf, uint64_t length);
/* Clears the bits at `bits` and above in `buf`, which holds the bits from `first` on. */
void bitmap_bits_mask(uint8_t *buf, uint64_t length, uint64_t first, uint64_t bits);

/* bitmap_table.c */
/* Reads and checks the table on disk; *entries is the caller's. -EINVAL: it is malformed. */
int bitmap_table_load(struct qcow2 *q, const struct bitmap *b, uint64_t **entries);
/* The content of entry `index` as it is now, on disk and in memory; *is_zero: it is all zeros. */
int bitmap_cluster_read(struct qcow2 *q, const struct bitmap *b, const uint64_t *entries,
                        uint64_t index, uint8_t *buf, bool *is_zero);
/* Keeps the places of directory, tables and bits, so that nothing else is written there. */
int bitmap_register_clusters(struct qcow2 *q, struct err *err);
/* Calls back with each run of set bits, in order; stops when that returns other than 0. */
int bitmap_each_run(struct qcow2 *q, const struct bitmap *b,
                    int (*run)(void *opaque, uint64_t first, uint64_t bits), void *opaque);

/* bitmap_store.c */
/* Marks on disk what `all` or what records as in use. */
int bitmap_mark(struct qcow2 *q, bool all);
/* Makes the disk say what memory says; NULL: nothing is removed. When it fails, memory says of the
 * disk what it did. For who has the image to himself. */
int bitmap_store(struct qcow2 *q, const struct bitmap *removed, struct err *err);

/* bitmap.c */
void bitmap_update_recording(struct qcow2_bitmaps *set);

/* header_extension.c */
/* Makes the header name a new directory, or none (count 0). Syncs before and after. */
int qcow2_header_write_bitmaps(struct qcow2 *q, uint32_t count, uint64_t directory_offset,
                               uint64_t directory_size, struct err *err);

#endif
