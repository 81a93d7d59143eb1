/*
 * damaged - writes damaged qcow2 images into a directory, for checks to be compared over them.
 *
 *   damaged [--seed N] [--first N] [--count N] DIRECTORY [BASE...]
 *
 * Image N is DIRECTORY/N.qcow2; its number and the seed give it again. Sound images to start from are
 * built here (image_build.c) or are the files BASE. Prints a line an image: number, where the image came
 * from, what it suffered, apart by tabs.
 */
#include "checked.h"
#include "damages.h"
#include "qcow2/format.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TRIES = 40 };
#define MAX_SIZE (UINT64_C(1) << 25)

static struct memfile image;
static struct image_map map;

static void die(const char *path)
{
    fprintf(stderr, "damaged: %s: %s\n", path, strerror(errno));
    exit(2);
}

static void load(const char *path)
{
    static uint8_t piece[MEM_PAGE];
    FILE *file = fopen(path, "re");
    uint64_t at = 0;
    size_t length;

    memfile_clear(&image);
    if (file == NULL) {
        die(path);
    }
    while ((length = fread(piece, 1, sizeof(piece), file)) > 0) {
        bool is_zero = piece[0] == 0 && memcmp(piece, piece + 1, length - 1) == 0;

        if (!is_zero && !memfile_write(&image, at, piece, length)) {
            errno = EFBIG;
            die(path);
        }
        at += length;
    }
    fclose(file);
    (void)memfile_resize(&image, at);
}

static void save(const char *path)
{
    static uint8_t piece[MEM_PAGE];
    FILE *file = fopen(path, "w+e");

    if (file == NULL || ftruncate(fileno(file), (off_t)image.size) != 0) {
        die(path);
    }
    for (const struct mem_page *page = memfile_next(&image, 0); page != NULL;
         page = memfile_next(&image, page->index + 1)) {
        uint64_t at = page->index * MEM_PAGE;

        if (at < image.size) {
            memfile_read(&image, at, piece, sizeof(piece));
            if (pwrite(fileno(file), piece, min_u64(sizeof(piece), image.size - at), (off_t)at) <
                0) {
                die(path);
            }
        }
    }
    fclose(file);
}

/* qemu-img loses all snapshots of an image that has bitmaps too: rarely both. Encrypted images cost a
 * key derivation each time one is opened. */
static unsigned choose_features(struct rng *rng)
{
    unsigned features = BUILD_COMPRESSED | (rng_one_in(rng, 2) ? BUILD_EXTENDED_L2 : 0);

    if (rng_one_in(rng, 2)) {
        features |= BUILD_SNAPSHOTS | (rng_one_in(rng, 10) ? BUILD_BITMAPS : 0);
    } else {
        features |= BUILD_BITMAPS;
    }
    features |= rng_one_in(rng, 3) ? BUILD_BACKING : 0;
    features |= rng_one_in(rng, 3) ? BUILD_DATA_FILE : 0;
    return features | (rng_one_in(rng, 4) ? BUILD_LUKS : 0);
}

/* An image with a data file may say that this alone is what the guest sees. */
static void set_raw_bit(void)
{
    memfile_set_be64(&image, 88, memfile_be64(&image, 88) | QCOW2_AUTOCLEAR_RAW_DATA);
}

static const char *start(struct rng *rng, char **bases, unsigned base_count, char *text,
                         size_t room)
{
    const char *name;

    if (base_count > 0 && rng_one_in(rng, 3)) {
        char *base = bases[rng_below(rng, base_count)];

        load(base);
        name = strrchr(base, '/');
        return name != NULL ? name + 1 : base;
    }
    image_build(&image, rng, 0, choose_features(rng));
    (void)image_find(&image, &map);
    if (map.data_file && memfile_be64(&image, 8) == 0 && rng_one_in(rng, 3)) {
        set_raw_bit();
    }
    snprintf(text, room, "built v%u 2^%u refcount %u%s%s%s%s", map.version, map.cluster_bits,
             1U << map.refcount_order, map.extended_l2 ? " extended" : "",
             map.data_file ? " data file" : "", memfile_be64(&image, 8) != 0 ? " backing" : "",
             memfile_be32(&image, 32) != 0 ? " luks" : "");
    return text;
}

/* Damages the image; it grows only by damage that is about its size, and not beyond what a host has. */
static bool damage(const struct damage *d, struct rng *rng)
{
    uint64_t size = image.size;

    if (!image_find(&image, &map) || !d->apply(&image, &map, rng)) {
        return false;
    }
    if (image.size > size && (d->can_grow ? image.size > MAX_SIZE : true)) {
        (void)memfile_resize(&image, d->can_grow ? MAX_SIZE : size);
    }
    return true;
}

static void add_text(char *text, size_t room, const char *more)
{
    size_t used = strlen(text);

    snprintf(text + used, room - used, "%s%s", used > 0 ? " + " : "", more);
}

/* Each damage of the list has its turn; images are made until one has what it is about. */
static void make(uint64_t seed, uint64_t number, const char *directory, char **bases,
                 unsigned base_count)
{
    struct rng rng = rng_fork(seed, number);
    char path[4096], from_text[100], what[600] = "";
    const struct damage *first = damage_get((unsigned)(number % damage_count()));
    const char *from = NULL;

    for (unsigned tries = 0; tries < MAX_TRIES && what[0] == '\0'; tries++) {
        from = start(&rng, bases, base_count, from_text, sizeof(from_text));
        if (damage(first, &rng)) {
            add_text(what, sizeof(what), first->name);
        }
    }
    for (uint64_t n = rng_one_in(&rng, 4) ? rng_between(&rng, 1, 2) : 0; n > 0; n--) {
        const struct damage *more = damage_get((unsigned)rng_below(&rng, damage_count()));

        if (damage(more, &rng)) {
            add_text(what, sizeof(what), more->name);
        }
    }
    /* Refcounts that agree with the damaged tables lead deeper. */
    if (number % damage_count() >= damages_refcounts.count && rng_one_in(&rng, 4)) {
        image_recount(&image);
        add_text(what, sizeof(what), "recount");
    }
    snprintf(path, sizeof(path), "%s/%llu.qcow2", directory, (unsigned long long)number);
    save(path);
    printf("%llu\t%s\t%s\n", (unsigned long long)number, from, what);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"first", required_argument, NULL, 'f'},
        {"count", required_argument, NULL, 'c'},
        {NULL, 0, NULL, 0},
    };
    uint64_t seed = 1, first = 0, count = 100;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint64_t value = option != '?' ? strtoull(optarg, NULL, 0) : 0;

        if (option == 's') {
            seed = value;
        } else if (option == 'f') {
            first = value;
        } else if (option == 'c') {
            count = value;
        } else {
            return 2;
        }
    }
    if (optind >= argc) {
        fprintf(stderr, "damaged: see the comment at the top of tests/fuzz/damaged.c\n");
        return 2;
    }
    for (uint64_t i = first; i < first + count; i++) {
        make(seed, i, argv[optind], argv + optind + 1, (unsigned)(argc - optind - 1));
    }
    return 0;
}
