/*
 * kind_header.c - the header of a damaged image is rewritten: backing name and format, size, with
 * closing and opening in between.
 *
 * Holds: what was written is there at the next open; header extensions that are not concerned stay as
 * they are; an image that was clean stays clean.
 */
#include "blockdev.h"
#include "checked.h"
#include "kind.h"
#include "qcow2/format.h"

#include <string.h>

enum { MAX_OPERATIONS = 12, USUAL_BITS = 33 /* of a size */ };

static void seed(struct input *input, struct rng *rng)
{
    use_seed_images(input, rng, 0, BUILD_ALL | BUILD_LUKS);
}

/* The extension that a rewrite must keep, whatever it is; its length, 0 when it is not there. */
static size_t read_unknown(const struct memfile *mem, uint8_t out[64])
{
    uint64_t at = memfile_be32(mem, 4) >= 3 ? memfile_be32(mem, 100) : QCOW2_V2_HEADER_LENGTH;

    for (unsigned i = 0; i < 32 && at < 4096; i++) {
        uint32_t type = memfile_be32(mem, at), length = memfile_be32(mem, at + 4);

        if (type == QCOW2_EXT_END || length > 4096) {
            break;
        }
        if (type == 0x12345678 && length <= 64) {
            memfile_read(mem, at + 8, out, length);
            return length;
        }
        at += 8 + align_up(length, 8);
    }
    return 0;
}

static bool same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* The name is not there: so that the image opens again, only names of files that are. */
static bool set_backing(struct blk *blk, struct script *script)
{
    static char long_name[1100];
    static const char *const names[] = {"base", NULL, "data", "", long_name, "base"};
    const char *name = names[script_byte(script) % ARRAY_LEN(names)];
    const char *format = name == NULL ? NULL : "raw";
    struct blk_info info;
    struct err err = {""};
    int r;

    memset(long_name, 'n', sizeof(long_name) - 1);
    if (name == long_name) {
        long_name[script_below(script, sizeof(long_name))] = '\0';
    }
    r = blk_set_backing(blk, name, format, &err);
    if (r != 0) {
        if (err.text[0] == '\0') {
            finding("set_backing fails without a reason");
        }
        return false;
    }
    if (blk_get_info(blk, &info, &err) == 0 && !same_text(info.backing_name, name)) {
        finding("the backing name is not what was set");
    }
    return true;
}

static bool resize(struct blk *blk, struct script *script)
{
    uint64_t old = blk_length(blk), size;
    struct err err = {""};
    unsigned how = script_byte(script);
    int r;

    switch (how % 5) {
    case 0:
        /* Large tables take time: not every time. */
        size = script_number(script, 8) >> (how >= 250 ? 0 : 64 - USUAL_BITS);
        break;
    case 1:
        size = old + script_number(script, 3);
        break;
    case 2:
        size = old - min_u64(old, script_number(script, 3));
        break;
    case 3:
        size = UINT64_C(1) << script_byte(script) % (how >= 250 ? 64 : USUAL_BITS);
        break;
    default:
        size = old + 512;
    }
    r = blk_resize(blk, size, &err);
    if (r != 0 && err.text[0] == '\0') {
        finding("resize fails without a reason");
    }
    if (r == 0 && blk_length(blk) != size) {
        finding("a device of %llu bytes is %llu bytes long", (unsigned long long)size,
                (unsigned long long)blk_length(blk));
    }
    return r == 0;
}

/* One session; false when the image cannot be opened for writing. */
static bool rewrite(struct script *script, bool *all_succeeded)
{
    struct blk *blk = use_open(true, false, 0), *again;
    char name[1100] = "";
    struct blk_info info;
    uint64_t length;
    int r = 0;

    if (blk == NULL) {
        return false;
    }
    for (unsigned i = script_byte(script) % 4; i > 0; i--) {
        switch (script_byte(script) % 4) {
        case 0:
            *all_succeeded &= set_backing(blk, script);
            break;
        case 1:
            *all_succeeded &= resize(blk, script);
            break;
        case 2:
            r = blk_length(blk) > 0 ? blk_pwrite(blk, blk_length(blk) - 1, "x", 1) : 0;
            break;
        default:
            r = blk_make_empty(blk, NULL);
        }
        *all_succeeded &= r == 0;
    }
    length = blk_length(blk);
    (void)blk_get_info(blk, &info, NULL);
    if (info.backing_name != NULL) {
        snprintf(name, sizeof(name), "%s", info.backing_name);
    }
    if (blk_close(blk, NULL) != 0) {
        *all_succeeded = false;
        return true;
    }
    again = use_open(false, true, 0);
    if (again == NULL) {
        finding("the image cannot be opened again: %s", use_last_error());
    }
    (void)blk_get_info(again, &info, NULL);
    if (blk_length(again) != length ||
        strcmp(info.backing_name != NULL ? info.backing_name : "", name) != 0) {
        finding("size or backing name changed with a close");
    }
    use_close(again, true);
    return true;
}

static void run(struct input *input)
{
    struct script script = input_script(input);
    struct memfile *top = &input->files[0].mem;
    static struct memfile start;
    uint8_t before[64], after[64];
    uint64_t leaks;
    size_t length = read_unknown(top, before);
    bool had_autoclear = memfile_be32(top, 4) >= 3 && memfile_be64(top, 88) != 0;
    bool was_clean, all_succeeded = true, any = false;

    memfile_copy(&start, top);
    use_files(input, 1);
    was_clean = use_is_sound(top);
    for (unsigned i = 0; i < MAX_OPERATIONS && script.left > 0; i++) {
        if (!rewrite(&script, &all_succeeded)) {
            break;
        }
        any = true;
    }
    if (!any) {
        return;
    }
    if (was_clean && (read_unknown(top, after) != length || memcmp(before, after, length) != 0)) {
        finding("an unknown header extension is lost");
    }
    if (was_clean && use_is_damaged(top)) {
        finding("rewriting the header damaged a clean image: %s", use_last_error());
    }
    leaks = was_clean && all_succeeded && !had_autoclear ? use_count_leaks(top, &start) : 0;
    if (leaks > 0) {
        finding("rewriting the header of a clean image left %llu leaks", (unsigned long long)leaks);
    }
}

const struct fuzz_kind kind_header = {.name = "header", .seed = seed, .run = run};
