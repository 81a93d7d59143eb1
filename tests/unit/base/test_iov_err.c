#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bytes.h"
#include "err.h"
#include "iov.h"

enum { TOTAL = 64 };

/* Cuts `buffer` into a vector of pieces, empty ones among them. */
static int cut(struct iovec *iov, unsigned char *buffer, const size_t *lengths, int count)
{
    size_t at = 0;

    for (int i = 0; i < count; i++) {
        iov[i].iov_base = buffer + at;
        iov[i].iov_len = lengths[i];
        at += lengths[i];
    }
    return count;
}

static void copies_agree_with_a_flat_buffer_at_every_offset_and_length(void **state)
{
    static const size_t lengths[] = {0, 1, 7, 0, 0, 24, 32, 0};
    unsigned char buffer[TOTAL], flat[TOTAL], out[TOTAL + 8];
    struct iovec iov[8], part[8];
    int count = cut(iov, buffer, lengths, 8);

    (void)state;
    assert_int_equal(iov_length(iov, count), TOTAL);
    for (unsigned i = 0; i < TOTAL; i++)
        flat[i] = buffer[i] = (unsigned char)(i * 7 + 1);
    for (size_t offset = 0; offset <= TOTAL + 2; offset++) {
        for (size_t length = 0; length <= TOTAL + 4; length++) {
            size_t room = offset < TOTAL ? TOTAL - offset : 0;
            size_t want = length < room ? length : room;
            int pieces;

            assert_int_equal(iov_to_buf(iov, count, offset, out, length), want);
            if (want > 0)
                assert_memory_equal(out, flat + offset, want);
            pieces = iov_slice(part, 8, iov, count, offset, length);
            assert_int_equal(iov_length(part, pieces), want);
            if (want > 0)
                assert_ptr_equal(part[0].iov_base, buffer + offset);
        }
    }
    assert_int_equal(iov_fill(iov, count, 5, 0xee, 10), 10);
    memset(flat + 5, 0xee, 10);
    assert_int_equal(iov_from_buf(iov, count, 60, "abcdefgh", 8), 4);
    memcpy(flat + 60, "abcd", 4);
    assert_memory_equal(buffer, flat, TOTAL);
}

static void a_slice_stops_where_the_room_ends(void **state)
{
    unsigned char buffer[TOTAL];
    static const size_t lengths[] = {16, 16, 16, 16};
    struct iovec iov[4], part[2];
    int count = cut(iov, buffer, lengths, 4);

    (void)state;
    assert_int_equal(iov_slice(part, 2, iov, count, 8, 40), 2);
    assert_int_equal(iov_length(part, 2), 24);
}

static void messages_nest_and_hold_no_control_characters(void **state)
{
    struct err err;

    (void)state;
    assert_int_equal(err_set(&err, -EINVAL, "bad name '%s'", "a\x1b[31mb\nc"), -EINVAL);
    assert_string_equal(err.text, "bad name 'a?[31mb?c'");
    assert_int_equal(err_prefix(&err, -EIO, "Could not open '%s'", "x"), -EIO);
    assert_string_equal(err.text, "Could not open 'x': bad name 'a?[31mb?c'");
    assert_int_equal(err_set_errno(&err, -ENOENT, "Could not open '%s'", "y"), -ENOENT);
    assert_string_equal(err.text, "Could not open 'y': No such file or directory");
    assert_int_equal(err_set(NULL, -EINVAL, "nobody listens"), -EINVAL);
    assert_int_equal(err_prefix(NULL, -EINVAL, "nobody listens"), -EINVAL);
}

static void a_long_message_is_cut_not_overrun(void **state)
{
    struct err err;
    char *name = malloc(5000);

    (void)state;
    memset(name, 'n', 4999);
    name[4999] = '\0';
    err_set(&err, -EINVAL, "%s", name);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    err_prefix(&err, -EINVAL, "%s", name);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    free(name);
}

static void byte_order_is_the_one_in_the_name(void **state)
{
    unsigned char bytes[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};

    (void)state;
    assert_int_equal(load_be16(bytes + 1), 0x0102);
    assert_int_equal(load_le16(bytes + 1), 0x0201);
    assert_int_equal(load_be32(bytes + 1), 0x01020304);
    assert_int_equal(load_le32(bytes + 1), 0x04030201);
    assert_true(load_be64(bytes + 1) == UINT64_C(0x0102030405060708));
    assert_true(load_le64(bytes + 1) == UINT64_C(0x0807060504030201));
    store_be64(bytes + 1, UINT64_C(0x1112131415161718));
    assert_int_equal(bytes[1], 0x11);
    store_le32(bytes, 0xa0b0c0d0);
    assert_int_equal(bytes[0], 0xd0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_agree_with_a_flat_buffer_at_every_offset_and_length),
        cmocka_unit_test(a_slice_stops_where_the_room_ends),
        cmocka_unit_test(messages_nest_and_hold_no_control_characters),
        cmocka_unit_test(a_long_message_is_cut_not_overrun),
        cmocka_unit_test(byte_order_is_the_one_in_the_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
