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

/* Whether the flag in `entry` is wrong. A refcount that cannot be read says nothing. */
static bool is_wrong(struct check *c, uint64_t entry, uint64_t *refcount)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (check_get_refcount(c, offset >> c->cluster_bits, refcount) < 0)
        return false;
    return (*refcount == 1) != ((entry & QCOW2_ENTRY_COPIED) != 0);
}

static void report_wrong(struct check *c, bool repair)
{
    if (repair)
        c->result->corruptions_fixed++;
    else
        c->result->corruptions++;
}

/* Puts the flags of one L2 table right; the range of entries that changed is written at once. */
static int check_l2(struct check *c, uint64_t table, unsigned char *buf, bool repair)
{
    uint64_t first = UINT64_MAX, last = 0, refcount;
    int rc = file_pread(c->file, table, buf, c->cluster_size);

    if (rc < 0) {
        check_say(c, "ERROR: I/O error in check_oflag_copied");
        c->result->check_errors++;
        return 0;
    }
    for (uint64_t i = 0; i < c->cluster_size / QCOW2_ENTRY_SIZE; i++) {
        uint64_t entry = load_be64(buf + i * QCOW2_ENTRY_SIZE);

        if ((entry & QCOW2_L2_COMPRESSED) != 0 || (entry & QCOW2_OFFSET_MASK) == 0 ||
            !is_wrong(c, entry, &refcount))
            continue;
        check_say(c, "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64,
                  repair ? "Repairing" : "ERROR", entry, refcount);
        report_wrong(c, repair);
        store_be64(buf + i * QCOW2_ENTRY_SIZE, entry ^ QCOW2_ENTRY_COPIED);
        first = min_u64(first, i);
        last = i;
    }
    if (!repair || first == UINT64_MAX)
        return 0;
    c->wrote = true;
    return file_pwrite(c->file, table + first * QCOW2_ENTRY_SIZE, buf + first * QCOW2_ENTRY_SIZE,
                       (last - first + 1) * QCOW2_ENTRY_SIZE);
}

int check_copied_flags(struct check *c)
{
    const struct qcow2_header *h = &c->header;
    bool repair = may_repair(c);
    unsigned char *buf = malloc(c->cluster_size);
    uint64_t *l1 = NULL;
    uint64_t refcount;
    int rc = buf == NULL ? -ENOMEM : check_read_table(c, h->l1_table_offset, h->l1_size, &l1);

    for (uint64_t i = 0; rc == 0 && i < h->l1_size; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET_MASK;

        if (table == 0)
            continue;
        if (is_wrong(c, l1[i], &refcount)) {
            unsigned char raw[QCOW2_ENTRY_SIZE];

            check_say(c,
                      "%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64
                      " refcount=%" PRIu64,
                      repair ? "Repairing" : "ERROR", i, l1[i], refcount);
            report_wrong(c, repair);
            store_be64(raw, l1[i] ^ QCOW2_ENTRY_COPIED);
            if (repair) {
                c->wrote = true;
                rc = file_pwrite(c->file, h->l1_table_offset + i * QCOW2_ENTRY_SIZE, raw,
                                 sizeof(raw));
            }
        }
        if (rc == 0)
            rc = check_l2(c, table, buf, repair);
    }
    free(l1);
    free(buf);
    return rc;
}
