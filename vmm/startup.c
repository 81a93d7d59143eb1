/*
 * startup.c - process start to first guest instruction.
 *
 * The CPU time counts from exec on. The wall clock begins in a constructor, which runs behind the
 * dynamic linker: the kernel's own figure (/proc/self/stat) has a resolution of 10 ms only.
 */
#include "startup.h"

#include "log.h"

#include <time.h>

static struct timespec begin;

__attribute__((constructor)) static void note_begin(void)
{
    clock_gettime(CLOCK_MONOTONIC, &begin);
}

void startup_log(void)
{
    struct timespec now, cpu;

    clock_gettime(CLOCK_MONOTONIC, &now);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    log_debug("first guest instruction after %.2f ms of CPU time, %.2f ms of wall time",
              (double)cpu.tv_sec * 1e3 + (double)cpu.tv_nsec / 1e6,
              (double)(now.tv_sec - begin.tv_sec) * 1e3 +
                  (double)(now.tv_nsec - begin.tv_nsec) / 1e6);
}
