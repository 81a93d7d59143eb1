/*
 * Bitmap directories, tables and extensions that are malformed, hostile or merely unusual.
 */
#include "bitmap_helpers.h"

enum { MIB = 1 << 20 };

/* d.qcow2: "on" with a bit set, "off" without any. */
static struct places make_image(void)
{
    struct blk *blk;

    shell("rm -f d.qcow2; qemu-img create -q -f qcow2 d.qcow2 1M");
    blk = open_image("d.qcow2", true);
    must(blk_bitmap_add, blk, "on", 0, true);
    must(blk_bitmap_add, blk, "off", 0, false);
    write_bytes(blk, 0, 512, 1);
    close_image(blk);
    return find_places("d.qcow2");
}

enum where { EXTENSION, ENTRY, SECOND_ENTRY, TABLE };

/* One field of a good image, what it becomes, and what is said then. */
struct damage {
    enum where where;
    unsigned at, width;
    uint64_t value;
    const char *words;
};

static uint64_t place_of(const struct places *p, enum where where)
{
    switch (where) {
    case EXTENSION:
        return p->extension;
    case ENTRY:
        return p->entries[0];
    case SECOND_ENTRY:
        return p->entries[1];
    default:
        return p->tables[0];
    }
}

static void do_damage(const struct places *p, const struct damage *d)
{
    uint8_t raw[8];

    store_be64(raw, d->value);
    poke("d.qcow2", place_of(p, d->where) + d->at, raw + 8 - d->width, d->width);
}

/* What qemu-img refuses as well, with its words. */
static void damaged_directories_are_refused_by_name(void **state)
{
    static const struct damage list[] = {
        {EXTENSION, 0, 4, 0, "found bitmaps extension with zero bitmaps"},
        {EXTENSION, 0, 4, 1, "More bitmaps found than specified in header extension"},
        {EXTENSION, 0, 4, 3, "Less bitmaps found than specified in header extension"},
        {EXTENSION, 0, 4, 65536, "Image has 65536 bitmaps, exceeding"},
        {EXTENSION, 0, 4, UINT32_MAX, "exceeding"},
        {EXTENSION, 4, 4, 1, "bitmaps_ext: Reserved field is not zero"},
        {EXTENSION, 8, 8, 0, "Requested bitmap directory size is zero"},
        {EXTENSION, 8, 8, 32, "Less bitmaps found than specified in header extension"},
        {EXTENSION, 8, 8, 65, "Broken bitmap directory"},
        {EXTENSION, 8, 8, BITMAP_MAX_DIRECTORY + 1, "exceeds the maximum supported size"},
        {EXTENSION, 8, 8, UINT64_MAX, "exceeds the maximum supported size"},
        {EXTENSION, 16, 8, 512, "bitmaps_ext: invalid bitmap directory offset"},
        {EXTENSION, 16, 8, 0, "beyond the end"},
        {EXTENSION, 16, 8, UINT64_C(1) << 40, "beyond the end"},
        {EXTENSION, 16, 8, UINT64_C(0) - 65536, "beyond the end"},
        {ENTRY, 0, 8, 0, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 0, 8, 512, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 0, 8, UINT64_C(1) << 60, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 8, 4, 0, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 8, 4, 2, "Could not read bitmap 'on' from image: Invalid argument"},
        {ENTRY, 8, 4, UINT32_MAX, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 12, 4, 10, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 16, 1, 0, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 16, 1, 2, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 17, 1, 8, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 17, 1, 32, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 17, 1, 255, "Bitmap 'on' doesn't satisfy the constraints"},
        {ENTRY, 18, 2, 0, "Bitmap '' doesn't satisfy the constraints"},
        {ENTRY, 18, 2, UINT16_MAX, "Broken bitmap directory"},
        {ENTRY, 20, 4, UINT32_MAX, "Broken bitmap directory"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        const struct places p = make_image();
        struct blk_open_options options = {.path = "d.qcow2", .format = "qcow2"};
        struct err err;

        do_damage(&p, &list[i]);
        shell("cp d.qcow2 damaged.qcow2");
        err = refuse_with(&options, -EINVAL);
        assert_says(&err, list[i].words);
        options.writable = true;
        err = refuse_with(&options, -EINVAL);
        assert_says(&err, list[i].words);
        /* Nothing is changed by trying. */
        shell("cmp d.qcow2 damaged.qcow2");
    }
}

/* QEMU lists it under what is in front of the zero; written back, the entry would be shorter. */
static void a_name_with_a_zero_in_it_is_not_written(void **state)
{
    static const struct damage zero = {ENTRY, 24, 1, 0, NULL};
    const struct blk_open_options options = {.path = "d.qcow2", .writable = true};
    const struct places p = make_image();
    struct blk_bitmap_info info;
    struct blk *blk;
    struct err err;

    (void)state;
    do_damage(&p, &zero);
    blk = open_image("d.qcow2", false);
    assert_true(get_bitmap(blk, "", &info));
    assert_false(get_bitmap(blk, "on", &info));
    close_image(blk);
    err = refuse_with(&options, -EINVAL);
    assert_says(&err, "Broken bitmap directory");
}

static void two_bitmaps_of_one_name_are_refused(void **state)
{
    const struct blk_open_options options = {.path = "d.qcow2"};
    struct places p;
    struct blk *blk;
    struct err err;

    (void)state;
    shell("rm -f d.qcow2; qemu-img create -q -f qcow2 d.qcow2 1M");
    blk = open_image("d.qcow2", true);
    must(blk_bitmap_add, blk, "b1", 0, true);
    must(blk_bitmap_add, blk, "b2", 0, true);
    close_image(blk);
    p = find_places("d.qcow2");
    poke("d.qcow2", p.entries[1] + BITMAP_ENTRY_BYTES, "b1", 2);
    err = refuse_with(&options, -EINVAL);
    assert_says(&err, "Bitmap already exists: b1");
}

/* Where writes would go by these tables something else lies. */
static void tables_that_lead_astray_are_not_written_through(void **state)
{
    const struct places good = make_image();
    const uint64_t cluster = 65536;
    const struct damage list[] = {
        {TABLE, 0, 8, 3, NULL},                                          /* reserved bits */
        {TABLE, 0, 8, UINT64_C(1) << 63, NULL},                          /* the same */
        {TABLE, 0, 8, (UINT64_C(1) << 40), NULL},                        /* beyond the file */
        {TABLE, 0, 8, peek_be64("d.qcow2", good.tables[0]) + 512, NULL}, /* not aligned */
        {TABLE, 0, 8, peek_be64("d.qcow2", 40), NULL},                   /* the L1 table */
        {TABLE, 0, 8, peek_be64("d.qcow2", 48), NULL},                   /* the refcount table */
        {TABLE, 0, 8, good.directory, NULL},                             /* the directory */
        {TABLE, 0, 8, good.tables[1], NULL},                             /* another table */
        {TABLE, 0, 8, good.tables[0], NULL},                             /* itself */
        {ENTRY, 0, 8, good.tables[1], NULL},           /* two tables in one place */
        {ENTRY, 0, 8, cluster * 4096, NULL},           /* beyond the file */
        {ENTRY, 0, 8, peek_be64("d.qcow2", 40), NULL}, /* the L1 table */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        const struct places p = make_image();
        struct blk_open_options options = {.path = "d.qcow2", .format = "qcow2", .writable = true};
        struct err err;
        struct blk *blk;

        do_damage(&p, &list[i]);
        err = refuse_with(&options, -EINVAL);
        assert_says(&err, "bitmap 'o");
        /* The guest's data can be read. */
        options.writable = false;
        blk = open_with(&options);
        assert_bytes(blk, 0, 512, 1);
        close_image(blk);
    }
}

/* An inconsistent bitmap may be wrong in everything: it does no harm, and can be removed. */
static void an_inconsistent_bitmap_with_a_bad_table_can_be_removed(void **state)
{
    static const struct damage list[] = {
        {TABLE, 0, 8, 3, NULL},     {TABLE, 0, 8, 65536, NULL},
        {ENTRY, 0, 8, 65536, NULL}, {ENTRY, 0, 8, UINT64_C(1) << 40, NULL},
        {ENTRY, 8, 4, 5, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        const struct places p = make_image();
        struct blk *blk;

        poke_be32("d.qcow2", p.entries[0] + 12, BITMAP_IN_USE | BITMAP_AUTO);
        do_damage(&p, &list[i]);
        blk = open_image("d.qcow2", true);
        write_bytes(blk, MIB / 2, 512, 2);
        must(blk_bitmap_remove, blk, "on");
        write_bytes(blk, MIB / 4, 512, 3);
        close_image(blk);
        assert_checks_clean("d.qcow2", true);
        blk = open_image("d.qcow2", false);
        assert_int_equal(count_bitmaps(blk), 1);
        assert_bytes(blk, 0, 512, 1);
        assert_bytes(blk, MIB / 2, 512, 2);
        close_image(blk);
    }
}

/* What a guest writes never lands in what bitmaps use, whatever its L2 entries say. */
static void guest_data_does_not_land_in_bitmaps(void **state)
{
    const struct places p = make_image();
    const uint64_t l2 = peek_be64("d.qcow2", peek_be64("d.qcow2", 40)) & QCOW2_OFFSET_MASK;
    const uint64_t targets[] = {p.directory, p.tables[0], p.tables[1],
                                peek_be64("d.qcow2", p.tables[0])};
    uint8_t sector[512] = {7};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
        struct blk *blk;

        make_image();
        poke_be64("d.qcow2", l2, targets[i] | QCOW2_ENTRY_COPIED);
        shell("cp d.qcow2 before.qcow2");
        blk = open_image("d.qcow2", true);
        assert_int_equal(blk_pwrite(blk, 0, sector, sizeof(sector)), -EIO);
        blk_close(blk, NULL);
        assert_int_equal(peek_be64("d.qcow2", targets[i] + 512),
                         peek_be64("before.qcow2", targets[i] + 512));
        assert_int_not_equal(peek_be64("d.qcow2", 72) & QCOW2_INCOMPAT_CORRUPT, 0);
    }
}

/* ---- extra data ---- */

/* Makes "on" an entry with 8 bytes of extra data, at the end of the directory. */
static void add_extra_data(uint32_t flags)
{
    struct places p;
    struct blk *blk;
    uint8_t raw[40] = {0}, old[24];
    FILE *f;

    shell("rm -f d.qcow2; qemu-img create -q -f qcow2 d.qcow2 1M");
    blk = open_image("d.qcow2", true);
    must(blk_bitmap_add, blk, "on", 0, true);
    close_image(blk);
    p = find_places("d.qcow2");
    f = fopen("d.qcow2", "r");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)p.entries[0], SEEK_SET), 0);
    assert_int_equal(fread(old, 1, sizeof(old), f), sizeof(old));
    fclose(f);
    memcpy(raw, old, sizeof(old));
    store_be32(raw + 12, BITMAP_AUTO | flags);
    store_be32(raw + 20, 8);
    memcpy(raw + 24, "EXTRADATon", 10);
    poke("d.qcow2", p.entries[0], raw, sizeof(raw));
    poke_be64("d.qcow2", p.extension + 8, sizeof(raw));
}

static void assert_extra_data_is_kept(void)
{
    struct places p = find_places("d.qcow2");

    assert_int_equal(peek_be64("d.qcow2", p.entries[0] + 24), UINT64_C(0x4558545241444154));
}

static void compatible_extra_data_is_kept_and_the_bitmap_used(void **state)
{
    struct blk *blk;

    (void)state;
    add_extra_data(BITMAP_EXTRA_COMPATIBLE);
    blk = open_image("d.qcow2", true);
    write_bytes(blk, 0, 1, 1);
    must(blk_bitmap_add, blk, "new", 0, true);
    close_image(blk);
    assert_extra_data_is_kept();
    blk = open_image("d.qcow2", false);
    assert_dirty(blk, "on", "0+65536");
    close_image(blk);
    assert_checks_clean("d.qcow2", false);
}

/* It would have to follow writes and cannot: from the first one on it is in use for good. */
static void other_extra_data_is_kept_and_the_bitmap_left_alone(void **state)
{
    struct blk_bitmap_info info;
    struct blk *blk;
    struct err err = {""};

    (void)state;
    add_extra_data(0);
    blk = open_image("d.qcow2", true);
    assert_int_equal(blk_bitmap_clear(blk, "on", &err), -ENOTSUP);
    must(blk_bitmap_add, blk, "new", 0, true);
    close_image(blk);
    blk = open_image("d.qcow2", true);
    assert_true(get_bitmap(blk, "on", &info) && !info.is_in_use);
    write_bytes(blk, 0, 1, 1);
    close_image(blk);
    assert_extra_data_is_kept();
    blk = open_image("d.qcow2", true);
    assert_true(get_bitmap(blk, "on", &info) && info.is_inconsistent);
    assert_dirty(blk, "new", "0+65536");
    must(blk_bitmap_remove, blk, "on");
    close_image(blk);
    assert_checks_clean("d.qcow2", false);
}

/* ---- unusual and right ---- */

static void all_ones_and_dirty_tails_read_as_they_should(void **state)
{
    struct places p = make_image();
    struct blk *blk;

    (void)state;
    poke_be64("d.qcow2", p.tables[1], BITMAP_ALL_ONES);
    /* Bits behind the end of the device, which should be zero. */
    poke_be64("d.qcow2", peek_be64("d.qcow2", p.tables[0]), UINT64_C(0x0100ffffffffffff));
    blk = open_image("d.qcow2", true);
    assert_dirty(blk, "off", "0+1048576");
    assert_dirty(blk, "on", "0+65536");
    must(blk_resize, blk, 2 * MIB);
    assert_dirty(blk, "off", "0+1048576");
    assert_dirty(blk, "on", "0+65536");
    must(blk_bitmap_merge, blk, "on", blk, "off");
    close_image(blk);
    blk = open_image("d.qcow2", false);
    assert_dirty(blk, "on", "0+1048576");
    assert_dirty(blk, "off", "0+1048576");
    close_image(blk);
    assert_checks_clean("d.qcow2", false);
    shell("qemu-img check -q d.qcow2");
}

static void a_directory_of_many_bitmaps_is_read(void **state)
{
    enum { COUNT = 700 };
    struct blk *blk;

    (void)state;
    shell("rm -f d.qcow2; qemu-img create -q -f qcow2 -o cluster_size=512 d.qcow2 64k");
    blk = open_image("d.qcow2", true);
    for (unsigned i = 0; i < COUNT; i++) {
        char name[16];

        snprintf(name, sizeof(name), "b%u", i);
        must(blk_bitmap_add, blk, name, 512, true);
    }
    write_bytes(blk, 0, 512, 1);
    close_image(blk);
    blk = open_image("d.qcow2", true);
    assert_int_equal(count_bitmaps(blk), COUNT);
    assert_dirty(blk, "b0", "0+512");
    assert_dirty(blk, "b699", "0+512");
    close_image(blk);
    assert_checks_clean("d.qcow2", false);
    shell("qemu-img check -q d.qcow2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_directories_are_refused_by_name),
        cmocka_unit_test(a_name_with_a_zero_in_it_is_not_written),
        cmocka_unit_test(two_bitmaps_of_one_name_are_refused),
        cmocka_unit_test(tables_that_lead_astray_are_not_written_through),
        cmocka_unit_test(an_inconsistent_bitmap_with_a_bad_table_can_be_removed),
        cmocka_unit_test(guest_data_does_not_land_in_bitmaps),
        cmocka_unit_test(compatible_extra_data_is_kept_and_the_bitmap_used),
        cmocka_unit_test(other_extra_data_is_kept_and_the_bitmap_left_alone),
        cmocka_unit_test(all_ones_and_dirty_tails_read_as_they_should),
        cmocka_unit_test(a_directory_of_many_bitmaps_is_read),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
