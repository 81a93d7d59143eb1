/*
 * world.h - a workload under way: its disk, its model, its open image; and what a workload is.
 *
 * Threads: world_complain() and what the requests of ops.h use from any thread.
 */
#ifndef CRASH_WORLD_H
#define CRASH_WORLD_H

#include "blockdev.h"
#include "disk.h"
#include "model.h"

struct world;

/* One operation of a workload, `times` times (0: once). It complains by itself; not 0 ends the list:
 * nothing more can be done. */
struct step {
    int (*run)(struct world *world, uint64_t arg);
    uint64_t arg;
    unsigned times;
};

enum { MAX_STEPS = 12, MAX_COMMANDS = 6 };

struct workload {
    const char *name;
    /* Shell commands that make the images, in a folder with base.raw and new.raw (images.c). */
    const char *make[MAX_COMMANDS];
    /* The image that is worked on, then what else there is: backing files, a data file. */
    const char *files[DISK_FILES];
    /* Letters of op_mix() (ops.h), each as likely as the others. */
    const char *mix;
    struct step prepare[MAX_STEPS]; /* before the log begins; the image is open */
    struct step steps[MAX_STEPS];
    unsigned threads;     /* of op_threads() */
    bool cannot_zero;     /* the file system cannot punch holes */
    bool has_small_cache; /* metadata is written before a flush asks for it */
    bool is_encrypted;    /* the image that is worked on */
    bool has_key_slots;   /* which change */
    bool is_damaged;      /* from the beginning: to be repaired before anything is expected of it */
};

/* Opens the images that are encrypted. */
#define CRASH_KEY  "crash"
#define CRASH_KEY2 "second"
extern const struct blk_key crash_key;

extern const struct workload workloads[];
extern const unsigned workload_count;
/* NULL: there is none. */
const struct workload *workload_find(const char *name);

/* A snapshot that was asked for: it is there from `created` until `deleted`, and may be around that. */
struct saved_snapshot {
    char name[16];
    uint32_t *values; /* of its sectors */
    uint64_t sectors;
    uint64_t created, deleted; /* by the disk's clock, or DISK_NEVER */
};

struct world {
    const struct workload *workload;
    struct disk disk;
    struct model model;
    struct rng rng;
    struct blk *blk; /* NULL: closed */
    struct saved_snapshot *saved;
    unsigned saved_count;
    pthread_mutex_t lock;
    char complaint[1024]; /* the first; "": none */
};

/* Makes the images and carries out `prepare`; false after a complaint. world_free() in any case. */
bool world_prepare(struct world *world, const struct workload *workload, uint64_t seed);
/* The same world as another one, closed, with nothing in its log. */
void world_copy(struct world *to, const struct world *from);
void world_free(struct world *world);
/* Opens (unless it is spoiled), carries out the steps, closes. Complains about everything that went wrong without a fault's
 * doing. True when the image was closed without an error. */
bool world_run(struct world *world, const struct step *steps);

/* ops_snapshot.c: notes those that the image came with, which hold what the device holds. */
void world_save_snapshots(struct world *world);
/* NULL: there is none of that name. */
struct saved_snapshot *world_find_saved(const struct world *world, const char *name);

int world_open(struct world *world);
int world_close(struct world *world);
void world_complain(struct world *world, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* What a request's result says about the engine. Before it: whether a fault lies behind it. */
bool world_fault_is_over(struct world *world);
void world_judge(struct world *world, const char *what, int result, bool was_over,
                 bool claims_durable);
/* Another process opens the image: what happened to this one is its own business. */
void world_forget_fault(struct world *world);

#endif
