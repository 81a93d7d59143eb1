/*
 * options.h - the command line (docs/man/minivmm.1). Threads: start-up alone (getopt's globals).
 */
#ifndef VMM_OPTIONS_H
#define VMM_OPTIONS_H

#include "config.h"
#include "err.h"

#include <stdio.h>

enum options_action { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION };

/* Fills `config`, which config_init() prepared: first from every --config file, then from the
 * options, so that an option overrides what a file says and --disk adds to its disks. --help and
 * --version end the parsing. -EINVAL, or what reading a file gave, with one line that names the
 * option. */
int options_parse(int argc, char **argv, struct vm_config *config, enum options_action *action,
                  struct err *err);

void options_print_help(FILE *out);

#endif
