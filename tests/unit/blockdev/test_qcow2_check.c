/*
 * test_qcow2_check.c - blk_check against qemu-img check on damaged images.
 *
 * Images of several shapes (cluster sizes, refcount widths, snapshots, compressed clusters) are damaged
 * in memory, one or more table entries at a time, written out, and checked by both. The counts must be
 * equal. After our repair qemu-img must find nothing where the damage can be repaired without guessing,
 * and in any case agree with our own second check.
 */
#include "fixture.h"
#include "qcow2/check.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <sys/stat.h>

/* ---- images in memory ---- */

struct image {
    unsigned char *bytes;
    size_t length;
    uint64_t cluster_size, l1, l1_entries, reftable, refblock;
    unsigned refcount_bits;
};

static struct image image_load(const char *path)
{
    struct image image = {0};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    image.length = (size_t)st.st_size;
    image.bytes = malloc(image.length);
    assert_non_null(image.bytes);
    assert_int_equal(read(fd, image.bytes, image.length), (ssize_t)image.length);
    close(fd);
    image.cluster_size = UINT64_C(1) << load_be32(image.bytes + 20);
    image.l1_entries = load_be32(image.bytes + 36);
    image.l1 = load_be64(image.bytes + 40);
    image.reftable = load_be64(image.bytes + 48);
    image.refblock = load_be64(image.bytes + image.reftable);
    image.refcount_bits = load_be32(image.bytes + 4) >= 3 ? 1U << load_be32(image.bytes + 96) : 16;
    return image;
}

static void image_save(const struct image *image, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, image->bytes, image->length), (ssize_t)image->length);
    close(fd);
}

static struct image image_copy(const struct image *from)
{
    struct image image = *from;

    image.bytes = malloc(from->length);
    assert_non_null(image.bytes);
    memcpy(image.bytes, from->bytes, from->length);
    return image;
}

static uint64_t get(const struct image *image, uint64_t at)
{
    return at + 8 <= image->length ? load_be64(image->bytes + at) : 0;
}

static void put(struct image *image, uint64_t at, uint64_t value)
{
    if (at + 8 <= image->length)
        store_be64(image->bytes + at, value);
}

/* ---- seeded choices ---- */

static uint64_t random_state;

static uint64_t random_below(uint64_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (random_state >> 33) % limit;
}

/* Where the n-th entry in use (counting round) of the table at `table` lies; 0: none. */
static uint64_t used_entry(const struct image *image, uint64_t table, uint64_t entries, uint64_t n)
{
    uint64_t used = 0;

    for (uint64_t i = 0; i < entries; i++)
        used += get(image, table + 8 * i) != 0;
    n = used > 0 ? n % used : 0;
    for (uint64_t i = 0; used > 0 && i < entries; i++) {
        if (get(image, table + 8 * i) != 0 && n-- == 0)
            return table + 8 * i;
    }
    return 0;
}

static uint64_t some_l1_entry(const struct image *image)
{
    return used_entry(image, image->l1, image->l1_entries, random_below(1000));
}

static uint64_t some_l2_entry(const struct image *image)
{
    uint64_t table = get(image, some_l1_entry(image)) & QCOW2_OFFSET_MASK;

    return used_entry(image, table, image->cluster_size / 8, random_below(1000));
}

/* ---- kinds of damage ---- */

static void damage_refcount(struct image *image)
{
    static const uint64_t values[] = {0, 0, 1, 2, 3};
    uint64_t clusters = div_round_up(image->length, image->cluster_size);
    uint64_t limit = min_u64(clusters, image->cluster_size * 8 / image->refcount_bits);
    uint64_t value = values[random_below(ARRAY_LEN(values))];

    if (image->refcount_bits == 1)
        value &= 1;
    qcow2_refcount_encode(image->bytes + image->refblock, image->refcount_bits, random_below(limit),
                          value);
}

static void damage_leak(struct image *image)
{
    /* The last refcounts that the file covers: of clusters in use, so that they leak by one. */
    uint64_t clusters = div_round_up(image->length, image->cluster_size);
    uint64_t cluster =
        random_below(min_u64(clusters, image->cluster_size * 8 / image->refcount_bits));
    uint64_t refcount =
        qcow2_refcount_decode(image->bytes + image->refblock, image->refcount_bits, cluster);

    if (image->refcount_bits > 1)
        qcow2_refcount_encode(image->bytes + image->refblock, image->refcount_bits, cluster,
                              refcount + 1);
}

static void damage_copied(struct image *image)
{
    uint64_t at = some_l2_entry(image);

    put(image, at, get(image, at) ^ QCOW2_ENTRY_COPIED);
}

static void damage_l1_copied(struct image *image)
{
    uint64_t at = some_l1_entry(image);

    put(image, at, get(image, at) ^ QCOW2_ENTRY_COPIED);
}

static void damage_shared(struct image *image)
{
    put(image, some_l2_entry(image), get(image, some_l2_entry(image)));
}

static void damage_beyond_end(struct image *image)
{
    uint64_t at = some_l2_entry(image);
    uint64_t end = align_up(image->length, image->cluster_size);

    put(image, at,
        (get(image, at) & ~QCOW2_OFFSET_MASK) | (end + random_below(3) * image->cluster_size));
}

static void damage_unaligned(struct image *image)
{
    uint64_t at = some_l2_entry(image);

    if (image->cluster_size > 512)
        put(image, at, get(image, at) + 512);
}

static void damage_bits(struct image *image)
{
    static const unsigned bits[] = {0, 1, 2, 8, 57, 62};
    uint64_t at = some_l2_entry(image);

    put(image, at, get(image, at) | UINT64_C(1) << bits[random_below(ARRAY_LEN(bits))]);
}

static void damage_l1_entry(struct image *image)
{
    uint64_t at = some_l1_entry(image), entry = get(image, at);

    switch (random_below(4)) {
    case 0:
        put(image, at, entry | 4);
        break;
    case 1:
        put(image, at, entry | UINT64_C(1) << 57);
        break;
    case 2:
        put(image, at, 0);
        break;
    default:
        if (image->cluster_size > 512)
            put(image, at, entry + 512);
    }
}

static void damage_metadata_shared(struct image *image)
{
    const uint64_t tables[] = {image->reftable, image->refblock, image->l1};
    uint64_t at = some_l2_entry(image);

    put(image, at, (get(image, at) & ~QCOW2_OFFSET_MASK) | tables[random_below(ARRAY_LEN(tables))]);
}

static void damage_reftable(struct image *image)
{
    const uint64_t values[] = {
        0, align_up(image->length, image->cluster_size) + 9 * image->cluster_size,
        image->refblock | 3};

    put(image, image->reftable, values[random_below(ARRAY_LEN(values))]);
}

static void damage_truncated(struct image *image)
{
    image->length -= 1 + random_below(2 * image->cluster_size);
}

static const struct damage {
    const char *name;
    void (*apply)(struct image *image);
    bool repairable; /* qemu-img must find our repair clean */
} damages[] = {
    {"refcount", damage_refcount, true},
    {"leak", damage_leak, true},
    {"copied flag", damage_copied, true},
    {"copied flag of L1", damage_l1_copied, true},
    {"shared cluster", damage_shared, true},
    {"refcount table", damage_reftable, true},
    {"beyond the end", damage_beyond_end, false},
    {"unaligned", damage_unaligned, false},
    {"bits of L2", damage_bits, false},
    {"L1 entry", damage_l1_entry, false},
    {"metadata shared", damage_metadata_shared, false},
    {"truncated", damage_truncated, false},
};

/* ---- both checkers ---- */

struct verdict {
    int status; /* exit status of qemu-img check */
    uint64_t corruptions, leaks, check_errors, allocated, fragmented, compressed, end;
};

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static struct verdict ask_qemu(const char *path)
{
    struct verdict v = {
        .status =
            try_shell("timeout 30 qemu-img check --output=json %s >q.json 2>/dev/null", path)};
    json_t *json = json_load_file("q.json", 0, NULL);

    v.corruptions = number(json, "corruptions");
    v.leaks = number(json, "leaks");
    v.check_errors = number(json, "check-errors");
    v.allocated = number(json, "allocated-clusters");
    v.fragmented = number(json, "fragmented-clusters");
    v.compressed = number(json, "compressed-clusters");
    v.end = number(json, "image-end-offset");
    json_decref(json);
    return v;
}

static int check(const char *path, unsigned fix, struct blk_check_result *result)
{
    const struct blk_open_options options = {.path = path,
                                             .format = "qcow2",
                                             .writable = fix != 0,
                                             .no_backing = true,
                                             .for_check = true};
    struct blk *blk = open_with(&options);
    struct err err = {""};
    int rc = blk_check(blk, fix, NULL, NULL, result, &err);

    /* The image can still be asked things after a repair. */
    if (rc == 0 && fix != 0) {
        struct blk_info info;

        assert_int_equal(blk_get_info(blk, &info, &err), 0);
        assert_false(result->corruptions + result->check_errors == 0 &&
                     (info.is_dirty || info.is_corrupt));
    }
    assert_int_equal(blk_close(blk, &err), 0);
    return rc;
}

#define same(field, ours, theirs, what)                                                            \
    do {                                                                                           \
        if ((ours) != (theirs))                                                                    \
            fail_msg("%s: %s: %llu, qemu-img says %llu", what, field, (unsigned long long)(ours),  \
                     (unsigned long long)(theirs));                                                \
    } while (0)

static void compare(const char *path, const char *what)
{
    struct verdict qemu = ask_qemu(path);
    struct blk_check_result r;

    assert_int_equal(check(path, 0, &r), 0);
    same("corruptions", r.corruptions, qemu.corruptions, what);
    same("leaks", r.leaks, qemu.leaks, what);
    same("check errors", r.check_errors, qemu.check_errors, what);
    same("allocated", r.allocated_clusters, qemu.allocated, what);
    same("fragmented", r.fragmented_clusters, qemu.fragmented, what);
    same("compressed", r.compressed_clusters, qemu.compressed, what);
    same("end", r.image_end_offset, qemu.end, what);
}

static void repair(const char *path, const char *what, bool must_be_clean)
{
    struct blk_check_result r;
    struct verdict qemu;
    int rc = check(path, BLK_FIX_LEAKS | BLK_FIX_ERRORS, &r);

    if (rc != 0)
        fail_msg("%s: repair failed with %d", what, rc);
    compare(path, what);
    qemu = ask_qemu(path);
    same("corruptions left", r.corruptions, qemu.corruptions, what);
    same("leaks left", r.leaks, qemu.leaks, what);
    if (must_be_clean && qemu.status != 0)
        fail_msg("%s: qemu-img check exits with %d after the repair", what, qemu.status);
}

/* ---- tests ---- */

static const struct shape {
    const char *name, *options;
    bool compressed, snapshot, zero_clusters;
} shapes[] = {
    {"64k", "cluster_size=64k", false, false, true},
    {"4k", "cluster_size=4k", false, false, true},
    {"512", "cluster_size=512", false, false, true},
    {"4k, 1-bit refcounts", "cluster_size=4k,refcount_bits=1", false, false, true},
    {"4k, 8-bit refcounts", "cluster_size=4k,refcount_bits=8", false, false, true},
    {"64k, 64-bit refcounts", "cluster_size=64k,refcount_bits=64", false, false, true},
    {"4k, version 2", "cluster_size=4k,compat=0.10", false, false, false},
    {"64k, compressed", "cluster_size=64k", true, false, true},
    {"4k, snapshot", "cluster_size=4k", false, true, true},
    {"64k, compressed, snapshot", "cluster_size=64k", true, true, true},
};

static struct image images[ARRAY_LEN(shapes)];

static int make_images(void **state)
{
    (void)fixture_setup(state);
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const struct shape *s = &shapes[i];

        shell("qemu-img create -q -f qcow2 -o %s i.qcow2 4M", s->options);
        shell("qemu-io -c 'write -P 1 0 512k' -c 'write -P 2 1536k 64k' -c 'write -P 3 3M 128k' "
              "i.qcow2 >/dev/null");
        if (s->zero_clusters)
            shell("qemu-io -c 'write -z 2M 64k' -c 'write -P 5 3584k 64k' -c 'write -z 3584k 64k' "
                  "i.qcow2 >/dev/null");
        if (s->compressed)
            shell("qemu-io -c 'write -c -P 4 2560k 64k' i.qcow2 >/dev/null");
        if (s->snapshot)
            shell("qemu-img snapshot -c one i.qcow2 && "
                  "qemu-io -c 'write -P 9 64k 64k' i.qcow2 >/dev/null");
        images[i] = image_load("i.qcow2");
    }
    return 0;
}

static int free_images(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        free(images[i].bytes);
    return fixture_teardown(state);
}

static void sound_images_are_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        image_save(&images[i], "d.qcow2");
        compare("d.qcow2", shapes[i].name);
    }
}

static void verdicts_and_repairs_agree_with_qemu(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        for (size_t d = 0; d < ARRAY_LEN(damages); d++) {
            struct image image = image_copy(&images[i]);
            char what[128];

            random_state = i * 100 + d;
            snprintf(what, sizeof(what), "%s, %s", shapes[i].name, damages[d].name);
            damages[d].apply(&image);
            image_save(&image, "d.qcow2");
            compare("d.qcow2", what);
            /* A cluster that is shared does not fit into a refcount of one bit. */
            repair("d.qcow2", what, damages[d].repairable && image.refcount_bits > 1);
            free(image.bytes);
        }
    }
}

static void several_damages_at_once(void **state)
{
    const char *from = getenv("SEED");
    uint64_t first = from != NULL ? strtoull(from, NULL, 0) : 1;

    (void)state;
    for (uint64_t seed = first; seed < first + (from != NULL ? 1 : 40); seed++) {
        struct image image;
        char what[64];
        size_t count;

        random_state = seed * UINT64_C(0x9e3779b97f4a7c15);
        image = image_copy(&images[random_below(ARRAY_LEN(images))]);
        count = 2 + random_below(3);
        for (size_t i = 0; i < count; i++)
            damages[random_below(ARRAY_LEN(damages))].apply(&image);
        snprintf(what, sizeof(what), "SEED=%llu", (unsigned long long)seed);
        image_save(&image, "d.qcow2");
        compare("d.qcow2", what);
        repair("d.qcow2", what, false);
        free(image.bytes);
    }
}

static void repair_keeps_what_the_guest_sees(void **state)
{
    static const size_t kinds[] = {0, 1, 2, 3, 5};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct image image = image_copy(&images[1]);
        struct blk_check_result r;

        random_state = 7 + i;
        damages[kinds[i]].apply(&image);
        image_save(&images[1], "good.qcow2");
        image_save(&image, "d.qcow2");
        assert_int_equal(check("d.qcow2", BLK_FIX_LEAKS | BLK_FIX_ERRORS, &r), 0);
        shell("qemu-img compare -q good.qcow2 d.qcow2");
        free(image.bytes);
    }
}

static void leaks_alone_are_all_that_fix_leaks_repairs(void **state)
{
    struct image image = image_copy(&images[0]);
    struct blk_check_result r;

    (void)state;
    qcow2_refcount_encode(image.bytes + image.refblock, 16, 5, 3);
    image_save(&image, "d.qcow2");
    assert_int_equal(check("d.qcow2", BLK_FIX_LEAKS, &r), 0);
    assert_int_equal(r.leaks_fixed, 1);
    assert_int_equal(r.corruptions, 0);
    /* A lost refcount cannot be put right as a leak. */
    qcow2_refcount_encode(image.bytes + image.refblock, 16, 5, 0);
    image_save(&image, "d.qcow2");
    assert_int_equal(check("d.qcow2", BLK_FIX_LEAKS, &r), -EIO);
    free(image.bytes);
}

static void repair_clears_the_dirty_and_the_corrupt_bit(void **state)
{
    struct image image = image_copy(&images[0]);
    struct blk_check_result r;

    (void)state;
    put(&image, 72, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    image_save(&image, "d.qcow2");
    assert_int_equal(check("d.qcow2", 0, &r), 0);
    free(image.bytes);
    image = image_load("d.qcow2");
    assert_int_equal(get(&image, 72), QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    free(image.bytes);
    assert_int_equal(check("d.qcow2", BLK_FIX_LEAKS | BLK_FIX_ERRORS, &r), 0);
    image = image_load("d.qcow2");
    assert_int_equal(get(&image, 72), 0);
    free(image.bytes);
    close_image(open_image("d.qcow2", true));
}

static void refcounts_of_every_width(void **state)
{
    (void)state;
    for (unsigned bits = 1; bits <= 64; bits *= 2) {
        uint64_t greatest = bits < 64 ? (UINT64_C(1) << bits) - 1 : UINT64_MAX;
        unsigned char block[64] = {0};
        uint64_t count = sizeof(block) * 8 / bits;

        for (uint64_t i = 0; i < count; i += 3)
            qcow2_refcount_encode(block, bits, i, greatest);
        for (uint64_t i = 0; i < count; i++)
            assert_true(qcow2_refcount_decode(block, bits, i) == (i % 3 == 0 ? greatest : 0));
        for (uint64_t i = 0; i < count; i += 3)
            qcow2_refcount_encode(block, bits, i, 0);
        for (size_t i = 0; i < sizeof(block); i++)
            assert_int_equal(block[i], 0);
    }
    /* Specification: entry 0 is in the least significant bits, larger ones are big-endian. */
    assert_int_equal(qcow2_refcount_decode((const unsigned char[]){0x01}, 1, 0), 1);
    assert_int_equal(qcow2_refcount_decode((const unsigned char[]){0x0c}, 2, 1), 3);
    assert_int_equal(qcow2_refcount_decode((const unsigned char[]){0x01, 0x02}, 16, 0), 0x102);
}

/* A file that claims to be huge costs what is in it, not what it claims. */
static void a_huge_sparse_file_is_checked_in_little_memory_and_time(void **state)
{
    struct blk_check_result r;

    (void)state;
    image_save(&images[2], "d.qcow2");
    assert_int_equal(truncate("d.qcow2", INT64_C(1) << 42), 0);
    assert_int_equal(check("d.qcow2", 0, &r), 0);
    assert_int_equal(r.corruptions + r.leaks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refcounts_of_every_width),
        cmocka_unit_test(sound_images_are_sound),
        cmocka_unit_test(verdicts_and_repairs_agree_with_qemu),
        cmocka_unit_test(several_damages_at_once),
        cmocka_unit_test(repair_keeps_what_the_guest_sees),
        cmocka_unit_test(leaks_alone_are_all_that_fix_leaks_repairs),
        cmocka_unit_test(repair_clears_the_dirty_and_the_corrupt_bit),
        cmocka_unit_test(a_huge_sparse_file_is_checked_in_little_memory_and_time),
    };

    return cmocka_run_group_tests(tests, make_images, free_images);
}
