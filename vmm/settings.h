/*
 * settings.h - every setting of a machine, once: its name on the command line and in a JSON file,
 * its help text, and the function that checks a value and stores it.
 *
 * Threads: start-up alone.
 */
#ifndef VMM_SETTINGS_H
#define VMM_SETTINGS_H

#include "config.h"
#include "err.h"
#include "optstr.h"

enum setting_kind {
    SETTING_TEXT,
    SETTING_NUMBER, /* or a size: JSON may give an integer or text */
    SETTING_SWITCH, /* "on" or "off"; alone on the command line it means on */
    SETTING_DISK,   /* "PATH,key=value,..."; JSON also takes an object of the keys */
};

enum setting_group {
    SETTING_GROUP_BOOT,
    SETTING_GROUP_MACHINE,
    SETTING_GROUP_DISKS,
    SETTING_GROUP_CONSOLE,
    SETTING_GROUP_LIFE,
    SETTING_GROUP_PROCESS,
};

struct setting {
    const char *name;
    const char *argument; /* as the help shows it */
    enum setting_kind kind;
    enum setting_group group;
    const char *help; /* lines separated by '\n' */
    /* -EINVAL with a message about the value, which the caller prefixes with where it came from.
     * The last call wins, but for disks, which add up. */
    int (*set)(struct vm_config *config, const char *value, struct err *err);
};

enum { SETTINGS_COUNT = 18 };
extern const struct setting settings[SETTINGS_COUNT];

/* Adds the disk that `opts` describes (keys: path and those of --disk). */
int setting_add_disk(struct vm_config *config, struct optstr *opts, struct err *err);

#endif
