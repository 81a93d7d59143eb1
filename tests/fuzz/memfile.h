/*
 * memfile.h - host files that exist in memory alone, as one of the engine's file layers, and a small
 * set of names under which the engine finds them. Sparse: a file may claim to be huge; what is
 * written to it is bounded.
 *
 * Whoever links memfs.c sends the engine's opener through it (-Wl,--wrap=file_open_posix): no target
 * can reach the host's files but through memfs_allow_directory().
 */
#ifndef FUZZ_MEMFILE_H
#define FUZZ_MEMFILE_H

#include "file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MEM_PAGE = 4096,
    MEM_BUCKETS = 1024,
    MEM_MAX_PAGES = 8192, /* 32 MiB a file: what is written beyond is -ENOSPC */
};

struct mem_page {
    uint64_t index;
    struct mem_page *next;
    uint8_t bytes[MEM_PAGE];
};

struct memfile {
    uint64_t size;
    unsigned pages;
    bool read_only; /* a change of it is a finding */
    uint64_t changes;
    uint64_t fail_at; /* the change with this number, counted from 1, fails; 0: none */
    bool fail_sticky; /* ... and all after it */
    struct mem_page *buckets[MEM_BUCKETS];
};

void memfile_clear(struct memfile *mem);
void memfile_copy(struct memfile *to, const struct memfile *from);
/* Bytes behind the end read as zeros. */
void memfile_read(const struct memfile *mem, uint64_t offset, void *buf, size_t length);
/* Extends the file. False when it would hold too much; part of it may be there then. */
bool memfile_write(struct memfile *mem, uint64_t offset, const void *buf, size_t length);
bool memfile_resize(struct memfile *mem, uint64_t size);
/* Whether both hold the same bytes. */
bool memfile_equal(const struct memfile *a, const struct memfile *b);
/* The first page that holds anything at or after page `index`; NULL when there is none. */
const struct mem_page *memfile_next(const struct memfile *mem, uint64_t index);

uint64_t memfile_be64(const struct memfile *mem, uint64_t offset);
uint32_t memfile_be32(const struct memfile *mem, uint64_t offset);
uint16_t memfile_be16(const struct memfile *mem, uint64_t offset);
void memfile_set_be64(struct memfile *mem, uint64_t offset, uint64_t value);
void memfile_set_be32(struct memfile *mem, uint64_t offset, uint32_t value);
void memfile_set_be16(struct memfile *mem, uint64_t offset, uint16_t value);

/* ---- names ---- */

/* What the engine finds under `path`; the file stays the caller's. */
void memfs_add(const char *path, struct memfile *mem);
void memfs_clear(void);
/* Lets names through to the host whose files lie below `directory` once all links are resolved (NULL:
 * none), and counts those that were asked for and do not. */
void memfs_allow_directory(const char *directory);
/* How often a file outside that directory was asked for. */
unsigned memfs_outside(void);

#endif
