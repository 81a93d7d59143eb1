/*
 * tap.h - the Test Anything Protocol on standard output, for the test programs that are no cmocka
 * programs. One thread speaks.
 */
#ifndef DIFF_TAP_H
#define DIFF_TAP_H

#include <stdbool.h>

/* One numbered result; the name is formatted. Returns `passed`. */
bool tap_result(bool passed, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tap_skip(const char *reason, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A comment; every line of the text gets its "# ". */
void tap_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints the plan; returns the exit status of the program. */
int tap_finish(void);

#endif
