/*
 * Internal snapshots: what the image holds after each operation, down to refcounts and COPIED flags, for
 * images of every kind. blk_check() and qemu-img check look at refcounts and flags, a flat array for each
 * snapshot at the content.
 */
#include "fixture.h"
#include "iov.h"

enum { DEVICE = 192 << 10, MAX_MODELS = 4 };

static const char *const shapes[] = {
    "cluster_size=512",
    "cluster_size=4k",
    "compat=0.10",
    "cluster_size=4k,refcount_bits=8",
    "cluster_size=4k,compat=0.10",
    "cluster_size=64k,refcount_bits=64",
    "cluster_size=4k,refcount_bits=2",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=4k,lazy_refcounts=on",
};

static void create_image(const char *options)
{
    shell("rm -f s.qcow2; qemu-img create -q -f qcow2 -o %s s.qcow2 %d", options, DEVICE);
}

static void assert_sound(struct blk *blk)
{
    struct blk_check_result result;
    struct err err = {""};

    assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
    if (result.corruptions + result.leaks + result.check_errors != 0) {
        fail_msg("%ju corruptions, %ju leaks", (uintmax_t)result.corruptions,
                 (uintmax_t)result.leaks);
    }
}

static int try_create(struct blk *blk, const char *name)
{
    const struct blk_snapshot_info info = {.name = name, .date_seconds = 12, .icount = 34};

    return blk_snapshot_create(blk, &info, NULL);
}

static void take(struct blk *blk, const char *name)
{
    assert_int_equal(try_create(blk, name), 0);
}

static unsigned index_of(struct blk *blk, const char *name)
{
    unsigned index = 0;

    assert_int_equal(blk_snapshot_find(blk, NULL, name, &index, NULL), 0);
    return index;
}

static void apply(struct blk *blk, const char *name)
{
    assert_int_equal(blk_snapshot_apply(blk, index_of(blk, name), NULL), 0);
}

static void delete (struct blk *blk, const char *name)
{
    assert_int_equal(blk_snapshot_delete(blk, index_of(blk, name), NULL), 0);
}

/* ---- a disk that is full: what the file has holes for does not fit, but for some pages ---- */

enum { PAGE = 4096 };

static struct {
    struct file_ops ops;
    const struct file_ops *below;
    unsigned pages; /* that are left */
    bool was_full;
} full;

/* How many pages of a range are there. */
static unsigned count_pages(struct file *file, uint64_t start, uint64_t end)
{
    unsigned pages = 0;

    for (uint64_t at = start, hole_end; at < end; at += PAGE) {
        bool is_data;

        assert_int_equal(full.below->extent(file, at, &is_data, &hole_end), 0);
        pages += is_data;
    }
    return pages;
}

static int full_pwritev(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    uint64_t start = align_down(offset, PAGE);
    uint64_t end = align_up(offset + iov_length(iov, count), PAGE);
    unsigned pages = (unsigned)((end - start) / PAGE) - count_pages(file, start, end);

    if (pages > full.pages) {
        full.was_full = true;
        return -ENOSPC;
    }
    full.pages -= pages;
    return full.below->pwritev(file, offset, iov, count);
}

static int full_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    unsigned before = count_pages(file, offset, offset + length);
    int r = full.below->zero(file, offset, length, punch);

    full.pages += before - count_pages(file, offset, offset + length);
    return r;
}

/* The disk has so many pages left, until free_disk(). */
static void fill_disk(struct blk *blk, unsigned pages)
{
    struct file *file = qcow2_of(blk)->file;

    full.below = file->ops;
    full.ops = *file->ops;
    full.ops.pwritev = full_pwritev;
    full.ops.zero = full_zero;
    full.pages = pages;
    full.was_full = false;
    file->ops = &full.ops;
}

static void free_disk(struct blk *blk)
{
    qcow2_of(blk)->file->ops = full.below;
}

/* ---- random operations against flat arrays ---- */

struct models {
    struct blk *blk;
    uint64_t rng; /* xorshift */
    uint8_t now[DEVICE], saved[MAX_MODELS][DEVICE];
    unsigned count;
    bool is_full; /* the disk, for operations on snapshots */
};

static uint64_t below(struct models *m, uint64_t limit)
{
    m->rng ^= m->rng << 13;
    m->rng ^= m->rng >> 7;
    m->rng ^= m->rng << 17;
    return (m->rng >> 20) % limit;
}

static void change(struct models *m)
{
    static uint8_t buffer[DEVICE];
    uint64_t unit = blk_cluster_size(m->blk);
    uint64_t offset = below(m, DEVICE), length = 1 + below(m, 24 << 10);
    uint8_t byte = (uint8_t)below(m, 256);

    if (below(m, 2) == 0) {
        offset = align_down(offset, unit);
        length = align_up(length, unit);
    }
    length = min_u64(length, DEVICE - offset);
    memset(buffer, byte, length);
    switch (below(m, 5)) {
    case 0:
        assert_int_equal(
            blk_pwrite_zeroes(m->blk, offset, length, below(m, 2) == 0 ? BLK_REQ_MAY_UNMAP : 0), 0);
        memset(m->now + offset, 0, length);
        break;
    case 1:
        assert_int_equal(blk_pdiscard(m->blk, offset, length), 0);
        assert_int_equal(blk_pread(m->blk, 0, m->now, DEVICE), 0);
        break;
    case 2:
        if (blk_pwrite_compressed(m->blk, offset, buffer, length) == 0) {
            memset(m->now + offset, byte, length);
            break;
        }
        /* fallthrough */
    default:
        assert_int_equal(blk_pwrite(m->blk, offset, buffer, length), 0);
        memset(m->now + offset, byte, length);
    }
}

static void assert_content(struct models *m)
{
    static uint8_t buffer[DEVICE];

    assert_int_equal(blk_pread(m->blk, 0, buffer, DEVICE), 0);
    assert_memory_equal(buffer, m->now, DEVICE);
}

/* Two tables, of a page each: what QEMU needs. All else needs none. */
static void make_scarce(struct models *m, unsigned pages)
{
    if (m->is_full) {
        assert_int_equal(blk_flush(m->blk), 0); /* new tables among them */
        fill_disk(m->blk, pages);
    }
}

static void make_plenty(struct models *m)
{
    if (m->is_full) {
        free_disk(m->blk);
    }
    assert_int_equal(qcow2_of(m->blk)->header.incompatible_features & QCOW2_INCOMPAT_DIRTY, 0);
}

static void snapshot_something(struct models *m)
{
    unsigned which = m->count > 0 ? (unsigned)below(m, m->count) : 0;

    switch (below(m, 3)) {
    case 0:
        if (m->count < MAX_MODELS) {
            int r;

            make_scarce(m, 2);
            r = try_create(m->blk, "some");
            make_plenty(m);
            assert_true(r == 0 || (r == -ERANGE && qcow2_of(m->blk)->refcount_bits < 8));
            if (r == 0) {
                memcpy(m->saved[m->count++], m->now, DEVICE);
            }
        }
        break;
    case 1:
        if (m->count > 0) {
            int r;

            make_scarce(m, 0);
            r = blk_snapshot_apply(m->blk, which, NULL);
            make_plenty(m);
            assert_true(r == 0 || (r == -ERANGE && qcow2_of(m->blk)->refcount_bits < 8));
            if (r == 0) {
                memcpy(m->now, m->saved[which], DEVICE);
            }
        }
        break;
    default:
        if (m->count > 0) {
            make_scarce(m, 0);
            assert_int_equal(blk_snapshot_delete(m->blk, which, NULL), 0);
            make_plenty(m);
            m->count--;
            memmove(m->saved[which], m->saved[which + 1], (m->count - which) * (size_t)DEVICE);
        }
    }
    assert_content(m);
    assert_sound(m->blk);
}

static void try_shapes(bool is_full)
{
    static struct models m;

    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        /* Version 2 has no dirty bit, so it needs the room. */
        m = (struct models){.rng = 77 + i,
                            .is_full = is_full && strstr(shapes[i], "compat=0.10") == NULL};
        create_image(shapes[i]);
        m.blk = open_image("s.qcow2", true);
        for (unsigned round = 0; round < 30; round++) {
            for (unsigned n = 0; n < 6; n++) {
                change(&m);
            }
            if (below(&m, 4) == 0) {
                close_image(m.blk);
                m.blk = open_image("s.qcow2", true);
            }
            snapshot_something(&m);
        }
        close_image(m.blk);
        shell("qemu-img check -q s.qcow2");
        for (unsigned which = 0; which < m.count; which++) {
            m.blk = open_image("s.qcow2", false);
            assert_int_equal(blk_snapshot_show(m.blk, which, NULL), 0);
            memcpy(m.now, m.saved[which], DEVICE);
            assert_content(&m);
            close_image(m.blk);
        }
    }
}

static void random_operations_keep_every_snapshot(void **state)
{
    (void)state;
    try_shapes(false);
}

static void random_operations_keep_every_snapshot_on_a_full_disk(void **state)
{
    (void)state;
    try_shapes(true);
}

/* ---- single rules ---- */

static uint64_t refcount(struct blk *blk, uint64_t host_offset)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t count = 0;

    pthread_mutex_lock(&q->lock);
    assert_int_equal(qcow2_refcount_get(q, host_offset, &count), 0);
    pthread_mutex_unlock(&q->lock);
    return count;
}

static uint64_t place(struct blk *blk, uint64_t offset)
{
    struct blk_extent extent;

    assert_int_equal(blk_map(blk, offset, 1, 0, &extent), 0);
    assert_true(extent.has_host_offset);
    return extent.host_offset;
}

static void data_is_shared_until_it_is_written(void **state)
{
    struct blk *blk;
    uint64_t first;

    (void)state;
    create_image("cluster_size=64k");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, 128 << 10, 1);
    first = place(blk, 0);
    take(blk, "one");
    assert_int_equal(place(blk, 0), first);
    assert_int_equal(refcount(blk, first), 2);
    assert_sound(blk);
    write_bytes(blk, 100, 100, 2);
    assert_int_equal(blk_flush(blk), 0);
    assert_true(place(blk, 0) != first);
    assert_int_equal(refcount(blk, first), 1);
    assert_int_equal(place(blk, 64 << 10), first + (64 << 10));
    assert_bytes(blk, 0, 100, 1);
    assert_bytes(blk, 200, 65336, 1);
    assert_sound(blk);
    delete (blk, "one");
    assert_sound(blk);
    assert_int_equal(refcount(blk, first), 0);
    /* Ours alone again: written in place. */
    first = place(blk, 64 << 10);
    write_bytes(blk, 64 << 10, 512, 3);
    assert_int_equal(place(blk, 64 << 10), first);
    close_image(blk);
    shell("qemu-img check -q s.qcow2");
}

/* QEMU's snapshots share the active L2 tables. */
static void a_shared_l2_table_is_copied_before_it_changes(void **state)
{
    struct blk *blk;

    (void)state;
    create_image("cluster_size=4k");
    shell("qemu-io -c 'write -P 1 0 64k' -c 'write -c -P 2 64k 8k' s.qcow2 >/dev/null && "
          "qemu-img snapshot -c one s.qcow2");
    blk = open_image("s.qcow2", true);
    assert_int_equal(qcow2_of(blk)->l1.entries[0] & QCOW2_ENTRY_COPIED, 0);
    write_bytes(blk, 4096, 4096, 3);
    assert_true(qcow2_of(blk)->l1.entries[0] & QCOW2_ENTRY_COPIED);
    assert_int_equal(blk_pdiscard(blk, 64 << 10, 4096), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_sound(blk);
    close_image(blk);
    shell("qemu-img check -q s.qcow2 && qemu-img snapshot -a one s.qcow2 && "
          "qemu-io -c 'read -P 1 0 64k' -c 'read -P 2 64k 8k' s.qcow2 >out && ! grep -q failed out "
          "&& qemu-img check -q s.qcow2");
}

static void narrow_refcounts_refuse_and_leave_the_image_alone(void **state)
{
    struct err err = {""};
    struct blk *blk;

    (void)state;
    create_image("cluster_size=4k,refcount_bits=1");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, 64 << 10, 1);
    assert_int_equal(blk_snapshot_create(blk, &(struct blk_snapshot_info){.name = "x"}, &err),
                     -ERANGE);
    assert_says(&err, "too narrow");
    assert_int_equal(blk_snapshot_get(blk, 0, &(struct blk_snapshot_info){0}, NULL), 0);
    assert_sound(blk);
    write_bytes(blk, 0, 64 << 10, 2);
    assert_bytes(blk, 0, 64 << 10, 2);
    close_image(blk);
    shell("qemu-img check -q s.qcow2");
}

/* What was counted before it was known that it would not do is counted back. */
static void a_full_disk_and_narrow_refcounts_leave_the_image_alone(void **state)
{
    struct blk *blk;

    (void)state;
    create_image("cluster_size=4k,refcount_bits=2");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, 32 << 10, 1);
    take(blk, "one");
    write_bytes(blk, 0, 16 << 10, 2);
    take(blk, "two"); /* what has not changed has three references */
    fill_disk(blk, 1);
    assert_int_equal(try_create(blk, "three"), -ERANGE);
    assert_true(full.was_full);
    free_disk(blk);
    assert_int_equal(qcow2_of(blk)->header.incompatible_features & QCOW2_INCOMPAT_DIRTY, 0);
    assert_sound(blk);
    close_image(blk);
    shell("qemu-img check -q s.qcow2 && test $(qemu-img snapshot -l s.qcow2 | wc -l) -eq 4");
}

static uint64_t table_offset(struct blk *blk)
{
    return qcow2_of(blk)->header.snapshots_offset;
}

/* An entry that is not the last one and shares its sector with all behind it needs no new table; others do. */
static void a_full_disk_has_no_room_for_a_longer_table(void **state)
{
    struct blk *blk;
    uint64_t before;
    char name[16];

    (void)state;
    create_image("cluster_size=4k");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, 32 << 10, 1);
    for (unsigned i = 0; i < 14; i++) {
        snprintf(name, sizeof(name), "s%u", i);
        take(blk, name);
    }
    before = table_offset(blk);
    fill_disk(blk, 0);
    assert_int_equal(blk_snapshot_delete(blk, index_of(blk, "s2"), NULL), -ENOSPC);
    assert_int_equal(try_create(blk, "more"), -ENOSPC);
    free_disk(blk);
    assert_sound(blk);
    fill_disk(blk, 0);
    delete (blk, "s13");
    delete (blk, "s12");
    free_disk(blk);
    assert_int_equal(table_offset(blk), before);
    assert_sound(blk);
    fill_disk(blk, 1);
    delete (blk, "s2");
    assert_true(full.was_full);
    free_disk(blk);
    assert_true(table_offset(blk) != before);
    before = table_offset(blk);
    fill_disk(blk, 0);
    delete (blk, "s10");
    free_disk(blk);
    assert_int_equal(table_offset(blk), before);
    assert_sound(blk);
    close_image(blk);
    shell("qemu-img check -q s.qcow2 && qemu-img snapshot -l s.qcow2 >list && grep -q s11 list && "
          "! grep -q s10 list && qemu-img snapshot -a s3 s.qcow2 && qemu-img check -q s.qcow2");
}

/* With two bits there is room for three references: applying needs no fourth one. */
static void applying_needs_no_more_references_than_there_are_in_the_end(void **state)
{
    struct blk *blk;

    (void)state;
    create_image("cluster_size=4k,refcount_bits=2");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, 64 << 10, 1);
    take(blk, "one");
    take(blk, "two");
    assert_int_equal(try_create(blk, "three"), -ERANGE);
    apply(blk, "one");
    assert_sound(blk);
    close_image(blk);
}

static void vm_state_goes_with_the_snapshot(void **state)
{
    struct blk *blk;

    (void)state;
    create_image("cluster_size=64k");
    shell("qemu-io -c 'write -P 1 0 64k' -c 'write -b -P 5 0 192k' s.qcow2 >/dev/null");
    blk = open_image("s.qcow2", true);
    take(blk, "state");
    write_bytes(blk, 0, 128 << 10, 2);
    apply(blk, "state");
    assert_sound(blk);
    assert_bytes(blk, 0, 64 << 10, 1);
    take(blk, "again");
    delete (blk, "state");
    assert_sound(blk);
    close_image(blk);
    shell("qemu-img check -q s.qcow2 && qemu-io -c 'read -b -P 5 0 192k' s.qcow2 >out && "
          "! grep -q failed out");
}

static void applying_brings_the_size_back(void **state)
{
    struct blk *blk;

    (void)state;
    create_image("cluster_size=512");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, DEVICE, 1);
    take(blk, "small");
    assert_int_equal(blk_resize(blk, 4 << 20, NULL), 0);
    write_bytes(blk, 3 << 20, 1024, 2);
    take(blk, "large");
    apply(blk, "small");
    assert_int_equal(blk_length(blk), DEVICE);
    assert_sound(blk);
    apply(blk, "large");
    assert_int_equal(blk_length(blk), 4 << 20);
    assert_bytes(blk, 3 << 20, 1024, 2);
    assert_bytes(blk, DEVICE, 1 << 20, 0);
    assert_sound(blk);
    close_image(blk);
    shell("qemu-img check -q s.qcow2");
}

static void emptying_keeps_what_snapshots_need(void **state)
{
    struct blk *blk;

    (void)state;
    create_image("cluster_size=4k");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, DEVICE, 1);
    take(blk, "one");
    write_bytes(blk, 0, 64 << 10, 2);
    assert_int_equal(blk_make_empty(blk, NULL), 0);
    assert_bytes(blk, 0, DEVICE, 0);
    assert_sound(blk);
    apply(blk, "one");
    assert_bytes(blk, 0, DEVICE, 1);
    assert_sound(blk);
    close_image(blk);
}

static void bitmaps_and_version_2_have_their_limits(void **state)
{
    struct err err = {""};
    struct blk *blk;

    (void)state;
    create_image("cluster_size=64k");
    blk = open_image("s.qcow2", true);
    assert_int_equal(blk_bitmap_add(blk, "b", 0, false, NULL), 0);
    take(blk, "one");
    assert_int_equal(blk_snapshot_apply(blk, 0, &err), -EBUSY);
    assert_string_equal(err.text, "Device has active dirty bitmaps");
    delete (blk, "one");
    assert_sound(blk);
    close_image(blk);
    create_image("compat=0.10");
    blk = open_image("s.qcow2", true);
    take(blk, "one");
    assert_int_equal(blk_resize(blk, 2 * DEVICE, &err), -ENOTSUP);
    assert_says(&err, "v2 image which has snapshots");
    close_image(blk);
}

/* ---- the table ---- */

static void ids_and_facts_are_qemus(void **state)
{
    struct blk_snapshot_info info;
    struct blk *blk;
    unsigned index;

    (void)state;
    create_image("cluster_size=64k");
    shell("qemu-img snapshot -c a s.qcow2 && qemu-img snapshot -c b s.qcow2 && "
          "qemu-img snapshot -d a s.qcow2");
    blk = open_image("s.qcow2", true);
    take(blk, "c");
    assert_int_equal(blk_snapshot_get(blk, 1, &info, NULL), 1);
    assert_string_equal(info.id, "3");
    assert_string_equal(info.name, "c");
    assert_int_equal(info.date_seconds, 12);
    assert_int_equal(info.icount, 34);
    assert_int_equal(info.disk_size, DEVICE);
    assert_int_equal(blk_snapshot_get(blk, 2, &info, NULL), 0);
    assert_int_equal(blk_snapshot_find(blk, "2", "b", &index, NULL), 0);
    assert_int_equal(index, 0);
    assert_int_equal(blk_snapshot_find(blk, "2", "c", &index, NULL), -ENOENT);
    assert_int_equal(blk_snapshot_delete(blk, 2, NULL), -ENOENT);
    close_image(blk);
    blk = open_image("s.qcow2", false);
    assert_int_equal(try_create(blk, "no"), -EROFS);
    close_image(blk);
}

static void unknown_bytes_of_an_entry_survive(void **state)
{
    enum { EXTRA = 1024, BYTES = 40 + EXTRA + 1 + 1 }; /* and padding to 8 */
    uint8_t entry[BYTES + 6], after[sizeof(entry)];
    struct blk_snapshot_info info;
    struct blk *blk;
    uint64_t table;
    FILE *file;

    (void)state;
    create_image("cluster_size=64k");
    shell("qemu-img snapshot -c a s.qcow2");
    table = peek_be64("s.qcow2", 64);
    for (size_t i = 0; i < sizeof(entry); i++) {
        entry[i] = (uint8_t)(i * 7 + 1);
    }
    store_be64(entry, peek_be64("s.qcow2", table));
    store_be64(entry + 8, peek_be64("s.qcow2", table + 8));
    store_be32(entry + 36, EXTRA);
    store_be64(entry + 40, UINT64_C(5) << 32); /* VM state */
    store_be64(entry + 48, DEVICE);
    memcpy(entry + 40 + EXTRA, "7n", 2);
    poke("s.qcow2", table, entry, sizeof(entry));
    blk = open_image("s.qcow2", true);
    assert_int_equal(blk_snapshot_get(blk, 0, &info, NULL), 1);
    assert_string_equal(info.id, "7");
    assert_int_equal(info.vm_state_size, UINT64_C(5) << 32);
    take(blk, "other");
    assert_int_equal(blk_snapshot_get(blk, 1, &info, NULL), 1);
    assert_string_equal(info.id, "8");
    delete (blk, "other");
    close_image(blk);
    file = fopen("s.qcow2", "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)peek_be64("s.qcow2", 64), SEEK_SET), 0);
    assert_int_equal(fread(after, 1, sizeof(after), file), sizeof(after));
    fclose(file);
    assert_memory_equal(entry, after, BYTES);
    shell("qemu-img check -q s.qcow2");
}

static void a_malformed_table_is_not_written_to(void **state)
{
    static const struct {
        uint64_t at; /* in the entry */
        uint32_t value;
        const char *says;
    } cases[] = {
        {36, 1025, "Too much extra metadata in snapshot table entry 0"},
        {4, 65537, "snapshots"},       /* L1 offset */
        {0, 1 << 30, "snapshots"},     /* the same */
        {8, 1 << 24, "snapshots"},     /* L1 size */
        {12, UINT32_MAX, "too large"}, /* id and name, behind the end of the file */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct blk_open_options options = {.path = "s.qcow2", .writable = true};
        struct err err;
        struct blk *blk;

        create_image("cluster_size=64k");
        shell("qemu-img snapshot -c a s.qcow2");
        poke_be32("s.qcow2", peek_be64("s.qcow2", 64) + cases[i].at, cases[i].value);
        assert_true(blk_open(&options, &blk, &err) < 0);
        assert_says(&err, cases[i].says);
        options.for_check = true;
        close_image(open_with(&options));
        blk = open_image("s.qcow2", false);
        assert_bytes(blk, 0, DEVICE, 0);
        close_image(blk);
    }
}

/* An L2 entry of a snapshot that makes no sense fails the operation, and nothing changes. */
static void a_damaged_snapshot_is_not_applied(void **state)
{
    struct blk *blk;
    uint64_t l1;

    (void)state;
    create_image("cluster_size=4k");
    blk = open_image("s.qcow2", true);
    write_bytes(blk, 0, 64 << 10, 1);
    take(blk, "one");
    write_bytes(blk, 0, 64 << 10, 2);
    close_image(blk);
    l1 = peek_be64("s.qcow2", peek_be64("s.qcow2", 64));
    poke_be64("s.qcow2", (peek_be64("s.qcow2", l1) & QCOW2_OFFSET_MASK) + 8, UINT64_C(1) << 40);
    blk = open_image("s.qcow2", true);
    assert_int_equal(blk_snapshot_apply(blk, 0, NULL), -EIO);
    assert_bytes(blk, 0, 64 << 10, 2);
    assert_true(blk_close(blk, NULL) < 0);
    blk = open_image("s.qcow2", false);
    assert_bytes(blk, 0, 64 << 10, 2);
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_keep_every_snapshot),
        cmocka_unit_test(random_operations_keep_every_snapshot_on_a_full_disk),
        cmocka_unit_test(data_is_shared_until_it_is_written),
        cmocka_unit_test(a_shared_l2_table_is_copied_before_it_changes),
        cmocka_unit_test(narrow_refcounts_refuse_and_leave_the_image_alone),
        cmocka_unit_test(a_full_disk_and_narrow_refcounts_leave_the_image_alone),
        cmocka_unit_test(a_full_disk_has_no_room_for_a_longer_table),
        cmocka_unit_test(applying_needs_no_more_references_than_there_are_in_the_end),
        cmocka_unit_test(vm_state_goes_with_the_snapshot),
        cmocka_unit_test(applying_brings_the_size_back),
        cmocka_unit_test(emptying_keeps_what_snapshots_need),
        cmocka_unit_test(bitmaps_and_version_2_have_their_limits),
        cmocka_unit_test(ids_and_facts_are_qemus),
        cmocka_unit_test(unknown_bytes_of_an_entry_survive),
        cmocka_unit_test(a_malformed_table_is_not_written_to),
        cmocka_unit_test(a_damaged_snapshot_is_not_applied),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
