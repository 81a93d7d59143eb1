/*
 * snapshot_param.h - the snapshot that a command reads from, as convert's -l names it.
 */
#ifndef IMG_SNAPSHOT_PARAM_H
#define IMG_SNAPSHOT_PARAM_H

#include "blockdev.h"

/* Makes an image that is open read-only show a snapshot: "snapshot.id=ID,snapshot.name=NAME", or an id, or
 * a name. Negative after a message. */
int snapshot_param_show(struct blk *blk, const char *param);

#endif
