/*
 * snapshot.c - internal snapshots: the functions blk_snapshot_* for qcow2. Each change is prepared
 * beside the state that counts and then switched to (snapshot_shadow.c); where there is no room for that it
 * is made in place (snapshot_in_place.c).
 *
 *   create   the snapshot takes the active L1 table's tree as it is; the active table becomes a second
 *            tree over the same clusters, in which nothing is COPIED
 *   apply    the active tree goes; a second tree over the snapshot's clusters becomes the active one
 *   delete   the snapshot's tree goes; the active tree's COPIED flags follow
 *
 * VM state lies behind the device's end in the L1 table, and goes the way of the whole table.
 */
#include "qcow2/snapshot.h"

#include "bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- what there is ---- */

void qcow2_snapshots_free(struct qcow2 *q)
{
    snapshot_set_free(q->snapshots);
    q->snapshots = NULL;
}

/* Keeps the places of a table's clusters, which nothing else may use. */
static int keep_range(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes;
    int r = 0;

    for (uint64_t at = offset; at < end && r == 0; at += q->cluster_size) {
        r = qcow2_is_metadata(q, at) ? -EINVAL : qcow2_metadata_add(q, at);
    }
    return r;
}

static int keep_tables(struct qcow2 *q, const struct snapshot *snapshot, uint64_t *room)
{
    uint64_t bytes = (uint64_t)snapshot->l1_entries * QCOW2_ENTRY_SIZE, *l1;
    int r = bytes > *room ? -EFBIG : 0;

    r = r == 0 ? snapshot_l1_load(q, snapshot, snapshot->l1_entries, &l1) : r;
    if (r != 0) {
        return r;
    }
    *room -= bytes;
    r = keep_range(q, snapshot->l1_offset, bytes);
    for (uint32_t i = 0; i < snapshot->l1_entries && r == 0; i++) {
        r = l1[i] != 0 ? qcow2_metadata_add(q, l1[i] & QCOW2_OFFSET_MASK) : 0;
    }
    free(l1);
    return r;
}

int qcow2_snapshots_open(struct qcow2 *q, struct err *err)
{
    uint64_t room = SNAPSHOT_MAX_L1_BYTES;
    int r;

    if (q->header.nb_snapshots == 0) {
        return 0;
    }
    r = snapshot_table_load(q, &q->snapshots, err);
    if (r != 0) {
        return r;
    }
    r = keep_range(q, q->header.snapshots_offset, q->snapshots->table_bytes);
    for (unsigned i = 0; i < q->snapshots->count && r == 0; i++) {
        r = keep_tables(q, &q->snapshots->list[i], &room);
    }
    return r != 0 ? err_set_errno(err, r,
                                  "The snapshots' tables are damaged or too large to write "
                                  "to the image")
                  : 0;
}

static int load(struct qcow2 *q, struct err *err)
{
    int r = 0;

    if (q->snapshots == NULL && q->header.nb_snapshots > 0) {
        r = snapshot_table_load(q, &q->snapshots, err);
    }
    return r != 0 ? err_prefix(err, r, "'%s'", q->blk->path) : 0;
}

static unsigned snapshot_count(const struct qcow2 *q)
{
    return q->snapshots != NULL ? q->snapshots->count : 0;
}

static int get(struct blk *blk, unsigned index, struct blk_snapshot_info *info, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    int r = load(q, err);

    if (r != 0 || index >= snapshot_count(q)) {
        return r;
    }
    *info = q->snapshots->list[index].info;
    return 1;
}

static int find(struct qcow2 *q, unsigned index, const struct snapshot **out, struct err *err)
{
    int r = load(q, err);

    if (r == 0 && index >= snapshot_count(q)) {
        return err_set(err, -ENOENT, "'%s' has no snapshot %u", q->blk->path, index);
    }
    if (r == 0) {
        *out = &q->snapshots->list[index];
    }
    return r;
}

/* ---- what a change needs ---- */

/* Everything is on disk, refcounts too, and nothing on its way to being free. From here to the end lazy
 * refcounts are strict: what is switched to must have all of its own. */
static int begin(struct qcow2 *q, struct change *c)
{
    /* Clusters of a data file have no refcounts (specification, "External data file bit"). */
    bool has_data_file = (q->header.incompatible_features & QCOW2_INCOMPAT_DATA_FILE) != 0;
    int r = has_data_file ? -ENOTSUP : qcow2_refuse_if_broken(q);

    c->was_lazy = q->is_lazy;
    r = r == 0 ? qcow2_settle(q) : r;
    q->is_lazy = false;
    q->packed_end = 0;
    return r;
}

int snapshot_make_l1(struct change *c, uint64_t count)
{
    struct qcow2_table *l1 = &c->shadow.l1;
    uint64_t room = max_u64(count, 1);

    l1->count = count;
    l1->entries = calloc(room, sizeof(l1->entries[0]));
    l1->dirty = calloc(div_round_up(room, QCOW2_TABLE_SECTOR_ENTRIES), 1);
    return l1->entries == NULL || l1->dirty == NULL ? -ENOMEM : 0;
}

int snapshot_reserve_l1(struct change *c, uint64_t count)
{
    int r = snapshot_make_l1(c, count);

    return r == 0 ? shadow_reserve(&c->shadow, count * QCOW2_ENTRY_SIZE, &c->shadow.l1.offset) : r;
}

int snapshot_reserve_table(struct change *c)
{
    uint64_t bytes = snapshot_set_bytes(c->set), offset = 0;
    int r;

    if (bytes > SNAPSHOT_MAX_TABLE) {
        return -EFBIG;
    }
    r = shadow_reserve(&c->shadow, bytes, &offset);
    r = r == 0 ? shadow_gain_range(&c->shadow, offset, bytes) : r;
    c->shadow.header.nb_snapshots = c->set->count;
    c->shadow.header.snapshots_offset = offset;
    return r;
}

int snapshot_write_table(struct change *c)
{
    uint8_t *raw = snapshot_set_encode(c->set);
    int r = raw == NULL ? -ENOMEM : 0;

    if (r == 0 && c->set->table_bytes > 0) {
        r = shadow_write(&c->shadow, QCOW2_WRITES_EXTRA, c->shadow.header.snapshots_offset, raw,
                         c->set->table_bytes);
    }
    free(raw);
    return r;
}

/* Writes the new active L1 table and switches over. */
static int publish(struct change *c)
{
    struct qcow2_header *header = &c->shadow.header;
    int r = shadow_write_l1(&c->shadow, &c->shadow.l1);

    header->l1_table_offset = c->shadow.l1.offset;
    header->l1_size = (uint32_t)c->shadow.l1.count;
    return r == 0 ? shadow_publish(&c->shadow) : r;
}

static void free_range(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset; at < offset + bytes; at += q->cluster_size) {
        qcow2_metadata_remove(q, at);
    }
    if (bytes > 0) {
        qcow2_free_later(q, offset, div_round_up(bytes, q->cluster_size));
    }
}

/* The old snapshot table goes, or what is no longer needed of it; the new set is the one that counts. */
static void adopt_set(struct qcow2 *q, struct change *c, uint64_t old_offset)
{
    struct qcow2_snapshots *old = q->snapshots;
    uint64_t bytes = old != NULL ? align_up(old->table_bytes, q->cluster_size) : 0;
    uint64_t kept = c->keeps_table ? align_up(c->set->table_bytes, q->cluster_size) : 0;

    free_range(q, old_offset + kept, bytes - kept);
    q->snapshots = c->set;
    c->set = old;
}

/* The new active L1 table is the one that counts; the old one goes, or is a snapshot's now. It is shadow.l1
 * then. */
static void adopt_l1(struct qcow2 *q, struct change *c, bool old_goes)
{
    struct qcow2_table old = q->l1;
    uint64_t clusters = div_round_up(old.count * QCOW2_ENTRY_SIZE, q->cluster_size);

    if (c->keeps_l1) {
        return;
    }
    q->l1 = c->shadow.l1;
    qcow2_lookaside_clear(q);
    c->shadow.l1 = old;
    if (old_goes && clusters > 0) {
        qcow2_free_later(q, old.offset, clusters);
    }
}

/* Whether it fails for lack of room alone, and there is a way that needs less. Then nothing of the attempt is
 * left, what was written for it included. */
static bool starts_over(struct qcow2 *q, struct change *c, int r)
{
    if ((r != -ENOSPC && r != -EDQUOT) || !c->is_planned || !snapshot_can_change_in_place(q)) {
        return false;
    }
    shadow_end(&c->shadow, false);
    c->shadow = (struct shadow){.q = q, .in_place = true};
    if (qcow2_settle(q) != 0) {
        return false;
    }
    c->shadow.header = q->header;
    return true;
}

/* Ends it, with the lock. What is left to be given back is leaked if it fails: the change is done. */
static void end(struct qcow2 *q, struct change *c, bool is_done)
{
    shadow_end(&c->shadow, is_done);
    (void)qcow2_settle(q);
    q->is_lazy = c->was_lazy;
    snapshot_set_free(c->set);
    free(c->l1);
}

static int report(struct qcow2 *q, int r, const char *what, struct err *err)
{
    if (r == -ERANGE) {
        return err_set(err, r, "Could not %s in '%s': its refcounts are too narrow", what,
                       q->blk->path);
    }
    return r != 0 ? err_set_errno(err, r, "Could not %s in '%s'", what, q->blk->path) : 0;
}

/* ---- create ---- */

/* The snapshot takes over the active L1 table, which is on disk as it is in memory. */
static int build_snapshot(struct qcow2 *q, struct change *c, const struct blk_snapshot_info *info)
{
    struct blk_snapshot_info named = *info;
    int r;

    named.disk_size = q->blk->length;
    c->set = snapshot_set_copy(q->snapshots, UINT_MAX);
    r = c->set != NULL ? snapshot_set_append(c->set, &named) : -ENOMEM;
    if (r == 0) {
        snapshot_set_l1(&c->set->list[c->set->count - 1], q->l1.offset, (uint32_t)q->l1.count);
        r = snapshot_tree_expect(&c->shadow, q->l1.entries, q->l1.count);
    }
    c->is_planned = r == 0;
    r = r == 0 ? snapshot_reserve_table(c) : r;
    r = r == 0 ? snapshot_reserve_l1(c, q->l1.count) : r;
    r = r == 0 ? shadow_begin(&c->shadow, snapshot_tree_tables(q->l1.entries, q->l1.count)) : r;
    r = r == 0 ? shadow_gain_range(&c->shadow, q->l1.offset, q->l1.count * QCOW2_ENTRY_SIZE) : r;
    r = r == 0 ? snapshot_write_table(c) : r;
    return r == 0 ? snapshot_tree_share(&c->shadow, q->l1.entries, q->l1.count) : r;
}

static int create(struct blk *blk, const struct blk_snapshot_info *info, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct change c = {.shadow = {.q = q, .header = q->header}};
    uint64_t old_table = q->header.snapshots_offset;
    int r;

    if (strlen(info->name) > UINT16_MAX) {
        return err_set(err, -EINVAL, "A snapshot's name has at most %d bytes", UINT16_MAX);
    }
    if (snapshot_count(q) >= QCOW2_MAX_SNAPSHOTS) {
        return err_set(err, -EFBIG, "'%s' has too many snapshots", blk->path);
    }
    pthread_mutex_lock(&q->lock);
    r = begin(q, &c);
    r = r == 0 ? build_snapshot(q, &c, info) : r;
    r = r == 0 ? publish(&c) : r;
    if (starts_over(q, &c, r)) {
        r = snapshot_create_in_place(q, &c);
    }
    if (r == 0) {
        adopt_l1(q, &c, false);
        adopt_set(q, &c, old_table);
    }
    end(q, &c, r == 0);
    pthread_mutex_unlock(&q->lock);
    return report(q, r, "take a snapshot", err);
}

/* ---- apply ---- */

/* How many entries the L1 table needs for a device of that size. */
static uint64_t l1_entries_for(const struct qcow2 *q, uint64_t size)
{
    return div_round_up(size, q->cluster_size << q->l2_bits);
}

static int load_l1(struct qcow2 *q, const struct snapshot *snapshot, struct change *c)
{
    uint64_t size = snapshot->info.disk_size;

    if (size > INT64_MAX || l1_entries_for(q, size) > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE) {
        return -EFBIG;
    }
    c->l1_count = max_u64(snapshot->l1_entries, l1_entries_for(q, size));
    return snapshot_l1_load(q, snapshot, c->l1_count, &c->l1);
}

static int build_applied(struct qcow2 *q, struct change *c, const struct snapshot *snapshot)
{
    int r = load_l1(q, snapshot, c);

    r = r == 0 ? snapshot_tree_expect(&c->shadow, q->l1.entries, q->l1.count) : r;
    r = r == 0 ? snapshot_tree_expect(&c->shadow, c->l1, c->l1_count) : r;
    c->is_planned = r == 0;
    r = r == 0 ? snapshot_reserve_l1(c, c->l1_count) : r;
    r = r == 0 ? shadow_begin(&c->shadow, snapshot_tree_tables(c->l1, c->l1_count)) : r;
    c->shadow.header.size = snapshot->info.disk_size;
    c->shadow.may_revive = true;
    r = r == 0 ? snapshot_tree_lower(&c->shadow, q->l1.entries, q->l1.count) : r;
    return r == 0 ? snapshot_tree_share(&c->shadow, c->l1, c->l1_count) : r;
}

static int apply(struct blk *blk, unsigned index, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct change c = {.shadow = {.q = q, .header = q->header}};
    const struct snapshot *snapshot;
    struct blk_bitmap_info bitmap;
    int r = find(q, index, &snapshot, err);

    if (r == 0 && blk_bitmap_get(blk, 0, &bitmap)) {
        return err_set(err, -EBUSY, "Device has active dirty bitmaps");
    }
    if (r != 0) {
        return r;
    }
    pthread_mutex_lock(&q->lock);
    r = begin(q, &c);
    r = r == 0 ? build_applied(q, &c, snapshot) : r;
    r = r == 0 ? publish(&c) : r;
    if (starts_over(q, &c, r)) {
        c.shadow.header.size = snapshot->info.disk_size;
        r = snapshot_apply_in_place(q, &c);
    }
    if (r == 0) {
        adopt_l1(q, &c, true);
        snapshot_tree_forget(q, c.shadow.l1.entries, c.shadow.l1.count);
        blk->length = q->header.size;
    }
    end(q, &c, r == 0);
    pthread_mutex_unlock(&q->lock);
    return report(q, r, "apply the snapshot", err);
}

/* ---- delete ---- */

static int build_deleted(struct qcow2 *q, struct change *c, unsigned index)
{
    const struct snapshot *snapshot = &q->snapshots->list[index];
    int r = snapshot_l1_load(q, snapshot, snapshot->l1_entries, &c->l1);

    c->l1_count = snapshot->l1_entries;
    c->set = snapshot_set_copy(q->snapshots, index);
    r = r == 0 && c->set == NULL ? -ENOMEM : r;
    r = r == 0 ? snapshot_tree_expect(&c->shadow, c->l1, c->l1_count) : r;
    r = r == 0 ? snapshot_tree_expect(&c->shadow, q->l1.entries, q->l1.count) : r;
    c->is_planned = r == 0;
    r = r == 0 ? snapshot_reserve_table(c) : r;
    r = r == 0 ? snapshot_reserve_l1(c, q->l1.count) : r;
    r = r == 0 ? shadow_begin(&c->shadow, snapshot_tree_tables(q->l1.entries, q->l1.count)) : r;
    r = r == 0 ? snapshot_write_table(c) : r;
    r = r == 0 ? snapshot_tree_lower(&c->shadow, c->l1, c->l1_count) : r;
    return r == 0 ? snapshot_tree_follow(&c->shadow, q->l1.entries, q->l1.count) : r;
}

static int delete (struct blk *blk, unsigned index, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct change c = {.shadow = {.q = q, .header = q->header}};
    uint64_t old_table = q->header.snapshots_offset;
    const struct snapshot *snapshot;
    int r = find(q, index, &snapshot, err);

    if (r != 0) {
        return r;
    }
    pthread_mutex_lock(&q->lock);
    r = begin(q, &c);
    r = r == 0 ? build_deleted(q, &c, index) : r;
    r = r == 0 ? publish(&c) : r;
    if (starts_over(q, &c, r)) {
        r = snapshot_delete_in_place(q, &c, index);
    }
    if (r == 0) {
        adopt_l1(q, &c, true);
        snapshot_tree_forget(q, c.l1, c.l1_count);
        snapshot_tree_forget(q, c.shadow.l1.entries, c.shadow.l1.count);
        free_range(q, snapshot->l1_offset, (uint64_t)snapshot->l1_entries * QCOW2_ENTRY_SIZE);
        adopt_set(q, &c, old_table);
    }
    end(q, &c, r == 0);
    pthread_mutex_unlock(&q->lock);
    return r != 0 ? err_set_errno(err, r, "Failed to remove snapshot from snapshot list") : 0;
}

/* ---- show ---- */

static int show(struct blk *blk, unsigned index, struct err *err)
{
    struct qcow2 *q = qcow2_of(blk);
    struct qcow2_table table = {0};
    struct change c = {0};
    const struct snapshot *snapshot;
    int r = find(q, index, &snapshot, err);

    if (r != 0) {
        return r;
    }
    r = load_l1(q, snapshot, &c);
    if (r != 0) {
        return report(q, r, "show the snapshot", err);
    }
    table =
        (struct qcow2_table){.entries = c.l1, .count = c.l1_count, .offset = snapshot->l1_offset};
    pthread_mutex_lock(&q->lock);
    qcow2_table_free(&q->l1);
    q->l1 = table;
    qcow2_lookaside_clear(q);
    blk->length = snapshot->info.disk_size;
    pthread_mutex_unlock(&q->lock);
    return 0;
}

const struct blk_snapshot_ops qcow2_snapshot_ops = {
    .get = get,
    .create = create,
    .apply = apply,
    .delete = delete,
    .show = show,
};
