/*
 * commit.c - the one place from which metadata reaches the disk, and in which order.
 *
 * All changes are made in memory: in cached slices, in the L1 and in the refcount table. The
 * committer (one thread at a time, whoever calls qcow2_commit) copies what is dirty under the lock,
 * all at one moment, and writes the copies without it, by kind:
 *
 *   stage            what                                              must be stable before
 *   1  refcounts     dirty slices of refcount blocks                   2, 4
 *   2  refcount table entries of new blocks (after a sync)             4
 *   3  barrier       fdatasync: stages 1 and 2, all guest data         4
 *                    written so far, and the zeros of new L2 tables
 *   4  mapping       dirty slices of L2 tables, and L1 entries         5
 *   5  durable       fdatasync                                         6
 *   6  frees         holes, then lower refcounts in memory (free.c),   -
 *                    whose slices are written at once
 *
 * Invariants on disk, at every moment, whatever a crash cuts short:
 *   1. A cluster that a table leads to has a refcount of at least one: raised in stage 1 or
 * earlier, stable by stage 3, and lowered only after stage 5 of the commit that unlinked it.
 *   2. An L2 entry leads to complete data: its bytes, copy-on-write edges included, were written
 * before the entry was put into memory (write.c), and are stable by stage 3.
 *   3. An L1 entry leads to an L2 table: one that was written in stage 4 or that reads as zeros.
 * The zeros were there before the entry was put into memory (l2.c) and are stable by stage 3. So L1
 *      and L2 need no order between them: an early L1 entry only shows what was there before.
 *   4. A refcount table entry leads to a block that counts itself (stage 1, its sync, stage 2).
 *   5. A cluster that an L2 entry on disk may still lead to is neither reused nor holed: stage 6.
 *   6. The header names a complete L1 table and a complete refcount table: resize.c, grow.c.
 * So a crash can leak clusters, and can lose what was not flushed, but nothing else.
 *
 * Entries are eight bytes at multiples of eight and are never torn, as disks write whole sectors.
 *
 * A barrier is left out when nothing in the copies depends on it: no dirty refcounts and no new
 * entry that leads anywhere (then only frees and zero flags are in them). A commit for room in the
 * cache, or for what is to survive this process alone (qcow2_to_file), is not durable: it leaves out
 * stages 5 and 6, and a later one makes up for it.
 *
 * A write that fails leaves its slices dirty, and the commit can be tried again. A sync that fails
 * does not: the kernel may have dropped what it could not write, so that trying again would claim
 * what nobody knows. From then on everything that needs the disk to be stable fails (qcow2_break).
 *
 * With lazy refcounts (lazy.c) there are no stages 1 and 2 while the dirty bit is set: refcounts are
 * written when the cache wants room, in no order, and at the end (qcow2_settle).
 *
 * What a commit has brought into the file leaves the redo log, if there is one (redo_log.c).
 *
 * Flushes that arrive while one is carried out share the next one (flush_wanted, flush_done).
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VECTOR = 64, TABLE_SECTOR_BYTES = QCOW2_TABLE_SECTOR_ENTRIES * QCOW2_ENTRY_SIZE };

/* A copy of something dirty: of a slice, or of a sector of a table. */
struct piece {
    uint64_t offset; /* in the file */
    uint8_t *data;
    size_t length;
    struct qcow2_slice *slice; /* a slice's */
    size_t sector;             /* a table's */
};

struct pieces {
    struct piece *pieces;
    size_t count;
    uint8_t *data; /* of all */
};

struct snapshot {
    struct pieces refcounts, reftable, l2, l1;
    struct qcow2_runs freed;
    bool needs_barrier;
};

void qcow2_commit_begin(struct qcow2 *q)
{
    while (q->committing) {
        pthread_cond_wait(&q->changed, &q->lock);
    }
    q->committing = true;
}

void qcow2_commit_end(struct qcow2 *q)
{
    q->committing = false;
    pthread_cond_broadcast(&q->changed);
}

int qcow2_break(struct qcow2 *q, int code)
{
    pthread_mutex_lock(&q->lock);
    if (q->sync_failed == 0) {
        q->sync_failed = code;
    }
    qcow2_lookaside_close(q);
    pthread_mutex_unlock(&q->lock);
    return blk_note_problem(q->blk, code, "writing stopped: %s", strerror(-code));
}

int qcow2_sync(struct qcow2 *q)
{
    struct file *data = q->blk->data_file;
    uint64_t size;
    int r;

    pthread_mutex_lock(&q->lock);
    size = q->file_size;
    pthread_mutex_unlock(&q->lock);
    r = data != NULL ? data->ops->sync(data) : 0;
    r = r == 0 ? q->file->ops->sync(q->file) : r;
    if (r != 0) {
        return qcow2_break(q, r);
    }
    pthread_mutex_lock(&q->lock);
    q->stable_size = max_u64(q->stable_size, size);
    pthread_mutex_unlock(&q->lock);
    return 0;
}

static void pieces_free(struct pieces *list)
{
    free(list->pieces);
    free(list->data);
    *list = (struct pieces){0};
}

static int pieces_make(struct pieces *list, size_t count, size_t piece_bytes)
{
    *list = (struct pieces){0};
    if (count == 0) {
        return 0;
    }
    list->pieces = calloc(count, sizeof(list->pieces[0]));
    list->data = aligned_alloc(4096, align_up(count * piece_bytes, 4096));
    return list->pieces != NULL && list->data != NULL ? 0 : -ENOMEM;
}

/* Copies the dirty slices of a kind. They count as clean from here on, and are pinned until their
 * copies are written: if one were dropped now, it would be read back as it was. */
static int copy_slices(struct qcow2 *q, enum qcow2_slice_kind kind, struct pieces *list)
{
    size_t bytes = (size_t)1 << q->slice_bits, count = 0;

    for (unsigned i = 0; i < q->cache.count; i++) {
        count += q->cache.slices[i]->dirty && q->cache.slices[i]->kind == kind;
    }
    if (pieces_make(list, count, bytes) != 0) {
        return -ENOMEM;
    }
    for (unsigned i = 0; list->count < count; i++) {
        struct qcow2_slice *slice = q->cache.slices[i];

        if (slice->dirty && slice->kind == kind) {
            int r = qcow2_check_overlap(
                q, kind == QCOW2_SLICE_L2 ? QCOW2_WRITES_L2 : QCOW2_WRITES_REFBLOCK, slice->offset,
                bytes);
            struct piece *piece = &list->pieces[list->count];

            if (r != 0) {
                return r;
            }
            *piece = (struct piece){.offset = slice->offset, .length = bytes, .slice = slice};
            piece->data = list->data + list->count * bytes;
            memcpy(piece->data, slice->data, bytes);
            slice->pins++;
            qcow2_cache_mark_clean(q, slice);
            list->count++;
        }
    }
    return 0;
}

static int copy_table(struct qcow2 *q, struct qcow2_table *table, struct pieces *list)
{
    enum qcow2_writes what = table == &q->l1 ? QCOW2_WRITES_L1 : QCOW2_WRITES_REFTABLE;
    size_t sectors = div_round_up(table->count, QCOW2_TABLE_SECTOR_ENTRIES), count = 0;

    if (!table->any_dirty) {
        *list = (struct pieces){0};
        return 0;
    }
    for (size_t s = 0; s < sectors; s++) {
        count += table->dirty[s];
    }
    if (pieces_make(list, count, TABLE_SECTOR_BYTES) != 0) {
        return -ENOMEM;
    }
    for (size_t s = 0; list->count < count; s++) {
        size_t first = s * QCOW2_TABLE_SECTOR_ENTRIES;
        size_t entries = min_u64(QCOW2_TABLE_SECTOR_ENTRIES, table->count - first);
        struct piece *piece = &list->pieces[list->count];
        int r;

        if (!table->dirty[s]) {
            continue;
        }
        r = qcow2_check_overlap(q, what, table->offset + first * QCOW2_ENTRY_SIZE,
                                entries * QCOW2_ENTRY_SIZE);
        if (r != 0) {
            return r;
        }
        *piece = (struct piece){
            .offset = table->offset + first * QCOW2_ENTRY_SIZE,
            .data = list->data + list->count * TABLE_SECTOR_BYTES,
            .length = entries * QCOW2_ENTRY_SIZE,
            .sector = s,
        };
        for (size_t i = 0; i < entries; i++) {
            store_be64(piece->data + i * QCOW2_ENTRY_SIZE, table->entries[first + i]);
        }
        table->dirty[s] = 0;
        list->count++;
    }
    table->any_dirty = false;
    return 0;
}

static void finish_slices(struct qcow2 *q, struct pieces *list, bool is_written)
{
    for (size_t i = 0; i < list->count; i++) {
        qcow2_cache_put(list->pieces[i].slice);
        if (!is_written) {
            qcow2_cache_mark_dirty(q, list->pieces[i].slice);
        }
    }
    pieces_free(list);
}

static void finish_table(struct qcow2_table *table, struct pieces *list, bool is_written)
{
    for (size_t i = 0; i < list->count && !is_written; i++) {
        table->dirty[list->pieces[i].sector] = 1;
        table->any_dirty = true;
    }
    pieces_free(list);
}

static void finish_snapshot(struct qcow2 *q, struct snapshot *snapshot, bool is_written)
{
    finish_slices(q, &snapshot->refcounts, is_written);
    finish_table(&q->reftable, &snapshot->reftable, is_written);
    finish_slices(q, &snapshot->l2, is_written);
    finish_table(&q->l1, &snapshot->l1, is_written);
    qcow2_redo_log_end_commit(q, is_written);
    if (!is_written) {
        q->needs_barrier = q->needs_barrier || snapshot->needs_barrier;
        qcow2_freed_restore(q, &snapshot->freed);
    }
}

static int take_snapshot(struct qcow2 *q, bool durable, bool with_refcounts,
                         struct snapshot *snapshot)
{
    int r = 0;

    if (with_refcounts) {
        r = copy_slices(q, QCOW2_SLICE_REFCOUNT, &snapshot->refcounts);
        r = r == 0 ? copy_table(q, &q->reftable, &snapshot->reftable) : r;
    }
    r = r == 0 ? copy_slices(q, QCOW2_SLICE_L2, &snapshot->l2) : r;
    r = r == 0 ? copy_table(q, &q->l1, &snapshot->l1) : r;
    if (r != 0) {
        return r;
    }
    snapshot->needs_barrier =
        q->needs_barrier ||
        (!q->is_lazy && (snapshot->refcounts.count > 0 || snapshot->reftable.count > 0));
    q->needs_barrier = false;
    qcow2_redo_log_begin_commit(q);
    if (durable) {
        qcow2_freed_take(q, &snapshot->freed);
    }
    return 0;
}

static int compare_pieces(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Without the lock. What is adjacent goes out in one call. */
static int write_pieces(struct qcow2 *q, struct pieces *list)
{
    struct iovec iov[MAX_VECTOR];
    size_t i = 0;

    if (list->count > 1) {
        qsort(list->pieces, list->count, sizeof(list->pieces[0]), compare_pieces);
    }
    while (i < list->count) {
        uint64_t offset = list->pieces[i].offset, end = offset;
        int n = 0, r;

        while (i < list->count && n < MAX_VECTOR && list->pieces[i].offset == end) {
            iov[n].iov_base = list->pieces[i].data;
            iov[n].iov_len = list->pieces[i].length;
            end += list->pieces[i].length;
            n++;
            i++;
        }
        r = file_pwritev(q->file, offset, iov, n);
        if (r != 0) {
            return r;
        }
    }
    return 0;
}

/* Stages 1 to 5, without the lock. */
static int write_snapshot(struct qcow2 *q, struct snapshot *snapshot, bool durable)
{
    bool has_mapping = snapshot->l2.count > 0 || snapshot->l1.count > 0;
    int r = write_pieces(q, &snapshot->refcounts);

    if (r == 0 && snapshot->reftable.count > 0) {
        r = q->is_lazy ? 0 : qcow2_sync(q);
        r = r == 0 ? write_pieces(q, &snapshot->reftable) : r;
    }
    if (r == 0 && has_mapping) {
        r = snapshot->needs_barrier ? qcow2_sync(q) : 0;
        r = r == 0 ? write_pieces(q, &snapshot->l2) : r;
        r = r == 0 ? write_pieces(q, &snapshot->l1) : r;
    }
    return r == 0 && durable ? qcow2_sync(q) : r;
}

/* Refcounts may reach the disk at any time before the mapping that needs them, and lowered ones at
 * any time after stage 5: so these are written without any barrier. What fails stays dirty. */
static void write_lowered_refcounts(struct qcow2 *q)
{
    struct pieces list;
    int r = copy_slices(q, QCOW2_SLICE_REFCOUNT, &list);

    if (r == 0) {
        pthread_mutex_unlock(&q->lock);
        r = write_pieces(q, &list);
        pthread_mutex_lock(&q->lock);
    }
    finish_slices(q, &list, r == 0);
}

static bool is_anything_dirty(const struct qcow2 *q)
{
    return q->cache.dirty_count > 0 || q->l1.any_dirty || q->reftable.any_dirty ||
           q->freed.count > 0;
}

static int commit(struct qcow2 *q, bool durable, bool with_refcounts)
{
    struct snapshot snapshot = {0};
    int r;

    qcow2_commit_begin(q);
    qcow2_freed_reap(q);
    r = qcow2_refuse_if_broken(q);
    if (r == 0 && q->is_lazy && is_anything_dirty(q)) {
        r = qcow2_lazy_begin(q);
    }
    if (r == 0) {
        r = take_snapshot(q, durable, with_refcounts, &snapshot);
        if (r == 0) {
            pthread_mutex_unlock(&q->lock);
            r = write_snapshot(q, &snapshot, durable);
            pthread_mutex_lock(&q->lock);
        }
        finish_snapshot(q, &snapshot, r == 0);
    }
    if (r == 0 && durable) {
        qcow2_freed_drain(q, &snapshot.freed);
        if (qcow2_freed_reap(q) && with_refcounts) {
            write_lowered_refcounts(q);
        }
    }
    qcow2_commit_end(q);
    return r;
}

int qcow2_commit(struct qcow2 *q, bool durable)
{
    return commit(q, durable, !q->is_lazy || !durable);
}

int qcow2_to_file(struct blk *blk)
{
    struct qcow2 *q = qcow2_of(blk);
    int r;

    if (q->check_only) {
        return 0;
    }
    pthread_mutex_lock(&q->lock);
    r = commit(q, false, !q->is_lazy);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* Two commits: what the first one releases is written by the second. */
int qcow2_settle(struct qcow2 *q)
{
    int r = commit(q, true, true);

    if (r == 0 && is_anything_dirty(q)) {
        r = commit(q, true, true);
    }
    if (r == 0 && !is_anything_dirty(q)) {
        qcow2_commit_begin(q);
        r = qcow2_lazy_end(q);
        qcow2_commit_end(q);
    }
    return r;
}

int qcow2_throttle(struct qcow2 *q)
{
    enum { MAX_FREED_RUNS = 16 << 10 };
    const uint64_t max_freed_bytes = UINT64_C(1) << 30;
    bool much_is_freed =
        q->freed.clusters > max_freed_bytes >> q->cluster_bits || q->freed.count > MAX_FREED_RUNS;
    int r = much_is_freed && q->draining.count == 0 ? qcow2_commit(q, true) : 0;

    while (r == 0 && q->cache.dirty_count > q->cache.limit / 2) {
        r = qcow2_commit(q, false);
    }
    if (r == 0 && qcow2_redo_log_is_half_full(q) && !q->committing) {
        r = qcow2_commit(q, false);
    }
    return r;
}

int qcow2_flush(struct blk *blk)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t ticket, wanted;
    int r;

    if (q->check_only) {
        return 0; /* nothing was written here */
    }
    pthread_mutex_lock(&q->lock);
    ticket = ++q->flush_wanted;
    while (q->flush_done < ticket && q->committing) {
        pthread_cond_wait(&q->changed, &q->lock);
    }
    if (q->flush_done >= ticket) {
        r = q->flush_result;
    } else {
        wanted = q->flush_wanted;
        r = qcow2_commit(q, true);
        q->flush_done = max_u64(q->flush_done, wanted);
        q->flush_result = r;
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}
