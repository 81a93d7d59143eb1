/*
 * check_copied.c - the COPIED flag says that a refcount is exactly one, so that the cluster may be
 * written in place. It is kept in the active L1 table and the L2 tables below it alone.
 *
 * A flag that is set though the refcount differs would make a writer change a shared cluster; one
 * that is missing costs a needless copy. Both count as corruption, as in qemu-img.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* Once all refcounts are right, the flags can only follow them: that much `-r leaks` does too, because
 * a leak that was repaired may leave a refcount of one. */
static bool may_repair(const struct check *c)
{
    const struct blk_check_result *r = c->result;

    if (c->fix & BLK_FIX_ERRORS)
        return true;
    return c->fix != 0 && r->corruptions == 0 && r->leaks == 0 && r->check_errors == 0;
}

static bool can_count(struct check *c, uint64_t entry, uint64_t *refcount)
{
    int rc = check_get_refcount(c, (entry & QCOW2_OFFSET_MASK) >> c->cluster_bits, refcount);

    /* The comparison has counted what cannot be read; but this block it could read. */
    if (rc < 0 && c->block_status < 0 && c->result->check_errors == 0)
        c->result->check_errors++;
    return rc == 0;
}

/* Whether the flag in `entry` is wrong. A refcount that cannot be read says nothing. */
static bool is_wrong(struct check *c, uint64_t entry, uint64_t *refcount)
{
    return can_count(c, entry, refcount) && (*refcount == 1) != ((entry & QCOW2_ENTRY_COPIED) != 0);
}

/* In an external data file every cluster counts as one. */
static bool is_data_wrong(struct check *c, uint64_t entry, uint64_t *refcount)
{
    if (!c->has_data_file)
        return is_wrong(c, entry, refcount);
    *refcount = 1;
    return (entry & QCOW2_ENTRY_COPIED) == 0;
}

static void report_wrong(struct check *c, bool repair, uint32_t times)
{
    if (repair)
        c->result->corruptions_fixed++;
    else
        c->result->corruptions += times;
}

/* Puts the flags of one L2 table right, which `times` L1 entries lead to; the range of entries that
 * changed is written at once. */
static int check_l2(struct check *c, uint64_t table, uint32_t times, unsigned char *buf,
                    bool repair)
{
    uint64_t first = UINT64_MAX, last = 0, refcount;
    int rc = file_pread(c->file, table, buf, c->cluster_size);

    if (rc < 0) {
        check_say(c, "ERROR: I/O error in check_oflag_copied");
        c->result->check_errors++;
        return 0;
    }
    for (uint64_t at = 0; at < c->cluster_size; at += UINT64_C(1) << c->l2_entry_bits) {
        uint64_t entry = load_be64(buf + at);

        if ((entry & QCOW2_L2_COMPRESSED) != 0 || (entry & QCOW2_OFFSET_MASK) == 0 ||
            !is_data_wrong(c, entry, &refcount))
            continue;
        check_say(c, "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64,
                  repair ? "Repairing" : "ERROR", entry, refcount);
        report_wrong(c, repair, times);
        store_be64(buf + at, entry ^ QCOW2_ENTRY_COPIED);
        first = min_u64(first, at);
        last = at;
    }
    if (!repair || first == UINT64_MAX)
        return 0;
    return check_write_entries(c, true, table + first, buf + first,
                               last - first + QCOW2_ENTRY_SIZE);
}

/* Entries of the L1 table that changed and are not written yet: `first` to `end`, in one window. */
struct l1_changes {
    uint64_t first, end;
};
enum { L1_WINDOW = 512 };

/* An L1 table whose length is damaged may reach over what must not be written, a LUKS header say. */
static bool is_l1_taken(const struct check *c, uint64_t first, uint64_t end)
{
    return check_is_taken(c, false, c->header.l1_table_offset + first * QCOW2_ENTRY_SIZE,
                          (end - first) * QCOW2_ENTRY_SIZE);
}

static int write_l1(struct check *c, const uint64_t *l1, struct l1_changes *changes)
{
    unsigned char raw[L1_WINDOW * QCOW2_ENTRY_SIZE];
    uint64_t first = changes->first, count = changes->end - first;

    *changes = (struct l1_changes){0};
    for (uint64_t i = 0; i < count; i++)
        store_be64(raw + i * QCOW2_ENTRY_SIZE, l1[first + i]);
    if (count == 0)
        return 0;
    return check_write_entries(c, false, c->header.l1_table_offset + first * QCOW2_ENTRY_SIZE, raw,
                               count * QCOW2_ENTRY_SIZE);
}

static int change_l1(struct check *c, uint64_t *l1, uint64_t i, struct l1_changes *changes)
{
    bool fits = changes->end > 0 && i / L1_WINDOW == changes->first / L1_WINDOW &&
                !is_l1_taken(c, changes->first, i + 1);
    int rc = fits ? 0 : write_l1(c, l1, changes);

    if (!fits)
        changes->first = i;
    changes->end = i + 1;
    l1[i] ^= QCOW2_ENTRY_COPIED;
    return rc;
}

/* Each table is looked at once: then its count of references is taken away. */
static bool is_new_table(struct check *c, uint64_t table, uint32_t *times)
{
    *times = 1;
    if (!is_aligned(table, c->cluster_size))
        return check_may_walk_unaligned(c);
    if (table >> c->cluster_bits >= c->active_tables.clusters)
        return false; /* beyond the end of the file: reads as zeros */
    *times = check_refs_take(&c->active_tables, table >> c->cluster_bits);
    return *times > 0;
}

int check_copied_flags(struct check *c)
{
    const struct qcow2_header *h = &c->header;
    bool repair = may_repair(c);
    unsigned char *buf = malloc(c->cluster_size);
    struct l1_changes changes = {0};
    uint64_t *l1 = NULL;
    uint64_t refcount;
    uint32_t times;
    int rc = buf == NULL ? -ENOMEM : check_read_table(c, h->l1_table_offset, h->l1_size, &l1);

    c->unaligned_tables = 0;
    for (uint64_t i = 0; rc == 0 && i < h->l1_size; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET_MASK;

        if (table == 0 || !can_count(c, l1[i], &refcount))
            continue;
        if (is_wrong(c, l1[i], &refcount)) {
            bool repair_this = repair && !is_l1_taken(c, i, i + 1);

            check_say(c,
                      "%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64
                      " refcount=%" PRIu64,
                      repair_this ? "Repairing" : "ERROR", i, l1[i], refcount);
            report_wrong(c, repair_this, 1);
            if (repair_this)
                rc = change_l1(c, l1, i, &changes);
        }
        if (rc < 0 || !is_new_table(c, table, &times))
            continue;
        /* One that is part of the L1 table shows what became of that. */
        if (ranges_overlap(table, c->cluster_size, h->l1_table_offset,
                           (uint64_t)h->l1_size * QCOW2_ENTRY_SIZE))
            rc = write_l1(c, l1, &changes);
        if (rc == 0)
            rc = check_l2(c, table, times, buf, repair);
    }
    if (rc == 0)
        rc = write_l1(c, l1, &changes);
    free(l1);
    free(buf);
    return rc;
}
