/*
 * powercut.h - what a power cut may leave of the files of a disk, from the log of what was done to
 * them.
 *
 * At any moment the disk may hold: every change that had ended before a sync of its file began, if
 * that sync had ended; and of every other change that had begun by then any part, down to single
 * sectors of 512 bytes. Changes are put in in the order in which they began. A change of a file's
 * size is one part.
 */
#ifndef CRASH_POWERCUT_H
#define CRASH_POWERCUT_H

#include "disk.h"

enum {
    POWERCUT_FIXED = 4,    /* nothing, everything, all but one, only the last: then random ones */
    POWERCUT_IMAGES = 256, /* of one moment, at most */
};

struct powercut {
    const struct disk *log;
    size_t at; /* the power goes right before this event */
    uint64_t time;
    unsigned file_count;
    struct pages stable[DISK_FILES]; /* what is there for certain, */
    size_t applied[DISK_FILES];      /* up to this event */
    struct {
        const struct event *event;
        bool is_certain;
    } * open;
    size_t open_count;
    uint64_t choices;               /* sectors and sizes that may be there or not */
    uint64_t seen[POWERCUT_IMAGES]; /* hashes of what was chosen at this moment already */
    unsigned seen_count;
};

/* `start` is the disk as it was when the log began. Both are borrowed. */
void powercut_init(struct powercut *cut, const struct disk *start, const struct disk *log);
void powercut_free(struct powercut *cut);
/* Moves on to the moment right before event `at`, or to the end of the log. Only forward. */
void powercut_move(struct powercut *cut, size_t at);
/* Whether there are so few combinations that each of them is an image. */
bool powercut_is_small(const struct powercut *cut);
/* How many images there are to make: every combination where there are few; else POWERCUT_FIXED and
 * as many random ones. */
unsigned powercut_images(const struct powercut *cut, unsigned randoms);
/* Makes image `number` of those into `image`, which is to be freed; false, and nothing is made, when no
 * other is found than those that were made at this moment before. */
bool powercut_make(struct powercut *cut, unsigned number, uint64_t seed, struct disk *image);

#endif
