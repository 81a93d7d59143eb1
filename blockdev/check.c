#include "block.h"

#include <errno.h>

int blk_check(struct blk *blk, unsigned fix, void (*report)(void *opaque, const char *line),
              void *opaque, struct blk_check_result *result, struct err *err)
{
    if (blk->format->check == NULL)
        return err_set(err, -ENOTSUP, "'%s': format %s has no check", blk->path, blk->format->name);
    return blk->format->check(blk, fix, report, opaque, result, err);
}
