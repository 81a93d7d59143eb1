/*
 * suite.h - the suites of the crash tests, each over one workload. The work is done by forked
 * processes side by side; what comes out does not depend on how many there are.
 */
#ifndef CRASH_SUITE_H
#define CRASH_SUITE_H

#include "barriers.h"
#include "world.h"

struct settings {
    uint64_t seed;
    unsigned images; /* random ones, to make at each point */
    unsigned stride; /* every how many points, or faults */
    unsigned jobs;
    enum barrier drop; /* leave these out: the suite is expected to find it */
    uint64_t only;     /* this point or fault alone; UINT64_MAX: all */
};

struct result {
    uint64_t points;   /* moments, or faults */
    uint64_t images;   /* that were looked at */
    uint64_t asked;    /* of those, also by qemu-img */
    uint64_t complete; /* points of which every image was looked at */
    uint64_t scanty;   /* points with fewer random images than were wished for */
    uint64_t dropped;  /* barriers */
    bool failed;
    uint64_t at;    /* the first point or fault that failed */
    char why[1400]; /* "" unless failed */
};

/* Cuts the power at every change. */
void suite_crash(const struct workload *workload, const struct settings *settings,
                 struct result *result);
/* Fails every operation. */
void suite_faults(const struct workload *workload, const struct settings *settings,
                  struct result *result);

/* Adds the counts to a sum, and the failure where it is the first. */
void result_add(const struct result *one, struct result *sum);
/* Runs `work` in settings->jobs processes and adds up what they say. */
void suite_run(const struct settings *settings,
               void (*work)(void *opaque, unsigned job, struct result *result), void *opaque,
               struct result *sum);

#endif
