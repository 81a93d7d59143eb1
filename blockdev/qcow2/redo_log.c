/*
 * redo_log.c - changes of the mapping, written down in memory that outlives this process.
 *
 * Whoever owns the memory (a front end, whose guest runs on when its server is killed) gives it to the
 * next process that opens the image, which does again what had not reached the file. So a request that
 * needs a new cluster can be completed without a commit, whose barrier is a sync of the disk. A loss of
 * power takes the memory along, and leaves on disk what it leaves without a log: the order of writes
 * does not change.
 *
 * An entry is what the map says of one cluster of the guest, from then on. It is appended under the lock
 * in which the map changes (qcow2_l2_set), after the data was written. A commit notes where the log ends
 * when it copies the dirty tables, and what stands before that is dropped when these copies are in the
 * file - and before a cluster that the commit released can be used again. That is the invariant that
 * makes the log safe to replay: no cluster changes hands between the first entry and the last.
 *
 * Where an entry finds no room (or cannot say it: compressed data), the log is incomplete until the next
 * commit, which requests have to wait for then (qcow2_unsettled).
 *
 * Replay (attach): of each cluster of the guest the last entry counts. The clusters that the entries lead
 * to are in use by them in the tables on disk already, or by nobody: their refcounts may have reached the
 * disk or not. They are raised first, before anything is allocated; a missing refcount block is not put
 * on one of them. Then the map is changed as by the requests themselves, and committed. A replay that is
 * cut short is made again: the log is emptied after it.
 *
 * The memory is shared with somebody who may write there: entries are copied once and checked before
 * anything is changed, and this process keeps its own idea of where the log begins and ends.
 */
#include "qcow2/redo_log.h"

#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1 };

static const uint64_t MAGIC = UINT64_C(0x676f6c6f64657271); /* "qredolog" */

/* In the machine's byte order, like all of it. */
struct redo_entry {
    uint64_t guest; /* offset of the cluster */
    uint64_t host;  /* offset, and whether it is COPIED */
    uint64_t masks; /* zero << 32 | data */
};

struct redo_memory {
    uint64_t magic; /* 0: not used yet */
    uint32_t version;
    uint32_t count; /* entries there is room for */
    uint64_t device, inode, cluster_size;
    uint64_t head, tail; /* entries ever dropped and appended: entry n is at n % count */
    uint64_t reserved;
    struct redo_entry entries[];
};

/* The last entry of a cluster, and what is known of the host cluster that it leads to. */
struct change {
    struct redo_entry entry;
    uint64_t order;
    bool is_referred_to; /* by the tables on disk, and for the same guest offset */
};

struct replay {
    struct change *changes; /* in the order of guest offsets */
    size_t count;
    struct change **by_host; /* those that lead to a cluster, in its order */
    size_t host_count;
};

size_t qcow2_redo_log_size(void)
{
    return sizeof(struct redo_memory) + QCOW2_REDO_ENTRIES * sizeof(struct redo_entry);
}

static void publish(uint64_t *counter, uint64_t value)
{
    __atomic_store_n(counter, value, __ATOMIC_RELEASE);
}

/* ---- while the image is in use ---- */

void qcow2_redo_log_add(struct qcow2 *q, uint64_t guest_offset, const struct qcow2_cluster *cluster)
{
    struct qcow2_redo_log *log = &q->redo;

    if (log->memory == NULL) {
        return;
    }
    if (cluster->is_compressed || log->tail - log->head == log->count) {
        log->is_incomplete = true;
        return;
    }
    log->memory->entries[log->tail % log->count] = (struct redo_entry){
        .guest = align_down(guest_offset, q->cluster_size),
        .host = cluster->host_offset | (cluster->is_copied ? QCOW2_ENTRY_COPIED : 0),
        .masks = (uint64_t)cluster->zero << 32 | cluster->data,
    };
    log->tail++;
    publish(&log->memory->tail, log->tail);
}

bool qcow2_redo_log_is_half_full(const struct qcow2 *q)
{
    return q->redo.memory != NULL && q->redo.tail - q->redo.head > q->redo.count / 2;
}

void qcow2_redo_log_begin_commit(struct qcow2 *q)
{
    q->redo.committing_to = q->redo.tail;
    q->redo.is_committing_rest = q->redo.is_incomplete;
    q->redo.is_incomplete = false;
}

void qcow2_redo_log_end_commit(struct qcow2 *q, bool is_written)
{
    struct qcow2_redo_log *log = &q->redo;

    if (is_written && log->memory != NULL) {
        log->head = log->committing_to;
        publish(&log->memory->head, log->head);
    }
    log->is_incomplete = log->is_incomplete || (log->is_committing_rest && !is_written);
    log->is_committing_rest = false;
}

/* ---- replay ---- */

static int by_guest(const void *a, const void *b)
{
    const struct change *x = a, *y = b;

    if (x->entry.guest != y->entry.guest) {
        return x->entry.guest < y->entry.guest ? -1 : 1;
    }
    return x->order < y->order ? -1 : x->order > y->order;
}

static uint64_t host_of(const struct change *change)
{
    return change->entry.host & ~QCOW2_ENTRY_COPIED;
}

static int by_host(const void *a, const void *b)
{
    uint64_t x = host_of(*(struct change *const *)a), y = host_of(*(struct change *const *)b);

    return x < y ? -1 : x > y;
}

static struct change *find_host(const struct replay *replay, uint64_t host)
{
    size_t low = 0, high = replay->host_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (host_of(replay->by_host[middle]) < host) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < replay->host_count && host_of(replay->by_host[low]) == host ? replay->by_host[low]
                                                                             : NULL;
}

bool qcow2_redo_log_wants(const struct qcow2 *q, uint64_t host_offset)
{
    return q->redo.replay != NULL && find_host(q->redo.replay, host_offset) != NULL;
}

/* Copies the entries, the last one of each guest cluster, and sorts them. */
static int collect(struct replay *replay, const struct redo_memory *memory, uint64_t head,
                   uint64_t count, uint32_t room)
{
    size_t n = 0;

    replay->changes = calloc(count, sizeof(replay->changes[0]));
    replay->by_host = calloc(count, sizeof(struct change *));
    if (replay->changes == NULL || replay->by_host == NULL) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < count; i++) {
        replay->changes[i].entry = memory->entries[(head + i) % room];
        replay->changes[i].order = i;
    }
    qsort(replay->changes, count, sizeof(replay->changes[0]), by_guest);
    for (size_t i = 0; i < count; i++) {
        n -= n > 0 && replay->changes[n - 1].entry.guest == replay->changes[i].entry.guest;
        replay->changes[n++] = replay->changes[i];
    }
    replay->count = n;
    return 0;
}

/* By itself, whatever the tables say. */
static bool is_sound(const struct qcow2 *q, const struct redo_entry *entry)
{
    uint64_t host = entry->host & ~QCOW2_ENTRY_COPIED;
    uint32_t data = (uint32_t)entry->masks, zero = (uint32_t)(entry->masks >> 32);

    if (!is_aligned(entry->guest, q->cluster_size) || entry->guest >= q->blk->length ||
        (data & zero) != 0 || ((data | zero) & ~qcow2_subcluster_mask(0, q->subclusters)) != 0 ||
        (zero != 0 && q->header.version < 3)) {
        return false;
    }
    if (qcow2_has_data_file(q)) {
        return host == 0 || host == entry->guest;
    }
    return host == 0 ? data == 0 && entry->host == 0
                     : host < QCOW2_MAX_HOST_OFFSET && is_aligned(host, q->cluster_size) &&
                           range_within(host, q->cluster_size, q->file_end) &&
                           !qcow2_is_metadata(q, host) && (entry->host & QCOW2_ENTRY_COPIED) != 0;
}

/* No two may lead to the same cluster. */
static bool are_sound(const struct qcow2 *q, struct replay *replay)
{
    for (size_t i = 0; i < replay->count; i++) {
        struct change *change = &replay->changes[i];

        if (!is_sound(q, &change->entry)) {
            return false;
        }
        if (host_of(change) != 0 && !qcow2_has_data_file(q)) {
            replay->by_host[replay->host_count++] = change;
        }
    }
    if (replay->host_count > 1) {
        qsort(replay->by_host, replay->host_count, sizeof(struct change *), by_host);
    }
    for (size_t i = 1; i < replay->host_count; i++) {
        if (host_of(replay->by_host[i - 1]) == host_of(replay->by_host[i])) {
            return false;
        }
    }
    return true;
}

/* Looks for entries of the table's slice at `guest_offset` that lead to the log's clusters. */
static int scan_slice(struct qcow2 *q, struct replay *replay, uint64_t guest_offset,
                      uint64_t l2_offset)
{
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_l2_get(q, guest_offset, l2_offset, &slice, &index);

    if (r != 0) {
        return r;
    }
    for (unsigned i = 0; r == 0 && i < qcow2_l2_entries_per_slice(q); i++) {
        struct qcow2_cluster cluster;
        uint64_t first = 0, clusters;

        r = qcow2_l2_decode(q, slice, i, &cluster);
        clusters = r == 0 ? qcow2_cluster_references(q, &cluster, &first) : 0;
        for (uint64_t n = 0; n < clusters; n++) {
            struct change *change = find_host(replay, first + n * q->cluster_size);

            if (change == NULL) {
                continue;
            }
            if (change->entry.guest != guest_offset + i * q->cluster_size || clusters > 1) {
                r = -EINVAL;
            }
            change->is_referred_to = true;
        }
    }
    qcow2_cache_put(slice);
    return r;
}

/* -EINVAL: a cluster of the log belongs to another part of the guest's disk. */
static int scan(struct qcow2 *q, struct replay *replay)
{
    uint64_t table_bytes = UINT64_C(1) << (q->cluster_bits + q->l2_bits);

    for (uint64_t i = 0; i < q->l1.count && replay->host_count > 0; i++) {
        uint64_t l2_offset = 0;
        int r = qcow2_l1_get(q, i * table_bytes, &l2_offset);

        for (uint64_t at = i * table_bytes; r == 0 && l2_offset != 0 && at < (i + 1) * table_bytes;
             at = qcow2_slice_end(q, at)) {
            r = scan_slice(q, replay, at, l2_offset);
        }
        if (r != 0) {
            return r;
        }
    }
    return 0;
}

/* What nobody refers to has no reference, or the one that was counted for the entry before the end. More
 * were given by somebody else. */
static int check_counts(struct qcow2 *q, const struct replay *replay)
{
    int r = 0;

    for (size_t i = 0; i < replay->host_count && r == 0; i++) {
        uint64_t host = host_of(replay->by_host[i]), block_offset = 0, count = 0;

        r = qcow2_refblock_get(q, host >> (q->cluster_bits + q->refblock_bits), &block_offset);
        if (r == 0 && block_offset != 0) {
            r = qcow2_refcount_get(q, host, &count);
        }
        if (r == 0 && (count > 1 || (count == 0 && replay->by_host[i]->is_referred_to))) {
            r = -EINVAL;
        }
    }
    return r;
}

/* Pins the slice with the cluster's refcount; makes the block that it belongs to, if need be. */
static int get_refcount(struct qcow2 *q, uint64_t host, struct qcow2_slice **slice, unsigned *index)
{
    uint64_t block = host >> (q->cluster_bits + q->refblock_bits), block_offset = 0;
    int r = 0;

    while (r == 0 && block >= q->reftable.count) {
        r = qcow2_grow_reftable(q, block);
    }
    while (r == 0) {
        r = qcow2_refblock_get(q, block, &block_offset);
        if (r != 0 || block_offset != 0) {
            break;
        }
        r = qcow2_add_refblock(q, block);
    }
    return r != 0 ? r : qcow2_refcount_slice(q, host, slice, index);
}

static int claim(struct qcow2 *q, const struct replay *replay)
{
    for (size_t i = 0; i < replay->host_count; i++) {
        struct qcow2_slice *slice;
        unsigned index;
        int r = get_refcount(q, host_of(replay->by_host[i]), &slice, &index);

        if (r != 0) {
            return r;
        }
        qcow2_refcount_store(q, slice, index, 1);
        qcow2_cache_put(slice);
    }
    return 0;
}

static int apply(struct qcow2 *q, const struct change *change)
{
    struct qcow2_cluster old, new = {
                                  .host_offset = host_of(change),
                                  .is_copied = (change->entry.host & QCOW2_ENTRY_COPIED) != 0,
                                  .data = (uint32_t)change->entry.masks,
                                  .zero = (uint32_t)(change->entry.masks >> 32),
                              };
    struct qcow2_slice *slice;
    unsigned index;
    int r = qcow2_throttle(q);

    r = r == 0 ? qcow2_l2_get_writable(q, change->entry.guest, &slice, &index) : r;
    if (r != 0) {
        return r;
    }
    r = qcow2_l2_decode(q, slice, index, &old);
    if (r == 0) {
        qcow2_l2_set(q, slice, index, change->entry.guest, &new);
        if (old.is_compressed || old.host_offset != new.host_offset) {
            qcow2_give_up(q, &old);
        }
    }
    qcow2_cache_put(slice);
    return r;
}

static int replay_all(struct qcow2 *q, const struct redo_memory *memory, uint64_t head,
                      uint64_t count, uint32_t room)
{
    struct replay replay = {0};
    int r = collect(&replay, memory, head, count, room);

    if (r == 0 && !are_sound(q, &replay)) {
        r = -EINVAL;
    }
    r = r == 0 ? scan(q, &replay) : r;
    r = r == 0 ? check_counts(q, &replay) : r;
    if (r == 0) {
        q->redo.replay = &replay;
        q->needs_barrier = true; /* the data may be nowhere but in the page cache */
        r = claim(q, &replay);
        for (size_t i = 0; i < replay.count && r == 0; i++) {
            r = apply(q, &replay.changes[i]);
        }
        q->redo.replay = NULL;
        r = r == 0 ? qcow2_commit(q, true) : r;
    }
    free(replay.changes);
    free(replay.by_host);
    return r;
}

/* ---- attach and detach ---- */

static bool is_of_image(const struct qcow2 *q, const struct redo_memory *memory)
{
    return memory->device == q->blk->device && memory->inode == q->blk->inode &&
           memory->cluster_size == q->cluster_size;
}

/* What the last process left. */
static int use_old(struct qcow2 *q, const struct redo_memory *memory, uint32_t room,
                   struct err *err)
{
    uint64_t head = __atomic_load_n(&memory->head, __ATOMIC_RELAXED);
    uint64_t count = __atomic_load_n(&memory->tail, __ATOMIC_RELAXED) - head;
    int r;

    if (memory->magic == 0 || count == 0) {
        return 0;
    }
    if (memory->magic != MAGIC || memory->version != VERSION || memory->count != room ||
        count > room) {
        return err_set(err, -EINVAL, "what the last server left to be done is damaged");
    }
    if (!is_of_image(q, memory)) {
        return err_set(err, -EINVAL, "what the last server left to be done is of another image");
    }
    r = qcow2_refuse_if_broken(q);
    r = r == 0 ? replay_all(q, memory, head, count, room) : r;
    if (r == -EINVAL) {
        return err_set(err, r, "what the last server left to be done does not fit the image");
    }
    return r != 0 ? err_set_errno(err, r, "what the last server left to be done cannot be done")
                  : 0;
}

/* New, and what is in memory alone by now goes to the file: the log has nothing of it. */
static int start(struct qcow2 *q, struct redo_memory *memory, uint32_t room, struct err *err)
{
    int r = qcow2_commit(q, true);

    if (r != 0) {
        return err_set_errno(err, r, "cannot write '%s'", q->blk->path);
    }
    publish(&memory->magic, 0);
    memory->version = VERSION;
    memory->count = room;
    memory->device = q->blk->device;
    memory->inode = q->blk->inode;
    memory->cluster_size = q->cluster_size;
    memory->head = memory->tail = 0;
    publish(&memory->magic, MAGIC);
    q->redo = (struct qcow2_redo_log){.memory = memory, .count = room};
    return 0;
}

static void stop(struct qcow2 *q)
{
    if (q->redo.memory == NULL) {
        return;
    }
    /* Whatever comes of it: this process lives on, and with it what it has in memory. */
    (void)qcow2_commit(q, false);
    publish(&q->redo.memory->head, q->redo.tail);
    q->redo = (struct qcow2_redo_log){0};
}

int qcow2_redo_log(struct blk *blk, void *memory, size_t bytes, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    size_t head = sizeof(struct redo_memory), entry = sizeof(struct redo_entry);
    uint32_t room =
        bytes < head ? 0 : (uint32_t)min_u64((bytes - head) / entry, QCOW2_REDO_ENTRIES);
    int r;

    pthread_mutex_lock(&q->lock);
    stop(q);
    r = memory != NULL && room > 0 ? use_old(q, memory, room, err) : 0;
    /* What is broken can still be read. */
    if (r == 0 && memory != NULL && room > 0 && qcow2_refuse_if_broken(q) == 0) {
        r = start(q, memory, room, err);
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}
