/*
 * fixture.h - what the block engine's tests share: a directory of their own, images made by
 * qemu-img and qemu-io, short ways to open. A helper that fails ends the test.
 */
#ifndef TESTS_BLOCKDEV_FIXTURE_H
#define TESTS_BLOCKDEV_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "block.h"
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char fixture_dir[64];

static inline int fixture_setup(void **state)
{
    (void)state;
    strcpy(fixture_dir, "/tmp/minivmm-unit.XXXXXX");
    return mkdtemp(fixture_dir) != NULL ? chdir(fixture_dir) : -1;
}

static inline int fixture_teardown(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", fixture_dir);
    return chdir("/") != 0 || system(command) != 0;
}

/* Runs a shell command in the test's directory; returns its exit status. */
static inline int try_shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline int try_shell(const char *fmt, ...)
{
    char command[4096];
    va_list args;
    int status;

    va_start(args, fmt);
    vsnprintf(command, sizeof(command), fmt, args);
    va_end(args);
    status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

#define shell(...) assert_int_equal(try_shell(__VA_ARGS__), 0)

static inline struct blk *open_with(const struct blk_open_options *options)
{
    struct err err = {""};
    struct blk *blk = NULL;

    if (blk_open(options, &blk, &err) != 0) {
        fail_msg("%s", err.text);
    }
    return blk;
}

static inline struct blk *open_image(const char *path, bool writable)
{
    const struct blk_open_options options = {
        .path = path,
        .writable = writable,
        .trust_probe = true,
        .discard = true,
    };

    return open_with(&options);
}

/* Opens, expects failure with `code`, and leaves the text in the result. */
static inline struct err refuse_with(const struct blk_open_options *options, int code)
{
    struct err err = {""};
    struct blk *blk = NULL;

    assert_int_equal(blk_open(options, &blk, &err), code);
    assert_true(err.text[0] != '\0');
    assert_null(strchr(err.text, '\n'));
    return err;
}

static inline void close_image(struct blk *blk)
{
    struct err err = {""};

    if (blk_close(blk, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

static inline void assert_says(const struct err *err, const char *words)
{
    if (strstr(err->text, words) == NULL) {
        fail_msg("'%s' does not say '%s'", err->text, words);
    }
}

/* Overwrites bytes of a file. */
static inline void poke(const char *path, uint64_t offset, const void *bytes, size_t length)
{
    FILE *f = fopen(path, "r+");

    assert_non_null(f);
    assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}

static inline void poke_be64(const char *path, uint64_t offset, uint64_t value)
{
    uint8_t raw[8];

    store_be64(raw, value);
    poke(path, offset, raw, sizeof(raw));
}

static inline void poke_be32(const char *path, uint64_t offset, uint32_t value)
{
    uint8_t raw[4];

    store_be32(raw, value);
    poke(path, offset, raw, sizeof(raw));
}

static inline uint64_t peek_be64(const char *path, uint64_t offset)
{
    uint8_t raw[8];
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
    assert_int_equal(fread(raw, 1, sizeof(raw), f), sizeof(raw));
    fclose(f);
    return load_be64(raw);
}

/* Every byte of [offset, offset + length) reads as `byte`. */
static inline void assert_bytes(struct blk *blk, uint64_t offset, size_t length, uint8_t byte)
{
    uint8_t *buffer = malloc(length);

    assert_non_null(buffer);
    memset(buffer, ~byte, length);
    assert_int_equal(blk_pread(blk, offset, buffer, length), 0);
    for (size_t i = 0; i < length; i++) {
        if (buffer[i] != byte) {
            fail_msg("byte %#jx is %#x, not %#x", (uintmax_t)(offset + i), buffer[i], byte);
        }
    }
    free(buffer);
}

static inline void write_bytes(struct blk *blk, uint64_t offset, size_t length, uint8_t byte)
{
    uint8_t *buffer = malloc(length);

    assert_non_null(buffer);
    memset(buffer, byte, length);
    assert_int_equal(blk_pwrite(blk, offset, buffer, length), 0);
    free(buffer);
}

#endif
