#include "tap.h"

#include <stdarg.h>
#include <stdio.h>

static unsigned count;
static unsigned failures;

bool tap_result(bool passed, const char *fmt, ...)
{
    va_list args;

    count++;
    failures += !passed;
    printf("%s %u - ", passed ? "ok" : "not ok", count);
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    return passed;
}

void tap_skip(const char *reason, const char *fmt, ...)
{
    va_list args;

    count++;
    printf("ok %u - ", count);
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf(" # SKIP %s\n", reason);
    fflush(stdout);
}

void tap_note(const char *fmt, ...)
{
    char text[4096];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    fputs("# ", stdout);
    for (const char *p = text; *p; p++) {
        putchar(*p);
        if (*p == '\n' && p[1]) {
            fputs("# ", stdout);
        }
    }
    putchar('\n');
    fflush(stdout);
}

int tap_finish(void)
{
    printf("1..%u\n", count);
    return failures > 0;
}
