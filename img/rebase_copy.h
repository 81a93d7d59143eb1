/*
 * rebase_copy.h - the copying half of a safe rebase.
 */
#ifndef IMG_REBASE_COPY_H
#define IMG_REBASE_COPY_H

#include "img.h"

/* Copies into `overlay` what its chain shows and `new_base` (NULL: none, zeros) would not show in its
 * place; `compress`: clusters that it has nothing of are written compressed. Nothing is flushed. */
int rebase_copy(struct blk *overlay, struct blk *new_base, bool compress, struct progress *progress,
                struct err *err);

#endif
