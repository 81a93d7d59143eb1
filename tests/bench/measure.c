/*
 * measure - runs a command and prints "WALL CPU RSS": wall seconds from before the fork to the exit,
 * CPU seconds of user and system, largest resident set in KiB. A small program of its own, because the
 * resident set of a child counts from the fork on, and that of the caller may be large. The command's
 * output is thrown away; the exit status is the command's.
 */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
    struct rusage usage;
    posix_spawn_file_actions_t actions;
    double start;
    int status, failed;
    pid_t pid;

    if (argc < 2) {
        fputs("usage: measure COMMAND [ARGUMENT...]\n", stderr);
        return 125;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    start = now();
    failed = posix_spawnp(&pid, argv[1], &actions, NULL, argv + 1, environ);
    if (failed || wait4(pid, &status, 0, &usage) != pid) {
        fprintf(stderr, "measure: cannot run %s\n", argv[1]);
        return 125;
    }
    printf("%.6f %.6f %ld\n", now() - start, seconds(usage.ru_utime) + seconds(usage.ru_stime),
           usage.ru_maxrss);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
