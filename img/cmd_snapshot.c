/*
 * cmd_snapshot.c - `snapshot`: lists, takes, applies and deletes internal snapshots.
 */
#include "img.h"
#include "log.h"
#include "snapshot_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OPT_OBJECT = 0x200, MAX_NAME = 255 /* bytes; what is longer is cut, as by qemu-img */ };

struct snapshot_args {
    struct blk_open_options open;
    int action; /* 'l', 'a', 'c', 'd'; 0: nothing */
    char name[MAX_NAME + 1];
};

static bool parse_args(int argc, char **argv, struct snapshot_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"force-share", no_argument, NULL, 'U'},
        {"object", required_argument, NULL, OPT_OBJECT},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hla:c:d:f:qU", longopts, status)) != -1) {
        switch (c) {
        case 'l':
        case 'a':
        case 'c':
        case 'd':
            if (args->action != 0) {
                *status = img_usage_error("Cannot mix '-l', '-a', '-c', '-d'");
                return false;
            }
            args->action = c;
            if (c != 'l')
                (void)snprintf(args->name, sizeof(args->name), "%s", optarg);
            break;
        case 'f':
            args->open.format = optarg;
            break;
        case 'U':
            args->open.force_share = true;
            break;
        case 'q':
        case OPT_OBJECT:
            break;
        default:
            return false;
        }
    }
    return img_take_image(argc, argv, &args->open.path, status);
}

static int list(struct blk *blk)
{
    struct err err;

    if (snapshot_list_print(blk, &err) < 0) {
        log_error("%s", err.text);
        return 1;
    }
    return 0;
}

static int create(struct blk *blk, const char *name)
{
    struct blk_snapshot_info info = {.name = name};
    struct timespec now;
    struct err err;
    int rc;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    info.date_seconds = (uint32_t)now.tv_sec;
    info.date_nanoseconds = (uint32_t)now.tv_nsec;
    rc = blk_snapshot_create(blk, &info, &err);
    if (rc == -ERANGE)
        rc = -EINVAL; /* what qemu-img says of refcounts that are too narrow */
    if (rc < 0)
        log_error("Could not create snapshot '%s': %d (%s)", name, rc, strerror(-rc));
    return rc < 0 ? 1 : 0;
}

/* The name may be an id, which goes first. */
static int apply(struct blk *blk, const char *name)
{
    unsigned index;
    struct err err;
    int rc = blk_snapshot_find(blk, name, NULL, &index, &err);

    if (rc < 0)
        rc = blk_snapshot_find(blk, NULL, name, &index, &err);
    if (rc == 0)
        rc = blk_snapshot_apply(blk, index, &err);
    if (rc < 0 && strcmp(blk_format(blk), "raw") == 0)
        log_error("Could not apply snapshot '%s': Block driver does not support snapshots", name);
    else if (rc == -EBUSY)
        log_error("Could not apply snapshot '%s': %s", name, err.text);
    else if (rc < 0)
        log_error("Could not apply snapshot '%s': Failed to load snapshot: %s", name,
                  strerror(-rc));
    return rc < 0 ? 1 : 0;
}

static int delete (struct blk *blk, const char *name)
{
    unsigned index;
    struct err err;
    int rc = blk_snapshot_find(blk, NULL, name, &index, &err);

    if (rc == -ENOENT) {
        log_error("Could not delete snapshot '%s': snapshot not found", name);
        return 1;
    }
    if (rc == 0)
        rc = blk_snapshot_delete(blk, index, &err);
    if (rc < 0)
        log_error("Could not delete snapshot '%s': %s", name, err.text);
    return rc < 0 ? 1 : 0;
}

static int run(const struct snapshot_args *args, struct blk *blk)
{
    switch (args->action) {
    case 'l':
        return list(blk);
    case 'c':
        return create(blk, args->name);
    case 'a':
        return apply(blk, args->name);
    case 'd':
        return delete (blk, args->name);
    default:
        return 0;
    }
}

int cmd_snapshot(int argc, char **argv)
{
    struct snapshot_args args = {.action = 0};
    struct blk *blk;
    int status;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    args.open.writable = args.action != 'l' && args.action != 0;
    args.open.discard = true;
    if (args.open.writable && args.open.force_share) {
        log_error("Could not open '%s': force-share=on can only be used with read-only images",
                  args.open.path);
        return 1;
    }
    blk = img_open(&args.open);
    if (blk == NULL)
        return 1;
    status = run(&args, blk);
    img_close(blk, &status);
    return status;
}
