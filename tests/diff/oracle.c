/*
 * oracle - random requests through the block engine against a flat array. Speaks TAP.
 *
 *   oracle [--seed N] [--ops N] [--layout PART-OF-NAME] [--threads N] [--keep] [--list]
 *
 * `--ops` is the number of requests in all. The same seed repeats the requests; with one queue it
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
#include <time.h>

struct settings {
    uint64_t seed, ops;
    const char *layout;
    unsigned threads;
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
        unsigned threads = i % 2 == 0 ? 1 : settings->threads;

        ret = pass_requests(chain, rng, threads, ops / PASSES, err);
        if (ret < 0) {
            return err_prefix(err, ret, "pass %u, %u queues", i, threads);
        }
        if (chain->layout->grows) {
            ret = pass_grow(chain, rng, err);
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
    fprintf(stderr, "usage: oracle [--seed N] [--ops N] [--layout PART-OF-NAME] [--threads N] "
                    "[--keep] [--list]\n");
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
    return 0;
}

static void run_all(const struct settings *settings)
{
    unsigned chosen = 0;
    uint64_t share;
    char name[128];

    for (unsigned i = 0; i < exact_layout_count + overlap_layout_count; i++) {
        chosen +=
            wanted(settings, i < exact_layout_count ? exact_layouts[i].name
                                                    : overlap_layouts[i - exact_layout_count].name);
    }
    share = settings->ops / max_u64(chosen, 1) + 1;
    for (unsigned i = 0; i < exact_layout_count; i++) {
        if (wanted(settings, exact_layouts[i].name)) {
            run_exact(&exact_layouts[i], settings, i, share);
        }
    }
    for (unsigned i = 0; i < overlap_layout_count; i++) {
        struct rng rng = rng_fork(settings->seed, 1000 + i);
        struct err err = {0};

        if (!wanted(settings, overlap_layouts[i].name)) {
            continue;
        }
        snprintf(name, sizeof(name), "overlapping writers, %s", overlap_layouts[i].name);
        if (!tap_result(
                pass_overlapping(&overlap_layouts[i], &rng, settings->threads, share, &err) == 0,
                "%s: no read returns stale or foreign bytes", name)) {
            tap_note("%s", err.text);
        }
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"ops", required_argument, NULL, 'o'},
        {"layout", required_argument, NULL, 'l'},
        {"threads", required_argument, NULL, 't'},
        {"keep", no_argument, NULL, 'k'},
        {"list", no_argument, NULL, 'L'},
        {NULL, 0, NULL, 0},
    };
    struct settings settings = {.seed = (uint64_t)time(NULL), .ops = 100000, .threads = 4};
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
        case 't':
            settings.threads = (unsigned)strtoul(optarg, NULL, 0);
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
    if (optind != argc || settings.threads == 0 || settings.threads > 64) {
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
