#include "snapshot_param.h"

#include "log.h"
#include "optstr.h"

#include <errno.h>
#include <string.h>

/* "snapshot.id=ID,snapshot.name=NAME", one or both of them. */
static int find_by_keys(struct blk *blk, const char *param, unsigned *index)
{
    struct optstr opts;
    struct err err;
    int rc = optstr_parse(&opts, param, NULL, &err);
    const char *id, *name;

    if (rc < 0) {
        log_error("%s", err.text);
        return rc;
    }
    id = optstr_get(&opts, "snapshot.id");
    name = optstr_get(&opts, "snapshot.name");
    for (unsigned i = 0; i < opts.count && rc == 0; i++) {
        if (!opts.items[i].used) {
            log_error("Invalid parameter '%s'", opts.items[i].key);
            log_error("Failed in parsing snapshot param '%s'", param);
            rc = -EINVAL;
        }
    }
    if (rc == 0) {
        rc = blk_snapshot_find(blk, id, name, index, &err);
        if (rc < 0)
            log_error("Failed to load snapshot: Can't find snapshot");
    }
    optstr_free(&opts);
    return rc;
}

int snapshot_param_show(struct blk *blk, const char *param)
{
    unsigned index;
    struct err err;
    int rc;

    if (strncmp(param, "snapshot.", 9) == 0) {
        rc = find_by_keys(blk, param, &index);
        if (rc != 0)
            return rc;
    } else if (blk_snapshot_find(blk, param, NULL, &index, &err) < 0 &&
               (rc = blk_snapshot_find(blk, NULL, param, &index, &err)) < 0) {
        log_error("Failed to load snapshot: %s", rc == -ENOENT ? "Can't find snapshot" : err.text);
        return rc;
    }
    rc = blk_snapshot_show(blk, index, &err);
    if (rc < 0)
        log_error("Failed to load snapshot: %s", err.text);
    return rc;
}
