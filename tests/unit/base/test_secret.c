/* Keys from files and descriptors, and base64. */
#include "secret.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* What a pipe gives with these bytes in it. */
static int read_pipe(struct secret *secret, const char *bytes, size_t length, struct err *err)
{
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], bytes, length), length);
    (void)close(fds[1]);
    return secret_read_fd(secret, fds[0], err);
}

static void every_byte_counts(void **state)
{
    struct secret secret;
    struct err err;

    (void)state;
    assert_int_equal(read_pipe(&secret, "a\0b\n", 4, &err), 0);
    assert_int_equal(secret.length, 4);
    assert_memory_equal(secret.bytes, "a\0b\n", 4);
    secret_wipe(&secret);
    assert_null(secret.bytes);
}

static void what_is_no_key_is_refused(void **state)
{
    static char large[SECRET_MAX + 1];
    char path[] = "/tmp/minivmm-secret.XXXXXX";
    struct secret secret;
    struct err err;
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(read_pipe(&secret, "", 0, &err), -EINVAL);
    assert_null(secret.bytes);
    assert_int_equal(write(fd, large, sizeof(large) - 1), sizeof(large) - 1);
    assert_int_equal(secret_read_file(&secret, path, &err), 0);
    assert_int_equal(secret.length, SECRET_MAX);
    secret_wipe(&secret);
    assert_int_equal(write(fd, large, 1), 1);
    assert_int_equal(secret_read_file(&secret, path, &err), -EINVAL);
    assert_non_null(strstr(err.text, path));
    (void)close(fd);
    (void)unlink(path);
    assert_int_equal(secret_read_file(&secret, path, &err), -ENOENT);
    assert_int_equal(secret_read_fd(&secret, 987, &err), -EBADF);
}

static void base64_is_decoded(void **state)
{
    static const struct {
        const char *text, *bytes; /* NULL: refused */
    } cases[] = {
        {"Zm9vYmFy", "foobar"},
        {"Zm9vYmE=\n", "fooba"},
        {" Zm9v\nYg==\n", "foob"},
        {"Zm9", NULL},
        {"Zm9v!", NULL},
        {"Zg==Zg==", NULL},
        {"Z===", NULL},
        {"\n", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct secret secret;
        struct err err;
        int rc;

        assert_int_equal(read_pipe(&secret, cases[i].text, strlen(cases[i].text), &err), 0);
        rc = secret_decode_base64(&secret, &err);
        assert_int_equal(rc, cases[i].bytes != NULL ? 0 : -EINVAL);
        if (rc == 0) {
            assert_int_equal(secret.length, strlen(cases[i].bytes));
            assert_memory_equal(secret.bytes, cases[i].bytes, secret.length);
        }
        secret_wipe(&secret);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_counts),
        cmocka_unit_test(what_is_no_key_is_refused),
        cmocka_unit_test(base64_is_decoded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
