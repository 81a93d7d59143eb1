/*
 * measure - runs a command and prints "WALL CPU RSS": wall seconds from before the fork to the exit,
 * CPU seconds of user and system, largest resident set in KiB. A small program of its own, because the
 * resident set of a child counts from the fork on, and that of the caller may be large. The command's
 * output is thrown away; the exit status is the command's.
 *
 * With -n RUNS it is run so many times, and with -x FILE that file is removed before each: the times are then
 * medians, the resident set the largest of all. The first run that fails is the last one.
 */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RUNS = 100 };

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double seconds(struct timeval tv)
{
    return (double)tv.tv_sec + (double)tv.tv_usec / 1e6;
}

struct run {
    double wall, cpu;
    long rss;
};

/* The exit status, as a shell has it; 125 when it could not be run. */
static int run_once(char **argv, struct run *run)
{
    struct rusage usage;
    posix_spawn_file_actions_t actions;
    double start;
    int status, failed;
    pid_t pid;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    start = now();
    failed = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    if (failed || wait4(pid, &status, 0, &usage) != pid) {
        fprintf(stderr, "measure: cannot run %s\n", argv[0]);
        return 125;
    }
    *run = (struct run){
        .wall = now() - start,
        .cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime),
        .rss = usage.ru_maxrss,
    };
    posix_spawn_file_actions_destroy(&actions);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare);
    return n % 2 != 0 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

int main(int argc, char **argv)
{
    double walls[MAX_RUNS], cpus[MAX_RUNS];
    const char *remove_first = NULL;
    size_t n = 1;
    long rss = 0;
    int option, status = 0;

    while ((option = getopt(argc, argv, "+n:x:")) != -1) {
        if (option == 'n')
            n = strtoul(optarg, NULL, 10);
        else if (option == 'x')
            remove_first = optarg;
        else
            n = 0;
    }
    if (optind >= argc || n == 0 || n > MAX_RUNS) {
        fputs("usage: measure [-n RUNS] [-x FILE] COMMAND [ARGUMENT...]\n", stderr);
        return 125;
    }
    for (size_t i = 0; i < n; i++) {
        struct run run;

        if (remove_first != NULL)
            (void)unlink(remove_first);
        status = run_once(argv + optind, &run);
        if (status != 0 && (status == 125 || n > 1))
            return status;
        walls[i] = run.wall;
        cpus[i] = run.cpu;
        rss = run.rss > rss ? run.rss : rss;
    }
    printf("%.6f %.6f %ld\n", median(walls, n), median(cpus, n), rss);
    return status;
}
