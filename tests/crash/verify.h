/*
 * verify.h - whether files that a power cut left are an image that lost nothing.
 */
#ifndef CRASH_VERIFY_H
#define CRASH_VERIFY_H

#include "world.h"

/* What each sector, and the size, may be at one moment: looked up once for many images. */
struct expected {
    const struct world *world;
    uint32_t *values; /* of all sectors, one after the other */
    uint64_t *first;  /* per sector: where its values begin; one more at the end */
    struct allowed sizes;
    uint64_t time;
};

void expected_init(struct expected *expected, const struct world *world, enum model_view view,
                   uint64_t time);
void expected_free(struct expected *expected);

enum {
    VERIFY_RECOVER = 1, /* go on writing, repair leaks, and look again */
    VERIFY_QEMU = 2,    /* ask qemu-img too */
};

/* Whether the disk's files are as they may be; else `why` says what is not. Changes the files. */
bool verify_disk(struct disk *disk, const struct expected *expected, unsigned flags, uint64_t seed,
                 char *why, size_t size);

#endif
