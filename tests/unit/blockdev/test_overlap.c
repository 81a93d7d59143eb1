/*
 * Tables where the allocator puts something new. In each image one table is where it must not be: its
 * refcount says that the place is free, or an entry leads to it behind the end of the file. Whatever is
 * done until something is to be written there: that is refused, with the corrupt bit and one line, and
 * nothing that was there is lost.
 */
#include "trace.h"

enum {
    CLUSTER = 512,
    REFCOUNTS = CLUSTER / 8, /* in a block: 64 bits each */
    SIZE = 1 << 20,
    L2_SPAN = CLUSTER / 8 * CLUSTER,
    MOST = 4200, /* times that something is done; a refcount table lasts for 4096 clusters */
    HEADER_L1 = 40,
    HEADER_REFTABLE = 48,
    HEADER_SNAPSHOTS = 64,
};

static uint64_t peek_place(uint64_t offset)
{
    return peek_be64("o.qcow2", offset) & QCOW2_OFFSET_MASK;
}

/* ---- what lies in the way ---- */

static uint64_t bitmap_directory(void)
{
    struct blk *blk = open_image("o.qcow2", false);
    struct qcow2_header_info info;
    struct err err;

    assert_int_equal(qcow2_header_read(blk->file, false, &info, &err), 0);
    qcow2_header_free(&info);
    close_image(blk);
    return info.bitmaps.directory_offset;
}

static uint64_t place_of(const char *what)
{
    uint64_t at = 0;

    if (strcmp(what, "L1 table") == 0) {
        at = peek_be64("o.qcow2", HEADER_L1);
    } else if (strcmp(what, "L2 table") == 0) {
        at = peek_place(peek_be64("o.qcow2", HEADER_L1));
    } else if (strcmp(what, "refcount table") == 0) {
        at = peek_be64("o.qcow2", HEADER_REFTABLE);
    } else if (strcmp(what, "refcount block") == 0) {
        at = peek_place(peek_be64("o.qcow2", HEADER_REFTABLE));
    } else if (strcmp(what, "snapshot table") == 0) {
        at = peek_be64("o.qcow2", HEADER_SNAPSHOTS);
    } else if (strcmp(what, "snapshot's L1 table") == 0) {
        at = peek_be64("o.qcow2", peek_be64("o.qcow2", HEADER_SNAPSHOTS));
    } else if (strcmp(what, "snapshot's L2 table") == 0) {
        at = peek_place(peek_be64("o.qcow2", peek_be64("o.qcow2", HEADER_SNAPSHOTS)));
    } else if (strcmp(what, "bitmap directory") == 0) {
        at = bitmap_directory();
    } else if (strcmp(what, "bitmap table") == 0) {
        at = peek_be64("o.qcow2", bitmap_directory());
    } else if (strcmp(what, "bitmap") == 0) {
        at = peek_place(peek_be64("o.qcow2", bitmap_directory()));
    }
    assert_int_not_equal(at, 0);
    return at;
}

/* An L1 entry that nothing here uses leads there. */
static void lead_to(unsigned index, uint64_t offset)
{
    poke_be64("o.qcow2", peek_be64("o.qcow2", HEADER_L1) + (uint64_t)index * 8,
              offset | QCOW2_ENTRY_COPIED);
}

/* L2 tables where refcount blocks would go. */
static void lead_to_missing_blocks(void)
{
    uint64_t reftable = peek_be64("o.qcow2", HEADER_REFTABLE), range = 0;

    for (unsigned i = SIZE / L2_SPAN / 2; i < SIZE / L2_SPAN; i++, range++) {
        while (peek_be64("o.qcow2", reftable + range * 8) != 0) {
            range++;
        }
        lead_to(i, range * REFCOUNTS * CLUSTER);
    }
}

/* One where a larger refcount table would go. */
static void lead_to_next_table(void)
{
    lead_to(SIZE / L2_SPAN - 1, (uint64_t)CLUSTER / 8 * REFCOUNTS * CLUSTER);
}

static void make_free(const char *what)
{
    uint64_t cluster = place_of(what) / CLUSTER;
    uint64_t block = peek_place(peek_be64("o.qcow2", HEADER_REFTABLE) + cluster / REFCOUNTS * 8);

    poke_be64("o.qcow2", block + cluster % REFCOUNTS * 8, 0);
}

/* ---- what is done ---- */

static int write_elsewhere(struct blk *blk, unsigned i)
{
    uint8_t bytes[CLUSTER] = {3};

    /* Not where lead_behind_the_end() put tables: those are found bad when they are read. */
    return blk_pwrite(blk, SIZE / 4 + (uint64_t)i % (SIZE / 8 / CLUSTER) * CLUSTER, bytes, CLUSTER);
}

static int write_shared(struct blk *blk, unsigned i)
{
    uint8_t bytes[CLUSTER] = {4};

    return blk_pwrite(blk, (uint64_t)(i % 64) * CLUSTER, bytes, CLUSTER);
}

static int compress(struct blk *blk, unsigned i)
{
    uint8_t bytes[CLUSTER] = {5};

    return blk_pwrite_compressed(blk, SIZE / 4 + (uint64_t)i % (SIZE / 8 / CLUSTER) * CLUSTER,
                                 bytes, CLUSTER);
}

static int preallocate(struct blk *blk, unsigned i)
{
    (void)i;
    return blk_preallocate(blk, SIZE / 4, SIZE / 8, BLK_PREALLOC_METADATA, NULL);
}

static int grow(struct blk *blk, unsigned i)
{
    return blk_resize(blk, (uint64_t)SIZE * (i % 200 + 2), NULL);
}

static int grow_much(struct blk *blk, unsigned i)
{
    return blk_resize(blk, (uint64_t)SIZE * (i % 200 + 2) * 200, NULL);
}

static int take_snapshot(struct blk *blk, unsigned i)
{
    char name[16];
    struct blk_snapshot_info info = {.name = name};

    snprintf(name, sizeof(name), "n%u", i);
    return blk_snapshot_create(blk, &info, NULL);
}

static int apply_snapshot(struct blk *blk, unsigned i)
{
    (void)i;
    return blk_snapshot_apply(blk, 0, NULL);
}

static int add_bitmap(struct blk *blk, unsigned i)
{
    char name[16];

    snprintf(name, sizeof(name), "n%u", i);
    return blk_bitmap_add(blk, name, 512, true, NULL);
}

static int store_bits(struct blk *blk, unsigned i)
{
    int r = i == 0 ? write_shared(blk, 0) : 0;

    r = r == 0 ? blk_bitmap_clear(blk, "b", NULL) : r;
    return r == 0 ? blk_bitmap_merge(blk, "b", blk, "c", NULL) : r;
}

struct operation {
    const char *what;
    int (*run)(struct blk *blk, unsigned i);
    bool has_bitmaps, has_snapshots;
    bool reuses_room; /* so that the file does not get longer for ever */
};

static const struct operation operations[] = {
    {"data and L2 tables", write_elsewhere, true, false, false},
    {"copies of L2 tables", write_shared, false, true, false},
    {"compressed data", compress, false, false, true},
    {"preallocated clusters", preallocate, false, false, true},
    {"a larger L1 table", grow, false, false, false},
    {"a much larger L1 table", grow_much, false, false, false},
    {"snapshots", take_snapshot, false, true, false},
    {"a snapshot applied", apply_snapshot, false, true, true},
    {"bitmaps", add_bitmap, true, false, false},
    {"a bitmap's bits", store_bits, true, false, true},
};

static const struct operation larger_table = {"a larger refcount table", grow_much, false, false,
                                              false};

/* sound.qcow2 */
static void make_image(const struct operation *op)
{
    shell("rm -f *.qcow2; qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 "
          "sound.qcow2 1M");
    shell("qemu-io -f qcow2 -c 'write -P 5 0 32k' -c 'write -P 6 64k 512' sound.qcow2 > o.txt");
    if (op->has_bitmaps) {
        shell("for b in b c; do qemu-img bitmap --add -g 512 sound.qcow2 $b; done");
        shell("qemu-io -f qcow2 -c 'write -P 5 0 32k' sound.qcow2 > o.txt");
    }
    if (op->has_snapshots) {
        shell("qemu-img snapshot -c s sound.qcow2");
    }
}

/* Runs it until it is refused. */
static void expect_refusal(const struct operation *op, const char *what)
{
    struct blk_check_result result;
    struct err problem = {""}, err;
    struct trace trace = {0}; /* syncs nothing */
    struct blk *blk = trace_open(&trace, "o.qcow2", 0);
    int r = 0;

    for (unsigned i = 0; i < MOST && r == 0; i++) {
        r = op->run(blk, i);
    }
    if (r != -EIO || !blk_problem(blk, &problem) ||
        strstr(problem.text, "image is corrupt: ") == NULL) {
        fail_msg("%s, where the %s lies: %d, '%s'", op->what, what, r, problem.text);
    }
    assert_int_not_equal(blk_close(blk, NULL), 0);
    trace_free(&trace);
    if (peek_be64("o.qcow2", 72) != QCOW2_INCOMPAT_CORRUPT) {
        fail_msg("%s, where the %s lies: no corrupt bit", op->what, what);
    }
    /* Nothing is lost. */
    blk = open_with(
        &(struct blk_open_options){.path = "o.qcow2", .writable = true, .for_check = true});
    assert_int_equal(blk_check(blk, BLK_FIX_LEAKS | BLK_FIX_ERRORS, NULL, NULL, &result, &err), 0);
    close_image(blk);
    blk = open_image("o.qcow2", false);
    assert_bytes(blk, 64 << 10, 512, 6);
    close_image(blk);
}

static void nothing_is_written_where_a_table_lies(void **state)
{
    static const struct {
        const char *what;
        bool needs_bitmaps, needs_snapshots;
    } tables[] = {
        {"L1 table", false, false},           {"L2 table", false, false},
        {"refcount table", false, false},     {"refcount block", false, false},
        {"snapshot table", false, true},      {"snapshot's L1 table", false, true},
        {"snapshot's L2 table", false, true}, {"bitmap directory", true, false},
        {"bitmap table", true, false},        {"bitmap", true, false},
    };

    (void)state;
    for (size_t o = 0; o < ARRAY_LEN(operations); o++) {
        make_image(&operations[o]);
        for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
            const struct operation *op = &operations[o];

            if ((tables[t].needs_bitmaps && !op->has_bitmaps) ||
                (tables[t].needs_snapshots && !op->has_snapshots)) {
                continue;
            }
            shell("cp sound.qcow2 o.qcow2");
            make_free(tables[t].what);
            expect_refusal(op, tables[t].what);
        }
    }
}

static void nothing_is_written_where_a_table_is_said_to_lie(void **state)
{
    (void)state;
    for (size_t o = 0; o < ARRAY_LEN(operations); o++) {
        if (operations[o].reuses_room) {
            continue;
        }
        make_image(&operations[o]);
        shell("mv sound.qcow2 o.qcow2");
        lead_to_missing_blocks();
        expect_refusal(&operations[o], "place for a refcount block");
    }
    make_image(&larger_table);
    shell("mv sound.qcow2 o.qcow2");
    lead_to_next_table();
    expect_refusal(&larger_table, "place for a refcount table");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_written_where_a_table_lies),
        cmocka_unit_test(nothing_is_written_where_a_table_is_said_to_lie),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
