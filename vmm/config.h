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
    bool discard; /* default on */
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
};

#endif
