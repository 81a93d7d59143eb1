#include "test_exit.h"

#include "life.h"

#include <string.h>

static void read_zero(void *device, uint64_t offset, void *data, unsigned len)
{
    (void)device;
    (void)offset;
    memset(data, 0, len);
}

static void write_status(void *device, uint64_t offset, const void *data, unsigned len)
{
    (void)len;
    if (offset == 0)
        life_post(device, LIFE_TEST_EXIT, *(const unsigned char *)data & 0x7f);
}

const struct bus_ops test_exit_bus_ops = {.read = read_zero, .write = write_status};
