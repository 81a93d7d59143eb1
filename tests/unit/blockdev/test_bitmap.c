/*
 * Persistent dirty bitmaps: what they record, how they come to the disk and back, and what happens
 * to the header on the way.
 */
#include "bitmap_helpers.h"

#include <pthread.h>

enum { KIB = 1 << 10, MIB = 1 << 20 };

static struct blk *make_image(const char *options, const char *size)
{
    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 %s t.qcow2 %s", options, size);
    return open_image("t.qcow2", true);
}

static struct blk *reopen(struct blk *blk)
{
    close_image(blk);
    return open_image("t.qcow2", true);
}

/* ---- recording ---- */

static void writes_zeroes_and_discards_are_recorded_and_kept(void **state)
{
    struct blk *blk = make_image("", "1M");

    (void)state;
    must(blk_bitmap_add, blk, "on", 4 * KIB, true);
    must(blk_bitmap_add, blk, "off", 512, false);
    write_bytes(blk, 4095, 2, 1);
    assert_int_equal(blk_pwrite_zeroes(blk, 20 * KIB, 1, 0), 0);
    assert_int_equal(blk_pdiscard(blk, 64 * KIB, 64 * KIB), 0);
    write_bytes(blk, MIB - 1, 1, 1);
    assert_dirty(blk, "on", "0+8192 20480+4096 65536+65536 1044480+4096");
    blk = reopen(blk);
    assert_dirty(blk, "on", "0+8192 20480+4096 65536+65536 1044480+4096");
    assert_dirty(blk, "off", "");
    /* What is new is added to what is on disk. */
    write_bytes(blk, 8 * KIB, 1, 1);
    blk = reopen(blk);
    assert_dirty(blk, "on", "0+12288 20480+4096 65536+65536 1044480+4096");
    close_image(blk);
    assert_checks_clean("t.qcow2", false);
    shell("qemu-img check -q t.qcow2");
}

static void a_discard_that_is_not_passed_on_is_not_recorded(void **state)
{
    const struct blk_open_options options = {.path = "t.qcow2", .writable = true};
    struct blk *blk = make_image("", "1M");

    (void)state;
    must(blk_bitmap_add, blk, "on", 0, true);
    close_image(blk);
    blk = open_with(&options);
    assert_int_equal(blk_pdiscard(blk, 0, 64 * KIB), 0);
    assert_dirty(blk, "on", "");
    close_image(blk);
}

/* On disk the flag stands from the first write on, and not before; a copy of the file made meanwhile,
 * which is what a killed process leaves, has an inconsistent bitmap. */
static void a_bitmap_is_in_use_on_disk_from_the_first_write_until_closing(void **state)
{
    struct blk_bitmap_info info;
    struct blk *blk = make_image("", "1M"), *copy;
    struct err err = {""};

    (void)state;
    must(blk_bitmap_add, blk, "on", 0, true);
    must(blk_bitmap_add, blk, "off", 0, false);
    blk = reopen(blk);
    assert_bytes(blk, 0, 512, 0);
    assert_int_equal(blk_flush(blk), 0);
    shell("cp t.qcow2 before.qcow2");
    write_bytes(blk, 0, 512, 1);
    shell("cp t.qcow2 during.qcow2");
    close_image(blk);

    copy = open_image("before.qcow2", false);
    assert_true(get_bitmap(copy, "on", &info) && !info.is_in_use);
    close_image(copy);
    copy = open_image("during.qcow2", true);
    assert_true(get_bitmap(copy, "on", &info) && info.is_inconsistent && info.is_in_use);
    assert_true(get_bitmap(copy, "off", &info) && !info.is_inconsistent && !info.is_in_use);
    assert_int_equal(blk_bitmap_clear(copy, "on", &err), -EUCLEAN);
    assert_says(&err, "inconsistent");
    assert_int_equal(blk_bitmap_merge(copy, "off", copy, "on", &err), -EUCLEAN);
    assert_int_equal(blk_bitmap_enable(copy, "on", false, &err), -EUCLEAN);
    /* It stays what it is, whatever is written, until it is removed. */
    write_bytes(copy, 0, 512, 1);
    close_image(copy);
    copy = open_image("during.qcow2", true);
    assert_true(get_bitmap(copy, "on", &info) && info.is_inconsistent);
    must(blk_bitmap_remove, copy, "on");
    close_image(copy);
    assert_checks_clean("during.qcow2", true);
    copy = open_image("t.qcow2", false);
    assert_dirty(copy, "on", "0+65536");
    close_image(copy);
}

static void an_image_that_is_only_read_is_not_changed(void **state)
{
    struct blk *blk = make_image("", "1M");

    (void)state;
    must(blk_bitmap_add, blk, "on", 0, true);
    close_image(blk);
    shell("cp t.qcow2 copy.qcow2");
    blk = open_image("t.qcow2", false);
    assert_dirty(blk, "on", "");
    close_image(blk);
    close_image(open_image("t.qcow2", true));
    shell("cmp t.qcow2 copy.qcow2");
}

static void bits_that_find_no_memory_leave_the_bitmap_in_use(void **state)
{
    struct blk_bitmap_info info;
    struct blk *blk = make_image("", "1M");
    struct err err = {""};

    (void)state;
    must(blk_bitmap_add, blk, "on", 0, true);
    atomic_store(&qcow2_of(blk)->bitmaps->memory, BITMAP_MAX_MEMORY);
    write_bytes(blk, 0, 512, 1);
    assert_int_equal(blk_close(blk, &err), -ENOMEM);
    assert_says(&err, "on");
    blk = open_image("t.qcow2", false);
    assert_true(get_bitmap(blk, "on", &info) && info.is_inconsistent);
    assert_bytes(blk, 0, 512, 1);
    close_image(blk);
}

/* ---- changes ---- */

static void adding_refuses_what_qemu_img_refuses(void **state)
{
    char long_name[BITMAP_MAX_NAME + 2];
    struct blk *blk = make_image("", "1M");
    struct err err = {""};

    (void)state;
    memset(long_name, 'n', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    assert_int_equal(blk_bitmap_add(blk, "", 0, true, &err), -EINVAL);
    assert_int_equal(blk_bitmap_add(blk, "b", 511, true, &err), -EINVAL);
    assert_int_equal(blk_bitmap_add(blk, "b", 256, true, &err), -EINVAL);
    assert_int_equal(blk_bitmap_add(blk, "b", UINT64_C(1) << 32, true, &err), -EINVAL);
    assert_int_equal(blk_bitmap_add(blk, long_name, 0, true, &err), -EINVAL);
    must(blk_bitmap_add, blk, "b", UINT64_C(1) << 31, true);
    must(blk_bitmap_add, blk, long_name + 1, 512, true);
    assert_int_equal(blk_bitmap_add(blk, "b", 0, true, &err), -EEXIST);
    assert_int_equal(blk_bitmap_remove(blk, "c", &err), -ENOENT);
    blk = reopen(blk);
    assert_int_equal(count_bitmaps(blk), 2);
    close_image(blk);
    blk = make_image("-o compat=0.10", "1M");
    assert_int_equal(blk_bitmap_add(blk, "b", 0, true, &err), -EINVAL);
    assert_says(&err, "v2");
    close_image(blk);
    blk = make_image("", "4T");
    assert_int_equal(blk_bitmap_add(blk, "b", 512, true, &err), -EINVAL);
    assert_says(&err, "Use larger granularity");
    must(blk_bitmap_add, blk, "b", 1024, true);
    close_image(blk);
    shell("truncate -s 1M t.raw");
    blk = open_image("t.raw", true);
    assert_int_equal(blk_bitmap_add(blk, "b", 0, true, &err), -ENOTSUP);
    assert_int_equal(blk_bitmap_clear(blk, "b", &err), -ENOENT);
    close_image(blk);
}

static void clearing_and_removing_give_their_clusters_back(void **state)
{
    struct blk *blk = make_image("-o cluster_size=512", "4M");

    (void)state;
    must(blk_bitmap_add, blk, "a", 512, true);
    must(blk_bitmap_add, blk, "b", 512, true);
    write_bytes(blk, 0, 4 * MIB, 1);
    must(blk_bitmap_clear, blk, "a");
    assert_dirty(blk, "a", "");
    assert_dirty(blk, "b", "0+4194304");
    write_bytes(blk, 1024, 1, 2);
    assert_dirty(blk, "a", "1024+512");
    must(blk_bitmap_remove, blk, "b");
    close_image(blk);
    assert_checks_clean("t.qcow2", false);
    blk = open_image("t.qcow2", true);
    assert_dirty(blk, "a", "1024+512");
    must(blk_bitmap_remove, blk, "a");
    close_image(blk);
    assert_checks_clean("t.qcow2", false);
    assert_int_equal(peek_be64("t.qcow2", 88), 0);
    assert_int_equal(find_places("t.qcow2").extension, 0);
}

static void enabling_and_disabling_start_and_stop_recording(void **state)
{
    struct blk *blk = make_image("", "1M");

    (void)state;
    must(blk_bitmap_add, blk, "b", 512, false);
    write_bytes(blk, 0, 1, 1);
    must(blk_bitmap_enable, blk, "b", true);
    write_bytes(blk, 1024, 1, 1);
    must(blk_bitmap_enable, blk, "b", false);
    write_bytes(blk, 2048, 1, 1);
    assert_dirty(blk, "b", "1024+512");
    blk = reopen(blk);
    assert_dirty(blk, "b", "1024+512");
    close_image(blk);
}

static void merging_converts_granularities_and_reads_other_images(void **state)
{
    struct blk *blk, *other = make_image("", "1000448");
    struct err err = {""};

    (void)state;
    must(blk_bitmap_add, other, "src", 512, true);
    write_bytes(other, 70000, 1, 1);
    write_bytes(other, 999999, 1, 1);
    close_image(other);
    shell("mv t.qcow2 other.qcow2");
    other = open_image("other.qcow2", false);

    blk = make_image("-o cluster_size=4k", "1000448");
    must(blk_bitmap_add, blk, "fine", 512, false);
    must(blk_bitmap_add, blk, "coarse", 64 * KIB, false);
    must(blk_bitmap_add, blk, "one", UINT64_C(1) << 31, false);
    must(blk_bitmap_merge, blk, "fine", other, "src");
    assert_dirty(blk, "fine", "69632+512 999936+512");
    must(blk_bitmap_merge, blk, "coarse", blk, "fine");
    assert_dirty(blk, "coarse", "65536+65536 983040+17408");
    must(blk_bitmap_merge, blk, "fine", blk, "coarse");
    must(blk_bitmap_merge, blk, "fine", blk, "fine");
    assert_dirty(blk, "fine", "65536+65536 983040+17408");
    must(blk_bitmap_merge, blk, "one", blk, "coarse");
    assert_dirty(blk, "one", "0+1000448");
    must(blk_bitmap_merge, blk, "coarse", blk, "one");
    assert_dirty(blk, "coarse", "0+1000448");
    assert_int_equal(blk_bitmap_merge(blk, "fine", other, "none", &err), -ENOENT);
    blk = reopen(blk);
    assert_dirty(blk, "fine", "65536+65536 983040+17408");
    must(blk_resize, blk, 2000000);
    assert_int_equal(blk_bitmap_merge(blk, "fine", other, "src", &err), -EINVAL);
    assert_says(&err, "destination size is 2000000, source size is 1000448");
    close_image(blk);
    close_image(other);
    assert_checks_clean("t.qcow2", false);
    shell("qemu-img check -q t.qcow2");
}

static void every_granularity_holds_at_the_edges(void **state)
{
    struct blk *blk = make_image("-o cluster_size=4k", "5000000001");
    const uint64_t size = 5000000001 / 512 * 512 + 512;

    (void)state;
    for (unsigned bits = BITMAP_MIN_GRANULARITY_BITS; bits <= BITMAP_MAX_GRANULARITY_BITS; bits++) {
        char name[8];

        snprintf(name, sizeof(name), "g%u", bits);
        must(blk_bitmap_add, blk, name, UINT64_C(1) << bits, true);
    }
    assert_int_equal(blk_length(blk), size);
    write_bytes(blk, UINT64_C(1) << 31, 1, 1);
    write_bytes(blk, size - 1, 1, 1);
    assert_int_equal(blk_pwrite_zeroes(blk, 3 * MIB - 1, 2, 0), 0);
    blk = reopen(blk);
    for (unsigned bits = BITMAP_MIN_GRANULARITY_BITS; bits <= BITMAP_MAX_GRANULARITY_BITS; bits++) {
        const uint64_t touched[] = {3 * MIB - 1, 3 * MIB, UINT64_C(1) << 31, size - 1};
        uint64_t g = UINT64_C(1) << bits, end = 0;
        struct extents expected = {.bytes = 0};
        struct {
            uint64_t start, end;
        } open_run = {0, 0};
        char name[8];

        for (size_t i = 0; i < ARRAY_LEN(touched); i++) {
            uint64_t start = align_down(touched[i], g);

            end = min_u64(start + g, size);
            if (open_run.end != 0 && start > open_run.end) {
                add_extent(&expected, open_run.start, open_run.end - open_run.start);
                open_run.end = 0;
            }
            open_run.start = open_run.end == 0 ? start : open_run.start;
            open_run.end = end;
        }
        add_extent(&expected, open_run.start, open_run.end - open_run.start);
        snprintf(name, sizeof(name), "g%u", bits);
        assert_dirty(blk, name, expected.text);
    }
    close_image(blk);
    shell("qemu-img check -q t.qcow2");
}

/* ---- size ---- */

static void growing_keeps_the_bits_and_adds_clean_ones(void **state)
{
    struct blk *blk = make_image("-o cluster_size=512", "1000448");

    (void)state;
    must(blk_bitmap_add, blk, "b", 512, true);
    must(blk_bitmap_add, blk, "off", 4 * KIB, false);
    must(blk_bitmap_merge, blk, "off", blk, "b");
    write_bytes(blk, 0, 1, 1);
    write_bytes(blk, 1000000 / 512 * 512, 1, 1);
    must(blk_resize, blk, 30 * MIB);
    assert_dirty(blk, "b", "0+512 999936+512");
    write_bytes(blk, 30 * MIB - 1, 1, 1);
    blk = reopen(blk);
    assert_dirty(blk, "b", "0+512 999936+512 31456768+512");
    assert_dirty(blk, "off", "");
    close_image(blk);
    assert_checks_clean("t.qcow2", false);
    shell("qemu-img check -q t.qcow2");
    shell("qemu-img resize -q t.qcow2 40M");
    blk = open_image("t.qcow2", false);
    assert_dirty(blk, "b", "0+512 999936+512 31456768+512");
    close_image(blk);
}

static void an_inconsistent_bitmap_forbids_resizing(void **state)
{
    struct blk *blk = make_image("", "1M");
    struct places p;
    struct err err = {""};

    (void)state;
    must(blk_bitmap_add, blk, "b", 512, true);
    close_image(blk);
    p = find_places("t.qcow2");
    poke_be32("t.qcow2", p.entries[0] + 12, 3);
    blk = open_image("t.qcow2", true);
    assert_int_equal(blk_resize(blk, 2 * MIB, &err), -EUCLEAN);
    assert_int_equal(blk_length(blk), MIB);
    close_image(blk);
}

/* ---- the header ---- */

static void put_unknown_extension(const char *path, uint64_t at)
{
    poke_be32(path, at, 0x0badcafe);
    poke_be32(path, at + 4, 5);
    poke(path, at + 8, "hello\0\0", 8);
    poke_be64(path, at + 16, 0);
}

static void assert_unknown_extension(const char *path, uint64_t from, uint64_t to)
{
    for (uint64_t at = from; at < to; at += 8) {
        if (peek_be64(path, at) == UINT64_C(0x0badcafe00000005)) {
            assert_int_equal(peek_be64(path, at + 8), UINT64_C(0x68656c6c6f000000));
            return;
        }
    }
    fail_msg("the unknown extension is gone");
}

static void the_rest_of_the_header_survives(void **state)
{
    static const char *const clusters[] = {"512", "1k", "64k"};

    (void)state;
    shell("rm -f base.raw; truncate -s 1M base.raw");
    for (unsigned i = 0; i < ARRAY_LEN(clusters); i++) {
        /* Version 3 has 112 bytes; the backing format, then feature names unless clusters are small. */
        uint64_t end_mark = 128 + (i < 2 ? 0 : 392);
        struct blk *blk;
        char options[80];

        snprintf(options, sizeof(options), "-b base.raw -F raw -o cluster_size=%s", clusters[i]);
        blk = make_image(options, "");
        must(blk_bitmap_add, blk, "first", 0, true);
        assert_string_equal(blk->backing_name, "base.raw");
        blk = reopen(blk);
        assert_string_equal(blk->backing_name, "base.raw");
        assert_string_equal(blk->backing_format, "raw");
        assert_int_equal(count_bitmaps(blk), 1);
        close_image(blk);
        /* An unknown extension behind ours, and the name behind that. */
        assert_int_equal(peek_be64("t.qcow2", end_mark), (UINT64_C(0x23852875) << 32) + 24);
        assert_int_equal(peek_be64("t.qcow2", end_mark + 32), 0);
        poke("t.qcow2", end_mark + 100, "base.raw", 8);
        poke_be64("t.qcow2", 8, end_mark + 100);
        put_unknown_extension("t.qcow2", end_mark + 32);
        blk = open_image("t.qcow2", true);
        must(blk_bitmap_add, blk, "second", 0, true);
        must(blk_bitmap_remove, blk, "first");
        must(blk_bitmap_remove, blk, "second");
        must(blk_set_backing, blk, "./base.raw", "raw");
        must(blk_bitmap_add, blk, "third", 0, true);
        must(blk_set_backing, blk, "base.raw", "raw");
        blk = reopen(blk);
        assert_string_equal(blk->backing_name, "base.raw");
        assert_int_equal(count_bitmaps(blk), 1);
        close_image(blk);
        assert_unknown_extension("t.qcow2", 112, 700);
        shell("qemu-img info t.qcow2 | grep -q 'name: third'");
        shell("qemu-img check -q t.qcow2");
    }
}

/* In a header that is nearly full, bitmaps and name are put in anew several times. */
static void a_new_backing_name_of_any_length_stays(void **state)
{
    const struct blk_open_options options = {
        .path = "t.qcow2", .format = "qcow2", .writable = true, .no_backing = true};
    char name[400];
    unsigned fit = 0;

    (void)state;
    for (unsigned length = 240; length < 400; length += 3) {
        struct blk *blk = make_image("-o cluster_size=512", "64k");
        struct err err = {""};
        int r;

        must(blk_bitmap_add, blk, "b", 0, true);
        memset(name, 'n', length);
        name[length] = '\0';
        r = blk_set_backing(blk, name, "raw", &err);
        close_image(blk);
        blk = open_with(&options);
        if (r == 0) {
            fit++;
            assert_non_null(blk->backing_name);
            assert_string_equal(blk->backing_name, name);
            assert_int_equal(count_bitmaps(blk), 1);
        } else {
            assert_int_equal(r, -ENOSPC);
            assert_null(blk->backing_name);
        }
        close_image(blk);
    }
    assert_true(fit > 0 && fit < 54);
}

static void bitmaps_without_the_autoclear_bit_are_forgotten(void **state)
{
    struct blk *blk = make_image("", "1M");
    struct blk_info info;

    (void)state;
    must(blk_bitmap_add, blk, "b", 0, true);
    close_image(blk);
    poke_be64("t.qcow2", 88, 0);
    blk = open_image("t.qcow2", false);
    must(blk_get_info, blk, &info);
    assert_true(info.bitmaps_outdated);
    assert_int_equal(count_bitmaps(blk), 0);
    close_image(blk);
    assert_int_not_equal(find_places("t.qcow2").extension, 0);
    blk = open_image("t.qcow2", true);
    must(blk_bitmap_add, blk, "b", 0, true);
    close_image(blk);
    blk = open_image("t.qcow2", false);
    must(blk_get_info, blk, &info);
    assert_false(info.bitmaps_outdated);
    assert_int_equal(count_bitmaps(blk), 1);
    close_image(blk);
    assert_checks_clean("t.qcow2", true);
    /* The bit alone, and bits that nobody knows, are cleared before the first write. */
    shell("qemu-img create -q -f qcow2 t.qcow2 1M");
    poke_be64("t.qcow2", 88, 0x8000000000000001);
    close_image(open_image("t.qcow2", true));
    assert_int_equal(peek_be64("t.qcow2", 88), 0);
}

/* ---- many writers ---- */

struct writer {
    struct blk *blk;
    unsigned index;
};

enum { WRITERS = 4, WRITES = 400 };

static void *write_here_and_there(void *opaque)
{
    const struct writer *w = opaque;
    uint8_t byte = (uint8_t)(w->index + 1);

    for (unsigned i = 0; i < WRITES; i++) {
        uint64_t sector = (uint64_t)i * WRITERS + w->index;
        int r = i % 16 == 7 ? blk_pwrite_zeroes(w->blk, sector * 1024, 512, 0)
                            : blk_pwrite(w->blk, sector * 1024, &byte, 1);

        assert_int_equal(r, 0);
    }
    return NULL;
}

static void writers_at_the_same_time_lose_no_bit(void **state)
{
    struct blk *blk = make_image("", "1T");
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    struct extents fine;

    (void)state;
    must(blk_bitmap_add, blk, "fine", 1024, true);
    must(blk_bitmap_add, blk, "coarse", MIB, true);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.blk = blk, .index = i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_here_and_there, &writers[i]), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    blk = reopen(blk);
    fine = dirty_of(blk, "fine");
    assert_int_equal(fine.count, 1);
    assert_int_equal(fine.bytes, WRITERS * WRITES * 1024);
    assert_dirty(blk, "coarse", "0+2097152");
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_zeroes_and_discards_are_recorded_and_kept),
        cmocka_unit_test(a_discard_that_is_not_passed_on_is_not_recorded),
        cmocka_unit_test(a_bitmap_is_in_use_on_disk_from_the_first_write_until_closing),
        cmocka_unit_test(an_image_that_is_only_read_is_not_changed),
        cmocka_unit_test(bits_that_find_no_memory_leave_the_bitmap_in_use),
        cmocka_unit_test(adding_refuses_what_qemu_img_refuses),
        cmocka_unit_test(clearing_and_removing_give_their_clusters_back),
        cmocka_unit_test(enabling_and_disabling_start_and_stop_recording),
        cmocka_unit_test(merging_converts_granularities_and_reads_other_images),
        cmocka_unit_test(every_granularity_holds_at_the_edges),
        cmocka_unit_test(growing_keeps_the_bits_and_adds_clean_ones),
        cmocka_unit_test(an_inconsistent_bitmap_forbids_resizing),
        cmocka_unit_test(the_rest_of_the_header_survives),
        cmocka_unit_test(a_new_backing_name_of_any_length_stays),
        cmocka_unit_test(bitmaps_without_the_autoclear_bit_are_forgotten),
        cmocka_unit_test(writers_at_the_same_time_lose_no_bit),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
