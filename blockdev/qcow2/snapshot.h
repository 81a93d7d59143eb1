/*
 * snapshot.h - internal snapshots: what the files snapshot*.c share. Design and order of writes:
 * snapshot_shadow.c. Source: qcow2 specification, "Snapshots".
 *
 * Entry of the snapshot table (big-endian, padded to 8 bytes):
 *   0 l1_table_offset(8)  8 l1_size  12 id_size(2)  14 name_size(2)  16 date_sec  20 date_nsec
 *   24 vm_clock(8)  32 vm_state_size  36 extra_data_size  40 extra data, then the id, then the name
 * Extra data: 40 vm_state_size(8), which counts instead of the one before  48 disk_size(8)
 *   56 icount(8)  64 what we do not know
 *
 * An entry is kept as it lies on disk, so what we do not know of it survives.
 *
 * Threads: everything here is for who has the image to himself.
 */
#ifndef QCOW2_SNAPSHOT_H
#define QCOW2_SNAPSHOT_H

#include "checked.h"
#include "qcow2/qcow2.h"

enum {
    SNAPSHOT_ENTRY_BYTES = 40,
    SNAPSHOT_EXTRA_BYTES = 24, /* that we know and write */
    SNAPSHOT_MAX_EXTRA = 1024,
};

/* QEMU's limit; what passes it is still checked against the file. */
#define SNAPSHOT_MAX_TABLE (UINT64_C(64) << 20)
/* Ours: of all L1 tables of the snapshots of a layer that is opened for writing. */
#define SNAPSHOT_MAX_L1_BYTES (UINT64_C(256) << 20)

struct snapshot {
    uint8_t *raw; /* the entry, padding included */
    size_t bytes;
    struct blk_snapshot_info info; /* id and name are owned */
    uint64_t l1_offset;
    uint32_t l1_entries;
};

struct qcow2_snapshots {
    struct snapshot *list;
    unsigned count;
    uint64_t table_bytes; /* on disk; the header says where */
};

/* ---- snapshot_table.c ---- */

/* Reads the table into a new set, the caller's. -EINVAL: it is malformed. */
int snapshot_table_load(struct qcow2 *q, struct qcow2_snapshots **out, struct err *err);
void snapshot_set_free(struct qcow2_snapshots *set);
/* A set with the same entries but the one at `without` (UINT_MAX: all), and room for one more. */
struct qcow2_snapshots *snapshot_set_copy(const struct qcow2_snapshots *set, unsigned without);
/* Appends an entry with a new id; its L1 table is set later. */
int snapshot_set_append(struct qcow2_snapshots *set, const struct blk_snapshot_info *info);
void snapshot_set_l1(struct snapshot *snapshot, uint64_t offset, uint32_t entries);
/* What the entries take on disk. */
uint64_t snapshot_set_bytes(const struct qcow2_snapshots *set);
/* Puts the entries one behind the other into a new array of table_bytes bytes. */
uint8_t *snapshot_set_encode(struct qcow2_snapshots *set);
/* Reads a snapshot's L1 table into a new array of host order, `count` >= its entries long, and checks
 * each entry that leads to a table. */
int snapshot_l1_load(struct qcow2 *q, const struct snapshot *snapshot, uint64_t count,
                     uint64_t **out);

/* ---- snapshot_shadow.c ---- */

struct snapshot_places {
    uint64_t *offsets; /* of clusters */
    size_t count, room;
};

/* References that were taken from, or added to, what a tree leads to: so many of them, in its order. */
struct snapshot_pass {
    const uint64_t *l1;
    uint64_t l1_count, references;
};

/* The state that an operation builds beside the one that counts. */
struct shadow {
    struct qcow2 *q;
    struct qcow2_header header; /* as it will be */
    struct qcow2_table l1;      /* the active one as it will be */
    struct qcow2_table
        reftable; /* the one that counts not: the new one before begin, then the old */
    bool is_begun;
    struct snapshot_places blocks; /* for refcount blocks, the first `blocks_used` taken */
    struct snapshot_places tables; /* for L2 tables, likewise */
    size_t blocks_used, tables_used;
    struct qcow2_runs runs; /* allocated for L1 tables, the snapshot table, the refcount table */
    struct snapshot_places emptied; /* clusters whose refcount came down to 0 */
    struct snapshot_places gained;  /* uses of metadata that were noted in advance */
    bool may_revive;                /* a refcount that came down to 0 may go up again */
    uint64_t references;            /* counted in the pass that is under way */

    /* snapshot_in_place.c: there is no second state, but the dirty bit. */
    bool in_place;
    bool is_final; /* tables have changed: there is no way back */
    bool is_kept;  /* those that were emptied have a reference for the time being */
    struct snapshot_pass lowered, raised;
    bool is_undoing; /* references are counted back, `left` more of them */
    uint64_t left;
};

/* An operation: a shadow, and the snapshots as they will be. */
struct change {
    struct shadow shadow;
    struct qcow2_snapshots *set;
    uint64_t *l1;      /* of the snapshot that is applied or deleted */
    uint64_t l1_count; /* its entries */
    bool was_lazy;
    bool is_planned;  /* it is known what is to be done; from here on room is needed */
    bool keeps_l1;    /* the active L1 table stays where it is; shadow.l1 has what it held */
    bool keeps_table; /* and so does the snapshot table */
};

/* ---- snapshot.c ---- */

/* An active L1 table of `count` entries, in memory; and with room for it. */
int snapshot_make_l1(struct change *c, uint64_t count);
int snapshot_reserve_l1(struct change *c, uint64_t count);
/* Room for the new snapshot table; what it says is complete when it is written. */
int snapshot_reserve_table(struct change *c);
int snapshot_write_table(struct change *c);

/* ---- snapshot_in_place.c ---- */

bool snapshot_can_change_in_place(const struct qcow2 *q);
/* The operations, once it is known what becomes of the set of snapshots, and which tree it is about; the
 * shadow is `in_place`. 0: done, and durable. */
int snapshot_create_in_place(struct qcow2 *q, struct change *c);
int snapshot_apply_in_place(struct qcow2 *q, struct change *c);
int snapshot_delete_in_place(struct qcow2 *q, struct change *c, unsigned index);
/* Takes back what an operation that failed has counted; when that cannot be done writing stops. */
void snapshot_undo_in_place(struct shadow *s);

int snapshot_places_add(struct snapshot_places *places, uint64_t offset);
/* Room for a table of so many bytes in one run of clusters; given back at the end if it is not metadata
 * by then. */
int shadow_reserve(struct shadow *s, uint64_t bytes, uint64_t *offset);
/* Reserves `tables` L2 tables, and makes q's refcounts the shadow's: from here on to shadow_end no
 * cluster is allocated. */
int shadow_begin(struct shadow *s, size_t tables);
/* -EIO (corrupt) unless all of them have references: before room is allocated. */
int shadow_expect(struct shadow *s, uint64_t host_offset, uint64_t clusters);
int shadow_raise(struct shadow *s, uint64_t host_offset, uint64_t clusters);
int shadow_lower(struct shadow *s, uint64_t host_offset, uint64_t clusters);
/* A place for an L2 table; there are as many as were reserved. */
uint64_t shadow_take_table(struct shadow *s);
/* Notes one more use of a cluster for metadata, taken back if it comes to nothing. */
int shadow_gain(struct shadow *s, uint64_t cluster);
int shadow_gain_range(struct shadow *s, uint64_t offset, uint64_t bytes);
/* Writes a table of `bytes` bytes to whole clusters of its own: new ones, or those of the snapshot table. */
int shadow_write(struct shadow *s, enum qcow2_writes what, uint64_t offset, const void *raw,
                 uint64_t bytes);
int shadow_write_l1(struct shadow *s, const struct qcow2_table *l1);
/* All that the new state needs is stable: what the header names may change. */
int shadow_settle(struct shadow *s);
/* Makes the shadow's state the one that counts: durable when it returns 0. */
int shadow_publish(struct shadow *s);
/* Gives back what is not used any more, of the old state if it `is_done` and of the new one otherwise. */
void shadow_end(struct shadow *s, bool is_done);

/* ---- snapshot_tree.c: an L1 table, its L2 tables and what they lead to ---- */

size_t snapshot_tree_tables(const uint64_t *l1, uint64_t count);
/* Whether all of it makes sense and has references: before room is allocated. */
int snapshot_tree_expect(struct shadow *s, const uint64_t *l1, uint64_t count);
/* Takes one reference from all of it, and adds one. */
int snapshot_tree_lower(struct shadow *s, const uint64_t *l1, uint64_t count);
int snapshot_tree_raise(struct shadow *s, const uint64_t *l1, uint64_t count);
/* No table has COPIED flags any more, where it is. */
int snapshot_tree_clear_flags(struct shadow *s, const uint64_t *l1, uint64_t count);
/* s->l1 becomes a second tree over the same clusters, which get a reference more. Its COPIED flags say
 * that they are shared. */
int snapshot_tree_share(struct shadow *s, const uint64_t *l1, uint64_t count);
/* s->l1 becomes the active table with COPIED flags that follow the refcounts; tables that change move,
 * or are changed in place. */
int snapshot_tree_follow(struct shadow *s, const uint64_t *l1, uint64_t count);
/* The tree's L2 tables have one use less. */
void snapshot_tree_forget(struct qcow2 *q, const uint64_t *l1, uint64_t count);

#endif
