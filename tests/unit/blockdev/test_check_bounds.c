/*
 * What `check`, `check -r all`, opening and `info` of hostile images read and allocate at most: the bounds
 * of docs/qcow2.md, "What a check costs at most".
 */
#include "trace.h"

#include <malloc.h>

enum { CLUSTER = 65536, MOST_L1 = 4 << 20, MOST_BITMAPS = 65535, MOST_SNAPSHOTS = 65535 };
#define MIB (UINT64_C(1) << 20)

/* Where things lie in the images here, in clusters. */
enum { REFTABLE = 1, REFBLOCK = 2, EXTRA = 3, TABLES = 128 };

struct cost {
    uint64_t reads, bytes; /* of the file */
    uint64_t heap;         /* the most that was allocated while something was read */
    uint64_t heap_before;
};

static uint64_t heap_in_use(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

static void count(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    struct cost *cost = trace->opaque;
    uint64_t heap = heap_in_use();

    (void)offset;
    if (kind == TRACE_READ) {
        cost->reads++;
        cost->bytes += length;
    }
    if (heap > cost->heap_before) {
        cost->heap = max_u64(cost->heap, heap - cost->heap_before);
    }
}

/* ---- images ---- */

static void put(uint64_t cluster, uint64_t at, uint64_t value)
{
    poke_be64("b.qcow2", cluster * CLUSTER + at, value);
}

/* Nothing but a header: a refcount table with one block, and an L1 table for `size` bytes. */
static void make_image(uint64_t clusters, uint64_t size, uint32_t l1_entries)
{
    shell("rm -f b.qcow2; truncate -s %llu b.qcow2", (unsigned long long)clusters * CLUSTER);
    poke_be32("b.qcow2", 0, QCOW2_MAGIC);
    poke_be32("b.qcow2", 4, 3);
    poke_be32("b.qcow2", 20, 16);
    put(0, 24, size);
    poke_be32("b.qcow2", 36, l1_entries);
    put(0, 40, (uint64_t)TABLES * CLUSTER);
    put(0, 48, (uint64_t)REFTABLE * CLUSTER);
    poke_be32("b.qcow2", 56, 1);
    poke_be32("b.qcow2", 96, 4);
    poke_be32("b.qcow2", 100, 104);
    put(REFTABLE, 0, (uint64_t)REFBLOCK * CLUSTER);
}

/* `count` 64-bit entries, all of this value. */
static void fill(uint64_t cluster, uint64_t entries, uint64_t value)
{
    uint64_t *table = malloc(entries * 8);

    assert_non_null(table);
    for (uint64_t i = 0; i < entries; i++) {
        store_be64(&table[i], value);
    }
    poke("b.qcow2", cluster * CLUSTER, table, entries * 8);
    free(table);
}

/* Each with an L1 table of the limit, all in one place. */
static void make_snapshots(void)
{
    enum { ENTRY = 56 };
    uint8_t *table = calloc(MOST_SNAPSHOTS, ENTRY);

    assert_non_null(table);
    make_image(TABLES + 32, 1 << 20, 1);
    for (unsigned i = 0; i < MOST_SNAPSHOTS; i++) {
        store_be64(table + i * ENTRY, (uint64_t)TABLES * CLUSTER);
        store_be32(table + i * ENTRY + 8, MOST_L1);
        store_be32(table + i * ENTRY + 36, 16);
    }
    poke_be32("b.qcow2", 60, MOST_SNAPSHOTS);
    put(0, 64, (uint64_t)EXTRA * CLUSTER);
    poke("b.qcow2", (uint64_t)EXTRA * CLUSTER, table, (size_t)MOST_SNAPSHOTS * ENTRY);
    free(table);
}

static void make_one_l2_table(void)
{
    uint64_t l2 = TABLES + MOST_L1 / (CLUSTER / 8);

    make_image(l2 + 1, UINT64_C(1) << 50, MOST_L1);
    fill(TABLES, MOST_L1, l2 * CLUSTER | QCOW2_ENTRY_COPIED);
    fill(l2, CLUSTER / 8, (l2 * CLUSTER) | QCOW2_ENTRY_COPIED);
}

/* L2 tables that are not aligned: all overlap. */
static void make_unaligned_tables(void)
{
    uint64_t l2 = TABLES + MOST_L1 / (CLUSTER / 8);

    make_image(l2 + 2, UINT64_C(1) << 50, MOST_L1);
    fill(TABLES, MOST_L1, l2 * CLUSTER + 512);
}

/* A refcount table of the limit whose entries all name one block, which is in the table. */
static void make_one_refcount_block(void)
{
    make_image(TABLES + 256, 1 << 20, 1);
    put(0, 48, (uint64_t)TABLES * CLUSTER);
    poke_be32("b.qcow2", 56, 128);
    fill(TABLES, 128 * CLUSTER / 8, (uint64_t)TABLES * CLUSTER);
}

/* As many bitmaps as there may be, with tables of the limit in one place. */
static void make_bitmaps(void)
{
    enum { ENTRY = 32, ENTRIES = 1 << 13 };
    uint8_t *directory = calloc(MOST_BITMAPS, ENTRY);

    assert_non_null(directory);
    /* 512 MiB of bits, each of which stands for 512 bytes. */
    make_image(TABLES + 64, 1 << 20, 1);
    put(0, 24, (uint64_t)ENTRIES * CLUSTER * 8 << 9);
    poke_be32("b.qcow2", 36, (uint32_t)((uint64_t)ENTRIES * CLUSTER * 8 * 512 / CLUSTER / 8192));
    for (unsigned i = 0; i < MOST_BITMAPS; i++) {
        uint8_t *entry = directory + i * ENTRY;

        store_be64(entry, (uint64_t)TABLES * CLUSTER);
        store_be32(entry + 8, ENTRIES);
        entry[16] = 1;
        entry[17] = 9;
        store_be16(entry + 18, 5);
        snprintf((char *)entry + 24, 8, "%05u", i);
    }
    put(0, 88, QCOW2_AUTOCLEAR_BITMAPS);
    poke_be32("b.qcow2", 104, QCOW2_EXT_BITMAPS);
    poke_be32("b.qcow2", 108, 24);
    poke_be32("b.qcow2", 112, MOST_BITMAPS);
    put(0, 120, (uint64_t)MOST_BITMAPS * ENTRY);
    put(0, 128, (uint64_t)EXTRA * CLUSTER);
    poke("b.qcow2", (uint64_t)EXTRA * CLUSTER, directory, (size_t)MOST_BITMAPS * ENTRY);
    free(directory);
}

/* ---- what is done ---- */

enum action { INFO, CHECK, REPAIR };

/* All that `minivmm-img info` asks for. */
static void ask_for_info(struct blk *blk)
{
    struct blk_snapshot_info snapshot;
    struct blk_bitmap_info bitmap;
    struct blk_info info;
    struct err err = {""};

    (void)blk_get_info(blk, &info, &err);
    for (unsigned i = 0; blk_snapshot_get(blk, i, &snapshot, &err) > 0; i++) {
    }
    for (unsigned i = 0; blk_bitmap_get(blk, i, &bitmap); i++) {
    }
}

static struct cost run(enum action action)
{
    const struct file_open_options file_options = {.writable = action == REPAIR};
    const struct blk_open_options options = {.path = "b.qcow2",
                                             .format = "qcow2",
                                             .writable = action == REPAIR,
                                             .for_check = action != INFO,
                                             .metadata_only = action == INFO};
    struct cost cost = {.heap_before = heap_in_use()};
    struct trace trace = {.before = count, .opaque = &cost};
    struct blk_check_result result;
    struct blk *blk = NULL;
    struct err err = {""};

    assert_int_equal(file_open_posix("b.qcow2", &file_options, &trace.below, &err), 0);
    pthread_mutex_init(&trace.lock, NULL);
    trace.file = (struct file){.ops = &trace_ops,
                               .path = trace.below->path,
                               .fd = trace.below->fd,
                               .writable = file_options.writable,
                               .alignment = 1};
    if (blk_open_file(&trace.file, &options, &blk, &err) == 0) {
        if (action == INFO) {
            ask_for_info(blk);
        } else {
            (void)blk_check(blk, action == REPAIR ? BLK_FIX_LEAKS | BLK_FIX_ERRORS : 0, NULL, NULL,
                            &result, &err);
        }
        blk_close(blk, NULL);
    }
    trace_free(&trace);
    return cost;
}

static uint64_t file_bytes(void)
{
    FILE *file = fopen("b.qcow2", "re");
    long size;

    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    fclose(file);
    return (uint64_t)size;
}

static void hold_to(enum action action, const char *what, uint64_t reads, uint64_t bytes,
                    uint64_t heap)
{
    static const char *const names[] = {"opening and info", "check", "check -r all"};
    struct cost cost = run(action);

    printf("# %s of %s: %llu reads, %llu KiB; %llu KiB allocated\n", names[action], what,
           (unsigned long long)cost.reads, (unsigned long long)cost.bytes >> 10,
           (unsigned long long)cost.heap >> 10);
    if (cost.reads > reads || cost.bytes > bytes || cost.heap > heap) {
        fail_msg("%s of %s: more than %llu reads, %llu KiB or %llu KiB allocated", names[action],
                 what, (unsigned long long)reads, (unsigned long long)bytes >> 10,
                 (unsigned long long)heap >> 10);
    }
}

static void costs_are_bounded(void **state)
{
    static const struct {
        const char *what;
        void (*make)(void);
    } images[] = {
        {"65535 snapshots with L1 tables in one place", make_snapshots},
        {"an L1 table with one L2 table", make_one_l2_table},
        {"an L1 table with unaligned L2 tables", make_unaligned_tables},
        {"a refcount table with one block, itself", make_one_refcount_block},
        {"65535 bitmaps with tables in one place", make_bitmaps},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(images); i++) {
        uint64_t size;

        images[i].make();
        size = file_bytes();
        hold_to(INFO, images[i].what, 160 << 10, size + 64 * MIB, 128 * MIB);
        hold_to(CHECK, images[i].what, 128 << 10, 20 * size + 64 * MIB, 128 * MIB);
        hold_to(REPAIR, images[i].what, 512 << 10, 80 * size + 256 * MIB, 128 * MIB);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_are_bounded),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
