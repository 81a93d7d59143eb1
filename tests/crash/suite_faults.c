/*
 * suite_faults.c - every operation of a workload fails in turn, in each of several ways.
 *
 * What was asked for while a fault lasts may fail, and must say so; behind it everything works again
 * unless the image has said that it stopped writing (world_judge()). In the end the files must be an
 * image that lost nothing: all of them as they are, and, unless closing succeeded, as a power cut may
 * leave them.
 */
#include "checked.h"
#include "powercut.h"
#include "suite.h"
#include "verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CUTS = 3 };

#define FOR_GOOD UINT64_MAX
/* Faults are numbered: the way times this, and the operation. */
#define WAY_STEP UINT64_C(1000000)

static const struct fault ways[] = {
    {.ops = DISK_ALL, .count = 1, .code = -EIO},
    {.ops = DISK_ALL, .count = FOR_GOOD, .code = -EIO},
    {.ops = DISK_CHANGES, .count = 3, .code = -ENOSPC},
    {.ops = DISK_CHANGES, .count = FOR_GOOD, .code = -ENOSPC},
};

struct faulty {
    const struct settings *settings;
    struct world before;
};

/* Carries the workload out with a fault; true when the image was closed without an error. */
static bool run_with_fault(const struct faulty *faulty, const struct fault *fault,
                           struct world *world)
{
    bool is_closed;

    world_copy(world, &faulty->before);
    world->disk.records = true;
    world->disk.fault = *fault;
    world->disk.rng = rng_fork(faulty->settings->seed, fault->at);
    disk_use(&world->disk);
    is_closed = world_run(world, world->workload->steps);
    disk_use(NULL);
    world->disk.fault = (struct fault){0};
    return is_closed;
}

static bool look_at_end(const struct faulty *faulty, const struct world *world, bool is_closed,
                        struct result *result)
{
    uint64_t seed = faulty->settings->seed;
    struct expected expected;
    struct powercut cut;
    struct disk image;
    bool ok;

    expected_init(&expected, world, MODEL_AFTER_CUT, world->disk.clock + 1);
    disk_copy(&image, &world->disk);
    ok = verify_disk(&image, &expected, VERIFY_RECOVER, seed, result->why, sizeof(result->why));
    disk_free(&image);
    result->images++;
    powercut_init(&cut, &faulty->before.disk, &world->disk);
    powercut_move(&cut, world->disk.event_count);
    for (unsigned i = 0; !is_closed && ok && i < min_u64(powercut_images(&cut, 0), CUTS); i++) {
        if (!powercut_make(&cut, i, seed, &image)) {
            continue;
        }
        ok = verify_disk(&image, &expected, VERIFY_RECOVER, seed, result->why, sizeof(result->why));
        disk_free(&image);
        result->images++;
    }
    powercut_free(&cut);
    expected_free(&expected);
    return ok;
}

static bool try_fault(const struct faulty *faulty, const struct fault *fault, struct result *result)
{
    struct world world;
    bool is_closed = run_with_fault(faulty, fault, &world), ok = world.complaint[0] == '\0';

    if (ok) {
        ok = look_at_end(faulty, &world, is_closed, result);
    } else {
        memcpy(result->why, world.complaint, sizeof(world.complaint));
    }
    result->points++;
    world_free(&world);
    return ok;
}

/* How many operations the workload has that this kind of fault could hit. */
static uint64_t count_operations(const struct faulty *faulty, const struct fault *way)
{
    struct fault none = *way;
    struct world world;
    uint64_t count;

    none.at = FOR_GOOD;
    run_with_fault(faulty, &none, &world);
    count = world.disk.operations;
    world_free(&world);
    return count;
}

/* What commands of minivmm-img say about faults is of no interest. */
static void be_quiet(void)
{
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || dup2(fd, STDERR_FILENO) < 0) {
        perror("/dev/null");
    }
}

static void fail_everywhere(void *opaque, unsigned job, struct result *result)
{
    const struct faulty *faulty = opaque;
    const struct settings *s = faulty->settings;

    be_quiet();
    for (size_t w = 0; w < ARRAY_LEN(ways) && !result->failed; w++) {
        struct fault fault = ways[w];
        uint64_t count = count_operations(faulty, &fault);

        for (fault.at = 1; fault.at <= count && !result->failed; fault.at++) {
            uint64_t number = w * WAY_STEP + fault.at;
            bool is_wanted =
                s->only != UINT64_MAX ? number == s->only : (fault.at + s->seed) % s->stride == 0;

            if (is_wanted && fault.at / s->stride % s->jobs == job) {
                result->at = number;
                result->failed = !try_fault(faulty, &fault, result);
            }
        }
    }
}

void suite_faults(const struct workload *workload, const struct settings *settings,
                  struct result *result)
{
    struct faulty faulty = {.settings = settings};

    *result = (struct result){0};
    if (world_prepare(&faulty.before, workload, settings->seed)) {
        suite_run(settings, fail_everywhere, &faulty, result);
    } else {
        result->failed = true;
        memcpy(result->why, faulty.before.complaint, sizeof(faulty.before.complaint));
    }
    world_free(&faulty.before);
}
