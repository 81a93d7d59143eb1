/*
 * free.c - how a host cluster comes back into use, and why never too early.
 *
 * A cluster H that a discard (or a copy-on-write) unlinks from the L2 table in memory goes through
 *
 *   freed      unlinked in memory. On disk an L2 entry may still lead to H; after a crash it will.
 * So H must keep its content, and its refcount, until the committer has made the change stable.
 *   draining   unlinked on disk as well. But an I/O that looked H up before it was unlinked may
 * still be on its way, without any lock. H waits until every such I/O has ended. released   a hole
 * is punched, and then the refcount is lowered in memory: only now can H be allocated again.
 *
 * Why nobody's data can land in, or come from, somebody else's cluster: an I/O to H takes a hold
 * under the same lock, and in the same section, in which it looked H up, or, without the lock, before it
 * looks H up (lookaside.c). There are two counters of
 * holds; new I/O takes current_hold. When a batch begins its way (qcow2_freed_take), all of it is
 * already unlinked in memory, and the counters are switched: every I/O that could have seen one of
 * its clusters holds the old counter or one older still. There is nothing older, because the switch
 * is made only while the other counter is zero. So when the old counter has come down to zero, each
 * such I/O has ended (its release-decrement orders its transfer before our acquire-load), and new
 * ones hold the other counter and cannot find H. One batch is on its way at a time; what is freed
 * meanwhile waits in `freed` for the next commit. Nobody ever blocks on a hold.
 *
 * The hole is punched before the refcount is lowered, so it cannot hit a cluster in its next life.
 * It is punched with the last reference alone: compressed clusters share host clusters, and each
 * gives back a reference of its own (compressed.c). A cluster with one reference that is on its way
 * through here gets no further one meanwhile: nothing in memory leads to it any more, and the packer
 * of compressed data leaves a cluster alone from the moment when a reference to it is freed.
 * Losing a cluster on the way (an error, no memory) leaks it and nothing worse.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>

enum { STRIPES = 16, LINE = 64 };

/* The counters, several of each, so that threads do not take a line of the cache from each other. */
struct qcow2_holds {
    _Alignas(LINE) atomic_uint counts[2];
    _Atomic uint64_t quick; /* look-ups without the lock */
};

int qcow2_holds_init(struct qcow2 *q)
{
    q->holds = aligned_alloc(LINE, STRIPES * sizeof(q->holds[0]));
    for (unsigned i = 0; q->holds != NULL && i < STRIPES; i++) {
        atomic_init(&q->holds[i].counts[0], 0);
        atomic_init(&q->holds[i].counts[1], 0);
        atomic_init(&q->holds[i].quick, 0);
    }
    return q->holds != NULL ? 0 : -ENOMEM;
}

void qcow2_holds_free(struct qcow2 *q)
{
    free(q->holds);
    q->holds = NULL;
}

unsigned qcow2_holds_count(const struct qcow2 *q)
{
    unsigned count = 0;

    for (unsigned i = 0; q->holds != NULL && i < STRIPES; i++) {
        count += atomic_load(&q->holds[i].counts[0]) + atomic_load(&q->holds[i].counts[1]);
    }
    return count;
}

/* The calling thread's. */
static unsigned stripe(void)
{
    static atomic_uint threads;
    static _Thread_local unsigned mine; /* 0: not yet */

    if (mine == 0) {
        mine = 1 + atomic_fetch_add(&threads, 1) % STRIPES;
    }
    return mine - 1;
}

int qcow2_hold(struct qcow2 *q)
{
    unsigned line = stripe();

    for (;;) {
        int which = atomic_load(&q->current_hold);

        atomic_fetch_add(&q->holds[line].counts[which], 1);
        /* Either this sees a switch that is_drained() may come after, or that sees the count. */
        if (atomic_load(&q->current_hold) == which) {
            return (int)(line * 2) + which;
        }
        atomic_fetch_sub(&q->holds[line].counts[which], 1);
    }
}

void qcow2_unhold(struct blk *blk, int hold)
{
    atomic_fetch_sub_explicit(&qcow2_of(blk)->holds[hold / 2].counts[hold % 2], 1,
                              memory_order_release);
}

static bool is_drained(struct qcow2 *q, int which)
{
    for (unsigned i = 0; i < STRIPES; i++) {
        if (atomic_load(&q->holds[i].counts[which]) != 0) {
            return false;
        }
    }
    return true;
}

void qcow2_count_quick(struct qcow2 *q)
{
    atomic_fetch_add_explicit(&q->holds[stripe()].quick, 1, memory_order_relaxed);
}

uint64_t qcow2_quick_count(const struct qcow2 *q)
{
    uint64_t count = 0;

    for (unsigned i = 0; q->holds != NULL && i < STRIPES; i++) {
        count += atomic_load_explicit(&q->holds[i].quick, memory_order_relaxed);
    }
    return count;
}

void qcow2_runs_free(struct qcow2_runs *runs)
{
    free(runs->runs);
    *runs = (struct qcow2_runs){0};
}

static void add_run(struct qcow2 *q, struct qcow2_runs *runs, uint64_t offset, uint64_t clusters)
{
    struct qcow2_run *last = runs->count > 0 ? &runs->runs[runs->count - 1] : NULL;

    if (last != NULL && last->offset + last->clusters * q->cluster_size == offset) {
        last->clusters += clusters;
        runs->clusters += clusters;
        return;
    }
    if (runs->runs == NULL || runs->count == runs->room) {
        size_t room = runs->room != 0 ? runs->room * 2 : 16;
        struct qcow2_run *grown = realloc(runs->runs, room * sizeof(grown[0]));

        if (grown == NULL) {
            return; /* leaked */
        }
        runs->runs = grown;
        runs->room = room;
    }
    runs->runs[runs->count++] = (struct qcow2_run){.offset = offset, .clusters = clusters};
    runs->clusters += clusters;
}

void qcow2_free_later(struct qcow2 *q, uint64_t host_offset, uint64_t clusters)
{
    qcow2_pack_forget(q, host_offset, clusters);
    add_run(q, &q->freed, host_offset, clusters);
}

void qcow2_freed_take(struct qcow2 *q, struct qcow2_runs *batch)
{
    *batch = (struct qcow2_runs){0};
    if (q->freed.count > 0 && q->draining.count == 0 && is_drained(q, 1 - q->current_hold)) {
        *batch = q->freed;
        q->freed = (struct qcow2_runs){0};
        q->draining_hold = q->current_hold;
        q->current_hold = 1 - q->current_hold;
    }
}

void qcow2_freed_restore(struct qcow2 *q, struct qcow2_runs *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        add_run(q, &q->freed, batch->runs[i].offset, batch->runs[i].clusters);
    }
    qcow2_runs_free(batch);
}

void qcow2_freed_drain(struct qcow2 *q, struct qcow2_runs *batch)
{
    if (batch->count > 0) {
        q->draining = *batch;
        *batch = (struct qcow2_runs){0};
    }
}

/* How many clusters from the run's `first` on have no reference but the one that is given up: only
 * these lose their content. Metadata never does, whatever its refcount says. */
static uint64_t count_last_references(struct qcow2 *q, const struct qcow2_run *run, uint64_t first)
{
    uint64_t n = first;

    for (uint64_t count; n < run->clusters; n++) {
        uint64_t offset = run->offset + n * q->cluster_size;

        if (qcow2_refcount_get(q, offset, &count) != 0 || count != 1 ||
            qcow2_is_metadata(q, offset)) {
            break;
        }
    }
    return n - first;
}

/* Cluster by cluster, because several runs of a batch may share one: the last of them holes it. */
static void release_run(struct qcow2 *q, const struct qcow2_run *run)
{
    for (uint64_t done = 0, n; done < run->clusters; done += n) {
        uint64_t offset = run->offset + done * q->cluster_size;

        n = count_last_references(q, run, done);
        if (n > 0 && qcow2_check_overlap(q, QCOW2_WRITES_DATA, offset, n * q->cluster_size) != 0) {
            return;
        }
        if (n > 0) {
            pthread_mutex_unlock(&q->lock);
            q->file->ops->zero(q->file, offset, n * q->cluster_size, true);
            pthread_mutex_lock(&q->lock);
        } else {
            n = 1;
        }
        qcow2_refcount_release(q, offset, n);
    }
}

bool qcow2_freed_reap(struct qcow2 *q)
{
    struct qcow2_runs batch;

    if (q->draining.count == 0 || !is_drained(q, q->draining_hold)) {
        return false;
    }
    batch = q->draining;
    for (size_t i = 0; i < batch.count; i++) {
        release_run(q, &batch.runs[i]);
    }
    q->draining = (struct qcow2_runs){0};
    qcow2_runs_free(&batch);
    return true;
}
