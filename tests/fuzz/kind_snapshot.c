/*
 * kind_snapshot.c - images with internal snapshots, which are damaged above all: what kind_check.c does with
 * them, and then snapshots are listed, taken, applied, deleted and shown, with writes in between.
 *
 * Holds besides: a sound image stays sound and without leaks, and a snapshot that was taken brings back what
 * the device held then. An operation that fails changes nothing of what the device shows.
 */
#include "blockdev.h"
#include "checked.h"
#include "kind.h"

#include <stdio.h>
#include <string.h>

enum { MODEL_BYTES = 128 << 10, MAX_SAVED = 3, MAX_OPERATIONS = 16, LONGEST = 20000 };

struct session {
    struct blk *blk;
    struct script script;
    bool is_sound, has_failed;
    uint64_t length; /* that is looked at */
    uint8_t now[MODEL_BYTES], saved[MAX_SAVED][MODEL_BYTES];
    uint64_t saved_length[MAX_SAVED];
    unsigned saved_count;
};

static uint8_t buffer[MODEL_BYTES];

static void seed(struct input *input, struct rng *rng)
{
    use_seed_images(input, rng, BUILD_SNAPSHOTS, BUILD_ALL);
}

static void damage(struct input *input, struct rng *rng)
{
    image_damage_kind(&input->files[0].mem, rng,
                      rng_one_in(rng, 3) ? LANDMARK_L1 : LANDMARK_SNAPSHOT);
}

/* The device is what it is. */
static void adopt(struct session *s)
{
    s->length = min_u64(blk_length(s->blk), MODEL_BYTES);
    if (blk_pread(s->blk, 0, s->now, s->length) != 0) {
        s->has_failed = true;
        s->is_sound = false;
    }
}

static void compare(struct session *s, const char *when)
{
    if (!s->is_sound) {
        return;
    }
    if (blk_pread(s->blk, 0, buffer, s->length) != 0) {
        finding("%s a sound image cannot be read", when);
    }
    for (uint64_t i = 0; i < s->length; i++) {
        if (buffer[i] != s->now[i]) {
            finding("%s byte %#llx is %#x, not %#x", when, (unsigned long long)i, buffer[i],
                    s->now[i]);
        }
    }
}

static void take(struct session *s)
{
    char name[8];
    unsigned n = s->saved_count;

    (void)snprintf(name, sizeof(name), "f%u", n);
    if (n >= MAX_SAVED ||
        blk_snapshot_create(s->blk, &(struct blk_snapshot_info){.name = name}, NULL) != 0) {
        return;
    }
    memcpy(s->saved[n], s->now, s->length);
    s->saved_length[n] = s->length;
    s->saved_count++;
}

static void apply(struct session *s)
{
    struct blk_snapshot_info info;
    unsigned index = (unsigned)script_below(&s->script, 4);
    char first = 0, digit = 0;

    if (blk_snapshot_get(s->blk, index, &info, NULL) <= 0) {
        return;
    }
    first = info.name[0];
    digit = first != 0 ? info.name[1] : 0;
    if (blk_snapshot_apply(s->blk, index, NULL) != 0) {
        return;
    }
    if (first == 'f' && digit >= '0' && (unsigned)(digit - '0') < s->saved_count) {
        s->length = s->saved_length[digit - '0'];
        memcpy(s->now, s->saved[digit - '0'], s->length);
    } else {
        adopt(s);
    }
}

static void change(struct session *s, unsigned what)
{
    uint64_t offset = script_below(&s->script, max_u64(s->length, 1));
    uint64_t length = 1 + script_below(&s->script, LONGEST);
    int r;

    length = min_u64(length, s->length - min_u64(offset, s->length));
    if (length == 0) {
        return;
    }
    memset(buffer, (int)what, length);
    if (what & 8) {
        r = blk_pwrite_zeroes(s->blk, offset, length, what & 16 ? BLK_REQ_MAY_UNMAP : 0);
        memset(buffer, 0, length);
    } else {
        r = what & 16 ? blk_pwrite_compressed(s->blk, offset, buffer, length) : -1;
        r = r != 0 ? blk_pwrite(s->blk, offset, buffer, length) : 0;
    }
    if (r == 0) {
        memcpy(s->now + offset, buffer, length);
    } else {
        adopt(s);
        s->has_failed = true;
        s->is_sound = false;
    }
}

static void operate(struct session *s)
{
    unsigned what = script_byte(&s->script);

    switch (what % 6) {
    case 0:
        take(s);
        break;
    case 1:
        apply(s);
        break;
    case 2:
        (void)blk_snapshot_delete(s->blk, (unsigned)script_below(&s->script, 4), NULL);
        break;
    default:
        change(s, what);
    }
    compare(s, "after an operation");
}

static void look_at_all(const struct memfile *top)
{
    struct blk_snapshot_info info;
    unsigned count = 0;

    for (unsigned i = 0; i <= count && i < 4; i++) {
        struct blk *blk = use_open(false, false, 0);

        if (blk != NULL) {
            while (count < 4 && blk_snapshot_get(blk, count, &info, NULL) > 0) {
                count++;
            }
            if (i < count && blk_snapshot_show(blk, i, NULL) == 0) {
                use_read_all(blk, top);
            }
        }
        use_close(blk, true);
    }
}

static void play(struct input *input)
{
    static struct session s;
    static struct memfile before;
    struct memfile *top = &input->files[0].mem;

    use_files(input, 1);
    s = (struct session){.script = input_script(input), .is_sound = use_is_sound(top)};
    look_at_all(top);
    s.blk = use_open(true, false, script_byte(&s.script) & 1);
    if (s.blk == NULL) {
        return;
    }
    memfile_copy(&before, top);
    adopt(&s);
    for (unsigned i = 0; i < MAX_OPERATIONS && s.script.left > 0; i++) {
        operate(&s);
    }
    if (blk_close(s.blk, NULL) != 0) {
        s.has_failed = true;
    }
    if (s.is_sound && use_is_damaged(top)) {
        finding("snapshots damage a sound image: %s", use_last_error());
    }
    if (s.is_sound && !s.has_failed && use_count_leaks(top, &before) > 0) {
        finding("snapshots leave leaks");
    }
    memfile_clear(&before);
}

static void run(struct input *input)
{
    kind_check.run(input);
    play(input);
}

const struct fuzz_kind kind_snapshot = {
    .name = "snapshot", .seed = seed, .run = run, .mutate = damage};
