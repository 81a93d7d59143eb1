/*
 * err.h - how a failure travels.
 *
 * A function that can fail returns 0 (or a count) on success and a negative errno value on failure.
 * A function whose failure a person must understand also takes a `struct err *`: the innermost
 * function that knows the facts fills it with ONE line that says what failed, on which file, and
 * why; callers pass it up unchanged or put context in front of it. The program prints it once.
 * Libraries below vmm/ and img/ never print on their own.
 *
 * The text holds no program name, no final newline and no final full stop. It may quote names that
 * come from an image or a user: err_set() replaces control characters, so that a hostile file name
 * cannot drive the terminal.
 *
 * Threads: a struct err belongs to its caller; the functions have no state of their own.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stddef.h>

struct err {
    char text[1024];
};

/* Formats `fmt` into `err` (ignored when NULL) and returns `code`, a negative errno value, so that
 * a caller can write `return err_set(err, -EINVAL, "...")`. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same, with ": " and the text of the errno value behind it. */
int err_set_errno(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts the formatted text and ": " in front of what `err` already says; returns `code`. */
int err_prefix(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Static analysis sees one source file at a time; so that it need not guess what comes back. */
#ifdef __clang_analyzer__
#define err_set(err, code, ...)       ((void)err_set(err, code, __VA_ARGS__), (code))
#define err_set_errno(err, code, ...) ((void)err_set_errno(err, code, __VA_ARGS__), (code))
#define err_prefix(err, code, ...)    ((void)err_prefix(err, code, __VA_ARGS__), (code))
#endif

#endif
