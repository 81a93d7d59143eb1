#include "settings.h"

#include "checked.h"
#include "size.h"
#include "virtio_blk.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SERIAL_MAX = 20 /* VIRTIO_BLK_ID_BYTES */, QUEUES_MAX = 64, TIMEOUT_MAX = 1000000000 };

static const uint64_t memory_min = 32ULL << 20;

static int no_memory(struct err *err)
{
    return err_set(err, -ENOMEM, "out of memory");
}

/* ---- values ---- */

static int set_text(char **slot, const char *value, const char *what, struct err *err)
{
    char *copy;

    if (value[0] == '\0')
        return err_set(err, -EINVAL, "expected %s", what);
    copy = strdup(value);
    if (copy == NULL)
        return no_memory(err);
    free(*slot);
    *slot = copy;
    return 0;
}

static int set_number(unsigned *slot, const char *value, unsigned min, unsigned max,
                      struct err *err)
{
    char *end;
    unsigned long long number;

    errno = 0;
    number = strtoull(value, &end, 10);
    if (!isdigit((unsigned char)value[0]) || *end != '\0' || errno != 0 || number < min ||
        number > max)
        return err_set(err, -EINVAL, "expected a number from %u to %u", min, max);
    *slot = (unsigned)number;
    return 0;
}

static int set_switch(bool *slot, const char *value, struct err *err)
{
    if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
        return err_set(err, -EINVAL, "expected 'on' or 'off'");
    *slot = value[1] == 'n';
    return 0;
}

/* ---- disks ---- */

static const char *const disk_keys[] = {
    "path",    "format",        "readonly",       "serial",     "queues", "discard",
    "aio",     "cache",         "metadata-cache", "rerror",     "werror", "key-file",
    "key-fd",  "ephemeral",     "iops",           "iops-burst", "bps",    "bps-burst",
    "poll-us", "fixed-buffers", "fixed-files",    NULL};
/* Of a disk, in requests or bytes a second. */
#define RATE_MAX UINT64_C(1000000000000)

static const char *const disk_formats[] = {"qcow2", "raw", NULL};
static const char *const disk_caches[] = {"writeback", "direct", "unsafe", NULL}; /* disk_cache */
static const char *const disk_aios[] = {"auto", "io_uring", "threads", NULL};     /* disk_aio */
static const char *const disk_ephemerals[] = {"off", "on", "ram", NULL}; /* disk_ephemeral */

/* disk_on_error */
static const char *const disk_rerrors[] = {"report", "stop", NULL};
static const char *const disk_werrors[] = {"report", "stop", "enospc", NULL};

/* Read now: a descriptor may be a pipe, which gives its key once, and the machine may start many times. */
static int disk_key(struct disk_config *disk, struct optstr *opts, struct err *err)
{
    const char *path = optstr_get(opts, "key-file");
    bool has_fd = optstr_get(opts, "key-fd") != NULL;
    uint64_t fd = 0;
    int rc = optstr_get_number(opts, "key-fd", 0, INT_MAX, &fd, err);

    if (rc < 0)
        return rc;
    if (path != NULL && has_fd)
        return err_set(err, -EINVAL, "key-file and key-fd exclude each other");
    if (path != NULL)
        return secret_read_file(&disk->key, path, err);
    return has_fd ? secret_read_fd(&disk->key, (int)fd, err) : 0;
}

static int check_burst(const struct disk_rate *rate, const char *name, struct err *err)
{
    return rate->burst > 0 && rate->per_second == 0
               ? err_set(err, -EINVAL, "%s-burst has no meaning without %s", name, name)
               : 0;
}

static int disk_rates(struct disk_config *disk, struct optstr *opts, struct err *err)
{
    int rc;

    if ((rc = optstr_get_number(opts, "iops", 0, RATE_MAX, &disk->requests.per_second, err)) < 0 ||
        (rc = optstr_get_number(opts, "iops-burst", 0, RATE_MAX, &disk->requests.burst, err)) < 0 ||
        (rc = optstr_get_size(opts, "bps", &disk->bytes.per_second, err)) < 0 ||
        (rc = optstr_get_size(opts, "bps-burst", &disk->bytes.burst, err)) < 0 ||
        (rc = check_burst(&disk->requests, "iops", err)) < 0)
        return rc;
    if (disk->bytes.per_second > RATE_MAX || disk->bytes.burst > RATE_MAX)
        return err_set(err, -EINVAL, "bps: more than %llu bytes a second",
                       (unsigned long long)RATE_MAX);
    return check_burst(&disk->bytes, "bps", err);
}

static int check_ephemeral(const struct disk_config *disk, enum disk_ephemeral ephemeral,
                           struct err *err)
{
    if (ephemeral != DISK_EPHEMERAL_OFF && disk->readonly)
        return err_set(err, -EINVAL, "readonly=on and ephemeral exclude each other");
    if (ephemeral == DISK_EPHEMERAL_FILE && disk->key.bytes != NULL)
        return err_set(err, -EINVAL,
                       "ephemeral=on would leave data of an encrypted image in the clear on a "
                       "disk; ephemeral=ram does not");
    return 0;
}

static int disk_from_options(struct disk_config *disk, struct optstr *opts, struct err *err)
{
    const char *path = optstr_get(opts, "path");
    const char *serial = optstr_get(opts, "serial");
    int format = -1, cache = DISK_CACHE_WRITEBACK, aio = DISK_AIO_AUTO, rc;
    int rerror = DISK_ERROR_REPORT, werror = DISK_ERROR_REPORT, ephemeral = DISK_EPHEMERAL_OFF;
    uint64_t queues = 0, poll_us = VIRTIO_BLK_POLL_US_DEFAULT;

    if (path == NULL || path[0] == '\0')
        return err_set(err, -EINVAL, "expected the path of a disk image");
    if (serial != NULL && strlen(serial) > SERIAL_MAX)
        return err_set(err, -EINVAL, "serial=%s: longer than %d bytes", serial, SERIAL_MAX);
    if ((rc = optstr_get_word(opts, "format", disk_formats, &format, err)) < 0 ||
        (rc = optstr_get_word(opts, "cache", disk_caches, &cache, err)) < 0 ||
        (rc = optstr_get_word(opts, "aio", disk_aios, &aio, err)) < 0 ||
        (rc = optstr_get_word(opts, "ephemeral", disk_ephemerals, &ephemeral, err)) < 0 ||
        (rc = optstr_get_word(opts, "rerror", disk_rerrors, &rerror, err)) < 0 ||
        (rc = optstr_get_word(opts, "werror", disk_werrors, &werror, err)) < 0 ||
        (rc = optstr_get_bool(opts, "readonly", &disk->readonly, err)) < 0 ||
        (rc = optstr_get_bool(opts, "discard", &disk->discard, err)) < 0 ||
        (rc = optstr_get_bool(opts, "fixed-buffers", &disk->fixed_buffers, err)) < 0 ||
        (rc = optstr_get_bool(opts, "fixed-files", &disk->fixed_files, err)) < 0 ||
        (rc = optstr_get_number(opts, "queues", 1, QUEUES_MAX, &queues, err)) < 0 ||
        (rc = optstr_get_number(opts, "poll-us", 0, VIRTIO_BLK_POLL_US_MAX, &poll_us, err)) < 0 ||
        (rc = optstr_get_size(opts, "metadata-cache", &disk->metadata_cache, err)) < 0 ||
        (rc = disk_rates(disk, opts, err)) < 0 || (rc = disk_key(disk, opts, err)) < 0)
        return rc;
    rc = optstr_reject_unused(opts, disk_keys, err);
    if (rc == 0 && (disk->fixed_buffers || disk->fixed_files) && aio == DISK_AIO_THREADS)
        rc = err_set(err, -EINVAL, "fixed-%s=on and aio=threads exclude each other",
                     disk->fixed_buffers ? "buffers" : "files");
    if (rc == 0)
        rc = check_ephemeral(disk, (enum disk_ephemeral)ephemeral, err);
    if (rc < 0) {
        secret_wipe(&disk->key);
        return rc;
    }
    disk->queues = (unsigned)queues;
    disk->poll_us = (unsigned)poll_us;
    disk->cache = (enum disk_cache)cache;
    disk->aio = (enum disk_aio)aio;
    disk->ephemeral = (enum disk_ephemeral)ephemeral;
    disk->rerror = (enum disk_on_error)rerror;
    disk->werror = (enum disk_on_error)werror;
    disk->path = strdup(path);
    disk->format = format >= 0 ? strdup(disk_formats[format]) : NULL;
    disk->serial = serial != NULL ? strdup(serial) : NULL;
    if (disk->path == NULL || (format >= 0 && disk->format == NULL) ||
        (serial != NULL && disk->serial == NULL)) {
        free(disk->path);
        free(disk->format);
        free(disk->serial);
        secret_wipe(&disk->key);
        return no_memory(err);
    }
    return 0;
}

int setting_add_disk(struct vm_config *config, struct optstr *opts, struct err *err)
{
    struct disk_config disk = {.discard = true};
    int rc;

    if (config->disk_count == CONFIG_MAX_DISKS)
        return err_set(err, -EINVAL, "more than %d disks", CONFIG_MAX_DISKS);
    rc = disk_from_options(&disk, opts, err);
    if (rc == 0)
        config->disks[config->disk_count++] = disk;
    return rc;
}

static int set_disk(struct vm_config *config, const char *value, struct err *err)
{
    struct optstr opts;
    int rc = optstr_parse(&opts, value, "path", err);

    if (rc == 0) {
        rc = setting_add_disk(config, &opts, err);
        optstr_free(&opts);
    }
    return rc;
}

/* ---- settings ---- */

static int set_kernel(struct vm_config *config, const char *value, struct err *err)
{
    return set_text(&config->kernel, value, "the path of a kernel", err);
}

static int set_initrd(struct vm_config *config, const char *value, struct err *err)
{
    return set_text(&config->initrd, value, "the path of an initrd", err);
}

/* May be empty: the kernel then runs on its own defaults. */
static int set_append(struct vm_config *config, const char *value, struct err *err)
{
    char *copy = strdup(value);

    if (copy == NULL)
        return no_memory(err);
    free(config->append);
    config->append = copy;
    return 0;
}

static int set_memory(struct vm_config *config, const char *value, struct err *err)
{
    uint64_t bytes;

    if (size_parse(value, 'B', &bytes) < 0)
        return err_set(err, -EINVAL, "expected a size such as 512M or 4G");
    if (bytes < memory_min)
        return err_set(err, -EINVAL, "a machine has 32M of memory or more%s",
                       value[strspn(value, "0123456789")] == '\0' && bytes >= 32
                           ? " (a number alone is in bytes: write M or G behind it)"
                           : "");
    if (!is_aligned(bytes, 4096))
        return err_set(err, -EINVAL, "expected a multiple of 4K");
    config->memory = bytes;
    return 0;
}

static int set_hugepages(struct vm_config *config, const char *value, struct err *err)
{
    return set_switch(&config->hugepages, value, err);
}

static int set_cpus(struct vm_config *config, const char *value, struct err *err)
{
    return set_number(&config->cpus, value, 1, CONFIG_MAX_CPUS, err);
}

static int set_backing_root(struct vm_config *config, const char *value, struct err *err)
{
    return set_text(&config->backing_root, value, "the path of a directory", err);
}

static int set_tmpdir(struct vm_config *config, const char *value, struct err *err)
{
    return set_text(&config->tmpdir, value, "the path of a directory", err);
}

static int set_stats(struct vm_config *config, const char *value, struct err *err)
{
    return set_text(&config->stats, value, "the path of a file", err);
}

static int set_console(struct vm_config *config, const char *value, struct err *err)
{
    static const char *const kinds[] = {"stdio", "null", "file:PATH", "pty",
                                        NULL}; /* console_kind */
    static const char file[] = "file:";
    int kind;

    if (strncmp(value, file, strlen(file)) == 0) {
        int rc = set_text(&config->console_path, value + strlen(file), "file:PATH", err);

        if (rc == 0)
            config->console = CONSOLE_FILE;
        return rc;
    }
    kind = optstr_find_word(value, kinds, err);
    if (kind < 0)
        return kind;
    config->console = (enum console_kind)kind;
    return 0;
}

static int set_console_escape(struct vm_config *config, const char *value, struct err *err)
{
    return set_switch(&config->console_escape, value, err);
}

static int set_timeout(struct vm_config *config, const char *value, struct err *err)
{
    return set_number(&config->timeout, value, 0, TIMEOUT_MAX, err);
}

static int set_on_reboot(struct vm_config *config, const char *value, struct err *err)
{
    static const char *const words[] = {"exit", "restart", NULL};
    int word = optstr_find_word(value, words, err);

    if (word < 0)
        return word;
    config->restart_on_reboot = word == 1;
    return 0;
}

static int set_log_level(struct vm_config *config, const char *value, struct err *err)
{
    if (!log_level_parse(value, &config->log_level))
        return err_set(err, -EINVAL, "expected 'error', 'warn', 'info' or 'debug'");
    return 0;
}

static int set_quiet(struct vm_config *config, const char *value, struct err *err)
{
    return set_switch(&config->quiet, value, err);
}

static int set_sandbox(struct vm_config *config, const char *value, struct err *err)
{
    return set_switch(&config->sandbox, value, err);
}

static int set_debug_exit(struct vm_config *config, const char *value, struct err *err)
{
    return set_switch(&config->test_device, value, err);
}

const struct setting settings[SETTINGS_COUNT] = {
    {"kernel", "FILE", SETTING_TEXT, SETTING_GROUP_BOOT,
     "Linux bzImage, or ELF with a PVH or 64-bit entry", set_kernel},
    {"initrd", "FILE", SETTING_TEXT, SETTING_GROUP_BOOT, "initial RAM disk", set_initrd},
    {"append", "TEXT", SETTING_TEXT, SETTING_GROUP_BOOT,
     "kernel command line; default: console on COM1,\n"
     "root on the first disk, a panic ends the machine",
     set_append},
    {"memory", "SIZE", SETTING_NUMBER, SETTING_GROUP_MACHINE,
     "guest memory, 32M to the host's (default 256M)", set_memory},
    {"cpus", "N", SETTING_NUMBER, SETTING_GROUP_MACHINE, "virtual CPUs, 1 to 64 (default 1)",
     set_cpus},
    {"hugepages", NULL, SETTING_SWITCH, SETTING_GROUP_MACHINE, "back guest memory by 2 MiB pages",
     set_hugepages},
    {"disk", "PATH[,KEY=VALUE...]", SETTING_DISK, SETTING_GROUP_DISKS,
     "add a disk; a comma in a value is doubled; keys:\n"
     "  format=qcow2|raw  readonly=on|off  serial=TEXT\n"
     "  queues=N  discard=on|off  metadata-cache=SIZE\n"
     "  cache=writeback|direct|unsafe\n"
     "  aio=auto|io_uring|threads  poll-us=N\n"
     "  fixed-buffers=on|off  fixed-files=on|off\n"
     "  ephemeral=off|on|ram (nothing is kept)\n"
     "  iops=N  iops-burst=N  bps=SIZE  bps-burst=SIZE\n"
     "  rerror=report|stop  werror=report|enospc|stop\n"
     "  key-file=PATH|key-fd=N (of an encrypted image)",
     set_disk},
    {"backing-root", "DIR", SETTING_TEXT, SETTING_GROUP_DISKS,
     "refuse backing and data files outside it", set_backing_root},
    {"tmpdir", "DIR", SETTING_TEXT, SETTING_GROUP_DISKS,
     "where ephemeral=on keeps what guests write", set_tmpdir},
    {"console", "WHERE", SETTING_TEXT, SETTING_GROUP_CONSOLE,
     "COM1: stdio (default), null, file:PATH or pty", set_console},
    {"console-escape", "on|off", SETTING_SWITCH, SETTING_GROUP_CONSOLE,
     "Ctrl-A x ends the machine, Ctrl-A h lists more\n"
     "(default on)",
     set_console_escape},
    {"stats", "FILE", SETTING_TEXT, SETTING_GROUP_PROCESS,
     "keep what the disks have done in FILE, as JSON", set_stats},
    {"timeout", "SECONDS", SETTING_NUMBER, SETTING_GROUP_LIFE,
     "end the machine after this time (status 124)", set_timeout},
    {"on-reboot", "exit|restart", SETTING_TEXT, SETTING_GROUP_LIFE,
     "what a guest's reboot does (default exit)", set_on_reboot},
    {"log-level", "LEVEL", SETTING_TEXT, SETTING_GROUP_PROCESS,
     "error, warn (default), info or debug", set_log_level},
    {"quiet", NULL, SETTING_SWITCH, SETTING_GROUP_PROCESS, "log errors alone", set_quiet},
    {"sandbox", "on|off", SETTING_SWITCH, SETTING_GROUP_PROCESS,
     "allow the process few system calls (default on)", set_sandbox},
    {"debug-exit", NULL, SETTING_SWITCH, SETTING_GROUP_PROCESS,
     "for test guests: port 0xf4 ends the machine", set_debug_exit},
};
