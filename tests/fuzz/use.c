/*
 * use.c - opening, reading and checking an image, with what must hold whatever the image says.
 */
#include "blockdev.h"
#include "checked.h"
#include "kind.h"
#include "qcow2/format.h"

#include <errno.h>
#include <string.h>

enum {
    MAX_EXTENTS = 200, /* that are mapped one by one */
    READ_BYTES = 32 << 10,
    MAX_GROWTH = 1 << 16, /* clusters that a run adds to a file at most */
};

static char last_error[256];
static uint64_t harmless;

void use_files(struct input *input, unsigned writable)
{
    memfs_clear();
    for (unsigned i = 0; i < input->file_count; i++) {
        struct input_file *file = &input->files[i];

        if (i == 0) {
            strcpy(file->name, "top");
        }
        /* The data file is written with the top. */
        file->mem.read_only =
            (writable >> i & 1) == 0 && ((writable & 1) == 0 || strcmp(file->name, "data") != 0);
        memfs_add(file->name, &file->mem);
    }
}

static void expect_reason(int code, const struct err *err)
{
    if (code >= 0 || code < -4095) {
        finding("%d is no error code", code);
    }
    if (err->text[0] == '\0' || strchr(err->text, '\n') != NULL) {
        finding("error %d comes without one line of text: '%s'", code, err->text);
    }
}

struct blk *use_open(bool writable, bool for_check, unsigned cache)
{
    const struct blk_key key = {.bytes = FUZZ_KEY, .length = strlen(FUZZ_KEY)};
    const struct blk_open_options options = {
        .path = "top",
        .keys = &key,
        .key_count = 1,
        .max_key_iterations = 100,
        .format = "qcow2",
        .writable = writable,
        .for_check = for_check,
        .no_backing = for_check,
        .no_data_file = for_check,
        .discard = true,
        .metadata_cache = cache,
    };
    struct err err = {""};
    struct blk *blk = NULL;
    int r = blk_open(&options, &blk, &err);

    if (r != 0) {
        expect_reason(r, &err);
        snprintf(last_error, sizeof(last_error), "%.200s", err.text);
        return NULL;
    }
    return blk;
}

void use_close(struct blk *blk, bool must_succeed)
{
    struct err err = {""};
    int r = blk_close(blk, &err);

    if (r != 0) {
        expect_reason(r, &err);
    }
    if (r != 0 && must_succeed) {
        finding("close fails: %s", err.text);
    }
}

/* Twice, over different leftovers: a byte that is not read would differ. */
static int read_twice(struct blk *blk, uint64_t offset, uint8_t *out, size_t length)
{
    static uint8_t again[READ_BYTES];
    int r, second;

    memset(out, 0x5a, length);
    memset(again, 0xa5, length);
    r = blk_pread(blk, offset, out, length);
    second = blk_pread(blk, offset, again, length);
    if (r != second) {
        finding("reading %zu bytes at %#llx gives %d, then %d", length, (unsigned long long)offset,
                r, second);
    }
    if (r == 0 && memcmp(out, again, length) != 0) {
        finding("reading %zu bytes at %#llx gives two answers", length, (unsigned long long)offset);
    }
    return r;
}

static void compare_extent(struct blk *blk, uint64_t at, const struct blk_extent *extent,
                           const struct memfile *top)
{
    static uint8_t bytes[READ_BYTES], stored[READ_BYTES];
    size_t length = min_u64(extent->length, sizeof(bytes));
    struct blk_info info = {0};
    int r = read_twice(blk, at, bytes, length);

    if (r != 0) {
        return;
    }
    if (extent->kind == BLK_EXTENT_DATA && extent->depth == 0 && extent->has_host_offset &&
        top != NULL) {
        blk_get_info(blk, &info, NULL);
        if (info.has_data_file) {
            return; /* it lies there */
        }
        memfile_read(top, extent->host_offset, stored, length);
    } else if (extent->kind == BLK_EXTENT_ZERO || extent->kind == BLK_EXTENT_UNALLOCATED) {
        memset(stored, 0, length);
    } else {
        return;
    }
    if (memcmp(bytes, stored, length) != 0) {
        finding("the map and a read disagree at %#llx", (unsigned long long)at);
    }
}

static void map_range(struct blk *blk, uint64_t from, uint64_t to, const struct memfile *top)
{
    struct blk_extent extent;
    unsigned count = 0;

    for (uint64_t at = from; at < to && count < MAX_EXTENTS; at += extent.length, count++) {
        int r = blk_map(blk, at, to - at, 0, &extent);

        if (r != 0) {
            break;
        }
        if (extent.length == 0 || extent.length > to - at) {
            finding("an extent of %llu bytes", (unsigned long long)extent.length);
        }
        compare_extent(blk, at, &extent, top);
        (void)blk_map(blk, at, extent.length, BLK_MAP_TOP_ONLY, &extent);
        if (extent.length == 0) {
            finding("an extent without length");
        }
    }
}

void use_read_all(struct blk *blk, const struct memfile *top)
{
    static uint8_t bytes[READ_BYTES];
    uint64_t length = blk_length(blk), window = min_u64(length, USE_WINDOW);
    struct blk_info info;
    struct err err = {""};
    int r = blk_get_info(blk, &info, &err);

    if (r != 0) {
        expect_reason(r, &err);
    } else if (info.virtual_size != length) {
        finding("two lengths");
    }
    if (r == 0 && info.is_encrypted) {
        top = NULL; /* what lies there is not what is read */
    }
    map_range(blk, 0, window, top);
    map_range(blk, length - window, length, top);
    for (uint64_t at = 0; at < window; at += sizeof(bytes)) {
        (void)read_twice(blk, at, bytes, min_u64(sizeof(bytes), window - at));
    }
    if (length > window) {
        (void)read_twice(blk, length - 5000, bytes, 5000);
    }
}

static void note_line(void *opaque, const char *line)
{
    (void)opaque;
    if (strchr(line, '\n') != NULL) {
        finding("a report of two lines");
    }
    harmless += strncmp(line, "ERROR OFLAG_COPIED", 18) == 0;
    if (strncmp(line, "ERROR", 5) == 0 || strncmp(line, "Leaked", 6) == 0) {
        snprintf(last_error, sizeof(last_error), "%s", line);
    }
}

int use_check(unsigned fix, struct blk_check_result *result)
{
    struct blk *blk = use_open(fix != 0, true, 0);
    struct err err = {""};
    int r;

    last_error[0] = '\0';
    harmless = 0;
    if (blk == NULL) {
        return -EINVAL;
    }
    r = blk_check(blk, fix, note_line, NULL, result, &err);
    if (r != 0) {
        expect_reason(r, &err);
    }
    use_close(blk, false);
    return r;
}

const char *use_last_error(void)
{
    return last_error;
}

bool use_is_damaged(const struct memfile *top)
{
    struct blk_check_result result = {0};
    int r;

    if (memfile_be32(top, 4) >= 3 && (memfile_be64(top, 72) & QCOW2_INCOMPAT_DIRTY) != 0) {
        use_close(use_open(true, false, 0), false);
    }
    r = use_check(0, &result);
    return r != 0 || result.check_errors > 0 || result.corruptions > harmless;
}

uint64_t use_count_leaks(struct memfile *top, const struct memfile *before)
{
    struct blk_check_result result = {0}, start = {0};
    uint64_t cluster_size, leaks;

    if (use_check(0, &result) != 0 || result.leaks == 0) {
        return 0;
    }
    /* Refcounts of clusters behind the end of the file count once the file is that long. */
    leaks = result.leaks;
    cluster_size = UINT64_C(1) << memfile_be32(before, 20);
    memfile_copy(top, before);
    (void)memfile_resize(top, top->size + cluster_size * MAX_GROWTH);
    return use_check(0, &start) == 0 && start.leaks > 0 ? 0 : leaks;
}

bool use_is_sound(const struct memfile *top)
{
    struct blk_check_result result = {0};

    return use_check(0, &result) == 0 && use_is_clean(&result) && !image_is_odd(top);
}

bool use_is_clean(const struct blk_check_result *result)
{
    return result->corruptions == 0 && result->leaks == 0 && result->check_errors == 0;
}

void use_random_script(struct input *input, struct rng *rng, size_t length)
{
    input->script_length = min_u64(length, INPUT_MAX_SCRIPT);
    rng_fill(rng, input->script, input->script_length);
}

static void seed_raw(struct memfile *mem, struct rng *rng)
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t value = rng_next(rng);

        (void)memfile_write(mem, rng_below(rng, 1 << 20), &value, sizeof(value));
    }
}

void use_seed_images(struct input *input, struct rng *rng, unsigned must, unsigned may)
{
    bool base_is_qcow2 = rng_one_in(rng, 2);
    struct memfile *base;

    image_build(input_add(input, "top"), rng, must | (base_is_qcow2 ? BUILD_BASE_IS_QCOW2 : 0),
                may);
    base = input_add(input, "base");
    if (base_is_qcow2) {
        image_build(base, rng, 0, (must | may) & ~(unsigned)(BUILD_BACKING | BUILD_DATA_FILE));
    } else {
        seed_raw(base, rng);
    }
    if ((must | may) & BUILD_DATA_FILE) {
        seed_raw(input_add(input, "data"), rng);
    }
    use_random_script(input, rng, rng_between(rng, 8, 160));
}
