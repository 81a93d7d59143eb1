/*
 * minivmm-img - makes, inspects, checks, rebases, commits, converts and serves disk images.
 */
#include "img.h"
#include "keys.h"
#include "log.h"
#include "optstr.h"
#include "process.h"

#include <string.h>

enum { MAX_COMMANDS = 64 };

static int unknown_command(const char *name)
{
    const char *names[MAX_COMMANDS];
    const char *nearest;
    size_t n = 0;

    for (const struct img_command *c = img_commands; c->name != NULL && n + 1 < MAX_COMMANDS; c++)
        names[n++] = c->name;
    names[n] = NULL;
    nearest = optstr_nearest(name, names);
    if (nearest != NULL)
        return img_usage_error("Command not found: %s (did you mean '%s'?)", name, nearest);
    return img_usage_error("Command not found: %s", name);
}

struct line {
    int argc;
    char **argv;
};

/* Whether the next option is `name`. Then *value is what it has, as "name=value", as the next argument, or (of a
 * short one) in the same; NULL: it is missing. What was used is taken off the line. */
static bool takes_value(struct line *line, const char *name, const char **value)
{
    const char *option = line->argv[1];
    size_t length = strlen(name);
    bool is_long = name[1] == '-';

    if (strncmp(option, name, length) != 0 ||
        (is_long && option[length] != '\0' && option[length] != '='))
        return false;
    if (option[length] != '\0') {
        *value = option + length + is_long;
    } else {
        line->argc--;
        line->argv++;
        *value = line->argc > 1 ? line->argv[1] : NULL;
    }
    line->argc--;
    line->argv++;
    return true;
}

/* One option in front of the command; false when that is all, with *status. */
static bool take_option(struct line *line, int *status)
{
    const char *option = line->argv[1], *value = NULL;
    bool is_help;

    *status = 0;
    if (strcmp(option, "-h") == 0 || strcmp(option, "--help") == 0) {
        img_print_help();
        return false;
    }
    if (strcmp(option, "-V") == 0 || strcmp(option, "--version") == 0) {
        img_print_version();
        return false;
    }
    *status = 1;
    if (takes_value(line, "-T", &value) || takes_value(line, "--trace", &value)) {
        if (value == NULL) {
            *status = img_usage_error("missing argument for option '%s'", option);
            return false;
        }
        if (!img_take_trace(value, &is_help))
            return false;
        *status = 0;
        return !is_help;
    }
    if (takes_value(line, "--backing-root", &value)) {
        if (value != NULL && value[0] != '\0') {
            img_set_backing_root(value);
            return true;
        }
        *status = img_usage_error("missing argument for option '--backing-root'");
        return false;
    }
    *status = img_usage_error("unrecognized option '%s'", option);
    return false;
}

int main(int argc, char **argv)
{
    struct line line = {.argc = argc, .argv = argv};
    int status;

    process_prepare();
    log_init(argc > 0 ? argv[0] : NULL);
    while (line.argc > 1 && line.argv[1][0] == '-') {
        if (!take_option(&line, &status))
            return status;
    }
    argc = line.argc;
    argv = line.argv;
    if (argc < 2)
        return img_usage_error("Not enough arguments");
    for (const struct img_command *c = img_commands; c->name != NULL; c++) {
        if (strcmp(c->name, argv[1]) == 0) {
            status = keys_take_options(&argc, argv) ? c->run(argc - 1, argv + 1) : 1;

            keys_free();
            return status;
        }
    }
    return unknown_command(argv[1]);
}
