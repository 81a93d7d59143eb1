#include "block_limits.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>

enum { SECTOR = 512, SUBCLUSTERS = 32 };

/* Limit `index`, with *value 0 where there is none; false behind the last. */
static bool get_limit(const struct blk_info *info, unsigned index, const char **name,
                      uint64_t *value)
{
    /* Files are read and written through the page cache. */
    const struct {
        const char *name;
        uint64_t value;
    } limits[] = {
        {"request-alignment", info->is_encrypted ? SECTOR : 1},
        {"discard-alignment", info->cluster_size},
        {"write-zeroes-alignment",
         info->extended_l2 ? info->cluster_size / SUBCLUSTERS : info->cluster_size},
        {"max-iov", IOV_MAX},
        {"min-mem-alignment", 1},
        {"opt-mem-alignment", (uint64_t)sysconf(_SC_PAGESIZE)},
    };

    if (index >= sizeof(limits) / sizeof(limits[0]))
        return false;
    *name = limits[index].name;
    *value = limits[index].value;
    return true;
}

void limits_print(const struct blk_info *info)
{
    const char *name;
    uint64_t value;

    printf("Block limits:\n");
    for (unsigned i = 0; get_limit(info, i, &name, &value); i++) {
        if (value == 0)
            continue;
        printf("    ");
        for (const char *c = name; *c != '\0'; c++)
            putchar(*c == '-' ? ' ' : *c);
        printf(": %llu\n", (unsigned long long)value);
    }
}

json_t *limits_to_json(const struct blk_info *info)
{
    json_t *object = json_object();
    const char *name;
    uint64_t value;

    for (unsigned i = 0; get_limit(info, i, &name, &value); i++)
        json_add_nonzero(object, name, value);
    return object;
}
