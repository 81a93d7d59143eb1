/*
 * crash - power cuts and failing I/O at every moment of the workloads of workloads.c.
 */
#include "checked.h"
#include "images.h"
#include "planted.h"
#include "short_io.h"
#include "suite.h"
#include "tap.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Sanitizers make everything slow. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SLOW 1
#endif
#endif
#ifdef IS_SLOW
enum { STRIDE = 10, ROUNDS = 1 };
static const uint64_t promised_cuts = 0;
#else
enum { STRIDE = 1, ROUNDS = 3 };
static const uint64_t promised_cuts = 20000; /* of a whole run */
#endif

enum { DENSE_ROUNDS = 2, SPARSE = 4 };

static const struct suite {
    const char *name;
    void (*run)(const struct workload *workload, const struct settings *settings,
                struct result *result);
    bool has_rounds; /* is worth other seeds in the same run */
} suites[] = {
    {"crash", suite_crash, true},
    {"faults", suite_faults, false},
};

struct choice {
    struct settings settings;
    const char *suite, *workload; /* NULL: all */
    unsigned rounds;              /* seeds that each workload is run with */
    bool is_endless;
};

static const char *program;
static volatile sig_atomic_t is_stopped;

static void stop(int number)
{
    (void)number;
    is_stopped = 1;
}

static void say_how_to_repeat(const struct suite *suite, const struct workload *workload,
                              const struct settings *settings, const struct result *result)
{
    tap_note("at %" PRIu64 ": %s", result->at, result->why);
    tap_note("repeat: %s --suite %s --workload '%s' --seed %" PRIu64 " --only %" PRIu64, program,
             suite->name, workload->name, settings->seed, result->at);
    if (workload->threads > 0) {
        tap_note("threads: another run may order the requests in another way");
    }
}

/* One workload with one seed after the other, until one fails; `settings` is left at the last. Two seeds are
 * looked at from end to end, more of them here and there. */
static void run_rounds(const struct suite *suite, const struct workload *workload, unsigned rounds,
                       struct settings *settings, struct result *sum)
{
    for (unsigned i = 0; i < rounds && !sum->failed; i++) {
        struct result result = {0};

        settings->seed += i > 0;
        settings->stride *= i == DENSE_ROUNDS ? SPARSE : 1;
        suite->run(workload, settings, &result);
        result_add(&result, sum);
    }
}

static bool is_chosen(const struct choice *choice, const struct suite *suite,
                      const struct workload *workload)
{
    return (choice->suite == NULL || strcmp(choice->suite, suite->name) == 0) &&
           (choice->workload == NULL || strcmp(choice->workload, workload->name) == 0);
}

/* Everything that was chosen; false when something failed. *cuts: moments at which power was cut. */
static bool run_all(const struct choice *choice, struct result *sum, uint64_t *cuts, bool speaks)
{
    bool ok = true;

    for (size_t i = 0; i < ARRAY_LEN(suites); i++) {
        const struct suite *suite = &suites[i];

        for (unsigned w = 0; w < workload_count && (ok || speaks); w++) {
            const struct workload *workload = &workloads[w];
            struct settings settings = choice->settings;
            struct result result = {0};

            if (!is_chosen(choice, suite, workload)) {
                continue;
            }
            run_rounds(suite, workload, suite->has_rounds ? choice->rounds : 1, &settings, &result);
            result_add(&result, sum);
            *cuts += suite->run == suite_crash ? result.points : 0;
            if (speaks) {
                tap_result(!result.failed, "%s: %s (%" PRIu64 " points, %" PRIu64 " images)",
                           suite->name, workload->name, result.points, result.images);
            }
            if (result.failed && is_stopped) {
                return false; /* the signal ended those who work, too */
            }
            if (result.failed) {
                say_how_to_repeat(suite, workload, &settings, &result);
                ok = false;
            }
        }
    }
    return ok;
}

static bool wants_planted(const struct choice *choice)
{
    return choice->suite == NULL || strcmp(choice->suite, "planted") == 0;
}

/* Whether a whole run was as thorough as it promises to be. */
static void judge_amount(const struct choice *choice, const struct result *sum, uint64_t cuts)
{
    if (choice->rounds < ROUNDS || choice->settings.stride != STRIDE) {
        return;
    }
    tap_result(cuts >= promised_cuts, "power is cut at %" PRIu64 " moments", cuts);
    tap_result(sum->scanty == 0,
               "%u random images at each, or all that there can be (at %" PRIu64 " moments)",
               choice->settings.images, sum->complete);
}

static int run_endlessly(struct choice *choice)
{
    const struct sigaction action = {.sa_handler = stop, .sa_flags = SA_RESTART};
    struct result sum = {0};
    uint64_t cuts = 0;

    choice->rounds = 1;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    for (uint64_t round = 1; run_all(choice, &sum, &cuts, false);
         round++, choice->settings.seed++) {
        if (is_stopped) {
            break;
        }
        printf("%" PRIu64 " rounds, seed %" PRIu64 ": %" PRIu64 " points, %" PRIu64
               " images, %" PRIu64 " by qemu-img too\n",
               round, choice->settings.seed, sum.points, sum.images, sum.asked);
        fflush(stdout);
    }
    return is_stopped ? 0 : 1;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: crash [--seed N] [--suite NAME] [--workload NAME] [--only N] [--images N]\n"
            "             [--stride N] [--rounds N] [--jobs N] [--endless] [--list]\n");
    return 1;
}

static int list(void)
{
    for (unsigned i = 0; i < workload_count; i++) {
        puts(workloads[i].name);
    }
    return 0;
}

static bool parse(int argc, char **argv, struct choice *choice)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"suite", required_argument, NULL, 'S'},
        {"workload", required_argument, NULL, 'w'},
        {"only", required_argument, NULL, 'o'},
        {"images", required_argument, NULL, 'i'},
        {"stride", required_argument, NULL, 't'},
        {"rounds", required_argument, NULL, 'r'},
        {"jobs", required_argument, NULL, 'j'},
        {"endless", no_argument, NULL, 'e'},
        {"list", no_argument, NULL, 'L'},
        {NULL, 0, NULL, 0},
    };
    struct settings *s = &choice->settings;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint64_t number = optarg != NULL ? strtoull(optarg, NULL, 0) : 0;

        switch (option) {
        case 's':
            s->seed = number;
            break;
        case 'S':
            choice->suite = optarg;
            break;
        case 'w':
            choice->workload = optarg;
            break;
        case 'o':
            s->only = number;
            choice->rounds = 1;
            break;
        case 'i':
            s->images = (unsigned)number;
            break;
        case 't':
            s->stride = (unsigned)number;
            break;
        case 'r':
            choice->rounds = (unsigned)number;
            break;
        case 'j':
            s->jobs = (unsigned)number;
            break;
        case 'e':
            choice->is_endless = true;
            break;
        case 'L':
            exit(list());
        default:
            return false;
        }
    }
    return optind == argc && s->images > 0 && s->stride > 0 && s->jobs > 0 && choice->rounds > 0 &&
           (choice->workload == NULL || workload_find(choice->workload) != NULL);
}

int main(int argc, char **argv)
{
    const char *seed = getenv("SEED");
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct choice choice = {
        .settings =
            {
                .seed = seed != NULL ? strtoull(seed, NULL, 0) : 1,
                .images = 20,
                .stride = STRIDE,
                .jobs = processors > 0 ? (unsigned)processors : 1,
                .only = UINT64_MAX,
            },
        .rounds = ROUNDS,
    };
    struct result sum = {0};
    uint64_t cuts = 0;
    int status;

    program = argv[0];
    if (!parse(argc, argv, &choice)) {
        return usage();
    }
    if (!images_begin()) {
        perror("crash: temporary folder");
        return 1;
    }
    if (choice.is_endless) {
        status = run_endlessly(&choice);
    } else {
        tap_note("seed %" PRIu64 " (SEED=N or --seed N)", choice.settings.seed);
        run_all(&choice, &sum, &cuts, true);
        if (choice.workload == NULL && choice.suite == NULL) {
            judge_amount(&choice, &sum, cuts);
            short_io_tests(&choice.settings);
        }
        if (choice.workload == NULL && wants_planted(&choice)) {
            planted_barriers(&choice.settings);
        }
        tap_note("%" PRIu64 " points, %" PRIu64 " images, %" PRIu64 " by qemu-img too", sum.points,
                 sum.images, sum.asked);
        status = tap_finish();
    }
    images_end();
    return status;
}
