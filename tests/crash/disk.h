/*
 * disk.h - the file layer of the crash tests: named files in memory behind an ops table of file.h,
 * with a log of every change, with faults, and with a clock that orders the changes of the files and
 * the guest's requests.
 *
 * The program is linked so that file_open_posix() comes here first (--wrap): whatever the engine or a
 * command of minivmm-img opens by name, an image, its backing files, is looked up among the files of
 * the disk in use. So nothing in the engine knows that it is being tested.
 *
 * Threads: the operations of open files, disk_tick() and disk_now() from any thread; all else while
 * nobody is at it.
 */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include "pages.h"
#include "rng.h"

#include <pthread.h>

enum { DISK_FILES = 6, SECTOR = 512 };

enum disk_op {
    DISK_READ = 1,
    DISK_WRITE = 2,
    DISK_SYNC = 4,
    DISK_TRUNCATE = 8,
    DISK_ZERO = 16,
    DISK_ALLOCATE = 32,
    DISK_CHANGES = DISK_WRITE | DISK_TRUNCATE | DISK_ZERO | DISK_ALLOCATE,
    DISK_ALL = DISK_CHANGES | DISK_READ | DISK_SYNC,
};

/* The time of what has not happened. */
#define DISK_NEVER UINT64_MAX

struct event {
    enum disk_op op; /* WRITE, SYNC, ZERO or TRUNCATE */
    unsigned file;
    uint64_t offset, length; /* TRUNCATE: the new size in `offset` */
    uint8_t *data;           /* WRITE */
    uint64_t start, end;     /* by the clock */
};

struct disk_file {
    char name[64];
    struct pages pages;
};

/* From the `at`-th operation among `ops` (counted from 1) on, `count` of them fail with `code`. */
struct fault {
    unsigned ops;
    uint64_t at, count;
    int code;
};

struct disk {
    struct disk_file files[DISK_FILES];
    unsigned count;

    pthread_mutex_t lock; /* everything below, and the pages while files are open */
    uint64_t clock;
    bool records;
    bool dawdles;     /* operations let others run in their middle */
    bool cannot_zero; /* -ENOTSUP: holes and zeros are not the file system's business */
    bool is_full;     /* -ENOSPC for a write that needs more pages than there are: `free_pages` */
    uint64_t free_pages;
    bool was_full; /* a change has failed with -ENOSPC */
    /* Called in the middle of writes and of zeroing that is no punched hole, in their thread. */
    void (*midway)(void *opaque);
    void *opaque;
    struct event *events;
    size_t event_count, room;

    struct fault fault;
    uint64_t operations; /* of the fault's kinds, so far */
    bool fault_fired;
    unsigned fired_ops; /* kinds of what failed */
    struct rng rng;     /* of what a failed write leaves behind */
};

void disk_init(struct disk *disk);
void disk_free(struct disk *disk);
/* The files of another disk, as they are now. */
void disk_copy(struct disk *to, const struct disk *from);
struct disk_file *disk_add(struct disk *disk, const char *name);
struct disk_file *disk_find(struct disk *disk, const char *name);

/* What file_open_posix() looks at from now on; NULL: the host's files. */
void disk_use(struct disk *disk);
struct disk *disk_in_use(void);

/* Moves the clock on and returns the new time. */
uint64_t disk_tick(struct disk *disk);

/* Puts the event's bytes into the file, all of them or those of `count` of its sectors. */
void event_apply(const struct event *event, struct pages *pages);
void event_apply_sectors(const struct event *event, struct pages *pages, uint64_t sector,
                         uint64_t count);
/* Into how many sectors it may be torn; 1 for a change of size. */
uint64_t event_sectors(const struct event *event);

#endif
