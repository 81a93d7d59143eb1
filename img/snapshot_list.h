/*
 * snapshot_list.h - the list of internal snapshots, as qemu-img shows it.
 */
#ifndef IMG_SNAPSHOT_LIST_H
#define IMG_SNAPSHOT_LIST_H

#include "blockdev.h"
#include "json.h"

/* Prints "Snapshot list:" and a table; nothing when there are none. -EINVAL: *err says why not. */
int snapshot_list_print(struct blk *blk, struct err *err);
/* The same for --output=json: *list is NULL when there are none. */
int snapshot_list_to_json(struct blk *blk, json_t **list, struct err *err);

#endif
