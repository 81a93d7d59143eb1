/*
 * snapshot_table.c - the snapshot table and the snapshots' L1 tables, on disk and in memory. Nothing in
 * them is trusted. Limits: QEMU's, see snapshot.h.
 */
#include "bytes.h"
#include "qcow2/snapshot.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    AT_L1_OFFSET = 0,
    AT_L1_ENTRIES = 8,
    AT_ID_SIZE = 12,
    AT_NAME_SIZE = 14,
    AT_DATE_SECONDS = 16,
    AT_DATE_NANOSECONDS = 20,
    AT_VM_CLOCK = 24,
    AT_VM_STATE_SIZE_32 = 32,
    AT_EXTRA_SIZE = 36,
    AT_VM_STATE_SIZE = 40,
    AT_DISK_SIZE = 48,
    AT_ICOUNT = 56,
};

static void free_entry(struct snapshot *snapshot)
{
    free(snapshot->raw);
    free((char *)(uintptr_t)snapshot->info.id);
    free((char *)(uintptr_t)snapshot->info.name);
}

void snapshot_set_free(struct qcow2_snapshots *set)
{
    for (unsigned i = 0; set != NULL && i < set->count; i++) {
        free_entry(&set->list[i]);
    }
    if (set != NULL) {
        free(set->list);
    }
    free(set);
}

/* What an entry needs at least: `head` holds its first 40 bytes. */
static uint64_t entry_bytes(const uint8_t *head)
{
    return (uint64_t)SNAPSHOT_ENTRY_BYTES + load_be32(head + AT_EXTRA_SIZE) +
           load_be16(head + AT_ID_SIZE) + load_be16(head + AT_NAME_SIZE);
}

/* Fills `snapshot` from an entry, which it owns from then on, on failure too. */
static int decode_entry(struct snapshot *snapshot, uint8_t *raw, size_t bytes, uint64_t length)
{
    uint32_t extra = load_be32(raw + AT_EXTRA_SIZE);
    const char *id = (const char *)raw + SNAPSHOT_ENTRY_BYTES + extra;
    size_t id_size = load_be16(raw + AT_ID_SIZE), name_size = load_be16(raw + AT_NAME_SIZE);

    *snapshot = (struct snapshot){
        .raw = raw,
        .bytes = bytes,
        .l1_offset = load_be64(raw + AT_L1_OFFSET),
        .l1_entries = load_be32(raw + AT_L1_ENTRIES),
        .info =
            {
                .date_seconds = load_be32(raw + AT_DATE_SECONDS),
                .date_nanoseconds = load_be32(raw + AT_DATE_NANOSECONDS),
                .vm_clock = load_be64(raw + AT_VM_CLOCK),
                .vm_state_size = extra >= AT_DISK_SIZE - SNAPSHOT_ENTRY_BYTES
                                     ? load_be64(raw + AT_VM_STATE_SIZE)
                                     : load_be32(raw + AT_VM_STATE_SIZE_32),
                .disk_size = extra >= AT_ICOUNT - SNAPSHOT_ENTRY_BYTES
                                 ? load_be64(raw + AT_DISK_SIZE)
                                 : length,
                .icount = extra >= SNAPSHOT_EXTRA_BYTES ? load_be64(raw + AT_ICOUNT) : UINT64_MAX,
            },
    };
    snapshot->info.id = strndup(id, id_size);
    snapshot->info.name = strndup(id + id_size, name_size);
    return snapshot->info.id != NULL && snapshot->info.name != NULL ? 0 : -ENOMEM;
}

static int read_entry(struct qcow2 *q, uint64_t at, uint64_t *room, unsigned index,
                      struct snapshot *snapshot, struct err *err)
{
    uint8_t head[SNAPSHOT_ENTRY_BYTES], *raw;
    uint64_t bytes, padded;
    int r = *room >= sizeof(head) ? file_pread(q->file, at, head, sizeof(head)) : -EFBIG;

    if (r == 0 && load_be32(head + AT_EXTRA_SIZE) > SNAPSHOT_MAX_EXTRA) {
        return err_set(err, -EINVAL, "Too much extra metadata in snapshot table entry %u", index);
    }
    bytes = r == 0 ? entry_bytes(head) : 0;
    padded = align_up(bytes, 8);
    if (r == -EFBIG || padded > *room) {
        return err_set(err, -EFBIG, "Snapshot table is too large");
    }
    raw = calloc(1, padded + 1);
    if (r == 0) {
        /* The padding of the last entry may lie behind the end of the file. */
        r = raw != NULL ? file_pread(q->file, at, raw, bytes) : -ENOMEM;
    }
    if (r == 0) {
        r = decode_entry(snapshot, raw, padded, q->header.size);
        if (r != 0) {
            free_entry(snapshot);
        }
    } else {
        free(raw);
    }
    *room -= padded;
    return r != 0 ? err_set_errno(err, r, "Could not read snapshot table entry %u", index) : 0;
}

static struct qcow2_snapshots *new_set(unsigned room)
{
    struct qcow2_snapshots *set = calloc(1, sizeof(*set));

    if (set != NULL) {
        set->list = calloc(max_u64(room, 1), sizeof(set->list[0]));
        if (set->list == NULL) {
            free(set);
            set = NULL;
        }
    }
    return set;
}

int snapshot_table_load(struct qcow2 *q, struct qcow2_snapshots **out, struct err *err)
{
    uint32_t count = q->header.nb_snapshots;
    uint64_t room =
        min_u64(SNAPSHOT_MAX_TABLE, q->file_end - min_u64(q->file_end, q->header.snapshots_offset));
    uint64_t whole = room;
    struct qcow2_snapshots *set = new_set(count);
    int r = set != NULL ? 0 : err_set_errno(err, -ENOMEM, "Could not read the snapshots");

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        r = read_entry(q, q->header.snapshots_offset + (whole - room), &room, i, &set->list[i],
                       err);
        set->count += r == 0;
    }
    if (r != 0) {
        snapshot_set_free(set);
        return r;
    }
    set->table_bytes = whole - room;
    *out = set;
    return 0;
}

struct qcow2_snapshots *snapshot_set_copy(const struct qcow2_snapshots *set, unsigned without)
{
    unsigned count = set != NULL ? set->count : 0;
    struct qcow2_snapshots *copy = new_set(count + 1);

    for (unsigned i = 0; copy != NULL && i < count; i++) {
        const struct snapshot *from = &set->list[i];
        uint8_t *raw;

        if (i == without) {
            continue;
        }
        raw = malloc(from->bytes);
        if (raw != NULL) {
            memcpy(raw, from->raw, from->bytes);
        }
        if (raw == NULL ||
            decode_entry(&copy->list[copy->count++], raw, from->bytes, from->info.disk_size) != 0) {
            snapshot_set_free(copy);
            return NULL;
        }
    }
    return copy;
}

/* As QEMU finds one: the greatest number so far, and one more. */
static void find_id(const struct qcow2_snapshots *set, char *id, size_t room)
{
    unsigned long greatest = 0;

    for (unsigned i = 0; i < set->count; i++) {
        unsigned long number = strtoul(set->list[i].info.id, NULL, 10);

        greatest = number > greatest ? number : greatest;
    }
    (void)snprintf(id, room, "%lu", greatest + 1);
}

int snapshot_set_append(struct qcow2_snapshots *set, const struct blk_snapshot_info *info)
{
    char id[32];
    size_t id_size, name_size = strlen(info->name), bytes;
    uint8_t *raw;

    find_id(set, id, sizeof(id));
    id_size = strlen(id);
    bytes = align_up(SNAPSHOT_ENTRY_BYTES + SNAPSHOT_EXTRA_BYTES + id_size + name_size, 8);
    raw = calloc(1, bytes);
    if (raw == NULL) {
        return -ENOMEM;
    }
    store_be16(raw + AT_ID_SIZE, (uint16_t)id_size);
    store_be16(raw + AT_NAME_SIZE, (uint16_t)name_size);
    store_be32(raw + AT_DATE_SECONDS, info->date_seconds);
    store_be32(raw + AT_DATE_NANOSECONDS, info->date_nanoseconds);
    store_be64(raw + AT_VM_CLOCK, info->vm_clock);
    store_be32(raw + AT_EXTRA_SIZE, SNAPSHOT_EXTRA_BYTES);
    store_be64(raw + AT_DISK_SIZE, info->disk_size);
    store_be64(raw + AT_ICOUNT, info->icount);
    memcpy(raw + SNAPSHOT_ENTRY_BYTES + SNAPSHOT_EXTRA_BYTES, id, id_size);
    memcpy(raw + SNAPSHOT_ENTRY_BYTES + SNAPSHOT_EXTRA_BYTES + id_size, info->name, name_size);
    /* The set has room for it (snapshot_set_copy), and frees it whatever comes of it. */
    return decode_entry(&set->list[set->count++], raw, bytes, info->disk_size);
}

void snapshot_set_l1(struct snapshot *snapshot, uint64_t offset, uint32_t entries)
{
    snapshot->l1_offset = offset;
    snapshot->l1_entries = entries;
    store_be64(snapshot->raw + AT_L1_OFFSET, offset);
    store_be32(snapshot->raw + AT_L1_ENTRIES, entries);
}

uint64_t snapshot_set_bytes(const struct qcow2_snapshots *set)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < set->count; i++) {
        bytes += set->list[i].bytes;
    }
    return bytes;
}

uint8_t *snapshot_set_encode(struct qcow2_snapshots *set)
{
    uint8_t *raw;
    uint64_t at = 0;

    set->table_bytes = snapshot_set_bytes(set);
    raw = malloc(max_u64(set->table_bytes, 1));
    for (unsigned i = 0; raw != NULL && i < set->count; i++) {
        memcpy(raw + at, set->list[i].raw, set->list[i].bytes);
        at += set->list[i].bytes;
    }
    return raw;
}

int snapshot_l1_load(struct qcow2 *q, const struct snapshot *snapshot, uint64_t count,
                     uint64_t **out)
{
    uint64_t bytes = (uint64_t)snapshot->l1_entries * QCOW2_ENTRY_SIZE, *l1;
    int r = 0;

    if (bytes > QCOW2_MAX_L1_BYTES || !is_aligned(snapshot->l1_offset, q->cluster_size) ||
        !range_within(snapshot->l1_offset, bytes, q->file_size)) {
        return -EINVAL;
    }
    l1 = calloc(max_u64(count, 1), sizeof(l1[0]));
    if (l1 == NULL) {
        return -ENOMEM;
    }
    r = bytes > 0 ? file_pread(q->file, snapshot->l1_offset, l1, bytes) : 0;
    for (uint32_t i = 0; i < snapshot->l1_entries && r == 0; i++) {
        uint64_t offset;

        l1[i] = load_be64(&l1[i]);
        offset = l1[i] & QCOW2_OFFSET_MASK;
        if (l1[i] != 0 && ((l1[i] & QCOW2_L1_RESERVED) != 0 || offset == 0 ||
                           !is_aligned(offset, q->cluster_size) ||
                           !range_within(offset, q->cluster_size, q->file_end) ||
                           qcow2_is_fixed_metadata(q, offset))) {
            r = -EINVAL;
        }
    }
    if (r != 0) {
        free(l1);
        return r;
    }
    *out = l1;
    return 0;
}
