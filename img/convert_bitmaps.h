/*
 * convert_bitmaps.h - the persistent dirty bitmaps of an image, copied into another one.
 */
#ifndef IMG_CONVERT_BITMAPS_H
#define IMG_CONVERT_BITMAPS_H

#include "img.h"

/* Whether the top layer's format has bitmaps. */
bool convert_bitmaps_can_have(struct blk *blk);

/* False after a message: the first inconsistent bitmap, unless these are to be left out. */
bool convert_bitmaps_check(struct blk *source, bool skip_broken);

/* Gives `target` every bitmap of `source`, with its granularity and whether it records; a warning for each
 * that is left out. */
int convert_bitmaps_copy(struct blk *source, struct blk *target, bool skip_broken, struct err *err);

#endif
