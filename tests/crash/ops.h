/*
 * ops.h - what workloads consist of.
 */
#ifndef CRASH_OPS_H
#define CRASH_OPS_H

#include "world.h"

/* ---- requests (ops_io.c) ---- */

/*
 * One random request of the workload's mix:
 *   w write  W write whole clusters  F write with FUA  o overwrite near the front
 *   c write whole clusters compressed
 *   f flush  t flush to the file alone (BLK_REQ_TO_FILE)
 *   z write zeroes  u the same and unmap  d discard  r read and compare
 */
int op_mix(struct world *world, uint64_t arg);
/* A request of the mix to a cluster in every `arg` bytes: much metadata is dirty at once. */
int op_scatter(struct world *world, uint64_t arg);
/* `threads` threads with a queue each carry out `arg` requests of the mix. */
int op_threads(struct world *world, uint64_t arg);
/* From now on another thread flushes in the middle of some writes (disk.h: midway). */
int op_flush_midway(struct world *world, uint64_t arg);
/* Writes the first `arg` percent of the device from front to back. */
int op_fill(struct world *world, uint64_t arg);
/* Write zeroes over the whole device, keeping its clusters. */
int op_zero_all(struct world *world, uint64_t arg);
int op_flush(struct world *world, uint64_t arg);
/* Discards the first `arg` percent, and flushes until the clusters are free. */
int op_discard_front(struct world *world, uint64_t arg);

/* ---- what needs the image to itself (ops_image.c) ---- */

/* To `arg` bytes. */
int op_resize(struct world *world, uint64_t arg);
/* Writes VM state, from byte `arg` of it on; the device shows what it showed. */
int op_vm_state(struct world *world, uint64_t arg);
/* One of four sets of options: wider refcounts, version 2, version 3, narrower ones. */
int op_amend(struct world *world, uint64_t arg);
/* One of three changes of the key slots, between CRASH_KEY and CRASH_KEY2. key_slots.c. */
int op_key_slots(struct world *world, uint64_t arg);
/* The same, with space kept for what is gained. */
int op_preallocate(struct world *world, uint64_t arg);
int op_reopen(struct world *world, uint64_t arg);
int op_empty(struct world *world, uint64_t arg);
/* `minivmm-img commit`. */
int op_commit(struct world *world, uint64_t arg);
/* `minivmm-img rebase` to new.raw, to new.qcow2, or to no backing file. */
int op_rebase(struct world *world, uint64_t arg);
int op_rebase_to_qcow2(struct world *world, uint64_t arg);
int op_rebase_to_none(struct world *world, uint64_t arg);
/* blk_set_backing() to a file of the same content with a name of `arg` bytes. */
int op_rename_base(struct world *world, uint64_t arg);
/* blk_check() with `arg` as what to fix. */
int op_check(struct world *world, uint64_t arg);
/* Spoils the image: `arg` says what of it. It is closed then. ops_damage.c. */
enum {
    DAMAGE_COPIED = 1,
    DAMAGE_REFCOUNTS = 2,
    DAMAGE_LEAKS = 4,
    DAMAGE_TABLE = 8, /* of refcounts */
    DAMAGE_SNAPSHOTS = 16,
};
int op_damage(struct world *world, uint64_t arg);

/*
 * Dirty bitmaps. The image has an enabled one called "tracker" from the beginning, which is left alone:
 * where it can be used, it has every sector that has changed since (verify.c). ops_bitmap.c.
 */
/* One random change of another one, called "other". */
int op_bitmap_any(struct world *world, uint64_t arg);
/* Adds the only bitmap of an image, or removes it: the header's extension comes and goes. */
int op_bitmap_only(struct world *world, uint64_t add);

/* Takes a snapshot; applies or deletes one of those that there are. `arg`: 0, or one more than the pages that
 * the disk has left meanwhile, which must do. ops_snapshot.c. */
int op_snapshot_create(struct world *world, uint64_t arg);
int op_snapshot_apply(struct world *world, uint64_t arg);
int op_snapshot_delete(struct world *world, uint64_t arg);

/* A command of minivmm-img, which finds the disk's files by their names. What the device shows does
 * not change. */
int world_run_command(struct world *world, int (*command)(int argc, char **argv), char **argv);

/* Whether CRASH_KEY or CRASH_KEY2 opens each active slot; else `why` says which it is not. */
bool key_slots_are_whole(struct blk *blk, char *why, size_t size);

/* Reads the device and compares it with what the model allows now. */
void world_compare(struct world *world);

#endif
