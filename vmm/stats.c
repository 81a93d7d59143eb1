#include "stats.h"

#include "disks.h"
#include "log.h"
#include "virtio_blk.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int stats_open(const char *path, int *fd, struct err *err)
{
    /* Opens /dev/urandom, which the sandbox will not allow when the first object is made. */
    json_object_seed(0);
    *fd = -1;
    if (path == NULL)
        return 0;
    *fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
    return *fd < 0 ? err_set_errno(err, -errno, "cannot write statistics to %s", path) : 0;
}

/* Where memory is short a key is missing, not the machine. */
static void set_number(json_t *object, const char *key, uint64_t value)
{
    (void)json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *latencies(const uint64_t counts[VIRTIO_BLK_LATENCIES])
{
    json_t *object = json_object();
    char limit[24];

    for (unsigned n = 0; n < VIRTIO_BLK_LATENCIES; n++) {
        bool is_last = n + 1 == VIRTIO_BLK_LATENCIES;

        (void)snprintf(limit, sizeof(limit), "%llu", 1ULL << n);
        if (counts[n] > 0)
            set_number(object, is_last ? "more" : limit, counts[n]);
    }
    return object;
}

static json_t *disk_to_json(const struct disk_stats *stats)
{
    static const char *const names[VIRTIO_BLK_KINDS] = {[VIRTIO_BLK_READS] = "read",
                                                        [VIRTIO_BLK_WRITES] = "write",
                                                        [VIRTIO_BLK_FLUSHES] = "flush",
                                                        [VIRTIO_BLK_DISCARDS] = "discard",
                                                        [VIRTIO_BLK_ZEROES] = "write-zeroes"};
    json_t *disk = json_object();

    /* A path may be of bytes that are no UTF-8; then it has no name here. */
    (void)json_object_set_new(disk, "path", json_string(stats->path));
    for (unsigned k = 0; k < VIRTIO_BLK_KINDS; k++) {
        json_t *kind = json_object();

        set_number(kind, "requests", stats->io.kinds[k].requests);
        set_number(kind, "errors", stats->io.kinds[k].errors);
        set_number(kind, "bytes", stats->io.kinds[k].bytes);
        (void)json_object_set_new(kind, "latency-us", latencies(stats->io.kinds[k].latency));
        (void)json_object_set_new(disk, names[k], kind);
    }
    set_number(disk, "allocations", stats->allocations);
    set_number(disk, "table-hits", stats->table_hits);
    set_number(disk, "table-reads", stats->table_reads);
    (void)json_object_set_new(disk, "aio", json_string(stats->io.engine));
    return disk;
}

static char *to_text(struct disks *disks)
{
    json_t *root = json_object(), *list = json_array();
    struct disk_stats stats;
    char *text;

    for (unsigned i = 0; disks_get_stats(disks, i, &stats); i++)
        (void)json_array_append_new(list, disk_to_json(&stats));
    (void)json_object_set_new(root, "disks", list);
    text = json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(root);
    return text;
}

void stats_write(int fd, struct disks *disks)
{
    char *text = to_text(disks);
    int error = text != NULL ? 0 : ENOMEM;

    /* A pipe or a terminal gets one line more, a file this line alone. */
    if (error == 0 && fd >= 0 && lseek(fd, 0, SEEK_SET) == 0 && ftruncate(fd, 0) != 0)
        error = errno;
    if (error == 0 && dprintf(fd >= 0 ? fd : STDERR_FILENO, "%s\n", text) < 0)
        error = errno;
    if (error != 0)
        log_warn("cannot write statistics: %s", strerror(error));
    free(text);
}
