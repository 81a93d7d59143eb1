/*
 * trace_option.c - the option -T: which trace events are wanted, and where they go.
 *
 * There are no trace events, so none is ever written. What is asked for is judged as QEMU's tools do, so that
 * their command lines work: an event that is not there is a warning, a file that cannot be opened is an error.
 */
#include "img.h"
#include "log.h"
#include "optstr.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A pattern may match nothing; -NAME switches an event off. */
static bool is_missing(const char **event)
{
    *event += **event == '-';
    return strpbrk(*event, "*?") == NULL;
}

static bool read_events(const char *path)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;

    if (file == NULL) {
        fprintf(stderr, "%s:%s: %s\n", log_program_name(), path, strerror(errno));
        return false;
    }
    for (unsigned number = 1; getline(&line, &room, file) > 0; number++) {
        const char *event = line;

        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0' && line[0] != '#' && is_missing(&event))
            fprintf(stderr, "%s:%s:%u: warning: trace event '%s' does not exist\n",
                    log_program_name(), path, number, event);
    }
    free(line);
    (void)fclose(file);
    return true;
}

static bool make_log(const char *path)
{
    FILE *file = fopen(path, "we");

    if (file == NULL) {
        log_error("Error opening logfile %s: %s", path, strerror(errno));
        return false;
    }
    (void)fclose(file);
    return true;
}

bool img_take_trace(const char *text, bool *is_help)
{
    static const char *const known[] = {"enable", "events", "file", NULL};
    const char *event, *events, *log;
    struct optstr options;
    struct err err;
    bool ok = true;

    if (optstr_parse(&options, text, "enable", &err) < 0) {
        log_error("%s", err.text);
        return false;
    }
    for (unsigned i = 0; i < options.count && ok; i++) {
        ok = optstr_find_word(options.items[i].key, known, &err) >= 0;
        if (!ok)
            log_error("Invalid parameter '%s'", options.items[i].key);
    }
    event = optstr_get(&options, "enable");
    events = optstr_get(&options, "events");
    log = optstr_get(&options, "file");
    *is_help = ok && event != NULL && (strcmp(event, "help") == 0 || strcmp(event, "?") == 0);
    if (ok && !*is_help) {
        if (event != NULL && event[0] != '\0' && is_missing(&event))
            log_warn("trace event '%s' does not exist", event);
        ok = (events == NULL || read_events(events)) && (log == NULL || make_log(log));
    }
    optstr_free(&options);
    return ok;
}
