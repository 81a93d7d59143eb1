/*
 * oracle - random requests through the block engine against a flat array. Speaks TAP.
 *
 *   oracle [--seed N] [--operations N] [--queues N] [--layout PART-OF-NAME] [--keep] [--list]
 *
 * `--operations` is the number of requests in all, `--queues` how many queues work at once, on as many
 * threads, where several do. The same seed repeats the requests; with one queue it
 * repeats the run exactly.
 */
#include "checked.h"
#include "layouts.h"
#include "pass.h"
#include "planted.h"
#include "tap.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A warm overlay has so many tables to spread requests over. */
enum { WARM_SHARE = 10 };

struct settings {
    uint64_t seed, ops;
    const char *layout;
    unsigned queues;
    bool keep;
};

/* Fills the layers below the top. */
static int build_below(struct chain *chain, struct rng *rng, uint64_t ops, struct err *err)
{
    for (unsigned i = 0; i + 1 < chain->layout->count; i++) {
        int ret = chain_add_layer(chain, err);

        if (ret == 0) {
            ret = pass_requests(chain, rng, 1, ops, err);
        }
        if (ret == 0) {
            ret = chain_seal_top(chain, err);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return chain_add_layer(chain, err);
}

/* The top layer: alone and in parallel, closed and opened again in between. */
static int work_on_top(struct chain *chain, struct rng *rng, const struct settings *settings,
                       uint64_t ops, struct err *err)
{
    enum { PASSES = 4 };
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < PASSES; i++) {
        unsigned threads = i % 2 == 0 ? 1 : settings->queues;

        ret = pass_requests(chain, rng, threads, ops / PASSES, err);
        if (ret < 0) {
            return err_prefix(err, ret, "pass %u, %u queues", i, threads);
        }
        if (chain->layout->grows) {
            ret = pass_grow(chain, rng, err);
        }
        if (ret == 0 && chain->layout->snapshots) {
            ret = pass_snapshot(chain, rng, err);
        }
    }
    return ret == 0 ? pass_compare(chain, rng, err) : ret;
}

static void run_exact(const struct layout *layout, const struct settings *settings, uint64_t index,
                      uint64_t ops)
{
    struct rng rng = rng_fork(settings->seed, index);
    struct chain chain;
    struct err err = {0};
    int ret = chain_init(&chain, layout, &err);
    uint64_t below = ops / 3;

    if (ret == 0 && layout->count > 1) {
        ret = build_below(&chain, &rng, below / (layout->count - 1), &err);
        ops -= below;
    } else if (ret == 0) {
        ret = chain_add_layer(&chain, &err);
    }
    if (ret == 0) {
        ret = work_on_top(&chain, &rng, settings, ops, &err);
    }
    if (!tap_result(ret == 0, "%s: every read returns what was written", layout->name)) {
        tap_note("%s", err.text);
    }
    if (ret == 0 && layout->count > 1) {
        ret = chain_check_seals(&chain, &err);
        if (!tap_result(ret == 0, "%s: backing files keep their bytes", layout->name)) {
            tap_note("%s", err.text);
        }
    }
    if (ret == 0) {
        ret = chain_check(&chain, &err);
        if (!tap_result(ret == 0, "%s: blk_check finds nothing", layout->name)) {
            tap_note("%s", err.text);
        }
    }
    if (ret == 0) {
        ret = chain_ask_qemu(&chain, &err);
        if (ret == -ENOENT) {
            tap_skip("no qemu-img", "%s: qemu-img agrees", layout->name);
        } else if (!tap_result(ret == 0, "%s: qemu-img agrees", layout->name)) {
            tap_note("%s", err.text);
        }
    }
    if (ret < 0 && settings->keep) {
        tap_note("the images are in %s", chain.dir);
    }
    chain_free(&chain, ret < 0 && settings->keep);
}

static bool wanted(const struct settings *settings, const char *name)
{
    return !settings->layout || strstr(name, settings->layout);
}

static int usage(void)
{
    fprintf(stderr, "usage: oracle [--seed N] [--operations N] [--queues N] "
                    "[--layout PART-OF-NAME] [--keep] [--list]\n");
    return 1;
}

static int list(void)
{
    for (unsigned i = 0; i < exact_layout_count; i++) {
        puts(exact_layouts[i].name);
    }
    for (unsigned i = 0; i < overlap_layout_count; i++) {
        printf("overlapping writers: %s\n", overlap_layouts[i].name);
    }
    for (unsigned i = 0; i < warm_layout_count; i++) {
        printf("warm: %s\n", warm_layouts[i].name);
    }
    return 0;
}

typedef int (*parallel_pass)(const struct layout *layout, struct rng *rng, unsigned queues,
                             uint64_t ops, struct err *err);

static void run_parallel(parallel_pass pass, const char *kind, const char *claim,
                         const struct layout *layout, const struct settings *settings,
                         uint64_t index, uint64_t ops)
{
    struct rng rng = rng_fork(settings->seed, index);
    struct err err = {0};

    if (!tap_result(pass(layout, &rng, settings->queues, ops, &err) == 0, "%s, %s: %s", kind,
                    layout->name, claim)) {
        tap_note("%s", err.text);
    }
}

static unsigned count_wanted(const struct settings *settings, const struct layout *layouts,
                             unsigned count)
{
    unsigned wanted_count = 0;

    for (unsigned i = 0; i < count; i++) {
        wanted_count += wanted(settings, layouts[i].name);
    }
    return wanted_count;
}

static void run_all(const struct settings *settings)
{
    unsigned chosen = count_wanted(settings, exact_layouts, exact_layout_count) +
                      count_wanted(settings, overlap_layouts, overlap_layout_count) +
                      WARM_SHARE * count_wanted(settings, warm_layouts, warm_layout_count);
    uint64_t share = settings->ops / max_u64(chosen, 1) + 1;

    for (unsigned i = 0; i < exact_layout_count; i++) {
        if (wanted(settings, exact_layouts[i].name)) {
            run_exact(&exact_layouts[i], settings, i, share);
        }
    }
    for (unsigned i = 0; i < overlap_layout_count; i++) {
        if (wanted(settings, overlap_layouts[i].name)) {
            run_parallel(pass_overlapping, "overlapping writers",
                         "no read returns stale or foreign bytes", &overlap_layouts[i], settings,
                         1000 + i, share);
        }
    }
    for (unsigned i = 0; i < warm_layout_count; i++) {
        if (wanted(settings, warm_layouts[i].name)) {
            run_parallel(pass_warm, "warm", "every read returns what was written", &warm_layouts[i],
                         settings, 2000 + i, WARM_SHARE * share);
        }
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"operations", required_argument, NULL, 'o'},
        {"layout", required_argument, NULL, 'l'},
        {"queues", required_argument, NULL, 'q'},
        {"keep", no_argument, NULL, 'k'},
        {"list", no_argument, NULL, 'L'},
        {NULL, 0, NULL, 0},
    };
    struct settings settings = {.seed = 1, .ops = 100000, .queues = 8};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            settings.seed = strtoull(optarg, NULL, 0);
            break;
        case 'o':
            settings.ops = strtoull(optarg, NULL, 0);
            break;
        case 'l':
            settings.layout = optarg;
            break;
        case 'q':
            settings.queues = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'k':
            settings.keep = true;
            break;
        case 'L':
            return list();
        default:
            return usage();
        }
    }
    if (optind != argc || settings.queues == 0 || settings.queues > 64) {
        return usage();
    }
    tap_note("seed %llu, %llu requests (repeat with --seed)", (unsigned long long)settings.seed,
             (unsigned long long)settings.ops);
    run_all(&settings);
    if (!settings.layout) {
        planted_faults(settings.seed);
    }
    return tap_finish();
}
