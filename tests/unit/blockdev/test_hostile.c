/*
 * Images that somebody has tampered with: refused or contained, by name, never a crash, and never I/O
 * outside what an image may reach.
 */
#include "fixture.h"

enum { CLUSTER = 65536 };

/* qemu-img lays a small image out like this; asserted below. */
enum {
    REFTABLE = CLUSTER,
    REFBLOCK = 2 * CLUSTER,
    L1 = 3 * CLUSTER,
    L2 = 4 * CLUSTER,
    DATA = 5 * CLUSTER
};

static void make_image(void)
{
    shell("rm -f h.qcow2; qemu-img create -q -f qcow2 h.qcow2 4M");
    shell("qemu-io -f qcow2 -c 'write -P 5 0 128k' h.qcow2 > /dev/null");
    assert_int_equal(peek_be64("h.qcow2", L1), L2 | QCOW2_ENTRY_COPIED);
    assert_int_equal(peek_be64("h.qcow2", L2), DATA | QCOW2_ENTRY_COPIED);
}

struct header_case {
    const char *what;
    uint64_t offset;
    unsigned bytes; /* 4 or 8 */
    uint64_t value;
    int code;
    const char *says;
};

static void damaged_headers_are_refused(void **state)
{
    static const struct header_case cases[] = {
        {"magic", 0, 4, 0x51464900, -EINVAL, "not in qcow2 format"},
        {"version 1", 4, 4, 1, -ENOTSUP, "version 1"},
        {"version 4", 4, 4, 4, -ENOTSUP, "version 4"},
        {"cluster bits 8", 20, 4, 8, -EINVAL, "cluster size"},
        {"cluster bits 22", 20, 4, 22, -EINVAL, "cluster size"},
        {"cluster bits huge", 20, 4, UINT32_MAX, -EINVAL, "cluster size"},
        {"size 2^63", 24, 8, UINT64_C(1) << 63, -EFBIG, "too large"},
        {"size near 2^63", 24, 8, INT64_MAX, -EINVAL, "L1 table is too small"},
        {"AES", 32, 4, 1, -ENOTSUP, "AES"},
        {"LUKS alone", 32, 4, 2, -EINVAL, "no encryption header"},
        {"unknown encryption", 32, 4, 77, -ENOTSUP, "encryption method 77"},
        {"L1 too small", 36, 4, 0, -EINVAL, "L1 table is too small"},
        {"L1 too large", 36, 4, UINT32_MAX, -EFBIG, "L1 table is too large"},
        {"L1 beyond the file", 36, 4, 4 << 20, -EINVAL, "L1 table lies beyond"},
        {"L1 unaligned", 40, 8, L1 + 512, -EINVAL, "L1 table offset"},
        {"L1 at 0", 40, 8, 0, -EINVAL, "L1 table offset"},
        {"L1 far away", 40, 8, UINT64_C(1) << 60, -EINVAL, "L1 table lies beyond"},
        {"L1 at the end of 64 bits", 40, 8, UINT64_MAX << 16, -EINVAL, "L1 table lies beyond"},
        {"refcount table unaligned", 48, 8, 513, -EINVAL, "Refcount table offset"},
        {"refcount table at 0", 48, 8, 0, -EINVAL, "Refcount table offset"},
        {"refcount table far away", 48, 8, UINT64_C(1) << 50, -EINVAL, "Refcount table lies"},
        {"no refcount table", 56, 4, 0, -EINVAL, "refcount table"},
        {"refcount table too large", 56, 4, 0x7fffffff, -EFBIG, "Refcount table is too large"},
        {"snapshots", 60, 4, 65537, -EFBIG, "Snapshot table"},
        {"snapshot table at 0", 60, 4, 1, -EINVAL, "Snapshot table"},
        {"data file", 72, 8, QCOW2_INCOMPAT_DATA_FILE, -EINVAL, "data file"},
        {"unknown feature", 72, 8, UINT64_C(1) << 40, -ENOTSUP, "bit 40"},
        {"compression bit alone", 72, 8, QCOW2_INCOMPAT_COMPRESSION, -EINVAL, "ompression"},
        {"refcount order", 96, 4, 7, -EINVAL, "64 bits"},
        {"header length 0", 100, 4, 0, -EINVAL, "too short"},
        {"header length 105", 100, 4, 105, -EINVAL, "header length"},
        {"header length huge", 100, 4, UINT32_MAX - 7, -EINVAL, "header length"},
        {"backing name in the header", 8, 8, 16, -EINVAL, "Backing file name"},
        {"backing name beyond cluster 0", 8, 8, UINT64_C(1) << 40, -EINVAL, "Backing file name"},
        {"extension too long", 116, 4, UINT32_MAX, -EINVAL, "extension"},
    };

    (void)state;
    make_image();
    shell("cp h.qcow2 good.qcow2");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct header_case *c = &cases[i];
        const struct blk_open_options options = {.path = "h.qcow2", .format = "qcow2"};
        struct err err = {""};
        struct blk *blk = NULL;
        int r;

        shell("cp good.qcow2 h.qcow2");
        if (c->bytes == 4) {
            poke_be32("h.qcow2", c->offset, (uint32_t)c->value);
        } else {
            poke_be64("h.qcow2", c->offset, c->value);
        }
        r = blk_open(&options, &blk, &err);
        if (r != c->code || strstr(err.text, c->says) == NULL) {
            fail_msg("%s: %d, '%s'", c->what, r, err.text);
        }
        assert_non_null(strstr(err.text, "h.qcow2"));
    }
}

static void cut_files_are_refused_or_read_as_zeros(void **state)
{
    const struct blk_open_options options = {.path = "h.qcow2", .format = "qcow2"};
    static const unsigned lengths[] = {0, 1, 71, 72, 104, 512, REFTABLE, REFBLOCK, L1 - 1, L1 + 4};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        struct err err = {""};
        struct blk *blk = NULL;

        make_image();
        shell("truncate -s %u h.qcow2", lengths[i]);
        assert_true(blk_open(&options, &blk, &err) < 0);
        assert_true(err.text[0] != '\0');
    }
}

static void unknown_features_are_named_from_the_table(void **state)
{
    const struct blk_open_options options = {.path = "h.qcow2", .format = "qcow2"};
    struct err err;

    (void)state;
    make_image();
    assert_int_equal(peek_be64("h.qcow2", 112) >> 32, QCOW2_EXT_FEATURE_NAMES);
    /* The table's first entry becomes the name of incompatible bit 50. */
    poke("h.qcow2", 120, "\0\062quantum\033[31m clusters\0", 23);
    poke_be64("h.qcow2", 72, UINT64_C(1) << 50);
    err = refuse_with(&options, -ENOTSUP);
    assert_says(&err, "quantum");
    assert_null(strchr(err.text, '\033'));
}

static void writing_needs_a_clean_image(void **state)
{
    static const struct {
        const char *make;
        int code;
        const char *says;
    } cases[] = {
        {"qemu-img create -q -f qcow2 w.qcow2 1M && printf '\\2' | dd of=w.qcow2 bs=1 seek=79 "
         "conv=notrunc status=none",
         -EIO, "corrupt"},
        /* The snapshot's L1 table lies where the refcount table does. */
        {"qemu-img create -q -f qcow2 w.qcow2 1M && qemu-img snapshot -c s w.qcow2 && "
         "python3 -c \"f = open('w.qcow2', 'r+b'); f.seek(64); "
         "at = int.from_bytes(f.read(8), 'big'); f.seek(at); "
         "f.write((65536).to_bytes(8, 'big'))\"",
         -EINVAL, "snapshots"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct blk_open_options options = {.path = "w.qcow2", .writable = true};
        struct blk *blk;
        struct err err;

        shell("rm -f w.qcow2; %s", cases[i].make);
        err = refuse_with(&options, cases[i].code);
        assert_says(&err, cases[i].says);
        options.for_check = true;
        blk = open_with(&options);
        assert_int_equal(blk_pwrite(blk, 0, "x", 1), -EPERM);
        close_image(blk);
        options = (struct blk_open_options){.path = "w.qcow2"};
        close_image(open_with(&options));
    }
}

static void unknown_autoclear_bits_are_cleared_before_writing(void **state)
{
    (void)state;
    make_image();
    poke_be64("h.qcow2", 88, UINT64_C(0x8000000000000001));
    close_image(open_image("h.qcow2", false));
    assert_int_equal(peek_be64("h.qcow2", 88), UINT64_C(0x8000000000000001));
    close_image(open_image("h.qcow2", true));
    assert_int_equal(peek_be64("h.qcow2", 88), 0);
}

/* An entry that leads nowhere good costs its cluster; the rest stays readable; writing stops. */
static void bad_entries_are_contained(void **state)
{
    static const struct {
        uint64_t at, entry;
    } cases[] = {
        {L2, QCOW2_ENTRY_COPIED},                            /* unallocated: fine */
        {L2, DATA + 512 + QCOW2_ENTRY_COPIED},               /* unaligned */
        {L2, UINT64_C(1) << 40 | QCOW2_ENTRY_COPIED},        /* beyond the end */
        {L2, DATA | UINT64_C(1) << 57},                      /* reserved bit */
        {L2, DATA | 2},                                      /* reserved bit */
        {L2, L2 | QCOW2_ENTRY_COPIED},                       /* itself */
        {L2, L1 | QCOW2_ENTRY_COPIED},                       /* L1 table */
        {L2, REFTABLE | QCOW2_ENTRY_COPIED},                 /* refcount table */
        {L2, REFBLOCK | QCOW2_ENTRY_COPIED},                 /* refcount block */
        {L2, REFBLOCK | QCOW2_ENTRY_COPIED | QCOW2_L2_ZERO}, /* the same, flagged zero */
        {L2, UINT64_C(0x00fffffffffe0000)},                  /* the last cluster of all */
    };
    uint8_t buffer[512];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct blk *blk;
        struct err err;

        make_image();
        poke_be64("h.qcow2", cases[i].at, cases[i].entry);
        blk = open_image("h.qcow2", true);
        if (i == 0) {
            assert_bytes(blk, 0, CLUSTER, 0);
            close_image(blk);
            continue;
        }
        assert_bytes(blk, CLUSTER, CLUSTER, 5);
        assert_int_equal(blk_pread(blk, 0, buffer, 512), -EIO);
        assert_true(blk_problem(blk, &err));
        assert_says(&err, "corrupt");
        assert_int_equal(blk_pwrite(blk, 0, buffer, 512), -EIO);
        assert_int_equal(blk_pwrite(blk, CLUSTER, buffer, 512), -EIO);
        assert_bytes(blk, CLUSTER, CLUSTER, 5);
        assert_int_equal(blk_close(blk, &err), -EIO);
        assert_int_equal(peek_be64("h.qcow2", 72), QCOW2_INCOMPAT_CORRUPT);
        /* Reading only still works. */
        blk = open_image("h.qcow2", false);
        assert_bytes(blk, CLUSTER, CLUSTER, 5);
        close_image(blk);
    }
}

static void bad_l1_entries_and_refcounts_are_contained(void **state)
{
    static const struct {
        uint64_t at, value;
    } cases[] = {
        {L1, L2 + 512},                               /* unaligned */
        {L1, UINT64_C(1) << 50 | QCOW2_ENTRY_COPIED}, /* beyond the end */
        {L1, L2 | QCOW2_ENTRY_COPIED | 1},            /* reserved bit */
        {L1, L1 | QCOW2_ENTRY_COPIED},                /* itself */
        {L1, QCOW2_ENTRY_COPIED},                     /* header */
        {REFTABLE, REFBLOCK + 512},                   /* unaligned */
        {REFTABLE, UINT64_C(1) << 62},                /* beyond the end */
        {REFTABLE, REFTABLE},                         /* itself */
        {REFBLOCK, 0},                                /* header and tables are free */
        {REFBLOCK + 8, 0},                            /* the L2 table is free */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct blk *blk;
        uint8_t buffer[512] = {0};
        int r = 0;

        make_image();
        poke_be64("h.qcow2", cases[i].at, cases[i].value);
        blk = open_image("h.qcow2", true);
        for (uint64_t at = 0; at < blk_length(blk) && r == 0; at += CLUSTER) {
            r = blk_pwrite(blk, at, buffer, sizeof(buffer));
        }
        assert_int_equal(r, -EIO);
        blk_close(blk, NULL);
        assert_int_equal(peek_be64("h.qcow2", 72), QCOW2_INCOMPAT_CORRUPT);
    }
}

static void a_zero_reference_found_when_freeing_stops_writes(void **state)
{
    struct blk *blk;

    (void)state;
    make_image();
    poke("h.qcow2", REFBLOCK + 10, "\0\0", 2);
    blk = open_image("h.qcow2", true);
    assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
    blk_flush(blk);
    assert_int_equal(blk_pwrite(blk, 0, "x", 1), -EIO);
    blk_close(blk, NULL);
}

/* A table is put where an entry that was read before calls the place guest data. */
static void data_is_not_written_over_a_table_that_took_its_place(void **state)
{
    struct blk_check_result result;
    struct err err = {""};
    uint8_t buffer[512] = {1};
    uint64_t host, l1;
    struct blk *blk;

    (void)state;
    shell("rm -f h.qcow2; qemu-img create -q -f qcow2 -o cluster_size=512 h.qcow2 1M");
    shell("qemu-io -f qcow2 -c 'write -P 5 0 512' h.qcow2 > /dev/null");
    l1 = peek_be64("h.qcow2", 40);
    host = peek_be64("h.qcow2", peek_be64("h.qcow2", l1) & QCOW2_OFFSET_MASK) & QCOW2_OFFSET_MASK;
    /* 16-bit refcounts in the first block, which the table's first entry leads to. */
    poke("h.qcow2", peek_be64("h.qcow2", peek_be64("h.qcow2", 48)) + host / 512 * 2, "\0\0", 2);
    blk = open_image("h.qcow2", true);
    assert_bytes(blk, 0, 512, 5);
    assert_int_equal(blk_pwrite(blk, 512 << 10, buffer, 512), 0); /* makes an L2 table */
    assert_int_equal(blk_pwrite(blk, 0, buffer, 512), -EIO);
    assert_true(blk_problem(blk, &err));
    assert_says(&err, "guest data would be written over metadata");
    assert_int_equal(blk_flush(blk), -EIO);
    blk_close(blk, NULL);
    assert_int_equal(peek_be64("h.qcow2", 72), QCOW2_INCOMPAT_CORRUPT);
    refuse_with(&(struct blk_open_options){.path = "h.qcow2", .writable = true}, -EIO);
    blk = open_with(
        &(struct blk_open_options){.path = "h.qcow2", .writable = true, .for_check = true});
    assert_int_equal(blk_check(blk, BLK_FIX_LEAKS | BLK_FIX_ERRORS, NULL, NULL, &result, &err), 0);
    close_image(blk);
    assert_int_equal(peek_be64("h.qcow2", 72), 0);
    close_image(open_image("h.qcow2", true));
}

static void an_l1_entry_into_a_refcount_block_stops_writes(void **state)
{
    uint8_t buffer[512] = {1};
    struct blk *blk;
    struct err err;

    (void)state;
    make_image();
    poke_be64("h.qcow2", L1, REFBLOCK | QCOW2_ENTRY_COPIED);
    blk = open_image("h.qcow2", true);
    assert_int_equal(blk_pwrite(blk, 0, buffer, 512), -EIO);
    assert_true(blk_problem(blk, &err));
    assert_says(&err, "lies over other metadata");
    blk_close(blk, NULL);
    assert_int_equal(peek_be64("h.qcow2", 72), QCOW2_INCOMPAT_CORRUPT);
    assert_int_equal(peek_be64("h.qcow2", REFBLOCK), UINT64_C(0x0001000100010001));
}

/* One look for each kind of place, and each kind of write. */
static void every_kind_of_metadata_is_known(void **state)
{
    static const struct {
        uint64_t at;
        unsigned may; /* of enum qcow2_writes, as bits */
    } cases[] = {
        {0, 0},
        {REFTABLE, 1 << QCOW2_WRITES_REFTABLE},
        {REFBLOCK, 1 << QCOW2_WRITES_REFBLOCK},
        {L1, 1 << QCOW2_WRITES_L1},
        {L2, 1 << QCOW2_WRITES_L2 | 1 << QCOW2_WRITES_EXTRA},
        {DATA, 1 << QCOW2_WRITES_DATA | 1 << QCOW2_WRITES_NEW},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (int what = QCOW2_WRITES_DATA; what <= QCOW2_WRITES_EXTRA; what++) {
            bool may = (cases[i].may >> what & 1) != 0;
            struct blk *blk;
            struct qcow2 *q;

            make_image();
            blk = open_image("h.qcow2", true);
            q = qcow2_of(blk);
            pthread_mutex_lock(&q->lock);
            assert_int_equal(
                qcow2_check_overlap(q, (enum qcow2_writes)what, cases[i].at + 512, 512),
                may ? 0 : -EIO);
            /* The cluster in front, too, if the range reaches into it. */
            if (cases[i].at == DATA && what == QCOW2_WRITES_DATA) {
                assert_int_equal(qcow2_check_overlap(q, QCOW2_WRITES_DATA, DATA - 1, 2), -EIO);
                may = false;
            }
            pthread_mutex_unlock(&q->lock);
            blk_close(blk, NULL);
            assert_int_equal(peek_be64("h.qcow2", 72), may ? 0 : QCOW2_INCOMPAT_CORRUPT);
        }
    }
}

static void bitmaps_are_not_handed_out(void **state)
{
    uint64_t directory;
    uint8_t buffer[512] = {1};
    struct blk *blk;
    int r = 0;

    (void)state;
    shell("rm -f h.qcow2; qemu-img create -q -f qcow2 h.qcow2 4M");
    shell("qemu-img bitmap --add h.qcow2 b && qemu-img bitmap --disable h.qcow2 b");
    blk = open_image("h.qcow2", false);
    directory = qcow2_of(blk)->bitmaps != NULL ? 1 : 0;
    close_image(blk);
    assert_int_equal(directory, 1);
    /* Nothing behind the L1 table has a refcount. */
    for (uint64_t at = 8; at < 32; at += 8) {
        poke_be64("h.qcow2", REFBLOCK + at, 0);
    }
    blk = open_image("h.qcow2", true);
    for (uint64_t at = 0; at < blk_length(blk) && r == 0; at += CLUSTER) {
        r = blk_pwrite(blk, at, buffer, sizeof(buffer));
    }
    assert_int_equal(r, -EIO);
    blk_close(blk, NULL);
    assert_int_equal(peek_be64("h.qcow2", 72), QCOW2_INCOMPAT_CORRUPT);
}

/* Random damage to the metadata: any answer is fine but a crash, a hang or damage to others. */
static void random_damage_is_survived(void **state)
{
    uint64_t seed = UINT64_C(0x9e3779b97f4a7c15) * (uint64_t)getpid();

    (void)state;
    make_image();
    shell("cp h.qcow2 good.qcow2");
    print_message("seed %ju\n", (uintmax_t)seed);
    for (unsigned i = 0; i < 100; i++) {
        const struct blk_open_options options = {
            .path = "h.qcow2", .writable = true, .discard = true};
        uint8_t *buffer = calloc(1, 200000);
        struct err err;
        struct blk *blk;

        shell("cp good.qcow2 h.qcow2");
        for (unsigned n = 0; n < 1 + i % 4; n++) {
            static const uint64_t places[] = {0, 0, 100, REFTABLE, REFBLOCK, L1, L2, L2};
            uint64_t at;
            uint8_t byte;

            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407U;
            at = places[seed >> 61] + (seed >> 20) % (i % 2 ? 104 : 16);
            byte = (uint8_t)(seed >> 40);
            poke("h.qcow2", at, &byte, 1);
        }
        if (blk_open(&options, &blk, &err) == 0) {
            for (uint64_t at = 0; at < (4 << 20); at += 190000) {
                blk_pread(blk, at, buffer, 200000);
                blk_pwrite(blk, at + 1000, buffer, 70000);
                blk_pdiscard(blk, at, 150000);
                blk_flush(blk);
            }
            blk_close(blk, NULL);
        }
        free(buffer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_headers_are_refused),
        cmocka_unit_test(cut_files_are_refused_or_read_as_zeros),
        cmocka_unit_test(unknown_features_are_named_from_the_table),
        cmocka_unit_test(writing_needs_a_clean_image),
        cmocka_unit_test(unknown_autoclear_bits_are_cleared_before_writing),
        cmocka_unit_test(bad_entries_are_contained),
        cmocka_unit_test(bad_l1_entries_and_refcounts_are_contained),
        cmocka_unit_test(a_zero_reference_found_when_freeing_stops_writes),
        cmocka_unit_test(data_is_not_written_over_a_table_that_took_its_place),
        cmocka_unit_test(an_l1_entry_into_a_refcount_block_stops_writes),
        cmocka_unit_test(every_kind_of_metadata_is_known),
        cmocka_unit_test(bitmaps_are_not_handed_out),
        cmocka_unit_test(random_damage_is_survived),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
