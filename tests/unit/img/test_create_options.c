/*
 * test_create_options.c - the -o option list, and the small parsers of the command line.
 */
#include "create_options.h"
#include "img.h"
#include "zero.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int parse(struct create_options *options, const char *format, const char *text)
{
    int rc = 0;

    *options = (struct create_options){.blk = {.path = "x", .format = format}};
    if (text != NULL)
        rc = create_options_add(options, text);
    if (rc == 0)
        rc = create_options_parse(options, "x");
    return rc == 0 ? create_options_finish(options, "x") : rc;
}

static void defaults(void **state)
{
    struct create_options o;

    (void)state;
    assert_int_equal(parse(&o, "qcow2", NULL), 0);
    assert_int_equal(o.blk.cluster_size, 65536);
    assert_int_equal(o.blk.compat, 3);
    assert_false(o.has_size);
    assert_null(o.blk.backing_name);
    create_options_free(&o);
}

static void values_are_read(void **state)
{
    struct create_options o;

    (void)state;
    assert_int_equal(
        parse(&o, "qcow2",
              "cluster_size=4k,compat=0.10,size=1.5G,backing_file=a,,b,backing_fmt=raw,"
              "preallocation=falloc,refcount_bits=0x10,extended_l2=on,"
              "compression_type=zstd"),
        0);
    assert_int_equal(o.blk.refcount_bits, 16);
    assert_true(o.blk.extended_l2);
    assert_string_equal(o.blk.compression_type, "zstd");
    assert_int_equal(o.blk.cluster_size, 4096);
    assert_int_equal(o.blk.compat, 2);
    assert_true(o.has_size);
    assert_int_equal(o.blk.size, UINT64_C(3) << 29);
    assert_string_equal(o.blk.backing_name, "a,b");
    assert_string_equal(o.blk.backing_format, "raw");
    assert_int_equal(o.blk.prealloc, BLK_PREALLOC_FALLOC);
    create_options_free(&o);
}

static void later_lists_win(void **state)
{
    struct create_options o = {.blk = {.path = "x", .format = "qcow2"}};

    (void)state;
    assert_int_equal(create_options_add(&o, "cluster_size=4k"), 0);
    assert_int_equal(create_options_add(&o, "cluster_size=8k"), 0);
    assert_int_equal(create_options_parse(&o, NULL), 0);
    assert_int_equal(o.blk.cluster_size, 8192);
    create_options_free(&o);
}

static void what_cannot_be_had_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        ",",
        "a",
        "cluster_size=",
        "cluster_size=0",
        "size=-1",
        "compat=4",
        "compat",
        "preallocation",
        "lazy_refcounts=maybe",
        "refcount_bits=x",
        "extended_l2=maybe",
        "encryption=on",
        "encrypt.format=luks",
        "compression_type=lz4",
        "cluster_size=99999999999G",
        "nocow=maybe",
        "extent_size_hint=x",
        "cluster_size=4k,",
        "=4k",
    };
    struct create_options o;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (parse(&o, "qcow2", bad[i]) == 0)
            fail_msg("'%s' was accepted", bad[i]);
        create_options_free(&o);
    }
    assert_int_equal(parse(&o, "raw", "cluster_size=4k"), -1);
    create_options_free(&o);
}

static void help_is_recognised_anywhere(void **state)
{
    struct create_options o = {.text = NULL};

    (void)state;
    assert_false(create_options_help(&o, "qcow2", false));
    assert_int_equal(create_options_add(&o, "foo=helpful,helper"), 0);
    assert_false(create_options_help(&o, "qcow2", false));
    assert_int_equal(create_options_add(&o, "help"), 0);
    assert_true(create_options_help(&o, "qcow2", true));
    create_options_free(&o);
}

static void cache_modes(void **state)
{
    enum blk_cache cache = BLK_CACHE_WRITEBACK;

    (void)state;
    assert_true(img_parse_cache("none", "cache", &cache));
    assert_int_equal(cache, BLK_CACHE_DIRECT);
    assert_true(img_parse_cache("unsafe", "cache", &cache));
    assert_int_equal(cache, BLK_CACHE_UNSAFE);
    assert_true(img_parse_cache("writethrough", "cache", &cache));
    assert_int_equal(cache, BLK_CACHE_WRITEBACK);
    assert_false(img_parse_cache("fast", "cache", &cache));
}

static void one_byte_makes_a_buffer_not_zero(void **state)
{
    enum { LENGTH = 300 };
    unsigned char buf[LENGTH] = {0};

    (void)state;
    for (size_t length = 1; length <= LENGTH; length++) {
        assert_true(buffer_is_zero(buf, length));
        for (size_t at = 0; at < length; at++) {
            buf[at] = 1;
            assert_false(buffer_is_zero(buf, length));
            buf[at] = 0;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(values_are_read),
        cmocka_unit_test(later_lists_win),
        cmocka_unit_test(what_cannot_be_had_is_refused),
        cmocka_unit_test(help_is_recognised_anywhere),
        cmocka_unit_test(cache_modes),
        cmocka_unit_test(one_byte_makes_a_buffer_not_zero),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
