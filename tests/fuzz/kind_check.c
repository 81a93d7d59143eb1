/*
 * kind_check.c - a damaged image is checked and repaired.
 *
 * Holds: a check alone changes nothing; what it counts does not depend on who asks; a repair leaves
 * what it says it leaves: a second check counts the same. As long as no table lies on another, repairing
 * again makes nothing worse and soon comes to an end, and after a repair that left nothing the image can
 * be written to without damage.
 */
#include "blockdev.h"
#include "checked.h"
#include "kind.h"

#include <string.h>

enum { MAX_REPAIRS = 6 };

static void seed(struct input *input, struct rng *rng)
{
    use_seed_images(input, rng, 0, BUILD_ALL);
}

static void expect_same(const struct blk_check_result *a, const struct blk_check_result *b,
                        const char *what)
{
    if (a->corruptions != b->corruptions || a->leaks != b->leaks ||
        a->check_errors != b->check_errors) {
        finding("%s: %llu corruptions, %llu leaks, %llu errors, then %llu, %llu, %llu (%s)", what,
                (unsigned long long)a->corruptions, (unsigned long long)a->leaks,
                (unsigned long long)a->check_errors, (unsigned long long)b->corruptions,
                (unsigned long long)b->leaks, (unsigned long long)b->check_errors,
                use_last_error());
    }
}

static void write_some(const struct memfile *top)
{
    static uint8_t bytes[3000];
    struct blk *blk = use_open(true, false, 0);
    int r = 0;

    if (blk == NULL) {
        return;
    }
    memset(bytes, 0x77, sizeof(bytes));
    for (uint64_t at = 0; at + sizeof(bytes) <= blk_length(blk) && at < 200000; at += 29 * 512) {
        if (blk_pwrite(blk, at, bytes, sizeof(bytes)) != 0) {
            r = -1;
            break;
        }
    }
    use_close(blk, false);
    if (r == 0 && use_is_damaged(top)) {
        finding("writing to a repaired image damages it: %s", use_last_error());
    }
}

/* Whatever a repair could not do, it leaves an image that can be looked at. */
static void expect_openable(void)
{
    struct blk *blk = use_open(false, true, 0);

    if (blk == NULL) {
        finding("a repair makes the image unreadable: %s", use_last_error());
    }
    use_close(blk, true);
}

static void repair(struct memfile *top, const struct memfile *damaged, unsigned fix)
{
    struct blk_check_result repaired = {0}, checked = {0};
    bool overlaps = image_is_odd(damaged);
    uint64_t left = UINT64_MAX;

    memfile_copy(top, damaged);
    for (unsigned i = 0;; i++) {
        if (use_check(fix, &repaired) != 0) {
            expect_openable();
            /* What an entry led to behind the end may be something by now. */
            if (i > 0 && !overlaps && !image_is_odd(top)) {
                finding("a repaired image cannot be repaired");
            }
            return;
        }
        if (use_check(0, &checked) != 0) {
            finding("a repaired image cannot be checked: %s", use_last_error());
        }
        expect_same(&repaired, &checked, "a repair, then a check");
        if (overlaps && i == 1) {
            return;
        }
        if (repaired.corruptions + repaired.leaks > left) {
            finding("repair %u makes it worse: %s", i + 1, use_last_error());
        }
        if (repaired.corruptions + repaired.leaks == left) {
            break;
        }
        if (i >= MAX_REPAIRS) {
            finding("repairing comes to no end: %s", use_last_error());
        }
        left = repaired.corruptions + repaired.leaks;
    }
    if (fix == (BLK_FIX_LEAKS | BLK_FIX_ERRORS) && use_is_clean(&repaired) && !image_is_odd(top)) {
        write_some(top);
    }
}

static void read_all(const struct memfile *top)
{
    struct blk *blk = use_open(false, false, 0);

    if (blk != NULL) {
        use_read_all(blk, top);
        use_close(blk, true);
    }
}

static void run(struct input *input)
{
    static struct memfile damaged;
    struct blk_check_result first = {0}, second = {0};
    struct memfile *top = &input->files[0].mem;

    use_files(input, 0);
    if (use_check(0, &first) != 0) {
        return;
    }
    if (use_check(0, &second) == 0) {
        expect_same(&first, &second, "two checks");
    }
    memfile_copy(&damaged, top);
    use_files(input, 1);
    repair(top, &damaged, BLK_FIX_LEAKS);
    repair(top, &damaged, BLK_FIX_LEAKS | BLK_FIX_ERRORS);
    memfile_copy(top, &damaged);
    use_files(input, 0);
    read_all(top);
    memfile_clear(&damaged);
}

const struct fuzz_kind kind_check = {.name = "check", .seed = seed, .run = run};
