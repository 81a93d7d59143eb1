/*
 * bitmap_helpers.h - what the tests of persistent dirty bitmaps share.
 */
#ifndef TESTS_BLOCKDEV_BITMAP_HELPERS_H
#define TESTS_BLOCKDEV_BITMAP_HELPERS_H

#include "fixture.h"
#include "qcow2/bitmap.h"

/* Calls a function that takes a struct err * last and must succeed. */
#define must(call, ...)                                                                            \
    do {                                                                                           \
        struct err must_err = {""};                                                                \
        if (call(__VA_ARGS__, &must_err) != 0) {                                                   \
            fail_msg("%s: %s", #call, must_err.text);                                              \
        }                                                                                          \
    } while (0)

static inline bool get_bitmap(struct blk *blk, const char *name, struct blk_bitmap_info *info)
{
    for (unsigned i = 0; blk_bitmap_get(blk, i, info); i++) {
        if (strcmp(info->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static inline unsigned count_bitmaps(struct blk *blk)
{
    struct blk_bitmap_info info;
    unsigned n = 0;

    while (blk_bitmap_get(blk, n, &info)) {
        n++;
    }
    return n;
}

/* ---- dirty extents as text: "0+512 4096+1024" ---- */

struct extents {
    char text[4096];
    uint64_t bytes, count;
};

static inline int add_extent(void *opaque, uint64_t offset, uint64_t length)
{
    struct extents *e = opaque;
    size_t used = strlen(e->text);

    snprintf(e->text + used, sizeof(e->text) - used, "%s%ju+%ju", used > 0 ? " " : "",
             (uintmax_t)offset, (uintmax_t)length);
    e->bytes += length;
    e->count++;
    return 0;
}

static inline struct extents dirty_of(struct blk *blk, const char *name)
{
    struct extents e = {.bytes = 0};

    must(blk_bitmap_dirty, blk, name, add_extent, &e);
    return e;
}

#define assert_dirty(blk, name, expected)                                                          \
    do {                                                                                           \
        struct extents assert_extents = dirty_of(blk, name);                                       \
        assert_string_equal(assert_extents.text, expected);                                        \
    } while (0)

/* Checks a file that nobody has open: nothing wrong, and no leaks unless allowed. */
static inline void assert_checks_clean(const char *path, bool leaks_are_fine)
{
    const struct blk_open_options options = {.path = path, .format = "qcow2", .no_backing = true};
    struct blk *blk = open_with(&options);
    struct blk_check_result result;
    struct err err = {""};

    assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
    assert_int_equal(result.corruptions + result.check_errors, 0);
    if (!leaks_are_fine) {
        assert_int_equal(result.leaks, 0);
    }
    close_image(blk);
}

/* ---- the directory of a file, for poking ---- */

struct places {
    uint64_t extension; /* of its data */
    uint64_t directory;
    uint64_t entries[8]; /* of the directory */
    uint64_t tables[8];
};

static inline struct places find_places(const char *path)
{
    struct qcow2_header_info info;
    const struct file_open_options options = {0};
    struct places p = {0};
    struct file *file;
    struct err err = {""};
    uint64_t at;

    assert_int_equal(file_open_posix(path, &options, &file, &err), 0);
    assert_int_equal(qcow2_header_read(file, false, &info, &err), 0);
    p.extension = info.bitmaps.at;
    p.directory = at = info.bitmaps.directory_offset;
    for (uint32_t i = 0; i < info.bitmaps.count && i < 8; i++) {
        uint8_t raw[BITMAP_ENTRY_BYTES];

        assert_int_equal(file_pread(file, at, raw, sizeof(raw)), 0);
        p.entries[i] = at;
        p.tables[i] = load_be64(raw);
        at += align_up(sizeof(raw) + load_be16(raw + 18) + load_be32(raw + 20), 8);
    }
    qcow2_header_free(&info);
    file_close(file);
    return p;
}

#endif
