/*
 * config.h - what the user asked for, from the command line or a JSON file (docs/man/minivmm.1).
 * Strings are owned by the configuration.
 */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include "err.h"
#include "log.h"

#include <stdbool.h>
#include <stdint.h>

/* Device numbers 1..31 of bus 0; the host bridge is 0 and the entropy device takes one. */
enum { CONFIG_MAX_DISKS = 30, CONFIG_MAX_CPUS = 64 };

enum disk_cache { DISK_CACHE_WRITEBACK, DISK_CACHE_DIRECT, DISK_CACHE_UNSAFE };

struct disk_config {
    char *path;
    char *format; /* "qcow2", "raw" or NULL: probe */
    char *serial; /* or NULL */
    bool readonly;
    bool discard;    /* default on */
    unsigned queues; /* 0: one for each vCPU, at most 8 */
    enum disk_cache cache;
};

enum console_kind { CONSOLE_STDIO, CONSOLE_NULL, CONSOLE_FILE, CONSOLE_PTY };

struct vm_config {
    char *kernel;
    char *initrd; /* or NULL */
    char *append; /* or NULL: the default command line */
    struct disk_config disks[CONFIG_MAX_DISKS];
    unsigned disk_count;
    uint64_t memory; /* bytes, a multiple of 4096 */
    bool hugepages;
    unsigned cpus;
    enum console_kind console;
    char *console_path;
    bool console_escape; /* Ctrl-A x ends the machine; default on */
    unsigned timeout;    /* seconds; 0: none */
    bool restart_on_reboot;
    enum log_level log_level;
    bool quiet;
    char *backing_root; /* or NULL */
    bool test_device;   /* the exit port of bare-metal test guests */
    bool sandbox;       /* seccomp once everything is open; default on */
};

/* The defaults of docs/man/minivmm.1. */
void config_init(struct vm_config *config);
void config_destroy(struct vm_config *config);

/* What one option alone cannot tell: a kernel is there, the memory fits the host and its page size.
 * -EINVAL with a message that names the option. */
int config_check(const struct vm_config *config, struct err *err);

#endif
