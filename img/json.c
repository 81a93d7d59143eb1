#include "json.h"

#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The length of the UTF-8 sequence at `p`, or 0 where there is none that RFC 3629 allows. */
static size_t utf8_length(const unsigned char *p)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

    if (p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    /* Overlong forms, surrogates, beyond U+10FFFF. */
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

json_t *json_text(const char *text)
{
    static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
    const unsigned char *p = (const unsigned char *)text;
    char *clean = malloc(3 * strlen(text) + 1);
    json_t *value;
    size_t used = 0;

    if (clean == NULL)
        return NULL;
    while (*p != '\0') {
        size_t n = utf8_length(p);

        memcpy(clean + used, n > 0 ? (const char *)p : replacement, n > 0 ? n : 3);
        used += n > 0 ? n : 3;
        p += n > 0 ? n : 1;
    }
    value = json_stringn_nocheck(clean, used);
    free(clean);
    return value;
}

void json_add_text(json_t *object, const char *key, const char *text)
{
    (void)json_object_set_new(object, key, json_text(text));
}

void json_add_number(json_t *object, const char *key, uint64_t number)
{
    (void)json_object_set_new(object, key, json_integer((json_int_t)number));
}

void json_add_nonzero(json_t *object, const char *key, uint64_t number)
{
    if (number != 0)
        json_add_number(object, key, number);
}

void json_add_bool(json_t *object, const char *key, bool value)
{
    (void)json_object_set_new(object, key, json_boolean(value));
}

int json_print(json_t *value)
{
    int rc = value == NULL ? -1
                           : json_dumpf(value, stdout,
                                        JSON_INDENT(4) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);

    json_decref(value);
    if (rc < 0) {
        log_error("could not write the output");
        return -1;
    }
    printf("\n");
    return 0;
}
