/*
 * What is not ours in cluster 0 - unknown header bytes, unknown extensions, the names of features -
 * survives every change of the header, whatever the header's length.
 */
#include "fixture.h"

enum {
    AREA = 4096,
    PARTS = 600,
    EXTENSION = 0x12345678,
    AT_LENGTH = 100,
    AT_NAME = 8,
    QEMU_LENGTH = 112
};

static const char unknown_data[13] = "not ours 13b"; /* no multiple of 8 */

static void read_area(uint8_t *raw)
{
    FILE *f = fopen("top.qcow2", "r");

    assert_non_null(f);
    assert_int_equal(fread(raw, 1, AREA, f), AREA);
    fclose(f);
}

/* Bytes of the header that have no meaning: behind the compression type, and behind what we know. */
static uint8_t unknown_byte(uint32_t at)
{
    return (uint8_t)(0x80 | at);
}

/* An overlay with a header of `length` bytes, and an unknown extension before all others. */
static void make_image(uint32_t length)
{
    uint8_t old[AREA], new[AREA] = {0};
    uint32_t inserted = 8 + 16, name;

    shell("rm -f top.qcow2 base.raw other.raw; truncate -s 1M base.raw; cp base.raw other.raw");
    shell("qemu-img create -q -f qcow2 -o lazy_refcounts=on -b base.raw -F raw top.qcow2");
    read_area(old);
    assert_int_equal(load_be32(old + AT_LENGTH), QEMU_LENGTH);
    memcpy(new, old, length < QEMU_LENGTH ? length : QEMU_LENGTH);
    for (uint32_t at = 105; at < length; at++) {
        new[at] = unknown_byte(at);
    }
    store_be32(new + AT_LENGTH, length);
    store_be32(new + length, EXTENSION);
    store_be32(new + length + 4, sizeof(unknown_data));
    memcpy(new + length + 8, unknown_data, sizeof(unknown_data));
    memcpy(new + length + inserted, old + QEMU_LENGTH, AREA - 512);
    name = (uint32_t)load_be64(old + AT_NAME);
    store_be64(new + AT_NAME, name - QEMU_LENGTH + length + inserted);
    poke("top.qcow2", 0, new, AREA);
    shell("qemu-img info top.qcow2 > info.txt; grep -q base.raw info.txt");
}

static void assert_nothing_is_lost(uint32_t length, const char *when)
{
    bool has_unknown = false, has_names = false;
    uint8_t raw[AREA];

    read_area(raw);
    assert_int_equal(load_be32(raw + AT_LENGTH), length);
    for (uint32_t at = 105; at < length; at++) {
        if (raw[at] != unknown_byte(at)) {
            fail_msg("%s: header byte %u has changed", when, at);
        }
    }
    for (uint32_t at = length; at + 8 < AREA;) {
        uint32_t type = load_be32(raw + at), bytes = load_be32(raw + at + 4);

        if (type == QCOW2_EXT_END) {
            break;
        }
        has_unknown = has_unknown || (type == EXTENSION && bytes == sizeof(unknown_data) &&
                                      memcmp(raw + at + 8, unknown_data, bytes) == 0);
        has_names = has_names || (type == QCOW2_EXT_FEATURE_NAMES && bytes >= 48 &&
                                  memcmp(raw + at + 10, "dirty bit", 9) == 0);
        at += 8 + (uint32_t)align_up(bytes, 8);
    }
    if (!has_unknown || !has_names) {
        fail_msg("%s: %s lost", when, has_unknown ? "feature names are" : "an extension is");
    }
    if (try_shell("qemu-img check -q top.qcow2") != 0) {
        fail_msg("%s: qemu-img check complains", when);
    }
}

static void change_backing(struct blk *blk)
{
    char name[600];

    assert_int_equal(blk_set_backing(blk, "other.raw", "raw", NULL), 0);
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(blk_set_backing(blk, name, "raw", NULL), 0);
    assert_int_equal(blk_set_backing(blk, NULL, NULL, NULL), 0);
    assert_int_equal(blk_set_backing(blk, "base.raw", "raw", NULL), 0);
}

static void drop_backing(struct blk *blk)
{
    assert_int_equal(blk_set_backing(blk, NULL, NULL, NULL), 0);
}

static void add_bitmaps(struct blk *blk)
{
    assert_int_equal(blk_bitmap_add(blk, "one", 0, true, NULL), 0);
    assert_int_equal(blk_bitmap_add(blk, "two", 0, false, NULL), 0);
}

static void add_and_remove_bitmaps(struct blk *blk)
{
    add_bitmaps(blk);
    assert_int_equal(blk_bitmap_remove(blk, "one", NULL), 0);
    assert_int_equal(blk_bitmap_remove(blk, "two", NULL), 0);
}

static void change_size(struct blk *blk)
{
    assert_int_equal(blk_resize(blk, UINT64_C(8) << 40, NULL), 0); /* a larger L1 table as well */
    assert_int_equal(blk_resize(blk, 2 << 20, NULL), 0);
}

/* Sets and takes back the dirty bit. */
static void write_lazily(struct blk *blk)
{
    write_bytes(blk, 0, 512, 1);
    assert_int_equal(blk_flush(blk), 0);
}

static void empty(struct blk *blk)
{
    assert_int_equal(blk_make_empty(blk, NULL), 0);
}

static void note_corruption(struct blk *blk)
{
    struct qcow2 *q = qcow2_of(blk);

    pthread_mutex_lock(&q->lock);
    qcow2_note_corruption(q, "for the test");
    pthread_mutex_unlock(&q->lock);
}

static void note_corruption_and_repair(void)
{
    const struct blk_open_options options = {
        .path = "top.qcow2", .format = "qcow2", .writable = true, .for_check = true};
    struct blk_check_result result;
    struct blk *blk = open_image("top.qcow2", true);

    note_corruption(blk);
    assert_int_equal(blk_close(blk, NULL), -EIO);
    assert_int_equal(peek_be64("top.qcow2", 72), QCOW2_INCOMPAT_CORRUPT);
    blk = open_with(&options);
    assert_int_equal(blk_check(blk, BLK_FIX_ERRORS | BLK_FIX_LEAKS, NULL, NULL, &result, NULL), 0);
    close_image(blk);
    assert_int_equal(peek_be64("top.qcow2", 72), 0);
}

static void nothing_unknown_is_lost(void **state)
{
    static const struct {
        const char *name;
        void (*change)(struct blk *blk);
        bool is_broken; /* closing reports it */
    } changes[] = {
        {"backing name", change_backing, false},
        {"no backing file", drop_backing, false},
        {"bitmaps", add_bitmaps, false},
        {"bitmaps come and go", add_and_remove_bitmaps, false},
        {"size", change_size, false},
        {"dirty bit", write_lazily, false},
        {"emptying", empty, false},
        {"corrupt bit", note_corruption, true},
    };
    static const uint32_t lengths[] = {104, 112, 120, 256};

    (void)state;
    for (size_t l = 0; l < ARRAY_LEN(lengths); l++) {
        for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
            struct blk *blk;

            make_image(lengths[l]);
            blk = open_image("top.qcow2", true);
            changes[i].change(blk);
            if (changes[i].is_broken) {
                assert_int_equal(blk_close(blk, NULL), -EIO);
            } else {
                close_image(blk);
            }
            assert_nothing_is_lost(lengths[l], changes[i].name);
        }
    }
}

static void a_repair_keeps_what_it_does_not_know(void **state)
{
    (void)state;
    make_image(120);
    note_corruption_and_repair();
    assert_nothing_is_lost(120, "repair");
}

/* Autoclear bits that nobody knows go; compatible ones stay. */
static void unknown_compatible_features_stay(void **state)
{
    (void)state;
    make_image(112);
    poke_be64("top.qcow2", 80, (UINT64_C(1) << 40) | QCOW2_COMPAT_LAZY_REFCOUNTS);
    poke_be64("top.qcow2", 88, UINT64_C(1) << 41);
    close_image(open_image("top.qcow2", true));
    assert_int_equal(peek_be64("top.qcow2", 80), (UINT64_C(1) << 40) | QCOW2_COMPAT_LAZY_REFCOUNTS);
    assert_int_equal(peek_be64("top.qcow2", 88), 0);
}

/* An overlay whose own extensions and backing name lie `inserted` bytes (a multiple of 8) further back. */
static void make_long_header(uint32_t inserted)
{
    static uint8_t raw[QCOW2_HEADER_AREA];
    uint8_t old[AREA];

    memset(raw, 0, sizeof(raw));
    shell("truncate -s 1M base.raw; test -e short.qcow2 || "
          "qemu-img create -q -f qcow2 -b base.raw -F raw short.qcow2; cp short.qcow2 top.qcow2");
    read_area(old);
    memcpy(raw, old, QEMU_LENGTH);
    store_be32(raw + QEMU_LENGTH, EXTENSION);
    store_be32(raw + QEMU_LENGTH + 4, inserted - 8);
    memcpy(raw + QEMU_LENGTH + inserted, old + QEMU_LENGTH, PARTS - QEMU_LENGTH);
    store_be64(raw + AT_NAME, load_be64(old + AT_NAME) + inserted);
    poke("top.qcow2", 0, raw, sizeof(raw));
}

/* What is behind the first bytes of a header is found wherever the parts fall. */
static void long_headers_are_read_whole(void **state)
{
    enum { STEP = 4096 };

    (void)state;
    for (uint32_t end = STEP; end <= QCOW2_HEADER_AREA; end += end == STEP ? STEP : 7 * STEP) {
        for (uint32_t inserted = end - PARTS;
             inserted < end - QEMU_LENGTH && inserted + PARTS <= QCOW2_HEADER_AREA; inserted += 8) {
            struct blk *blk;

            make_long_header(inserted);
            blk = open_image("top.qcow2", false);
            assert_string_equal(blk->backing_name, "base.raw");
            assert_string_equal(blk->backing_format, "raw");
            close_image(blk);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_unknown_is_lost),
        cmocka_unit_test(a_repair_keeps_what_it_does_not_know),
        cmocka_unit_test(unknown_compatible_features_stay),
        cmocka_unit_test(long_headers_are_read_whole),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
