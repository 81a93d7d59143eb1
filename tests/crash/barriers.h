/*
 * barriers.h - which sync of a log orders what, and a log from which some are missing: as if the
 * engine had left them out. For the tests of the suite itself.
 */
#ifndef CRASH_BARRIERS_H
#define CRASH_BARRIERS_H

#include "disk.h"

enum barrier {
    BARRIER_NONE,
    /* By what is written to the image behind the sync: */
    BARRIER_REFTABLE, /* entries of the refcount table: their blocks come first */
    BARRIER_MAPPING,  /* L1 and L2 tables: refcounts and data come first */
    BARRIER_HEADER,   /* the header: the tables that it names come first */
    BARRIER_FREE,     /* holes in freed clusters: the mapping comes first */
    BARRIER_SLOT,     /* the encryption header: a new slot's key material comes first */
    BARRIER_FLUSH,    /* nothing in particular: what a flush promises */
    /* By what was written to the image last: */
    BARRIER_DIRTY,  /* the dirty bit: mappings without refcounts come later */
    BARRIER_SIZE,   /* a smaller size: what lies behind it is given up later */
    BARRIER_MARKS,  /* "in use" at bitmaps: the changes that they do not have come later */
    BARRIER_ERASED, /* the encryption header: an erased slot's key material is overwritten later */
    /* By the file: */
    BARRIER_OTHER, /* not the image itself: a data file, a base that is committed into */
};

/* Takes the syncs of this kind out of the log; how many there were. */
unsigned barriers_drop(struct disk *log, enum barrier barrier);

#endif
