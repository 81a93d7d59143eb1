#include "err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Messages go to terminals: control characters of a hostile name must not. UTF-8 passes. */
static void make_printable(char *text)
{
    for (char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;

        if (c < 0x20 || c == 0x7f)
            *p = '?';
    }
}

#undef err_set
#undef err_set_errno
#undef err_prefix

int err_set(struct err *err, int code, const char *fmt, ...)
{
    va_list args;

    if (err == NULL)
        return code;
    va_start(args, fmt);
    (void)vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    make_printable(err->text);
    return code;
}

int err_set_errno(struct err *err, int code, const char *fmt, ...)
{
    char what[sizeof(err->text)];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    return err_set(err, code, "%s: %s", what, strerror(-code));
}

int err_prefix(struct err *err, int code, const char *fmt, ...)
{
    char what[sizeof(err->text)];
    char old[sizeof(err->text)];
    va_list args;

    if (err == NULL)
        return code;
    va_start(args, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    (void)memcpy(old, err->text, sizeof(old));
    return err_set(err, code, "%s: %s", what, old);
}
