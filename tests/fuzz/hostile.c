/*
 * hostile - images with damaged metadata through the engine. Speaks TAP.
 *
 *   hostile [--seed N] [--rounds N]
 *
 * Each round takes a good image and changes a few fields of its header, L1 table, L2 tables, refcount
 * table or refcount blocks to values that hurt: zero, all ones, other clusters, misaligned, beyond the
 * file, flags. Then the image is opened and used as guests and tools would. Whatever the image says:
 *   1. no crash, no endless loop, no error but a negative errno value;
 *   2. the backing file keeps its bytes, and no huge allocation is made, in memory or on disk;
 *   3. after a repair that leaves nothing to report a second check finds nothing, and what is written
 *      reads back, or is refused as corrupt with a reason; it never makes new damage.
 */
#include "blockdev.h"
#include "bytes.h"
#include "checked.h"
#include "rng.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SIZE = 1 << 20,
    ROUND_SECONDS = 60,       /* an endless loop ends the program by SIGALRM */
    DISK_LIMIT = 64 << 20,    /* bytes that an image of 1 MiB may come to occupy */
    MEMORY_LIMIT = 512 << 10, /* KiB resident; the reports of sanitizers need more */
};

struct image {
    uint8_t *bytes;
    size_t length;
    unsigned cluster;
    bool has_backing;
};

struct state {
    struct rng rng;
    char dir[128], path[160], base[160];
    uint8_t data[SIZE], back[SIZE];
    const char *problem;
    char findings[2000];  /* of the last check */
    unsigned corruptions; /* of it, that are real */
};

static int write_file(const char *path, const uint8_t *bytes, size_t length)
{
    FILE *file = fopen(path, "we");
    bool ok = file && fwrite(bytes, 1, length, file) == length;

    if (file && fclose(file) != 0) {
        ok = false;
    }
    return ok ? 0 : -EIO;
}

static int read_file(const char *path, uint8_t **bytes, size_t *length)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fstat(fd, &st) == 0;

    if (ok) {
        *length = (size_t)st.st_size;
        *bytes = malloc(*length + 1);
        ok = *bytes && pread(fd, *bytes, *length, 0) == (ssize_t)*length;
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok ? 0 : -EIO;
}

/* A good image with a little of everything in it. */
static int make_image(struct state *s, unsigned cluster, unsigned compat, bool has_backing,
                      struct image *out)
{
    struct blk_create_options create = {.path = s->path,
                                        .format = "qcow2",
                                        .size = SIZE - 512,
                                        .backing_name = has_backing ? "base.raw" : NULL,
                                        .backing_format = has_backing ? "raw" : NULL,
                                        .cluster_size = cluster,
                                        .compat = compat};
    struct blk_open_options open_options = {
        .path = s->path, .format = "qcow2", .writable = true, .discard = true};
    struct blk *blk = NULL;
    int ret = blk_create(&create, NULL);

    if (ret == 0) {
        ret = blk_open(&open_options, &blk, NULL);
    }
    if (ret < 0) {
        return ret;
    }
    for (unsigned i = 0; i < 12 && ret >= 0; i++) {
        uint64_t length = rng_between(&s->rng, 1, 3 * (uint64_t)cluster);
        uint64_t offset = rng_below(&s->rng, SIZE - 512);

        length = min_u64(min_u64(length, 60000), SIZE - 512 - offset);
        rng_fill(&s->rng, s->data, length);
        ret = blk_pwrite(blk, offset, s->data, length);
        if (ret >= 0 && i % 4 == 3) {
            ret = blk_pwrite_zeroes(blk, offset, length, BLK_REQ_MAY_UNMAP);
        }
    }
    if (ret < 0) {
        blk_close(blk, NULL);
        return ret;
    }
    ret = blk_close(blk, NULL);
    out->cluster = cluster;
    out->has_backing = has_backing;
    return ret < 0 ? ret : read_file(s->path, &out->bytes, &out->length);
}

static uint64_t nasty_number(struct state *s, const struct image *image)
{
    uint64_t clusters = image->length / image->cluster;
    static const uint64_t numbers[] = {
        0,
        1,
        2,
        511,
        UINT32_MAX,
        INT64_MAX,
        UINT64_MAX,
        UINT64_C(1) << 63,
        UINT64_C(1) << 62,
        UINT64_C(3) << 62,
        UINT64_C(1) << 56,
        UINT64_C(0x00fffffffffffe00),
        0x7fffffff,
    };
    uint64_t offset = rng_below(&s->rng, clusters + 3) * image->cluster;

    switch (rng_below(&s->rng, 6)) {
    case 0:
        return numbers[rng_below(&s->rng, ARRAY_LEN(numbers))];
    case 1:
        return offset;
    case 2:
        return offset | UINT64_C(1) << 63;
    case 3:
        return offset | UINT64_C(1) << 63 | rng_below(&s->rng, 512);
    case 4:
        return offset + (UINT64_C(1) << rng_below(&s->rng, 40));
    default:
        return rng_next(&s->rng) >> rng_below(&s->rng, 64);
    }
}

/* A byte offset inside a table that an entry of `at` leads to, or inside `at` itself. */
static uint64_t inside_table(struct state *s, const struct image *image, uint64_t at,
                             unsigned depth)
{
    for (; depth > 0; depth--) {
        uint64_t entry, tries;

        for (tries = 0, entry = 0; tries < 8 && entry == 0; tries++) {
            uint64_t index = rng_below(&s->rng, min_u64(image->cluster / 8, 16));

            if (range_within(at + index * 8, 8, image->length)) {
                entry = load_be64(image->bytes + at + index * 8) & UINT64_C(0x00fffffffffffe00);
            }
        }
        if (entry == 0 || !range_within(entry, image->cluster, image->length)) {
            break;
        }
        at = entry;
    }
    return at + rng_below(&s->rng, min_u64(image->cluster, 512)) / 8 * 8;
}

static void damage(struct state *s, const struct image *image, uint8_t *bytes)
{
    static const struct {
        unsigned offset, size;
    } fields[] = {{0, 4},  {4, 4},   {8, 8},   {16, 4},  {20, 4},  {24, 8},  {32, 4},  {36, 4},
                  {40, 8}, {48, 8},  {56, 4},  {60, 4},  {64, 8},  {72, 8},  {80, 8},  {88, 8},
                  {96, 4}, {100, 4}, {104, 1}, {112, 4}, {116, 4}, {120, 4}, {124, 4}, {128, 8}};
    uint64_t l1 = load_be64(image->bytes + 40), reftable = load_be64(image->bytes + 48);
    uint64_t at, value = nasty_number(s, image);

    switch (rng_below(&s->rng, 6)) {
    case 0: {
        unsigned field = (unsigned)rng_below(&s->rng, ARRAY_LEN(fields));
        uint8_t raw[8];

        if (rng_one_in(&s->rng, 3)) {
            value = rng_below(&s->rng, 32);
        }
        store_be64(raw, value);
        memcpy(bytes + fields[field].offset, raw + 8 - fields[field].size, fields[field].size);
        return;
    }
    case 1:
        at = inside_table(s, image, l1, 0);
        break;
    case 2:
    case 3:
        at = inside_table(s, image, l1, 1);
        break;
    case 4:
        at = inside_table(s, image, reftable, 0);
        break;
    default:
        at = inside_table(s, image, reftable, 1);
        value = rng_one_in(&s->rng, 2) ? value : rng_next(&s->rng) & UINT64_C(0x0003000200010000);
    }
    if (range_within(at, 8, image->length)) {
        store_be64(bytes + at, value);
    }
}

static void use_image(struct state *s, struct blk *blk)
{
    uint64_t length = min_u64(blk_length(blk), SIZE);
    struct blk_extent extent;

    (void)blk_pread(blk, 0, s->data, length);
    for (uint64_t at = 0; at < length; at += extent.length) {
        if (blk_map(blk, at, length - at, 0, &extent) < 0 || extent.length == 0) {
            break;
        }
    }
    for (unsigned i = 0; i < 24 && length > 0; i++) {
        uint64_t offset = rng_below(&s->rng, length);
        uint64_t part = rng_between(&s->rng, 1, min_u64(length - offset, 70000));

        switch (rng_below(&s->rng, 5)) {
        case 0:
            (void)blk_pwrite_zeroes(blk, offset, part, BLK_REQ_MAY_UNMAP);
            break;
        case 1:
            (void)blk_pdiscard(blk, offset, part);
            break;
        case 2:
            (void)blk_flush(blk);
            break;
        default:
            (void)blk_pwrite(blk, offset, s->data, part);
        }
    }
    if (rng_one_in(&s->rng, 8)) {
        (void)blk_resize(blk, blk_length(blk) + (2 << 20), NULL);
    }
    if (rng_one_in(&s->rng, 8)) {
        (void)blk_make_empty(blk, NULL);
    }
    (void)blk_pread(blk, 0, s->data, length);
}

static int open_image(struct state *s, bool writable, bool for_check, struct blk **blk)
{
    struct blk_open_options options = {
        .path = s->path,
        .format = "qcow2",
        .writable = writable,
        .discard = true,
        .trust_probe = true,
        .for_check = for_check,
        .no_backing = for_check,
        .metadata_cache = 1,
    };
    struct err err;

    return blk_open(&options, blk, &err);
}

static void note_finding(void *opaque, const char *line)
{
    struct state *s = opaque;
    size_t used = strlen(s->findings);

    /* Two entries that share a cluster are no corruption once its refcount is two. When one of them
     * moves away, the other lacks a flag that nobody may rely on. */
    s->corruptions += strncmp(line, "ERROR", 5) == 0 && !strstr(line, "OFLAG_COPIED");

    snprintf(s->findings + used, sizeof(s->findings) - used, "%s\n", line);
}

static int check_image(struct state *s, unsigned fix, struct blk_check_result *result)
{
    struct blk *blk;
    struct err err;
    int ret = open_image(s, fix != 0, true, &blk), closed;

    if (ret < 0) {
        return ret;
    }
    s->findings[0] = '\0';
    s->corruptions = 0;
    ret = blk_check(blk, fix, note_finding, s, result, &err);
    closed = blk_close(blk, NULL);
    return ret < 0 ? ret : closed;
}

/* Invariant 3, after a repair that claims to have left nothing. */
static void verify_repaired(struct state *s)
{
    struct blk_check_result result = {0};
    struct err why = {0};
    struct blk *blk;
    uint64_t length, offset, part;
    int ret = check_image(s, 0, &result);

    if (ret < 0 || result.corruptions || result.leaks || result.check_errors) {
        s->problem = "a second check finds what the first repaired";
        return;
    }
    ret = open_image(s, true, false, &blk);
    if (ret < 0) {
        /* What a repair does not touch (features, a backing name) may still be refused. */
        return;
    }
    length = min_u64(blk_length(blk), SIZE);
    ret = blk_pread(blk, 0, s->data, length);
    for (unsigned i = 0; i < 16 && length > 0 && ret >= 0; i++) {
        offset = rng_below(&s->rng, length);
        part = rng_between(&s->rng, 1, min_u64(length - offset, 70000));
        rng_fill(&s->rng, s->data + offset, part);
        ret = blk_pwrite(blk, offset, s->data + offset, part);
    }
    if (ret < 0) {
        /* Compressed clusters, and damage that a check of refcounts does not see (an entry that leads
         * to metadata, say), are refused when they are met. Nothing else may fail. */
        if (!blk_problem(blk, &why)) {
            s->problem = "a repaired image fails without a reason";
            snprintf(s->findings, sizeof(s->findings), "%s", strerror(-ret));
        }
        blk_close(blk, NULL);
        return;
    }
    if (!s->problem &&
        (blk_pread(blk, 0, s->back, length) < 0 || memcmp(s->back, s->data, length) != 0)) {
        s->problem = "a repaired image loses what is written";
    }
    if (blk_close(blk, NULL) < 0 && !s->problem) {
        s->problem = "a repaired image cannot be closed";
    }
    if (!s->problem && (check_image(s, 0, &result) < 0 || s->corruptions > 0)) {
        s->problem = "writing to a repaired image damages it";
    }
}

static void check_disk_use(struct state *s)
{
    struct stat st;

    if (stat(s->path, &st) == 0 && st.st_blocks * 512 > DISK_LIMIT) {
        s->problem = "the image occupies far more than it can hold";
    }
}

static void play_round(struct state *s, const struct image *image)
{
    uint8_t *bytes = malloc(image->length);
    struct blk_check_result result = {0};
    unsigned changes = (unsigned)rng_between(&s->rng, 1, 3);
    bool use_first = rng_one_in(&s->rng, 2);
    struct blk *blk;

    if (!bytes) {
        s->problem = "out of memory";
        return;
    }
    memcpy(bytes, image->bytes, image->length);
    while (changes-- > 0) {
        damage(s, image, bytes);
    }
    if (write_file(s->path, bytes, image->length) < 0) {
        s->problem = "cannot write the image";
    }
    free(bytes);
    alarm(ROUND_SECONDS);
    if (open_image(s, false, false, &blk) == 0) {
        use_image(s, blk);
        blk_close(blk, NULL);
    }
    if (use_first && open_image(s, true, false, &blk) == 0) {
        use_image(s, blk);
        blk_close(blk, NULL);
    }
    check_disk_use(s);
    (void)check_image(s, 0, &result);
    result = (struct blk_check_result){0};
    if (check_image(s, BLK_FIX_LEAKS | BLK_FIX_ERRORS, &result) == 0 && result.corruptions == 0 &&
        result.leaks == 0 && result.check_errors == 0) {
        verify_repaired(s);
    }
    alarm(0);
}

static bool base_is_intact(struct state *s, const uint8_t *base)
{
    uint8_t *now = NULL;
    size_t length = 0;
    bool ok = read_file(s->base, &now, &length) == 0 && length == SIZE && !memcmp(now, base, SIZE);

    free(now);
    return ok;
}

/* One kind of image, `rounds` times damaged. */
static void play(struct state *s, unsigned cluster, unsigned compat, bool has_backing,
                 unsigned rounds, const uint8_t *base)
{
    struct image image = {0};
    struct rusage usage;
    unsigned round = 0;
    uint64_t at = 0;

    s->problem = NULL;
    if (make_image(s, cluster, compat, has_backing, &image) < 0) {
        s->problem = "cannot make an image";
    }
    for (; round < rounds && !s->problem; round++) {
        at = s->rng.state;
        play_round(s, &image);
    }
    if (!s->problem && !base_is_intact(s, base)) {
        s->problem = "the backing file changed";
    }
    if (!s->problem && getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_maxrss > MEMORY_LIMIT) {
        s->problem = "a hostile image made the engine use too much memory";
    }
    if (!tap_result(!s->problem, "%u damaged images, %u-byte clusters, version %u%s", rounds,
                    cluster, compat, has_backing ? ", backing file" : "")) {
        tap_note("round %u (state %llx): %s; the image is kept as %s.bad\n%s", round,
                 (unsigned long long)at, s->problem, s->dir, s->findings);
        char bad[200];
        snprintf(bad, sizeof(bad), "%s.bad", s->dir);
        rename(s->path, bad);
    }
    unlink(s->path);
    free(image.bytes);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"rounds", required_argument, NULL, 'r'},
                                            {NULL, 0, NULL, 0}};
    static const unsigned clusters[] = {512, 4096, 65536};
    static struct state s;
    static uint8_t base[SIZE];
    uint64_t seed = (uint64_t)time(NULL);
    unsigned rounds = 400;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's') {
            seed = strtoull(optarg, NULL, 0);
        } else if (option == 'r') {
            rounds = (unsigned)strtoul(optarg, NULL, 0);
        } else {
            return 2;
        }
    }
    tap_note("seed %llu (repeat with --seed)", (unsigned long long)seed);
    s.rng = rng_fork(seed, 0);
    snprintf(s.dir, sizeof(s.dir), "%s/minivmm-hostile.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(s.dir)) {
        perror("mkdtemp");
        return 1;
    }
    snprintf(s.path, sizeof(s.path), "%s/image.qcow2", s.dir);
    snprintf(s.base, sizeof(s.base), "%s/base.raw", s.dir);
    rng_fill(&s.rng, base, SIZE);
    write_file(s.base, base, SIZE);
    for (unsigned i = 0; i < ARRAY_LEN(clusters); i++) {
        for (unsigned compat = 2; compat <= 3; compat++) {
            play(&s, clusters[i], compat, compat == 3 || i == 1, rounds, base);
        }
    }
    unlink(s.base);
    rmdir(s.dir);
    return tap_finish();
}
