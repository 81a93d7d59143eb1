/*
 * ops_damage.c - an image is spoiled, for the repair that comes next. What the guest sees stays.
 */
#include "bytes.h"
#include "checked.h"
#include "ops.h"

#include <stdlib.h>
#include <string.h>

enum {
    AT_CLUSTER_BITS = 20,
    AT_L1_SIZE = 36,
    AT_L1_OFFSET = 40,
    AT_TABLE_OFFSET = 48,
    AT_TABLE_CLUSTERS = 56,
    AT_SNAPSHOTS = 60,
    AT_SNAPSHOTS_OFFSET = 64,
    /* An entry of the snapshot table: */
    ENTRY_ID_SIZE = 12,
    ENTRY_NAME_SIZE = 14,
    ENTRY_EXTRA_SIZE = 36,
    ENTRY = 40,
};

#define OFFSET UINT64_C(0x00fffffffffffe00)
#define COPIED (UINT64_C(1) << 63)

static uint64_t load(const struct pages *pages, uint64_t at, size_t bytes)
{
    uint8_t raw[8] = {0};

    pages_read(pages, at, raw + sizeof(raw) - bytes, bytes);
    return load_be64(raw);
}

static void store64(struct pages *pages, uint64_t at, uint64_t value)
{
    uint8_t raw[8];

    store_be64(raw, value);
    pages_write(pages, at, raw, sizeof(raw));
}

/* Of the entries of every L2 table. */
static void spoil_copied_flags(struct pages *pages, uint64_t cluster, struct rng *rng)
{
    uint64_t l1 = load(pages, AT_L1_OFFSET, 8), count = load(pages, AT_L1_SIZE, 4);

    for (uint64_t i = 0; i < count; i++) {
        uint64_t l2 = load(pages, l1 + i * 8, 8) & OFFSET;

        for (uint64_t at = l2; l2 != 0 && at < l2 + cluster; at += 8) {
            if (rng_one_in(rng, 8) && (load(pages, at, 8) & OFFSET) != 0) {
                store64(pages, at, load(pages, at, 8) ^ COPIED);
            }
        }
    }
}

/* Refcounts of up to 16 bits, some at a time: too low and too high, or only of what nobody uses. */
static void spoil_refcounts(struct pages *pages, uint64_t cluster, bool leaks_only, struct rng *rng)
{
    uint64_t table = load(pages, AT_TABLE_OFFSET, 8);
    uint64_t end = table + load(pages, AT_TABLE_CLUSTERS, 4) * cluster;

    for (uint64_t entry = table; entry < end; entry += 8) {
        uint64_t block = load(pages, entry, 8) & OFFSET;

        for (uint64_t at = block; block != 0 && at < block + cluster; at += 8) {
            if (!rng_one_in(rng, 8) || (leaks_only && load(pages, at, 8) != 0)) {
                continue;
            }
            store64(pages, at,
                    !leaks_only && rng_one_in(rng, 2) ? 0 : UINT64_C(0x0001000200010003));
        }
    }
}

/* One block lies where none can, another one is another's: all of them are to be made anew. */
static void spoil_table(struct pages *pages)
{
    uint64_t table = load(pages, AT_TABLE_OFFSET, 8);

    store64(pages, table, load(pages, table, 8) | SECTOR / 2);
    store64(pages, table + 8, load(pages, table + 16, 8));
}

/* Without the extra data that version 3 asks for: each entry is shorter, and the table stays whole. */
static void spoil_snapshots(struct pages *pages)
{
    uint64_t from = load(pages, AT_SNAPSHOTS_OFFSET, 8), to = from;

    for (uint64_t n = load(pages, AT_SNAPSHOTS, 4); n > 0; n--) {
        uint64_t extra = load(pages, from + ENTRY_EXTRA_SIZE, 4);
        uint64_t names =
            load(pages, from + ENTRY_ID_SIZE, 2) + load(pages, from + ENTRY_NAME_SIZE, 2);
        uint64_t length = align_up(ENTRY + names, 8);
        uint8_t *raw = calloc(1, length);

        if (raw == NULL) {
            abort();
        }
        pages_read(pages, from, raw, ENTRY);
        pages_read(pages, from + ENTRY + extra, raw + ENTRY, names);
        store_be32(raw + ENTRY_EXTRA_SIZE, 0);
        pages_write(pages, to, raw, length);
        free(raw);
        from += align_up(ENTRY + extra + names, 8);
        to += length;
    }
}

int op_damage(struct world *world, uint64_t arg)
{
    struct pages *pages = &world->disk.files[0].pages;
    int r = world_close(world);
    uint64_t cluster = UINT64_C(1) << load(pages, AT_CLUSTER_BITS, 4);

    if (arg & DAMAGE_COPIED) {
        spoil_copied_flags(pages, cluster, &world->rng);
    }
    if (arg & (DAMAGE_REFCOUNTS | DAMAGE_LEAKS)) {
        spoil_refcounts(pages, cluster, (arg & DAMAGE_REFCOUNTS) == 0, &world->rng);
    }
    if (arg & DAMAGE_TABLE) {
        spoil_table(pages);
    }
    if (arg & DAMAGE_SNAPSHOTS) {
        spoil_snapshots(pages);
    }
    return r;
}
