/*
 * block_limits.h - what requests to an image should look like, for `info --limits`. Source: QEMU's BlockLimitsInfo.
 */
#ifndef IMG_BLOCK_LIMITS_H
#define IMG_BLOCK_LIMITS_H

#include "json.h"

#include "blockdev.h"

void limits_print(const struct blk_info *info);
json_t *limits_to_json(const struct blk_info *info);

#endif
