/*
 * redo_log.h - changes of the mapping in memory that outlives this process: redo_log.c says how. With the
 * layer's lock, but for the format's operation.
 */
#ifndef QCOW2_REDO_LOG_H
#define QCOW2_REDO_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { QCOW2_REDO_ENTRIES = 32 << 10 };

struct blk;
struct err;
struct qcow2;
struct qcow2_cluster;
struct redo_memory;
struct replay;

struct qcow2_redo_log {
    struct redo_memory *memory;  /* NULL: there is none */
    uint64_t count;              /* entries there is room for */
    uint64_t head, tail;         /* entries ever dropped and appended */
    uint64_t committing_to;      /* what stands before is in the tables that are being written */
    bool is_incomplete;          /* a change is in memory alone and not in the log, */
    bool is_committing_rest;     /* or in the tables that are being written */
    const struct replay *replay; /* while one is going on */
};

/* Bytes that the format's operation wants. */
size_t qcow2_redo_log_size(void);
/* The cluster's mapping has changed in memory. */
void qcow2_redo_log_add(struct qcow2 *q, uint64_t guest_offset,
                        const struct qcow2_cluster *cluster);
bool qcow2_redo_log_is_half_full(const struct qcow2 *q);
/* The committer's: it copies all that is dirty; the copies are in the file, or some are not. */
void qcow2_redo_log_begin_commit(struct qcow2 *q);
void qcow2_redo_log_end_commit(struct qcow2 *q, bool is_written);
/* Whether a host cluster, which may look free, is wanted by the replay that is going on. */
bool qcow2_redo_log_wants(const struct qcow2 *q, uint64_t host_offset);
/* The format's redo_log(); without the lock. */
int qcow2_redo_log(struct blk *blk, void *memory, size_t bytes, struct err *err);

#endif
