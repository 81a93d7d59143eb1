/*
 * inflight.c - guest ranges whose mapping somebody is about to change.
 *
 * An allocating write drops the lock for its data I/O. Between the moment when it looked its
 * clusters up and the moment when it links what it allocated, nobody else may change their mapping:
 * a discard that freed them, or a second writer that allocated them too, would leave two guest
 * offsets with one cluster, or one cluster with none. So whoever changes a mapping (allocating
 * write, discard, write-zeroes) does three things without dropping the lock in between: sees that
 * no range in flight overlaps his own, looks the mapping up, and registers his range; or else he
 * waits, and looks up anew. Once registered the mapping is his until he removes the range, however
 * often he drops the lock.
 *
 * Nobody waits for a range while he has one of his own in flight, so there is no deadlock. A range is of
 * whole clusters, but for one that fills subclusters of a cluster that stays where it is. Reads,
 * and writes to clusters that are already there, change no mapping and wait for nobody; what keeps
 * their host clusters from being reused under them are the holds of free.c.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

bool qcow2_inflight_wait(struct qcow2 *q, uint64_t start, uint64_t end)
{
    bool waited = false;

    for (struct qcow2_inflight *range = q->inflight; range != NULL;) {
        if (ranges_overlap(start, end - start, range->start, range->end - range->start)) {
            pthread_cond_wait(&q->changed, &q->lock);
            waited = true;
            range = q->inflight;
        } else {
            range = range->next;
        }
    }
    return waited;
}

void qcow2_inflight_add(struct qcow2 *q, struct qcow2_inflight *range, uint64_t start, uint64_t end)
{
    range->start = start;
    range->end = end;
    range->next = q->inflight;
    q->inflight = range;
}

void qcow2_inflight_remove(struct qcow2 *q, struct qcow2_inflight *range)
{
    struct qcow2_inflight **link = &q->inflight;

    while (*link != range) {
        link = &(*link)->next;
    }
    *link = range->next;
    pthread_cond_broadcast(&q->changed);
}
