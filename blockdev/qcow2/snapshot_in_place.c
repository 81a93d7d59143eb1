/*
 * snapshot_in_place.c - how snapshots are taken, applied and deleted where the disk is too full for a second
 * state beside the one that counts (snapshot_shadow.c): the refcounts and COPIED flags change where they are,
 * under the dirty bit, which says that they may be wrong. Whoever opens the image for writing after a crash
 * counts all references anew and puts the flags right (check.c); so does QEMU. Readers look at neither.
 *
 *   1. room is allocated for what cannot do without, and this is written: see below.
 *   2. the dirty bit is set; sync. Refcounts are lowered and raised, COPIED flags follow in the tables where
 *      they are. Which clusters a table leads to never changes here.
 *   3. a durable commit of all that.
 *   4. one write of one sector switches over: of the header, or of the active L1 table; sync.
 *   5. what only the old state used is given back (free.c), and then the dirty bit is taken back.
 *
 * Room, at most what QEMU needs, and often none:
 *
 *   create   a cluster or more for the active L1 table, as the snapshot takes over the old one. An entry that
 *            fits into the last cluster of the snapshot table is appended there, where nobody looks before
 *            the header says that there is one more; otherwise the table moves.
 *   apply    none if the tables differ in one sector, which holds 64 entries, and the device keeps its size;
 *            otherwise the active L1 table moves.
 *   delete   none if the entry is the last one, or if it and those behind it lie in one sector: it becomes
 *            the last one, in one write, and then the header says that there is one less. Otherwise the table
 *            moves.
 *
 * Invariants:
 *   1. Each state that a crash can leave shows what the image showed before, or what it shows after: all of
 *      its tables, and the clusters that they lead to, are there.
 *   2. No cluster is allocated in stages 2 to 4, and one whose last reference went has a refcount of one until
 *      stage 5, as in a shadow.
 *   3. What fails before a flag has changed is counted back (a refcount that is too narrow, say). What fails
 *      behind that stops writing, and leaves the dirty bit.
 *
 * Images of version 2 have no dirty bit, and no such way.
 */
#include "bytes.h"
#include "qcow2/snapshot.h"

#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512 };

bool snapshot_can_change_in_place(const struct qcow2 *q)
{
    return q->header.version >= 3 && qcow2_refuse_if_broken(q) == 0;
}

/* ---- references ---- */

static int count_pass(struct shadow *s, const uint64_t *l1, uint64_t count,
                      int (*count_tree)(struct shadow *s, const uint64_t *l1, uint64_t count),
                      struct snapshot_pass *pass)
{
    int r;

    s->references = 0;
    r = count_tree(s, l1, count);
    *pass = (struct snapshot_pass){.l1 = l1, .l1_count = count, .references = s->references};
    return r;
}

static int undo_pass(struct shadow *s, const struct snapshot_pass *pass,
                     int (*count_tree)(struct shadow *s, const uint64_t *l1, uint64_t count))
{
    int r;

    s->is_undoing = true;
    s->left = pass->references;
    r = pass->references > 0 ? count_tree(s, pass->l1, pass->l1_count) : 0;
    s->is_undoing = false;
    return r == -ECANCELED ? 0 : r;
}

void snapshot_undo_in_place(struct shadow *s)
{
    size_t kept = s->is_kept ? s->emptied.count : 0;
    int r = qcow2_refuse_if_broken(s->q);

    if (r == 0 && s->is_final) {
        r = -EIO;
    }
    for (size_t i = 0; i < kept && r == 0; i++) {
        r = shadow_lower(s, s->emptied.offsets[i], 1);
    }
    s->may_revive = true;
    r = r == 0 ? undo_pass(s, &s->raised, snapshot_tree_lower) : r;
    r = r == 0 ? undo_pass(s, &s->lowered, snapshot_tree_raise) : r;
    s->emptied.count = 0;
    if (r != 0) {
        pthread_mutex_unlock(&s->q->lock);
        qcow2_break(s->q, r);
        pthread_mutex_lock(&s->q->lock);
    }
}

/* ---- tables ---- */

/* What was allocated is counted on disk, and from here on refcounts and flags may be wrong there. */
static int begin(struct shadow *s)
{
    struct qcow2 *q = s->q;
    int r = qcow2_commit(q, true);

    s->header.refcount_table_offset = q->header.refcount_table_offset;
    s->header.refcount_table_clusters = q->header.refcount_table_clusters;
    if (r == 0) {
        qcow2_commit_begin(q);
        r = qcow2_lazy_begin(q);
        qcow2_commit_end(q);
    }
    return r;
}

static int write_raw(struct shadow *s, enum qcow2_writes what, uint64_t offset, const uint8_t *raw,
                     uint64_t bytes)
{
    return bytes > 0 ? shadow_write(s, what, offset, raw, bytes) : 0;
}

/* Appends the last entry of the set, where there is room behind the table. */
static bool can_append(const struct qcow2 *q, const struct change *c)
{
    uint64_t old = q->snapshots != NULL ? q->snapshots->table_bytes : 0;

    return old > 0 &&
           align_up(old, q->cluster_size) == align_up(snapshot_set_bytes(c->set), q->cluster_size);
}

static int append_entry(struct qcow2 *q, struct change *c)
{
    const struct snapshot *last = &c->set->list[c->set->count - 1];

    return write_raw(&c->shadow, QCOW2_WRITES_EXTRA,
                     q->header.snapshots_offset + q->snapshots->table_bytes, last->raw,
                     last->bytes);
}

/* The table stays where it is. */
static void keep_table(const struct qcow2 *q, struct change *c)
{
    c->keeps_table = true;
    c->set->table_bytes = snapshot_set_bytes(c->set);
    c->shadow.header.nb_snapshots = c->set->count;
    c->shadow.header.snapshots_offset = c->set->count > 0 ? q->header.snapshots_offset : 0;
}

/* Where in the table an entry begins. */
static uint64_t entry_at(const struct qcow2_snapshots *set, unsigned index)
{
    uint64_t at = 0;

    for (unsigned i = 0; i < index; i++) {
        at += set->list[i].bytes;
    }
    return at;
}

static bool can_move_to_end(const struct qcow2 *q, unsigned index)
{
    const struct qcow2_snapshots *set = q->snapshots;

    return entry_at(set, index) / SECTOR == (set->table_bytes - 1) / SECTOR;
}

/* The entry becomes the last one: one write, inside of a sector. */
static int move_to_end(struct qcow2 *q, struct change *c, unsigned index)
{
    const struct qcow2_snapshots *set = q->snapshots;
    uint8_t raw[SECTOR];
    uint64_t bytes = 0;

    for (unsigned i = index + 1; i <= set->count; i++) {
        const struct snapshot *entry = &set->list[i < set->count ? i : index];

        memcpy(raw + bytes, entry->raw, entry->bytes);
        bytes += entry->bytes;
    }
    /* Whether it is on disk is not known when it fails. */
    c->shadow.is_final = true;
    return write_raw(&c->shadow, QCOW2_WRITES_EXTRA,
                     q->header.snapshots_offset + entry_at(set, index), raw, bytes);
}

/* The active L1 table becomes what shadow.l1 says, in memory, and that becomes what it was. */
static void exchange_l1(struct qcow2 *q, struct change *c)
{
    struct qcow2_table *l1 = &c->shadow.l1;

    c->shadow.is_final = true;
    for (uint64_t i = 0; i < q->l1.count; i++) {
        uint64_t old = q->l1.entries[i];

        if (l1->entries[i] != old) {
            qcow2_table_set(&q->l1, i, l1->entries[i]);
            l1->entries[i] = old;
        }
    }
    qcow2_lookaside_clear(q);
}

/* The active L1 table stays where it is: no room for another one. */
static int keep_l1(struct qcow2 *q, struct change *c)
{
    c->keeps_l1 = true;
    c->shadow.l1.offset = q->l1.offset;
    c->shadow.header.l1_table_offset = q->l1.offset;
    c->shadow.header.l1_size = (uint32_t)q->l1.count;
    return snapshot_make_l1(c, q->l1.count);
}

/* shadow.l1 becomes a table over the same L2 tables, all of them shared. */
static void share_l1(struct change *c, const uint64_t *l1, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        c->shadow.l1.entries[i] = l1[i] & ~QCOW2_ENTRY_COPIED;
    }
}

static int gain_l1(struct change *c)
{
    int r = 0;

    for (uint64_t i = 0; i < c->shadow.l1.count && r == 0; i++) {
        uint64_t offset = c->shadow.l1.entries[i] & QCOW2_OFFSET_MASK;

        r = offset != 0 ? shadow_gain(&c->shadow, offset) : 0;
    }
    return r;
}

/* The new active L1 table, before anything leads to it. */
static int write_l1(struct change *c)
{
    c->shadow.header.l1_table_offset = c->shadow.l1.offset;
    c->shadow.header.l1_size = (uint32_t)c->shadow.l1.count;
    return shadow_write_l1(&c->shadow, &c->shadow.l1);
}

/* ---- create ---- */

int snapshot_create_in_place(struct qcow2 *q, struct change *c)
{
    struct shadow *s = &c->shadow;
    bool appends = can_append(q, c);
    int r;

    if (appends) {
        keep_table(q, c);
    }
    r = appends ? 0 : snapshot_reserve_table(c);
    r = r == 0 ? snapshot_reserve_l1(c, q->l1.count) : r;
    if (r != 0) {
        return r;
    }
    share_l1(c, q->l1.entries, q->l1.count);
    r = shadow_gain_range(s, q->l1.offset, q->l1.count * QCOW2_ENTRY_SIZE);
    r = r == 0 ? gain_l1(c) : r;
    r = r == 0 ? write_l1(c) : r;
    if (r == 0) {
        r = appends ? append_entry(q, c) : snapshot_write_table(c);
    }
    r = r == 0 ? begin(s) : r;
    r = r == 0 ? count_pass(s, q->l1.entries, q->l1.count, snapshot_tree_raise, &s->raised) : r;
    r = r == 0 ? snapshot_tree_clear_flags(s, q->l1.entries, q->l1.count) : r;
    return r == 0 ? shadow_publish(s) : r;
}

/* ---- apply ---- */

/* Whether one write of a sector makes the active L1 table lead to the snapshot's clusters. */
static bool differs_in_one_sector(const struct qcow2 *q, const struct change *c)
{
    uint64_t first = UINT64_MAX, last = 0;

    if (c->shadow.header.size != q->header.size || c->l1_count > q->l1.count) {
        return false;
    }
    for (uint64_t i = 0; i < q->l1.count; i++) {
        uint64_t entry = i < c->l1_count ? c->l1[i] & ~QCOW2_ENTRY_COPIED : 0;

        if (entry != q->l1.entries[i]) {
            first = min_u64(first, i);
            last = i;
        }
    }
    return first == UINT64_MAX ||
           first / QCOW2_TABLE_SECTOR_ENTRIES == last / QCOW2_TABLE_SECTOR_ENTRIES;
}

/* As shadow_publish(), by way of the L1 table. */
static int publish_l1(struct change *c)
{
    struct qcow2 *q = c->shadow.q;
    int r = shadow_settle(&c->shadow);

    if (r == 0) {
        exchange_l1(q, c);
        r = qcow2_commit(q, true);
    }
    return r;
}

int snapshot_apply_in_place(struct qcow2 *q, struct change *c)
{
    struct shadow *s = &c->shadow;
    bool keeps = differs_in_one_sector(q, c);
    int r = keeps ? keep_l1(q, c) : snapshot_reserve_l1(c, c->l1_count);

    if (r != 0) {
        return r;
    }
    share_l1(c, c->l1, c->l1_count);
    r = gain_l1(c);
    r = r == 0 && !keeps ? write_l1(c) : r;
    r = r == 0 ? begin(s) : r;
    s->may_revive = true;
    r = r == 0 ? count_pass(s, q->l1.entries, q->l1.count, snapshot_tree_lower, &s->lowered) : r;
    r = r == 0 ? count_pass(s, c->l1, c->l1_count, snapshot_tree_raise, &s->raised) : r;
    r = r == 0 ? snapshot_tree_clear_flags(s, c->l1, c->l1_count) : r;
    if (r != 0) {
        return r;
    }
    return keeps ? publish_l1(c) : shadow_publish(s);
}

/* ---- delete ---- */

int snapshot_delete_in_place(struct qcow2 *q, struct change *c, unsigned index)
{
    struct shadow *s = &c->shadow;
    bool is_last = index == c->set->count;
    bool moves = !is_last && !can_move_to_end(q, index);
    int r = moves ? snapshot_reserve_table(c) : 0;

    if (r == 0 && !moves) {
        keep_table(q, c);
    }
    r = r == 0 ? keep_l1(q, c) : r;
    r = r == 0 && moves ? snapshot_write_table(c) : r;
    r = r == 0 ? begin(s) : r;
    r = r == 0 ? count_pass(s, c->l1, c->l1_count, snapshot_tree_lower, &s->lowered) : r;
    r = r == 0 ? snapshot_tree_follow(s, q->l1.entries, q->l1.count) : r;
    if (r == 0) {
        exchange_l1(q, c);
        r = is_last || moves ? 0 : move_to_end(q, c, index);
    }
    return r == 0 ? shadow_publish(s) : r;
}
