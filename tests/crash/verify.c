#include "verify.h"
#include "bytes.h"
#include "checked.h"
#include "ops.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { CHUNK = 128 /* sectors */, REWRITES = 6, LONGEST_REWRITE = 24, AT_INCOMPATIBLE = 72 };

struct look {
    struct disk *disk;
    const struct expected *expected;
    struct rng rng;
    char *why;
    size_t size;
    char findings[512]; /* of blk_check() */
};

void expected_init(struct expected *expected, const struct world *world, enum model_view view,
                   uint64_t time)
{
    const struct model *model = &world->model;
    uint64_t room = 0, count = 0;

    *expected = (struct expected){.world = world, .time = time};
    expected->first = malloc((model->sector_count + 1) * sizeof(expected->first[0]));
    for (uint64_t s = 0; s < model->sector_count; s++) {
        struct allowed allowed;

        model_allowed(model, s, view, time, &allowed);
        if (count + allowed.count > room) {
            room = room * 2 + model->sector_count + MODEL_VALUES;
            expected->values = realloc(expected->values, room * sizeof(expected->values[0]));
        }
        expected->first[s] = count;
        memcpy(expected->values + count, allowed.values, allowed.count * sizeof(allowed.values[0]));
        count += allowed.count;
    }
    expected->first[model->sector_count] = count;
    model_allowed_sizes(model, view, time, &expected->sizes);
}

void expected_free(struct expected *expected)
{
    free(expected->values);
    free(expected->first);
}

static bool say(struct look *look, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool say(struct look *look, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(look->why, look->size, fmt, args);
    va_end(args);
    return false;
}

static bool is_expected(const struct expected *expected, uint64_t sector, const uint8_t *bytes)
{
    uint32_t value;
    bool is_stamp = stamp_read(bytes, sector, &value);

    for (uint64_t i = expected->first[sector]; i < expected->first[sector + 1]; i++) {
        uint32_t wanted = expected->values[i];

        if (wanted == VALUE_ANY || (is_stamp && wanted == value)) {
            return true;
        }
    }
    return false;
}

static bool complain_of_sector(struct look *look, uint64_t sector, const uint8_t *bytes,
                               const char *when)
{
    const struct expected *e = look->expected;
    char text[64], wanted[128] = "";

    stamp_describe(bytes, sector, text, sizeof(text));
    for (uint64_t i = e->first[sector]; i < e->first[sector + 1] && strlen(wanted) < 100; i++) {
        snprintf(wanted + strlen(wanted), 24, " %u", e->values[i]);
    }
    return say(look, "%s, sector %llu holds %s; allowed are the values%s", when,
               (unsigned long long)sector, text, wanted);
}

/* Looks at `count` sectors from `sector` on; false when something is wrong, which it has said. */
typedef bool look_at_bytes(struct look *look, uint64_t sector, uint64_t count, const uint8_t *bytes,
                           const void *opaque);

/* Reads the first `sectors` of the device and shows them piece by piece. */
static bool read_all(struct look *look, struct blk *blk, uint64_t sectors, look_at_bytes *show,
                     const void *opaque)
{
    uint8_t bytes[CHUNK * SECTOR];

    for (uint64_t s = 0; s < sectors; s += CHUNK) {
        uint64_t n = min_u64(CHUNK, sectors - s);
        int r = blk_pread(blk, s * SECTOR, bytes, n * SECTOR);

        if (r != 0) {
            return say(look, "sector %llu cannot be read: %s", (unsigned long long)s, strerror(-r));
        }
        if (!show(look, s, n, bytes, opaque)) {
            return false;
        }
    }
    return true;
}

/* `opaque`: when. */
static bool compare_bytes(struct look *look, uint64_t sector, uint64_t count, const uint8_t *bytes,
                          const void *opaque)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!is_expected(look->expected, sector + i, bytes + i * SECTOR)) {
            return complain_of_sector(look, sector + i, bytes + i * SECTOR, opaque);
        }
    }
    return true;
}

static bool compare_device(struct look *look, struct blk *blk, const char *when)
{
    uint64_t sectors = blk_length(blk) / SECTOR;

    if (!allowed_has(&look->expected->sizes, (uint32_t)sectors)) {
        return say(look, "%s, the device has %llu sectors", when, (unsigned long long)sectors);
    }
    return read_all(look, blk, sectors, compare_bytes, when);
}

struct tracked {
    uint8_t *is_dirty; /* a byte a sector */
    uint64_t sectors;
};

static int note_dirty(void *opaque, uint64_t offset, uint64_t length)
{
    struct tracked *tracked = opaque;
    uint64_t end = min_u64(div_round_up(offset + length, SECTOR), tracked->sectors);

    for (uint64_t s = offset / SECTOR; s < end; s++) {
        tracked->is_dirty[s] = 1;
    }
    return 0;
}

/* `opaque`: the struct tracked. */
static bool compare_tracked(struct look *look, uint64_t sector, uint64_t count,
                            const uint8_t *bytes, const void *opaque)
{
    const struct model *model = &look->expected->world->model;
    const struct tracked *tracked = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t value, first = model->sectors[sector + i].versions[0].value;

        if (!tracked->is_dirty[sector + i] && stamp_read(bytes + i * SECTOR, sector + i, &value) &&
            value != first) {
            return say(look, "the bitmap does not know that sector %llu has changed",
                       (unsigned long long)sector + i);
        }
    }
    return true;
}

/* A bitmap called "tracker" that can be used has every sector that changed since the beginning. */
static bool check_tracker(struct look *look, struct blk *blk)
{
    struct tracked tracked = {.sectors = blk_length(blk) / SECTOR};
    struct blk_bitmap_info info;
    struct err err = {""};
    unsigned i = 0;
    bool ok;

    while (blk_bitmap_get(blk, i, &info) && strcmp(info.name, "tracker") != 0) {
        i++;
    }
    if (!blk_bitmap_get(blk, i, &info) || info.is_in_use || info.is_inconsistent) {
        return true;
    }
    tracked.is_dirty = calloc(tracked.sectors, 1);
    ok = blk_bitmap_dirty(blk, "tracker", note_dirty, &tracked, &err) == 0
             ? read_all(look, blk, tracked.sectors, compare_tracked, &tracked)
             : say(look, "the bitmap cannot be read: %s", err.text);
    free(tracked.is_dirty);
    return ok;
}

/* `opaque`: the struct saved_snapshot. */
static bool compare_saved(struct look *look, uint64_t sector, uint64_t count, const uint8_t *bytes,
                          const void *opaque)
{
    const struct saved_snapshot *saved = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t wanted = saved->values[sector + i], value;

        if (wanted != VALUE_ANY &&
            (!stamp_read(bytes + i * SECTOR, sector + i, &value) || value != wanted)) {
            return say(look, "sector %llu of snapshot %s is not the value %u",
                       (unsigned long long)sector + i, saved->name, wanted);
        }
    }
    return true;
}

static bool compare_snapshot(struct look *look, struct blk *blk, const struct saved_snapshot *saved)
{
    if (blk_length(blk) / SECTOR != saved->sectors) {
        return say(look, "snapshot %s has %llu sectors", saved->name,
                   (unsigned long long)blk_length(blk) / SECTOR);
    }
    return read_all(look, blk, saved->sectors, compare_saved, saved);
}

/* Every snapshot holds what the device held when it was taken, and none is lost. The image shows the
 * last of them from then on. */
static bool look_at_snapshots(struct look *look, struct blk *blk)
{
    const struct world *world = look->expected->world;
    uint64_t time = look->expected->time;
    struct blk_snapshot_info info;
    struct err err = {""};
    unsigned index;
    int r;

    for (unsigned i = 0; (r = blk_snapshot_get(blk, i, &info, &err)) > 0; i++) {
        const struct saved_snapshot *saved = world_find_saved(world, info.name);

        r = saved != NULL ? blk_snapshot_show(blk, i, &err) : -ENOENT;
        if (r != 0) {
            return say(look, "snapshot %s: %s", info.name, err.text);
        }
        if (!compare_snapshot(look, blk, saved)) {
            return false;
        }
    }
    for (unsigned i = 0; i < world->saved_count && r == 0; i++) {
        const struct saved_snapshot *saved = &world->saved[i];

        if (saved->created < time && saved->deleted >= time &&
            blk_snapshot_find(blk, NULL, saved->name, &index, NULL) != 0) {
            return say(look, "snapshot %s is lost", saved->name);
        }
    }
    return r == 0 || say(look, "the snapshots cannot be read: %s", err.text);
}

static void keep_finding(void *opaque, const char *line)
{
    struct look *look = opaque;
    size_t used = strlen(look->findings);

    snprintf(look->findings + used, sizeof(look->findings) - used, "\n  %s", line);
}

static struct blk *open_file(struct look *look, const struct blk_open_options *options,
                             const char *when)
{
    struct err err = {""};
    struct blk *blk;

    if (blk_open(options, &blk, &err) != 0) {
        say(look, "%s: %s", when, err.text);
        return NULL;
    }
    return blk;
}

static bool close_file(struct look *look, struct blk *blk, const char *when)
{
    struct err err = {""};

    return blk_close(blk, &err) == 0 || say(look, "%s: %s", when, err.text);
}

/* Runs a check of an open image; `leaks` says whether there may be any. */
static bool check_file(struct look *look, struct blk *blk, unsigned fix, bool leaks,
                       const char *when)
{
    struct blk_check_result result, again;
    struct err err = {""};

    look->findings[0] = '\0';
    if (blk_check(blk, fix, NULL, NULL, &result, &err) != 0) {
        return say(look, "%s, check: %s", when, err.text);
    }
    if (result.corruptions != 0 || result.check_errors != 0 || (result.leaks != 0 && !leaks)) {
        /* Again, for what it says: without anybody listening it is faster. */
        (void)blk_check(blk, 0, keep_finding, look, &again, &err);
        return say(look, "%s, check finds %llu corruptions, %llu leaks:%s", when,
                   (unsigned long long)result.corruptions, (unsigned long long)result.leaks,
                   look->findings);
    }
    return true;
}

static const char *top_name(const struct look *look)
{
    return look->expected->world->workload->files[0];
}

/* Read-only: nothing is corrupt, and everything is there. */
static bool look_at(struct look *look, const char *when)
{
    const struct blk_open_options options = {
        .path = top_name(look), .format = "qcow2", .keys = &crash_key, .key_count = 1};
    struct blk *blk = open_file(look, &options, when);
    struct blk_info info;
    bool ok;

    if (blk == NULL || blk_get_info(blk, &info, NULL) != 0) {
        return false;
    }
    /* A dirty image may have wrong refcounts, one that was damaged before may have more. */
    ok = info.is_dirty || look->expected->world->workload->is_damaged ||
         check_file(look, blk, 0, true, when);
    /* Snapshots change in place where there is no room for more. */
    if (info.is_dirty && !info.lazy_refcounts && !look->expected->world->disk.was_full) {
        ok = say(look, "%s, the image is dirty, and has no lazy refcounts", when);
    }
    ok = ok && compare_device(look, blk, when) && check_tracker(look, blk) &&
         (!look->expected->world->workload->has_key_slots ||
          key_slots_are_whole(blk, look->why, look->size)) &&
         look_at_snapshots(look, blk);
    return close_file(look, blk, when) && ok;
}

static bool is_qcow2(const char *name)
{
    size_t n = strlen(name);

    return n > 6 && strcmp(name + n - 6, ".qcow2") == 0;
}

static bool look_at_others(struct look *look)
{
    const char *const *files = look->expected->world->workload->files;
    bool ok = true;

    for (unsigned i = 1; i < DISK_FILES && files[i] != NULL && ok; i++) {
        const struct blk_open_options options = {
            .path = files[i], .format = "qcow2", .no_backing = true};
        struct blk *blk;

        if (is_qcow2(files[i])) {
            blk = open_file(look, &options, files[i]);
            ok = blk != NULL && check_file(look, blk, 0, true, files[i]);
            ok = blk != NULL && close_file(look, blk, files[i]) && ok;
        }
    }
    return ok;
}

/* Writes some ranges anew, with what they hold: what a guest's repair of its file system would do. */
static bool rewrite_some(struct look *look, struct blk *blk)
{
    uint64_t sectors = blk_length(blk) / SECTOR;
    uint8_t bytes[LONGEST_REWRITE * SECTOR];
    int r = 0;

    for (unsigned i = 0; i < REWRITES && r == 0; i++) {
        uint64_t s = rng_below(&look->rng, sectors);
        uint64_t n = min_u64(rng_between(&look->rng, 1, LONGEST_REWRITE), sectors - s);

        r = blk_pread(blk, s * SECTOR, bytes, n * SECTOR);
        r = r == 0 ? blk_pwrite(blk, s * SECTOR, bytes, n * SECTOR) : r;
    }
    r = r == 0 ? blk_flush(blk) : r;
    return r == 0 || say(look, "after the cut the image cannot be written: %s", strerror(-r));
}

static bool repair(struct look *look, unsigned fix)
{
    const struct blk_open_options options = {
        .path = top_name(look), .format = "qcow2", .writable = true, .for_check = true};
    struct blk *blk = open_file(look, &options, "repair");
    bool ok = blk != NULL && check_file(look, blk, fix, false, "repair") &&
              check_file(look, blk, 0, false, "after repair");

    return blk != NULL && close_file(look, blk, "repair") && ok;
}

static bool recover(struct look *look)
{
    const struct blk_open_options options = {.path = top_name(look),
                                             .format = "qcow2",
                                             .writable = true,
                                             .discard = true,
                                             .keys = &crash_key,
                                             .key_count = 1};
    bool is_damaged = look->expected->world->workload->is_damaged, ok;
    struct blk *blk;

    if (is_damaged && !repair(look, BLK_FIX_LEAKS | BLK_FIX_ERRORS)) {
        return false;
    }
    blk = open_file(look, &options, "opened for writing");
    if (blk == NULL) {
        return false;
    }
    ok = rewrite_some(look, blk);
    ok = close_file(look, blk, "closed after writing") && ok;
    return ok && repair(look, BLK_FIX_LEAKS) && look_at(look, "after more writes and the repair");
}

/* Without opening it: the files are not in use yet. */
static bool is_dirty(struct look *look)
{
    uint8_t features[8];

    pages_read(&look->disk->files[0].pages, AT_INCOMPATIBLE, features, sizeof(features));
    return is_qcow2(top_name(look)) && (load_be64(features) & 1) != 0;
}

/* How qemu-img is told of the image. */
static void image_options(const struct look *look, char *out, size_t size)
{
    if (look->expected->world->workload->is_encrypted) {
        /* This key is no secret. */
        snprintf(out, size,
                 "--object secret,id=s,data=" CRASH_KEY
                 " --image-opts driver=qcow2,file.filename=%.60s,encrypt.key-secret=s",
                 top_name(look));
    } else {
        snprintf(out, size, "-f qcow2 %.60s", top_name(look));
    }
}

/* The same for qemu-img: it checks, and reads all. */
static bool ask_qemu(struct look *look)
{
    uint8_t bytes[SECTOR];
    char options[200], command[320];
    uint64_t s = 0;
    bool ok = true;
    int status;
    FILE *f;

    for (unsigned i = 0; i < look->disk->count; i++) {
        if (!pages_store(&look->disk->files[i].pages, look->disk->files[i].name)) {
            return say(look, "%s cannot be written", look->disk->files[i].name);
        }
    }
    /* Lazy refcounts may be wrong; then it is to repair them. */
    image_options(look, options, sizeof(options));
    snprintf(command, sizeof(command), "qemu-img check -q%s %s > check.txt 2>&1",
             is_dirty(look) ? " -r all" : "", options);
    status = system(command);
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 3)) {
        return say(look, "qemu-img check fails");
    }
    snprintf(command, sizeof(command), "qemu-img convert -O raw %s seen.raw", options);
    f = system(command) == 0 ? fopen("seen.raw", "r") : NULL;
    if (f == NULL) {
        return say(look, "qemu-img convert fails");
    }
    for (; ok && fread(bytes, 1, SECTOR, f) == SECTOR; s++) {
        ok = compare_bytes(look, s, 1, bytes, "read by qemu-img");
    }
    fclose(f);
    return ok && (allowed_has(&look->expected->sizes, (uint32_t)s) ||
                  say(look, "qemu-img sees %llu sectors", (unsigned long long)s));
}

bool verify_disk(struct disk *disk, const struct expected *expected, unsigned flags, uint64_t seed,
                 char *why, size_t size)
{
    struct disk *before = disk_in_use();
    struct look look = {
        .disk = disk, .expected = expected, .rng = {seed}, .why = why, .size = size};
    bool asks = (flags & VERIFY_QEMU) != 0, is_damaged = expected->world->workload->is_damaged;
    bool ok = !asks || is_damaged || ask_qemu(&look);

    disk_use(disk);
    ok = ok && look_at(&look, "after the cut") && look_at_others(&look);
    if (flags & VERIFY_RECOVER || (asks && is_damaged)) {
        ok = ok && recover(&look);
    }
    disk_use(before);
    /* What was spoiled is shown to QEMU when it is repaired. */
    return ok && (!asks || !is_damaged || ask_qemu(&look));
}
