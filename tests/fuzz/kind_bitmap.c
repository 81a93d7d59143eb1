/*
 * kind_bitmap.c - the persistent bitmaps of a damaged image are listed, added, removed, merged, read,
 * and follow writes and changes of the size, with closing and opening in between; some changes of the
 * file fail.
 *
 * Holds: dirty extents stand in order within the device; a write is in every enabled bitmap at once, and
 * what a bitmap of a sound image holds at a close it holds at the next open. A sound image stays so.
 */
#include "blockdev.h"
#include "checked.h"
#include "kind.h"

#include <errno.h>
#include <string.h>

enum { MAX_OPERATIONS = 40, MAX_BITMAPS = 16, MAX_NAME = 1100 };

struct listing {
    unsigned count;
    struct {
        char name[MAX_NAME];
        uint64_t hash; /* of its dirty extents; 0: cannot be read */
    } bitmaps[MAX_BITMAPS];
};

struct extents {
    uint64_t last_end, length, hash;
    uint64_t from, to; /* a range; how much of it is dirty: */
    uint64_t covered;
};

static char long_name[1024];

static void seed(struct input *input, struct rng *rng)
{
    use_seed_images(input, rng, BUILD_BITMAPS,
                    BUILD_BACKING | BUILD_COMPRESSED | BUILD_EXTENDED_L2);
}

static int see_extent(void *opaque, uint64_t offset, uint64_t length)
{
    struct extents *e = opaque;
    uint64_t end = offset + length;

    if (length == 0 || (offset <= e->last_end && e->last_end != 0) ||
        !range_within(offset, length, e->length)) {
        finding("dirty extent %#llx+%#llx after %#llx, of a device of %#llx bytes",
                (unsigned long long)offset, (unsigned long long)length,
                (unsigned long long)e->last_end, (unsigned long long)e->length);
    }
    e->last_end = end;
    e->hash = (e->hash ^ offset) * UINT64_C(0x100000001b3);
    e->hash = (e->hash ^ length) * UINT64_C(0x100000001b3);
    if (offset < e->to && end > e->from) {
        e->covered += min_u64(end, e->to) - max_u64(offset, e->from);
    }
    return 0;
}

static bool read_bitmap(struct blk *blk, const char *name, struct extents *e)
{
    struct err err = {""};
    int r;

    e->length = blk_length(blk);
    e->hash = 1;
    r = blk_bitmap_dirty(blk, name, see_extent, e, &err);
    if (r != 0 && err.text[0] == '\0') {
        finding("a bitmap cannot be read, without a reason");
    }
    return r == 0;
}

static void list_bitmaps(struct blk *blk, struct listing *list)
{
    struct blk_bitmap_info info;

    list->count = 0;
    for (unsigned i = 0; i < MAX_BITMAPS && blk_bitmap_get(blk, i, &info); i++) {
        struct extents e = {0};

        snprintf(list->bitmaps[i].name, MAX_NAME, "%s", info.name);
        list->bitmaps[i].hash = read_bitmap(blk, info.name, &e) ? e.hash : 0;
        list->count++;
    }
}

static void expect_same(const struct listing *before, const struct listing *after)
{
    if (before->count != after->count) {
        finding("%u bitmaps became %u with a close", before->count, after->count);
    }
    for (unsigned i = 0; i < before->count; i++) {
        if (strcmp(before->bitmaps[i].name, after->bitmaps[i].name) != 0 ||
            before->bitmaps[i].hash != after->bitmaps[i].hash) {
            finding("bitmap '%.20s' changed with a close", before->bitmaps[i].name);
        }
    }
}

static void expect_recorded(struct blk *blk, uint64_t offset, uint64_t length)
{
    struct blk_bitmap_info info;

    for (unsigned i = 0; i < MAX_BITMAPS && blk_bitmap_get(blk, i, &info); i++) {
        struct extents e = {.from = offset, .to = offset + length};

        if (info.is_enabled && !info.is_inconsistent && read_bitmap(blk, info.name, &e) &&
            e.covered != length) {
            finding("a write at %#llx+%#llx is not in bitmap '%.20s'", (unsigned long long)offset,
                    (unsigned long long)length, info.name);
        }
    }
}

static int write_some(struct blk *blk, struct script *script, unsigned how)
{
    static uint8_t bytes[20000];
    uint64_t offset, length;
    int r;

    if (blk_length(blk) == 0) {
        return 0;
    }
    offset = script_below(script, blk_length(blk));
    length = min_u64(1 + script_below(script, sizeof(bytes)), blk_length(blk) - offset);
    switch (how) {
    case 0:
        r = blk_pwrite_zeroes(blk, offset, length, BLK_REQ_MAY_UNMAP);
        break;
    case 1:
        r = blk_pdiscard(blk, offset, length);
        break;
    default:
        memset(bytes, (int)length, length);
        r = blk_pwrite(blk, offset, bytes, length);
    }
    if (r == 0 && how != 1) {
        expect_recorded(blk, offset, length);
    }
    return r;
}

static const char *pick_name(struct script *script)
{
    static const char *const names[] = {"b0", "b1", "b2", "new", "", long_name};

    memset(long_name, 'n', sizeof(long_name) - 1);
    return names[script_byte(script) % ARRAY_LEN(names)];
}

static int operate(struct blk *blk, struct script *script)
{
    unsigned what = script_byte(script) % 12;
    const char *name;
    struct err err = {""};
    int r;

    if (what >= 8) {
        return write_some(blk, script, what - 8);
    }
    if (what == 7) {
        return blk_resize(blk, blk_length(blk) + 512 * script_number(script, 2), NULL);
    }
    name = pick_name(script);
    switch (what) {
    case 0:
    case 1:
        r = blk_bitmap_add(blk, name, UINT64_C(1) << (9 + script_byte(script) % 23), what == 0,
                           &err);
        break;
    case 2:
        r = blk_bitmap_remove(blk, name, &err);
        break;
    case 3:
        r = blk_bitmap_clear(blk, name, &err);
        break;
    case 4:
    case 5:
        r = blk_bitmap_enable(blk, name, what == 4, &err);
        break;
    default:
        r = blk_bitmap_merge(blk, name, blk, pick_name(script), &err);
    }
    if (r != 0 && err.text[0] == '\0') {
        finding("an operation on a bitmap fails without a reason");
    }
    /* Refusing does not change anything. */
    return r == -ENOSPC || r == -EIO ? r : 0;
}

/* One session; false when the image cannot be opened any more. */
static bool play(struct script *script, bool was_sound, bool *has_failed)
{
    static struct listing before, after;
    struct blk *blk = use_open(true, false, 0);
    int r;

    if (blk == NULL) {
        return false;
    }
    for (unsigned i = 1 + script_byte(script) % 8; i > 0 && script->left > 0; i--) {
        *has_failed |= operate(blk, script) != 0;
    }
    list_bitmaps(blk, &before);
    r = blk_close(blk, NULL);
    *has_failed |= r != 0;
    blk = use_open(false, false, 0);
    if (blk == NULL) {
        return false;
    }
    list_bitmaps(blk, &after);
    if (was_sound && !*has_failed) {
        expect_same(&before, &after);
    }
    use_close(blk, true);
    return true;
}

static void run(struct input *input)
{
    static struct memfile start;
    struct script script = input_script(input);
    struct memfile *top = &input->files[0].mem;
    unsigned faults = script_byte(&script);
    bool was_sound, has_failed = false;
    uint64_t leaks;

    memfile_copy(&start, top);
    use_files(input, 1);
    was_sound = use_is_sound(top);
    if (faults >= 192) {
        top->fail_at = top->changes + faults - 191;
        top->fail_sticky = (faults & 2) != 0;
        has_failed = true;
    }
    for (unsigned i = 0; i < MAX_OPERATIONS && script.left > 0; i++) {
        if (!play(&script, was_sound, &has_failed)) {
            break;
        }
    }
    top->fail_at = 0;
    if (was_sound && use_is_damaged(top)) {
        finding("bitmaps damaged a sound image: %s", use_last_error());
    }
    leaks = was_sound && !has_failed ? use_count_leaks(top, &start) : 0;
    if (leaks > 0) {
        finding("bitmaps left %llu leaks in a sound image", (unsigned long long)leaks);
    }
}

static void damage(struct input *input, struct rng *rng)
{
    static const enum landmark_kind kinds[] = {LANDMARK_DIRECTORY, LANDMARK_BITMAP,
                                               LANDMARK_EXTENSION};

    image_damage_kind(&input->files[0].mem, rng, kinds[rng_below(rng, ARRAY_LEN(kinds))]);
}

const struct fuzz_kind kind_bitmap = {
    .name = "bitmap",
    .seed = seed,
    .run = run,
    .mutate = damage,
};
