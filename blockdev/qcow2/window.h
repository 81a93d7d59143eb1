/*
 * window.h - allocation windows: host clusters kept for guest writes that go forward. Each function is to be
 * called with the layer's lock and keeps it. Clusters are counted from the beginning of the host file.
 */
#ifndef QCOW2_WINDOW_H
#define QCOW2_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

enum { QCOW2_WINDOWS = 16 };

/* For what is not a stream's. */
#define QCOW2_NO_STREAM UINT64_MAX

struct qcow2;

/* A stream that writes forward: where its last clusters lie, and what is kept behind them. */
struct qcow2_window {
    uint64_t guest; /* the byte offset where it goes on */
    /* Host clusters: [first, next) were its last ones, [next, end) are kept. Both 0: not in use. */
    uint64_t first, next, end;
    uint64_t when;         /* it went on last; counts allocations */
    bool was_never_used;   /* what is kept had never been written when it was, */
    uint64_t free_changes; /* nor after that, if no more was freed since then */
};

struct qcow2_windows {
    struct qcow2_window slots[QCOW2_WINDOWS];
    uint64_t allocations;
};

/* Where the stream that goes on at that guest offset would like its next cluster; 0: there is no such stream. */
uint64_t qcow2_window_place(const struct qcow2 *q, uint64_t guest);
/* Whether another stream's last clusters lie there: the two of them would take turns. */
bool qcow2_window_is_crowded(const struct qcow2 *q, uint64_t guest, uint64_t cluster);
/* How many clusters are to be kept for a stream. */
uint64_t qcow2_window_clusters(const struct qcow2 *q);
/* The end of what is kept around the cluster for another stream than that; 0: nothing is. */
uint64_t qcow2_window_keeps(const struct qcow2 *q, uint64_t guest, uint64_t cluster);
/* Whether these clusters are kept for that stream and read as zeros. */
bool qcow2_window_is_fresh(const struct qcow2 *q, uint64_t guest, uint64_t cluster, uint64_t count);
/* `count` clusters from `cluster` on became those of the stream that wrote at that guest offset, and `kept` more are to be
 * kept for it. */
void qcow2_window_went_on(struct qcow2 *q, uint64_t guest, uint64_t cluster, uint64_t count,
                          uint64_t kept);
/* Keeps nothing any more; false if nothing was kept. */
bool qcow2_windows_drop(struct qcow2 *q);

#endif
