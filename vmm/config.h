/*
 * config.h - what the user asked for, from the command line or a JSON file (docs/man/minivmm.1).
 * Strings are owned by the configuration.
 */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include "err.h"
#include "log.h"
#include "secret.h"

#include <stdbool.h>
#include <stdint.h>

/* Device numbers 1..31 of bus 0; the host bridge is 0 and the entropy device takes one. */
enum { CONFIG_MAX_DISKS = 30, CONFIG_MAX_CPUS = 64 };

/* What becomes of a request of the guest that the image could not carry out. */
enum disk_on_error {
    DISK_ERROR_REPORT, /* the guest sees an I/O error */
    DISK_ERROR_STOP,   /* the machine pauses, and tries again when it is told to */
    DISK_ERROR_ENOSPC, /* STOP when the host has no space left, else REPORT */
};

/* Where what the guest writes goes instead of into the image. */
enum disk_ephemeral { DISK_EPHEMERAL_OFF, DISK_EPHEMERAL_FILE, DISK_EPHEMERAL_RAM };

enum disk_cache { DISK_CACHE_WRITEBACK, DISK_CACHE_DIRECT, DISK_CACHE_UNSAFE };

/* What carries out reads that wait for storage. */
enum disk_aio { DISK_AIO_AUTO, DISK_AIO_IO_URING, DISK_AIO_THREADS };

/* 0 a second: no limit; a burst of 0: what a tenth of a second brings. */
struct disk_rate {
    uint64_t per_second, burst;
};

struct disk_config {
    char *path;
    char *format;      /* "qcow2", "raw" or NULL: probe */
    char *serial;      /* or NULL */
    struct secret key; /* of an encrypted image and those below it; or none */
    bool readonly;
    bool discard;            /* default on */
    uint64_t metadata_cache; /* bytes; 0: the engine's default */
    unsigned queues;         /* 0: one for each vCPU, at most 8 */
    unsigned poll_us;        /* how long a queue looks at its empty ring at most */
    enum disk_cache cache;
    enum disk_aio aio;
    bool fixed_buffers; /* guest memory is registered with the disk's io_urings, */
    bool fixed_files;   /* and its files are */
    enum disk_ephemeral ephemeral;
    struct disk_rate requests, bytes;
    enum disk_on_error rerror, werror; /* of reads; of all else */
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
    char *tmpdir;       /* of ephemeral disks; NULL: the environment's TMPDIR, or else /var/tmp */
    char *stats;        /* a file for what the disks have done, or NULL */
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
