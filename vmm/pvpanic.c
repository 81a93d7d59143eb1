#include "pvpanic.h"

#include "log.h"

#include <string.h>

enum {
    PVPANIC_PANICKED = 0x01,    /* it is over */
    PVPANIC_CRASHLOADED = 0x02, /* the guest goes on in its crash kernel */
};

void pvpanic_init(struct pvpanic *pvpanic, struct life *life)
{
    pvpanic->life = life;
    atomic_flag_clear(&pvpanic->reported);
}

static void read_supported(void *device, uint64_t offset, void *data, unsigned len)
{
    (void)device;
    (void)offset;
    memset(data, 0, len);
    *(uint8_t *)data = PVPANIC_PANICKED | PVPANIC_CRASHLOADED;
}

static void write_event(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct pvpanic *pvpanic = device;
    uint8_t event = *(const uint8_t *)data;

    (void)offset;
    (void)len;
    if (event & PVPANIC_PANICKED)
        life_post(pvpanic->life, LIFE_PANIC, 0);
    else if ((event & PVPANIC_CRASHLOADED) != 0 && !atomic_flag_test_and_set(&pvpanic->reported))
        log_info("the guest panicked and goes on in its crash kernel");
}

const struct bus_ops pvpanic_bus_ops = {.read = read_supported, .write = write_event};
