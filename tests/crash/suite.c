#include "suite.h"
#include "checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_JOBS = 16 };

static bool read_all(int fd, void *bytes, size_t length)
{
    uint8_t *at = bytes;

    while (length > 0) {
        ssize_t n = read(fd, at, length);

        if (n <= 0) {
            return false;
        }
        at += n;
        length -= (size_t)n;
    }
    return true;
}

void result_add(const struct result *one, struct result *sum)
{
    sum->points += one->points;
    sum->images += one->images;
    sum->asked += one->asked;
    sum->complete += one->complete;
    sum->scanty += one->scanty;
    if (one->failed && (!sum->failed || one->at < sum->at)) {
        sum->failed = true;
        sum->at = one->at;
        memcpy(sum->why, one->why, sizeof(sum->why));
    }
}

/* Each job has a folder of its own below the current one, for what qemu-img is to see. */
static void run_job(void (*work)(void *opaque, unsigned job, struct result *result), void *opaque,
                    unsigned job, int fd)
{
    struct result result = {0};
    char name[32];

    snprintf(name, sizeof(name), "job%d", (int)getpid());
    if (mkdtemp(strcat(name, ".XXXXXX")) == NULL || chdir(name) != 0) {
        result.failed = true;
        snprintf(result.why, sizeof(result.why), "%s: no such folder", name);
    } else {
        work(opaque, job, &result);
    }
    _exit(write(fd, &result, sizeof(result)) == (ssize_t)sizeof(result) ? 0 : 1);
}

void suite_run(const struct settings *settings,
               void (*work)(void *opaque, unsigned job, struct result *result), void *opaque,
               struct result *sum)
{
    unsigned jobs = settings->jobs < MAX_JOBS ? settings->jobs : MAX_JOBS;
    int fds[MAX_JOBS][2];
    pid_t pids[MAX_JOBS];

    fflush(stdout);
    for (unsigned j = 0; j < jobs; j++) {
        if (pipe(fds[j]) != 0 || (pids[j] = fork()) < 0) {
            perror("crash");
            exit(1);
        }
        if (pids[j] == 0) {
            run_job(work, opaque, j, fds[j][1]);
        }
        close(fds[j][1]);
    }
    for (unsigned j = 0; j < jobs; j++) {
        struct result one = {0};
        int status;

        if (!read_all(fds[j][0], &one, sizeof(one))) {
            one = (struct result){.failed = true};
            snprintf(one.why, sizeof(one.why), "the process that did the work died");
        }
        result_add(&one, sum);
        close(fds[j][0]);
        waitpid(pids[j], &status, 0);
    }
}
