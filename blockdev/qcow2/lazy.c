/*
 * lazy.c - lazy refcounts (compatible feature 0): flushes that write no refcounts.
 *
 * While the dirty bit (incompatible feature 0) is set, refcounts on disk may be anything. So it is set,
 * and synced, before the first commit that writes anything (qcow2_lazy_begin), and from then on the
 * committer leaves refcounts in the cache, and writes them in no order when the cache wants room. A crash
 * leaves an image whose refcounts are counted anew when it is opened for writing the next time
 * (qcow2_repair_dirty); nothing but the mapping is needed for that, so flushed data is safe. When the
 * image is closed everything is written and synced, and then the bit is taken back. So does QEMU, whose
 * flushes leave the bit alone too, however idle the image is.
 *
 * What a flush saves: the writes of refcounts, the sync in front of the refcount table, and the barrier
 * in front of the mapping where that stood for refcounts alone. The barrier stays where an entry would
 * lead to data that is not there yet. It would not if the clusters read as zeros until then, and zeros
 * are what was there before: clusters that were never written, in a part of the file whose size is
 * stable, linked where the guest saw zeros. That is the way of new data in a new image: one sync a flush,
 * instead of two.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

/* One write of a few bytes, under the lock: qcow2_note_corruption() may want to write there as well. */
static int write_bits(struct qcow2 *q, uint64_t bits)
{
    uint8_t raw[8];
    int r;

    store_be64(raw, bits);
    r = file_pwrite(q->file, QCOW2_AT_INCOMPATIBLE, raw, sizeof(raw));
    if (r == 0) {
        q->header.incompatible_features = bits;
    }
    return r;
}

static int sync_unlocked(struct qcow2 *q)
{
    int r;

    pthread_mutex_unlock(&q->lock);
    r = qcow2_sync(q);
    pthread_mutex_lock(&q->lock);
    return r;
}

int qcow2_lazy_begin(struct qcow2 *q)
{
    uint64_t bits = q->header.incompatible_features;
    int r;

    if (bits & QCOW2_INCOMPAT_DIRTY) {
        return 0;
    }
    r = write_bits(q, bits | QCOW2_INCOMPAT_DIRTY);
    return r == 0 ? sync_unlocked(q) : r;
}

int qcow2_lazy_end(struct qcow2 *q)
{
    int r;

    if ((q->header.incompatible_features & QCOW2_INCOMPAT_DIRTY) == 0) {
        return 0;
    }
    r = sync_unlocked(q);
    r = r == 0 ? write_bits(q, q->header.incompatible_features & ~QCOW2_INCOMPAT_DIRTY) : r;
    return r == 0 ? sync_unlocked(q) : r;
}

void qcow2_entry_leads_to(struct qcow2 *q, uint64_t offset, uint64_t length, bool is_fresh,
                          bool zeros_do)
{
    bool reads_as_zeros = is_fresh && offset + length <= q->stable_size;

    if (!q->is_lazy || !zeros_do || !reads_as_zeros) {
        q->needs_barrier = true;
    }
}
