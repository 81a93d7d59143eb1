#include "powercut.h"
#include "checked.h"

#include <stdlib.h>
#include <string.h>

enum { FEW_CHOICES = 5, TRIES = 400 };

enum special { IMAGE_NOTHING, IMAGE_ALL, IMAGE_ALL_BUT_ONE, IMAGE_ONLY_LAST, IMAGE_RANDOM };

void powercut_init(struct powercut *cut, const struct disk *start, const struct disk *log)
{
    *cut = (struct powercut){.log = log, .file_count = start->count};
    for (unsigned i = 0; i < start->count; i++) {
        pages_copy(&cut->stable[i], &start->files[i].pages);
    }
    cut->open = calloc(log->event_count + 1, sizeof(cut->open[0]));
    if (cut->open == NULL) {
        abort();
    }
}

void powercut_free(struct powercut *cut)
{
    for (unsigned i = 0; i < cut->file_count; i++) {
        pages_free(&cut->stable[i]);
    }
    free(cut->open);
}

void powercut_move(struct powercut *cut, size_t at)
{
    const struct disk *log = cut->log;
    uint64_t synced[DISK_FILES] = {0}; /* what had ended by then is stable */
    bool is_behind[DISK_FILES] = {false};

    cut->at = at;
    cut->time = at < log->event_count ? log->events[at].start : log->clock + 1;
    cut->open_count = 0;
    cut->choices = 0;
    cut->seen_count = 0;
    for (size_t i = 0; i < at; i++) {
        const struct event *e = &log->events[i];

        if (e->op == DISK_SYNC && e->end < cut->time) {
            synced[e->file] = max_u64(synced[e->file], e->start);
        }
    }
    for (size_t i = 0; i < at; i++) {
        const struct event *e = &log->events[i];
        bool is_certain = e->end < synced[e->file];

        if (e->op == DISK_SYNC || i < cut->applied[e->file]) {
            continue;
        }
        if (is_certain && !is_behind[e->file]) {
            event_apply(e, &cut->stable[e->file]);
            cut->applied[e->file] = i + 1;
            continue;
        }
        is_behind[e->file] = true;
        cut->open[cut->open_count].event = e;
        cut->open[cut->open_count++].is_certain = is_certain;
        cut->choices += is_certain ? 0 : event_sectors(e);
    }
}

bool powercut_is_small(const struct powercut *cut)
{
    return cut->choices <= FEW_CHOICES;
}

unsigned powercut_images(const struct powercut *cut, unsigned randoms)
{
    return powercut_is_small(cut) ? 1U << cut->choices
                                  : (unsigned)min_u64(POWERCUT_FIXED + randoms, POWERCUT_IMAGES);
}

/* Whether a change is put in whole, not at all, up to a sector, or in pieces. */
enum part { PART_NONE, PART_WHOLE, PART_PREFIX, PART_PIECES };

static enum part choose_random(struct rng *rng, unsigned keep_percent)
{
    static const enum part parts[] = {PART_WHOLE, PART_WHOLE, PART_PREFIX, PART_PIECES};

    return rng_below(rng, 100) < keep_percent ? parts[rng_below(rng, ARRAY_LEN(parts))] : PART_NONE;
}

static enum part choose_part(enum special special, bool is_the_one, unsigned percent,
                             struct rng *rng)
{
    switch (special) {
    case IMAGE_NOTHING:
        return PART_NONE;
    case IMAGE_ALL:
        return PART_WHOLE;
    case IMAGE_ALL_BUT_ONE:
        return is_the_one ? PART_NONE : PART_WHOLE;
    case IMAGE_ONLY_LAST:
        return is_the_one ? PART_WHOLE : PART_NONE;
    default:
        return choose_random(rng, percent);
    }
}

/* Which of a change's sectors are there, a byte each. */
static void choose_sectors(enum part part, uint8_t *is_there, uint64_t sectors, struct rng *rng)
{
    uint64_t prefix = part == PART_PREFIX ? rng_below(rng, sectors + 1) : 0;

    for (uint64_t s = 0; s < sectors; s++) {
        is_there[s] =
            part == PART_WHOLE || s < prefix || (part == PART_PIECES && rng_one_in(rng, 2));
    }
}

/* The choices of image `number`, a byte each, in the order of the changes. */
static void choose(const struct powercut *cut, unsigned number, struct rng *rng, uint8_t *is_there)
{
    static const unsigned percents[] = {15, 50, 50, 85};
    unsigned percent = percents[rng_below(rng, ARRAY_LEN(percents))];
    enum special special = number < IMAGE_RANDOM ? number : IMAGE_RANDOM;
    size_t last = cut->open_count, one;

    if (powercut_is_small(cut)) {
        for (uint64_t i = 0; i < cut->choices; i++) {
            is_there[i] = number >> i & 1;
        }
        return;
    }
    while (cut->open[--last].is_certain) {
    }
    one = special == IMAGE_ONLY_LAST ? last : rng_below(rng, last + 1);
    for (size_t i = 0; i < cut->open_count; i++) {
        uint64_t sectors = event_sectors(cut->open[i].event);

        if (!cut->open[i].is_certain) {
            choose_sectors(choose_part(special, i == one, percent, rng), is_there, sectors, rng);
            is_there += sectors;
        }
    }
}

/* Remembers what was chosen; false when it was known. */
static bool is_new(struct powercut *cut, const uint8_t *is_there)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    for (uint64_t i = 0; i < cut->choices; i++) {
        hash = (hash ^ is_there[i]) * UINT64_C(0x100000001b3);
    }
    for (unsigned i = 0; i < cut->seen_count; i++) {
        if (cut->seen[i] == hash) {
            return false;
        }
    }
    cut->seen[cut->seen_count++] = hash;
    return true;
}

/* Puts in the runs of sectors that were chosen. */
static void put_in(const struct event *event, struct pages *pages, const uint8_t *is_there)
{
    uint64_t sectors = event_sectors(event), end;

    for (uint64_t s = 0; s < sectors; s = end) {
        end = s + 1;
        while (end < sectors && is_there[end] == is_there[s]) {
            end++;
        }
        if (is_there[s]) {
            event_apply_sectors(event, pages, s, end - s);
        }
    }
}

static void put_in_all(const struct powercut *cut, const uint8_t *is_there, struct disk *image)
{
    disk_init(image);
    image->count = cut->file_count;
    for (unsigned i = 0; i < cut->file_count; i++) {
        memcpy(image->files[i].name, cut->log->files[i].name, sizeof(image->files[i].name));
        pages_copy(&image->files[i].pages, &cut->stable[i]);
    }
    for (size_t i = 0; i < cut->open_count; i++) {
        const struct event *event = cut->open[i].event;
        struct pages *pages = &image->files[event->file].pages;

        if (cut->open[i].is_certain) {
            event_apply(event, pages);
        } else {
            put_in(event, pages, is_there);
            is_there += event_sectors(event);
        }
    }
}

bool powercut_make(struct powercut *cut, unsigned number, uint64_t seed, struct disk *image)
{
    struct rng rng = rng_fork(seed ^ (uint64_t)cut->at << 20, number);
    uint8_t *is_there = malloc(cut->choices + 1);
    unsigned tries = !powercut_is_small(cut) && number >= IMAGE_RANDOM ? TRIES : 1;
    bool found = false;

    if (is_there == NULL) {
        abort();
    }
    for (unsigned i = 0; i < tries && !found; i++) {
        choose(cut, number, &rng, is_there);
        found = is_new(cut, is_there);
    }
    if (found) {
        put_in_all(cut, is_there, image);
    }
    free(is_there);
    return found;
}
