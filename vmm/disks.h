/*
 * disks.h - the images behind the machine's disks, and their devices.
 *
 * Threads: the main thread, while no queue thread runs (before the machine starts, after
 * pci_root_reset()); disks_report_halts(), disks_retry() and disks_get_stats() at any time.
 */
#ifndef VMM_DISKS_H
#define VMM_DISKS_H

#include "config.h"
#include "err.h"
#include "guestmem.h"
#include "virtio_blk.h"

#include <stdbool.h>

struct disks;
struct halt;
struct pci_function;

/* The format that the user stated: by `format`, or else by a file name that ends in .qcow2 or .raw;
 * NULL: probe. A guest can change a disk's bytes, never its name. Static or the configuration's. */
const char *disks_format(const struct disk_config *disk);

/* Opens every disk of the configuration; the message of a failure names the file. A disk that keeps
 * a failed request posts HALT_WANTED to `halt`. */
int disks_open(const struct vm_config *config, struct halt *halt, struct disks **out,
               struct err *err);

/* A virtio-blk function over disk `index`; the caller plugs it in and owns it. It must be destroyed
 * before disks_close(). */
int disks_create_function(struct disks *disks, unsigned index, const struct guestmem *mem,
                          struct pci_function **out, struct err *err);

/* Whether the first disk begins with a partition table. */
bool disks_first_is_partitioned(const struct disks *disks);

/* Says, a line a disk, which have come to a halt since the last call, why, and how the machine is made to
 * go on: by SIGCONT, and by a key if `keys`. */
void disks_report_halts(struct disks *disks, bool keys);
/* Every disk carries out what it kept, and goes on. */
void disks_retry(struct disks *disks);

/* What disk `index` has done, its image's part in the engine's terms (blk_get_counters()). `path` lives as
 * long as the disk. False when there is no such disk. At any time. */
struct disk_stats {
    const char *path;
    struct virtio_blk_counters io;
    uint64_t allocations, table_hits, table_reads;
};

bool disks_get_stats(const struct disks *disks, unsigned index, struct disk_stats *stats);

/* Makes what was written durable: every disk, whatever happens; returns the first error. */
int disks_flush(struct disks *disks, struct err *err);

/* Closes every image, whatever happens; returns the first error. NULL is allowed. */
int disks_close(struct disks *disks, struct err *err);

#endif
