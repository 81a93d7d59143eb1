/*
 * check_snapshots.c - the table of internal snapshots: read once, what breaks the format's rules found
 * and, by `-r all`, repaired as qemu-img does. Source: qcow2 specification, "Snapshots".
 *
 *   too many entries, or more than 64 MiB of them   the rest is dropped (what is too much extra data counts)
 *   more than 1 KiB of extra data                   the first KiB stays
 *   less than 16 bytes of it (version 3)            filled up
 *
 * Without the repair the first two end the check: what the rest of the table says is anybody's guess.
 *
 * The repaired table is a new one. It goes where refcounts and references agree that nothing is, once
 * both agree everywhere; the header is switched over in one write of one sector with a sync on both
 * sides, and then the old table is given back. Cut short, a few clusters have leaked.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    ENTRY = CHECK_SNAPSHOT_ENTRY,
    EXTRA_AT = 36,
    EXTRA_MIN = 16,   /* VM state and disk size: what version 3 demands */
    EXTRA_KNOWN = 24, /* and the instruction counter */
    EXTRA_MAX = 1024,
    HEADER_SNAPSHOTS = 60, /* their number, then the table's offset */
};
#define MAX_TABLE (UINT64_C(64) << 20)

/* The file's bytes; zeros behind its end. */
static int read_padded(const struct check *c, uint64_t at, void *buf, size_t length)
{
    uint64_t there = at < c->file_bytes ? c->file_bytes - at : 0;

    memset(buf, 0, length);
    return there > 0 ? file_pread(c->file, at, buf, min_u64(length, there)) : 0;
}

static bool may_repair(const struct check *c)
{
    return (c->fix & BLK_FIX_ERRORS) != 0;
}

static int refuse(struct err *err, const struct check *c, const char *what)
{
    check_say(c, "ERROR failed to read the snapshot table: %s", what);
    return err_set(err, -EIO, "%s: snapshot table: %s", c->path, what);
}

static uint64_t entry_bytes(const struct check_snapshot *s, uint64_t extra)
{
    return align_up(ENTRY + extra + s->name_bytes, 8);
}

/* What the table takes up to the end of this entry: nobody needs the padding behind the last one. */
static void set_end(struct check *c, const struct check_snapshot *last)
{
    c->snapshot_bytes =
        last->at + ENTRY + last->extra + last->name_bytes - c->header.snapshots_offset;
}

/* Decodes the entry at `at`; `i` is its number. */
static int load_entry(struct check *c, uint32_t i, uint64_t at, struct check_snapshot *s,
                      struct err *err)
{
    int rc = read_padded(c, at, s->raw, sizeof(s->raw));

    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not read the snapshot table", c->path);
    s->at = at;
    s->name_bytes = (uint32_t)load_be16(s->raw + 12) + load_be16(s->raw + 14);
    s->extra = s->kept_extra = load_be32(s->raw + EXTRA_AT);
    if (s->extra > EXTRA_MAX) {
        if (!may_repair(c))
            return refuse(err, c, "too much extra data (`check -r all` removes it)");
        check_say(c, "Discarding too much extra metadata in snapshot table entry %" PRIu32, i);
        s->kept_extra = EXTRA_MAX;
        c->snapshot_faults++;
    }
    return 0;
}

static int load_entries(struct check *c, uint32_t count, struct err *err)
{
    uint64_t at = c->header.snapshots_offset;
    int rc = 0;

    c->snapshots = calloc((size_t)count + 1, sizeof(*c->snapshots));
    if (c->snapshots == NULL)
        return err_set_errno(err, -ENOMEM, "%s: Could not read the snapshot table", c->path);
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        struct check_snapshot *s = &c->snapshots[i];

        rc = load_entry(c, i, at, s, err);
        if (rc < 0)
            break;
        at += entry_bytes(s, s->extra);
        if (at - c->header.snapshots_offset > MAX_TABLE) {
            if (!may_repair(c))
                return refuse(err, c, "it is too large (`check -r all` drops what is too much)");
            check_say(c, "Discarding %" PRIu32 " overhanging snapshots (snapshot table is too big)",
                      count - i);
            c->snapshot_faults += count - i;
            break;
        }
        c->snapshot_count = i + 1;
        set_end(c, s);
    }
    return rc;
}

int check_load_snapshots(struct check *c, struct err *err)
{
    uint32_t count = c->header.nb_snapshots;
    int rc;

    if (count > QCOW2_MAX_SNAPSHOTS) {
        if (!may_repair(c))
            return refuse(err, c, "too many snapshots (`check -r all` drops what is too much)");
        check_say(c, "Discarding %" PRIu32 " overhanging snapshots", count - QCOW2_MAX_SNAPSHOTS);
        c->snapshot_faults += count - QCOW2_MAX_SNAPSHOTS;
        count = QCOW2_MAX_SNAPSHOTS;
    }
    if (count > 0 &&
        (!is_aligned(c->header.snapshots_offset, c->cluster_size) ||
         !range_within(c->header.snapshots_offset, (uint64_t)count * ENTRY, QCOW2_MAX_HOST_OFFSET)))
        return refuse(err, c, "its offset is invalid");
    rc = load_entries(c, count, err);
    for (uint32_t i = 0; rc == 0 && c->header.version >= 3 && i < c->snapshot_count; i++) {
        if (c->snapshots[i].kept_extra < EXTRA_MIN) {
            check_say(c, "%s snapshot table entry %" PRIu32 " is incomplete",
                      may_repair(c) ? "Repairing" : "ERROR", i);
            c->snapshot_faults++;
        }
    }
    return rc;
}

/* One entry of the new table, with all the extra data that we know. Returns its bytes. */
static int encode(const struct check *c, const struct check_snapshot *s, unsigned char *out,
                  uint64_t *length)
{
    uint64_t extra = max_u64(s->kept_extra, EXTRA_KNOWN);
    int rc = read_padded(c, s->at + ENTRY, out + ENTRY, s->kept_extra);

    memcpy(out, s->raw, ENTRY);
    if (rc == 0)
        rc = read_padded(c, s->at + ENTRY + s->extra, out + ENTRY + extra, s->name_bytes);
    if (rc < 0)
        return rc;
    store_be32(out + EXTRA_AT, (uint32_t)extra);
    if (s->kept_extra < 8)
        store_be64(out + ENTRY, load_be32(out + 32)); /* the VM state's size, once 32 bits */
    if (s->kept_extra < 16)
        store_be64(out + ENTRY + 8, c->header.size);
    if (s->kept_extra < 24)
        store_be64(out + ENTRY + 16, UINT64_MAX); /* no instruction was counted */
    *length = entry_bytes(s, extra);
    return 0;
}

static int encode_table(const struct check *c, unsigned char **out, uint64_t *bytes)
{
    uint64_t at = 0, length = 0;
    unsigned char *table;
    int rc = 0;

    *bytes = 0;
    for (uint32_t i = 0; i < c->snapshot_count; i++)
        *bytes += entry_bytes(&c->snapshots[i], max_u64(c->snapshots[i].kept_extra, EXTRA_KNOWN));
    table = calloc(1, align_up(*bytes, c->cluster_size) + 1);
    if (table == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < c->snapshot_count; i++, at += length)
        rc = encode(c, &c->snapshots[i], table + at, &length);
    if (rc < 0)
        free(table);
    else
        *out = table;
    return rc;
}

/* Gives back what nothing refers to any more; that is no finding. */
static int free_old_table(struct check *c)
{
    struct blk_check_result ignored = {0}, *result = c->result;
    int rc;

    c->result = &ignored;
    c->quiet = true;
    check_refs_clear(&c->refs);
    rc = check_walk_image(c);
    if (rc == 0)
        rc = check_count_refblocks(c);
    if (rc == 0 && ignored.check_errors == 0)
        rc = check_compare(c, BLK_FIX_LEAKS);
    c->quiet = false;
    c->result = result;
    result->check_errors += ignored.check_errors;
    return rc;
}

static int switch_header(struct check *c, uint64_t offset)
{
    unsigned char raw[12];
    int rc = c->file->ops->sync(c->file);

    c->header.nb_snapshots = c->snapshot_count;
    c->header.snapshots_offset = c->snapshot_count > 0 ? offset : 0;
    store_be32(raw, c->header.nb_snapshots);
    store_be64(raw + 4, c->header.snapshots_offset);
    if (rc == 0)
        rc = file_pwrite(c->file, HEADER_SNAPSHOTS, raw, sizeof(raw));
    if (rc == 0)
        rc = c->file->ops->sync(c->file);
    return rc;
}

static int write_table(struct check *c, const unsigned char *table, uint64_t bytes)
{
    uint64_t clusters = div_round_up(bytes, c->cluster_size), first = 0;
    int rc = clusters > 0 ? check_alloc(c, clusters, &first) : 0;

    if (rc == -ENOSPC) {
        /* No run of free refcounts: new blocks have some. */
        rc = check_rebuild(c);
        if (rc == 0)
            rc = check_alloc(c, clusters, &first);
    }
    if (rc == 0 && clusters > 0)
        rc = file_pwrite(c->file, first << c->cluster_bits, table, clusters << c->cluster_bits);
    if (rc == 0)
        rc = switch_header(c, first << c->cluster_bits);
    return rc;
}

int check_fix_snapshots(struct check *c)
{
    unsigned char *table = NULL;
    uint64_t bytes;
    int rc;

    if (c->snapshot_faults == 0 || !may_repair(c))
        return 0;
    rc = encode_table(c, &table, &bytes);
    if (rc < 0)
        return rc;
    c->wrote = true;
    rc = write_table(c, table, bytes);
    free(table);
    if (rc < 0) {
        check_say(c, "ERROR failed to update snapshot table");
        c->result->check_errors++;
        return rc == -ENOSPC ? 0 : rc;
    }
    for (uint64_t i = 0, at = c->header.snapshots_offset; i < c->snapshot_count; i++) {
        struct check_snapshot *s = &c->snapshots[i];

        s->extra = s->kept_extra = (uint32_t)max_u64(s->kept_extra, EXTRA_KNOWN);
        s->at = at;
        at += entry_bytes(s, s->extra);
        set_end(c, s);
    }
    if (c->snapshot_count == 0)
        c->snapshot_bytes = 0;
    c->result->corruptions_fixed += c->snapshot_faults;
    c->snapshot_faults = 0;
    return free_old_table(c);
}
