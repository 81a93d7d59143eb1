/*
 * kind_write.c - a damaged image is opened for writing and written to, with its base below it; some
 * changes of its file fail. Two kinds: "compress" has compressed clusters in every image and writes some.
 *
 * Holds: the base keeps its bytes. An image that a check finds clean stays clean but for leaks after
 * failures, and holds what was written: a flat array of the guest's bytes goes along as long as the
 * device is small and nothing has failed.
 */
#include "blockdev.h"
#include "checked.h"
#include "kind.h"

#include <errno.h>
#include <string.h>

enum {
    MODEL_BYTES = 256 << 10, /* devices that large have a flat array */
    MAX_OPERATIONS = 40,
    LONGEST = 40000,
    MAX_PAGES = 4096, /* that a run adds to the file: 16 MiB */
};

struct session {
    struct blk *blk;
    struct script script;
    bool compress;
    bool has_model, has_failed;
    bool had_autoclear; /* bitmaps may be given up */
    uint64_t length;
    uint8_t model[MODEL_BYTES];
};

static uint8_t buffer[MODEL_BYTES];

static void seed(struct input *input, struct rng *rng)
{
    use_seed_images(input, rng, 0, BUILD_ALL);
}

static void seed_compressed(struct input *input, struct rng *rng)
{
    use_seed_images(input, rng, BUILD_COMPRESSED,
                    BUILD_EXTENDED_L2 | BUILD_BACKING | BUILD_SNAPSHOTS);
}

static void compare(struct session *s, const char *when)
{
    if (!s->has_model || blk_pread(s->blk, 0, buffer, s->length) != 0 ||
        memcmp(buffer, s->model, s->length) == 0) {
        return;
    }
    for (uint64_t i = 0; i < s->length; i++) {
        if (buffer[i] != s->model[i]) {
            finding("%s byte %#llx of the guest's is %#x, not %#x", when, (unsigned long long)i,
                    buffer[i], s->model[i]);
        }
    }
}

/* A discarded byte keeps its value or is zero. */
static void adopt_discard(struct session *s, uint64_t offset, uint64_t length)
{
    if (blk_pread(s->blk, offset, buffer, length) != 0) {
        s->has_failed = true;
        return;
    }
    for (uint64_t i = 0; i < length; i++) {
        if (buffer[i] != 0 && buffer[i] != s->model[offset + i]) {
            finding("byte %#jx is %#x after a discard", (uintmax_t)offset + i, buffer[i]);
        }
    }
    memcpy(s->model + offset, buffer, length);
}

/* `compressed`: if the range is whole clusters. */
static int write_pattern(struct session *s, uint64_t offset, uint64_t length, bool compressed)
{
    uint8_t byte = (uint8_t)script_byte(&s->script);
    int r;

    memset(buffer, byte, length);
    buffer[length - 1] = (uint8_t)~byte;
    r = compressed ? blk_pwrite_compressed(s->blk, offset, buffer, length) : -EINVAL;
    r = r == -EINVAL ? blk_pwrite(s->blk, offset, buffer, length) : r;
    if (r == 0 && s->has_model) {
        memcpy(s->model + offset, buffer, length);
    }
    return r;
}

static int write_zeroes(struct session *s, uint64_t offset, uint64_t length)
{
    static const unsigned flags[] = {0, BLK_REQ_MAY_UNMAP, BLK_REQ_FUA, BLK_REQ_HIDE,
                                     BLK_REQ_HIDE | BLK_REQ_MAY_UNMAP};
    int r = blk_pwrite_zeroes(s->blk, offset, length, flags[script_byte(&s->script) % 5]);

    if (r == 0 && s->has_model) {
        memset(s->model + offset, 0, length);
    }
    return r;
}

/* Whole clusters from the one of `offset` on. */
static int write_compressed(struct session *s, uint64_t offset, uint64_t length)
{
    uint64_t unit = blk_cluster_size(s->blk);
    unsigned byte = script_byte(&s->script);
    int r;

    offset = align_down(offset, unit);
    length = min_u64(align_up(min_u64(length, 4 * unit), unit), s->length - offset);
    length = min_u64(length, align_down(sizeof(buffer), unit));
    if (length == 0) {
        return 0;
    }
    memset(buffer, (int)byte, length);
    if (byte & 1) {
        /* Now and then something that does not get smaller. */
        struct rng rng = {.state = byte};

        rng_fill(&rng, buffer, byte & 2 ? length : length / 2);
    }
    r = blk_pwrite_compressed(s->blk, offset, buffer, length);
    if (r == 0 && s->has_model) {
        memcpy(s->model + offset, buffer, length);
    }
    return r;
}

static void operate(struct session *s)
{
    unsigned what = script_byte(&s->script);
    uint64_t unit = 512, offset, length, size = s->length;
    int r = 0;

    if (size == 0) {
        return;
    }
    if (what & 64) {
        unit = blk_cluster_size(s->blk);
    }
    offset = script_below(&s->script, min_u64(size, MODEL_BYTES));
    if (what & 32) {
        /* Among the first clusters, however large these are: that is where tables have entries. */
        offset = min_u64(offset % 32 * blk_cluster_size(s->blk) + offset / 32, size - 1);
    }
    length = 1 + script_below(&s->script, LONGEST);
    if (what & 128) {
        offset = align_down(offset, unit);
        length = align_up(length, unit);
    }
    length = min_u64(min_u64(length, LONGEST), size - offset);
    switch (what % 8) {
    case 0:
        r = blk_flush(s->blk);
        break;
    case 1:
    case 2:
        r = write_zeroes(s, offset, length);
        break;
    case 3:
        r = blk_pdiscard(s->blk, offset, length);
        if (r == 0 && s->has_model) {
            adopt_discard(s, offset, length);
        }
        break;
    case 4:
    case 5:
        if (s->compress) {
            r = write_compressed(s, offset, length);
            break;
        }
        /* fallthrough */
    default:
        r = write_pattern(s, offset, length, (what & 0xe0) == 0xe0);
    }
    if (r != 0) {
        s->has_failed = true;
        s->has_model = false;
    }
}

static void start_model(struct session *s)
{
    s->length = blk_length(s->blk);
    s->has_failed = false;
    s->has_model = s->length <= MODEL_BYTES && blk_pread(s->blk, 0, s->model, s->length) == 0;
}

static void verify(struct session *s, struct memfile *top, const struct memfile *before)
{
    uint64_t leaks;

    if (use_is_damaged(top)) {
        finding("writing damaged a clean image: %s", use_last_error());
    }
    s->blk = use_open(false, false, 0);
    if (s->blk != NULL) {
        compare(s, "opened again,");
        use_close(s->blk, true);
    } else if (!s->has_failed) {
        finding("an image cannot be opened again");
    }
    leaks = s->has_failed || s->had_autoclear ? 0 : use_count_leaks(top, before);
    if (leaks > 0) {
        finding("writing to a clean image left %llu leaks", (unsigned long long)leaks);
    }
}

static void play(struct input *input, bool compress)
{
    static struct session s;
    static struct memfile before;
    struct memfile *top = &input->files[0].mem;
    bool was_clean;
    unsigned faults;

    s.compress = compress;
    s.script = input_script(input);
    faults = script_byte(&s.script);
    s.had_autoclear = memfile_be32(top, 4) >= 3 && memfile_be64(top, 88) != 0;
    use_files(input, 1);
    was_clean = use_is_sound(top);
    s.blk = use_open(true, false, faults & 1);
    if (s.blk == NULL) {
        return;
    }
    start_model(&s);
    s.has_model &= was_clean;
    memfile_copy(&before, top);
    if (faults >= 192) {
        top->fail_at = top->changes + faults - 191;
        top->fail_sticky = (faults & 2) != 0;
    }
    for (unsigned i = 0; i < MAX_OPERATIONS && s.script.left > 0; i++) {
        operate(&s);
    }
    compare(&s, "before the close");
    if (blk_close(s.blk, NULL) != 0) {
        s.has_failed = true;
        s.has_model = false;
    }
    if (top->fail_at != 0 && top->changes >= top->fail_at) {
        s.has_failed = true;
    }
    top->fail_at = 0;
    if (top->pages > before.pages + MAX_PAGES) {
        finding("the image holds far more than was written to it");
    }
    if (!image_tables_overlap(&before) && !image_tables_intact(&before, top)) {
        finding("a write went into a table");
    }
    if (was_clean) {
        verify(&s, top, &before);
    }
}

static void run_write(struct input *input)
{
    play(input, false);
}

static void run_compress(struct input *input)
{
    play(input, true);
}

static void damage_compressed(struct input *input, struct rng *rng)
{
    image_damage_kind(&input->files[0].mem, rng,
                      rng_one_in(rng, 2) ? LANDMARK_COMPRESSED : LANDMARK_L2);
}

const struct fuzz_kind kind_write = {.name = "write", .seed = seed, .run = run_write};
const struct fuzz_kind kind_compress = {
    .name = "compress",
    .seed = seed_compressed,
    .run = run_compress,
    .mutate = damage_compressed,
};
