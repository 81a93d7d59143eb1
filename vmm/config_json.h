/*
 * config_json.h - a machine's settings from a JSON file: one object with the names of the long
 * options as keys. "disk" is one disk or an array; a disk is the text of --disk or an object of its
 * keys.
 */
#ifndef VMM_CONFIG_JSON_H
#define VMM_CONFIG_JSON_H

#include "config.h"
#include "err.h"

/* Applies the file to `config`, key by key. Relative paths in it stay as they are: relative to the
 * current directory. -EINVAL, or an errno value of reading, with one line that names the file and
 * the key or the line. */
int config_json_load(struct vm_config *config, const char *path, struct err *err);

#endif
