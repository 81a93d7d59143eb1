#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *program = "minivmm";
static enum log_level threshold = LOG_LEVEL_WARN;

void log_init(const char *argv0)
{
    const char *slash = argv0 != NULL ? strrchr(argv0, '/') : NULL;

    if (slash != NULL && slash[1] != '\0')
        program = slash + 1;
    else if (argv0 != NULL && argv0[0] != '\0')
        program = argv0;
}

void log_set_level(enum log_level level)
{
    threshold = level;
}

const char *log_program_name(void)
{
    return program;
}

bool log_level_parse(const char *name, enum log_level *level)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

__attribute__((format(printf, 3, 0))) static void emit(enum log_level level, const char *kind,
                                                       const char *fmt, va_list args)
{
    char line[2048];
    int head, body;
    size_t used;

    if (level > threshold)
        return;
    head = snprintf(line, sizeof(line), "%s: %s", program, kind);
    if (head < 0 || (size_t)head >= sizeof(line))
        return;
    used = (size_t)head;
    body = vsnprintf(line + used, sizeof(line) - used - 1, fmt, args);
    if (body < 0)
        return;
    used += (size_t)body < sizeof(line) - used - 1 ? (size_t)body : sizeof(line) - used - 2;
    /* Names of images and guests may be in it: nothing that drives the terminal. UTF-8 passes. */
    for (size_t i = 0; i < used; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[used++] = '\n';
    /* Nobody is left to tell when standard error fails. */
    if (write(STDERR_FILENO, line, used) < 0)
        return;
}

#define DEFINE_LOG(name, level, kind)                                                              \
    void name(const char *fmt, ...)                                                                \
    {                                                                                              \
        va_list args;                                                                              \
                                                                                                   \
        va_start(args, fmt);                                                                       \
        emit(level, kind, fmt, args);                                                              \
        va_end(args);                                                                              \
    }

DEFINE_LOG(log_error, LOG_LEVEL_ERROR, "")
DEFINE_LOG(log_warn, LOG_LEVEL_WARN, "warning: ")
DEFINE_LOG(log_info, LOG_LEVEL_INFO, "info: ")
DEFINE_LOG(log_debug, LOG_LEVEL_DEBUG, "debug: ")
