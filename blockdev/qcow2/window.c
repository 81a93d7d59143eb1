/*
 * window.c - allocation windows.
 *
 * First writes get the first free cluster. Where several streams write forward at once, of several queues or of
 * one, each would get every other cluster, and reading one of them again would be as many small reads. So a stream
 * that finds the place behind its last cluster taken by another stream's gets a MiB of free clusters to itself.
 * A stream is known by the guest offset where its last allocation ended, whatever queue it comes from: two on
 * one queue are kept apart, and one that goes through several queues stays together.
 *
 * A window is a wish. Nothing of it is written anywhere, what it keeps has refcount 0, and who needs a certain
 * cluster takes it; so whoever allocates in a window looks at the refcount first. What the others have to do is
 * leave it out of their search, and then free_hint says nothing of it; so when a window is given up, the hint goes
 * back to it. Alone, a stream keeps nothing, and no device without queues does: what tools write lies densely.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

enum { KEPT_BYTES = 1 << 20, MOST_CLUSTERS = 256 };

static const struct qcow2_window *find(const struct qcow2 *q, uint64_t guest)
{
    for (unsigned i = 0; i < QCOW2_WINDOWS; i++) {
        const struct qcow2_window *window = &q->windows.slots[i];

        if (window->next != 0 && window->guest == guest) {
            return window;
        }
    }
    return NULL;
}

uint64_t qcow2_window_place(const struct qcow2 *q, uint64_t guest)
{
    const struct qcow2_window *window = find(q, guest);

    return window != NULL ? window->next : 0;
}

bool qcow2_window_is_crowded(const struct qcow2 *q, uint64_t guest, uint64_t cluster)
{
    for (unsigned i = 0; i < QCOW2_WINDOWS; i++) {
        const struct qcow2_window *window = &q->windows.slots[i];

        if (window->guest != guest && cluster >= window->first && cluster < window->end) {
            return true;
        }
    }
    return false;
}

uint64_t qcow2_window_clusters(const struct qcow2 *q)
{
    return min_u64(KEPT_BYTES >> q->cluster_bits, MOST_CLUSTERS);
}

uint64_t qcow2_window_keeps(const struct qcow2 *q, uint64_t guest, uint64_t cluster)
{
    for (unsigned i = 0; i < QCOW2_WINDOWS; i++) {
        const struct qcow2_window *window = &q->windows.slots[i];

        if (window->guest != guest && cluster >= window->next && cluster < window->end) {
            return window->end;
        }
    }
    return 0;
}

bool qcow2_window_is_fresh(const struct qcow2 *q, uint64_t guest, uint64_t cluster, uint64_t count)
{
    const struct qcow2_window *window = find(q, guest);

    return window != NULL && window->was_never_used && window->free_changes == q->free_changes &&
           cluster >= window->next && cluster + count <= window->end;
}

static void give_up(struct qcow2 *q, struct qcow2_window *window)
{
    if (window->next < window->end) {
        q->free_hint = min_u64(q->free_hint, window->next);
        q->free_changes++;
        window->end = window->next;
    }
}

/* The stream's, or that of the one that has not gone on for longest: of those that keep something only if all do. */
static struct qcow2_window *slot_for(struct qcow2 *q, uint64_t guest)
{
    struct qcow2_window *slots = q->windows.slots, *oldest = &slots[0];

    for (unsigned i = 0; i < QCOW2_WINDOWS; i++) {
        bool keeps = slots[i].next < slots[i].end, oldest_keeps = oldest->next < oldest->end;

        if (slots[i].next != 0 && slots[i].guest == guest) {
            return &slots[i];
        }
        if (keeps != oldest_keeps ? oldest_keeps : slots[i].when < oldest->when) {
            oldest = &slots[i];
        }
    }
    give_up(q, oldest);
    *oldest = (struct qcow2_window){0};
    return oldest;
}

void qcow2_window_went_on(struct qcow2 *q, uint64_t guest, uint64_t cluster, uint64_t count,
                          uint64_t kept)
{
    struct qcow2_window *window = slot_for(q, guest);
    uint64_t end = cluster + count;

    if (cluster != window->next) {
        give_up(q, window);
        window->first = cluster;
        window->end = end;
    }
    window->guest = guest + (count << q->cluster_bits);
    window->next = end;
    window->end = max_u64(window->end, end);
    window->when = ++q->windows.allocations;
    if (kept > 0) {
        window->end = end + kept;
        window->was_never_used = end << q->cluster_bits >= q->never_written;
        window->free_changes = q->free_changes;
        q->never_written = max_u64(q->never_written, window->end << q->cluster_bits);
    }
}

bool qcow2_windows_drop(struct qcow2 *q)
{
    uint64_t before = q->free_changes;

    for (unsigned i = 0; i < QCOW2_WINDOWS; i++) {
        give_up(q, &q->windows.slots[i]);
    }
    return q->free_changes != before;
}
