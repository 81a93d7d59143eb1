#include "config.h"

#include "checked.h"
#include "size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 << 20 };

void config_init(struct vm_config *config)
{
    *config = (struct vm_config){
        .memory = 256ULL << 20,
        .cpus = 1,
        .console = CONSOLE_STDIO,
        .console_escape = true,
        .log_level = LOG_LEVEL_WARN,
        .sandbox = true,
    };
}

void config_destroy(struct vm_config *config)
{
    free(config->kernel);
    free(config->initrd);
    free(config->append);
    for (unsigned i = 0; i < config->disk_count; i++) {
        free(config->disks[i].path);
        free(config->disks[i].format);
        free(config->disks[i].serial);
        secret_wipe(&config->disks[i].key);
    }
    free(config->console_path);
    free(config->backing_root);
    free(config->tmpdir);
    free(config->stats);
    *config = (struct vm_config){0};
}

/* Guest memory is not reserved, but a guest that may outgrow the host ends in the host's OOM
 * killer. */
static int check_memory(const struct vm_config *config, struct err *err)
{
    uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    char text[SIZE_TEXT_MAX];

    if (config->memory > host)
        return err_set(err, -EINVAL, "--memory %" PRIu64 ": this host has %s", config->memory,
                       size_format(host, text));
    if (config->hugepages && !is_aligned(config->memory, HUGE_PAGE))
        return err_set(err, -EINVAL,
                       "--memory %" PRIu64 ": with --hugepages it must be a multiple of 2M",
                       config->memory);
    return 0;
}

int config_check(const struct vm_config *config, struct err *err)
{
    if (config->kernel == NULL)
        return err_set(err, -EINVAL, "no kernel was given: use --kernel FILE (see --help)");
    return check_memory(config, err);
}
