#include "options.h"

#include "config_json.h"
#include "optstr.h"
#include "settings.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

/* What getopt_long() returns: a setting, or one of the others; clear of the characters that stand
 * for errors. */
enum {
    FIRST_SETTING = 256,
    OPTION_CONFIG = FIRST_SETTING + SETTINGS_COUNT,
    OPTION_HELP,
    OPTION_VERSION
};

enum { EXTRA_COUNT = 3, OPTION_COUNT = SETTINGS_COUNT + EXTRA_COUNT };

static const struct option extra_options[EXTRA_COUNT] = {
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
};

static void fill_option_table(struct option table[OPTION_COUNT + 1])
{
    for (int i = 0; i < SETTINGS_COUNT; i++)
        table[i] = (struct option){
            .name = settings[i].name,
            .has_arg = settings[i].argument != NULL ? required_argument : optional_argument,
            .val = FIRST_SETTING + i,
        };
    memcpy(table + SETTINGS_COUNT, extra_options, sizeof(extra_options));
    table[OPTION_COUNT] = (struct option){0};
}

/* ---- errors ---- */

static int unknown_option(const char *word, const struct option *table, struct err *err)
{
    const char *names[OPTION_COUNT + 1];
    char bare[64];
    const char *nearest;
    size_t dashes = strspn(word, "-");
    size_t length = strcspn(word + dashes, "=");

    for (int i = 0; i <= OPTION_COUNT; i++)
        names[i] = table[i].name;
    if (length >= sizeof(bare))
        length = sizeof(bare) - 1;
    memcpy(bare, word + dashes, length);
    bare[length] = '\0';
    nearest = optstr_nearest(bare, names);
    if (nearest != NULL && length > 1)
        return err_set(err, -EINVAL, "unknown option '%s' (did you mean '--%s'?)", word, nearest);
    return err_set(err, -EINVAL, "unknown option '%s' (see --help)", word);
}

static bool ambiguous(const char *word, const struct option *table)
{
    size_t length = strcspn(word + 2, "=");
    unsigned matches = 0;

    for (int i = 0; i < OPTION_COUNT; i++)
        matches += strncmp(table[i].name, word + 2, length) == 0;
    return matches > 1;
}

/* `word` is what getopt_long() refused, with or without a meaning of its own. */
static int refused_option(int code, const char *word, const struct option *table, struct err *err)
{
    if (code == ':')
        return err_set(err, -EINVAL, "option '%s' needs a value", word);
    if (strncmp(word, "--", 2) != 0)
        return unknown_option(word, table, err);
    if (ambiguous(word, table))
        return err_set(err, -EINVAL, "option '%s' could mean several (see --help)", word);
    if (optopt != 0)
        return err_set(err, -EINVAL, "option '--%s' takes no value",
                       optopt == OPTION_HELP ? "help" : "version");
    return unknown_option(word, table, err);
}

/* ---- parsing ---- */

static int apply_setting(const struct setting *setting, struct vm_config *config, struct err *err)
{
    int rc = setting->set(config, optarg != NULL ? optarg : "on", err);

    if (rc < 0 && optarg != NULL)
        return err_prefix(err, rc, "--%s %s", setting->name, optarg);
    return rc;
}

/* One walk over the arguments: the first (`files`) for --config and whatever ends the parsing, the
 * second for the settings. */
static int walk(int argc, char **argv, bool files, struct vm_config *config,
                enum options_action *action, struct err *err)
{
    struct option table[OPTION_COUNT + 1];

    fill_option_table(table);
    opterr = 0;
    optind = 0; /* glibc: start anew */
    for (;;) {
        int at = optind > 0 ? optind : 1;
        int code = getopt_long(argc, argv, "+:", table, NULL);
        int rc = 0;

        if (code < 0)
            break;
        if (code == '?' || code == ':')
            return refused_option(code, argv[at], table, err);
        if (code == OPTION_HELP || code == OPTION_VERSION) {
            *action = code == OPTION_HELP ? OPTIONS_HELP : OPTIONS_VERSION;
            return 0;
        }
        if (code == OPTION_CONFIG && files)
            rc = config_json_load(config, optarg, err);
        else if (code != OPTION_CONFIG && !files)
            rc = apply_setting(&settings[code - FIRST_SETTING], config, err);
        if (rc < 0)
            return rc;
    }
    if (optind < argc)
        return err_set(err, -EINVAL, "unexpected argument '%s' (see --help)", argv[optind]);
    return 0;
}

int options_parse(int argc, char **argv, struct vm_config *config, enum options_action *action,
                  struct err *err)
{
    int rc;

    *action = OPTIONS_RUN;
    rc = walk(argc, argv, true, config, action, err);
    if (rc == 0 && *action == OPTIONS_RUN)
        rc = walk(argc, argv, false, config, action, err);
    if (rc == 0 && *action == OPTIONS_RUN)
        rc = config_check(config, err);
    return rc;
}

/* ---- help ---- */

enum { HELP_COLUMN = 30 };

static void print_option(FILE *out, const char *name, const char *argument, const char *help)
{
    int used = fprintf(out, "  --%s%s%s", name, argument != NULL ? " " : "",
                       argument != NULL ? argument : "");

    if (used > HELP_COLUMN - 2) {
        fputc('\n', out);
        used = 0;
    }
    for (;;) {
        int length = (int)strcspn(help, "\n");

        fprintf(out, "%*s%.*s\n", HELP_COLUMN - used, "", length, help);
        if (help[length] == '\0')
            return;
        help += length + 1;
        used = 0;
    }
}

void options_print_help(FILE *out)
{
    static const char *const titles[] = {
        [SETTING_GROUP_BOOT] = "Boot",       [SETTING_GROUP_MACHINE] = "Machine",
        [SETTING_GROUP_DISKS] = "Disks",     [SETTING_GROUP_CONSOLE] = "Console",
        [SETTING_GROUP_LIFE] = "Life cycle", [SETTING_GROUP_PROCESS] = "Messages and safety",
    };

    fputs("Usage: minivmm --kernel FILE [OPTION...]\n"
          "Runs a Linux kernel in a virtual machine on KVM, with qcow2 and raw disks.\n",
          out);
    for (unsigned group = 0; group < sizeof(titles) / sizeof(titles[0]); group++) {
        fprintf(out, "\n%s:\n", titles[group]);
        for (unsigned i = 0; i < SETTINGS_COUNT; i++) {
            if ((unsigned)settings[i].group == group)
                print_option(out, settings[i].name, settings[i].argument, settings[i].help);
        }
    }
    fputs("\nGeneral:\n", out);
    print_option(out, "config", "FILE", "read options from a JSON file");
    print_option(out, "help", NULL, "show this help");
    print_option(out, "version", NULL, "show the version");
    fputs("\nExit status: 0 the guest powered off, 1 could not start, 2 failed while running,\n"
          "10 the guest rebooted, 11 it panicked, 12 triple fault, 124 timeout, 128+n ended\n"
          "by signal n.\n"
          "Example: minivmm --kernel vmlinuz --initrd initrd.img --disk snapshot.qcow2\n",
          out);
}
