#include "powercut.h"
#include "suite.h"
#include "verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QEMU_EVERY = 1500, RECOVER_EVERY = 4 };

struct recording {
    const struct settings *settings;
    struct world before, after;
};

/* How image `number` of a moment is looked at: chosen at random, but not by who looks at it. */
static unsigned flags_of(const struct powercut *cut, unsigned number, uint64_t seed)
{
    struct rng rng = rng_fork(seed ^ ~(uint64_t)cut->at << 20, number);

    return (rng_one_in(&rng, RECOVER_EVERY) ? VERIFY_RECOVER : 0) |
           (rng_one_in(&rng, QEMU_EVERY) ? VERIFY_QEMU : 0);
}

/* All images of the moment at which `cut` stands. */
static bool look_at_point(const struct recording *rec, struct powercut *cut, struct result *result)
{
    unsigned wish = rec->settings->images, images = powercut_images(cut, wish), randoms = 0;
    struct expected expected;
    bool ok = true;

    expected_init(&expected, &rec->after, MODEL_AFTER_CUT, cut->time);
    for (unsigned i = 0; i < images && ok; i++) {
        unsigned flags = flags_of(cut, i, rec->settings->seed);
        struct disk image;

        if (!powercut_make(cut, i, rec->settings->seed, &image)) {
            continue;
        }
        ok = verify_disk(&image, &expected, flags, rec->settings->seed + i, result->why,
                         sizeof(result->why));
        result->images++;
        result->asked += flags & VERIFY_QEMU ? 1 : 0;
        randoms += i >= POWERCUT_FIXED ? 1 : 0;
        disk_free(&image);
    }
    result->complete += powercut_is_small(cut) ? 1 : 0;
    result->scanty += !powercut_is_small(cut) && randoms < wish ? 1 : 0;
    expected_free(&expected);
    return ok;
}

static void cut_everywhere(void *opaque, unsigned job, struct result *result)
{
    const struct recording *rec = opaque;
    const struct settings *s = rec->settings;
    size_t count = rec->after.disk.event_count;
    struct powercut cut;

    powercut_init(&cut, &rec->before.disk, &rec->after.disk);
    for (size_t at = 0; at <= count && !result->failed; at++) {
        bool is_wanted = s->only != UINT64_MAX ? at == s->only : at % s->stride == 0 || at == count;

        if (is_wanted && at / s->stride % s->jobs == job) {
            powercut_move(&cut, at);
            result->points++;
            result->failed = !look_at_point(rec, &cut, result);
            result->at = at;
        }
    }
    powercut_free(&cut);
}

void suite_crash(const struct workload *workload, const struct settings *settings,
                 struct result *result)
{
    struct recording rec = {.settings = settings};

    *result = (struct result){0};
    if (world_prepare(&rec.before, workload, settings->seed)) {
        world_copy(&rec.after, &rec.before);
        rec.after.disk.records = true;
        disk_use(&rec.after.disk);
        world_run(&rec.after, workload->steps);
        disk_use(NULL);
        memcpy(result->why, rec.after.complaint, sizeof(rec.after.complaint));
        result->dropped = barriers_drop(&rec.after.disk, settings->drop);
        if (result->why[0] == '\0') {
            suite_run(settings, cut_everywhere, &rec, result);
        }
        world_free(&rec.after);
    } else {
        memcpy(result->why, rec.before.complaint, sizeof(rec.before.complaint));
    }
    result->failed = result->why[0] != '\0';
    world_free(&rec.before);
}
