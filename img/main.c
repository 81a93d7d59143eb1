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

int main(int argc, char **argv)
{
    process_prepare();
    log_init(argc > 0 ? argv[0] : NULL);
    if (argc < 2)
        return img_usage_error("Not enough arguments");
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0) {
        img_print_help();
        return 0;
    }
    if (strcmp(argv[1], "-V") == 0 || strcmp(argv[1], "--version") == 0) {
        img_print_version();
        return 0;
    }
    if (strncmp(argv[1], "--backing-root", 14) == 0 &&
        (argv[1][14] == '\0' || argv[1][14] == '=')) {
        int used = argv[1][14] == '=' ? 1 : 2;
        const char *root = used == 1 ? argv[1] + 15 : argc > 2 ? argv[2] : "";

        if (root[0] == '\0')
            return img_usage_error("missing argument for option '--backing-root'");
        img_set_backing_root(root);
        if (argc <= used + 1)
            return img_usage_error("Not enough arguments");
        argv += used;
        argc -= used;
    }
    if (argv[1][0] == '-')
        return img_usage_error("unrecognized option '%s'", argv[1]);
    for (const struct img_command *c = img_commands; c->name != NULL; c++) {
        if (strcmp(c->name, argv[1]) == 0) {
            int status = keys_take_options(&argc, argv) ? c->run(argc - 1, argv + 1) : 1;

            keys_free();
            return status;
        }
    }
    return unknown_command(argv[1]);
}
