/*
 * finding.h - what a target does when the engine breaks a promise: says which, and dies by SIGABRT, so
 * that a fuzzer keeps the input.
 */
#ifndef FUZZ_FINDING_H
#define FUZZ_FINDING_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static inline void __attribute__((format(printf, 1, 2), noreturn)) finding(const char *fmt, ...)
{
    va_list args;

    fputs("finding: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}

#endif
