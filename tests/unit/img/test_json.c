/*
 * test_json.c - strings of arbitrary bytes in JSON.
 */
#include "json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void becomes(const char *bytes, const char *json)
{
    json_t *value = json_text(bytes);
    char *text;

    assert_non_null(value);
    text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    assert_string_equal(text, json);
    free(text);
    json_decref(value);
}

static void text_that_is_not_utf8_is_replaced(void **state)
{
    (void)state;
    becomes("plain", "\"plain\"");
    becomes("a\"b\\c\n", "\"a\\\"b\\\\c\\n\"");
    becomes("\xc3\xbc", "\"\\u00FC\"");
    becomes("\xf0\x9f\x98\x80", "\"\\uD83D\\uDE00\"");
    becomes("a\xff", "\"a\\uFFFD\"");
    becomes("\xc3", "\"\\uFFFD\"");
    becomes("\xc0\xaf", "\"\\uFFFD\\uFFFD\"");
    becomes("\xed\xa0\x80", "\"\\uFFFD\\uFFFD\\uFFFD\"");
    becomes("\xf4\x90\x80\x80", "\"\\uFFFD\\uFFFD\\uFFFD\\uFFFD\"");
    becomes("", "\"\"");
}

static void members_keep_their_order(void **state)
{
    json_t *object = json_object();
    char *text;

    (void)state;
    json_add_number(object, "z", 1);
    json_add_nonzero(object, "left-out", 0);
    json_add_bool(object, "a", true);
    json_add_text(object, "m", "x");
    text = json_dumps(object, JSON_PRESERVE_ORDER | JSON_COMPACT);
    assert_string_equal(text, "{\"z\":1,\"a\":true,\"m\":\"x\"}");
    free(text);
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_that_is_not_utf8_is_replaced),
        cmocka_unit_test(members_keep_their_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
