/*
 * log.h - one line on standard error a message: "PROGRAM: [warning: ]text".
 *
 * The program name comes from argv[0], so that a tool that is linked under another name speaks
 * under that name. Only programs (vmm/, img/) log; libraries report through struct err.
 *
 * Threads: any thread may log at any time; a line is written with one write(2), so lines of
 * different threads do not mix. log_init() and log_set_level() are for start-up, before threads.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* `argv0` is borrowed for the life of the program; only its last path component is printed. */
void log_init(const char *argv0);
void log_set_level(enum log_level level);
/* The name that messages begin with. */
const char *log_program_name(void);
/* "error", "warn", "info" or "debug"; false when `name` is none of them. */
bool log_level_parse(const char *name, enum log_level *level);

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
