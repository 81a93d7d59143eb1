#include "i8042.h"

#include <string.h>

enum {
    STATUS_OUTPUT_FULL = 0x01,
    STATUS_SYSTEM = 0x04,  /* the self-test has passed */
    STATUS_COMMAND = 0x08, /* the last byte written was a command */
    STATUS_UNLOCKED = 0x10,

    CONFIG_SYSTEM = 0x04,
    CONFIG_KEYBOARD_OFF = 0x10,
    CONFIG_AUX_OFF = 0x20,

    COMMAND_READ_CONFIG = 0x20,
    COMMAND_WRITE_CONFIG = 0x60,
    COMMAND_TEST_AUX = 0xa9,
    COMMAND_SELF_TEST = 0xaa,
    COMMAND_TEST_KEYBOARD = 0xab,
    COMMAND_KEYBOARD_OFF = 0xad,
    COMMAND_KEYBOARD_ON = 0xae,
    COMMAND_READ_OUTPUT_PORT = 0xd0,
    COMMAND_WRITE_OUTPUT_PORT = 0xd1,
    COMMAND_LOOP_AUX = 0xd3,
    COMMAND_WRITE_AUX = 0xd4,
    COMMAND_PULSE = 0xf0, /* .. 0xff: the low bits that are 0 are pulsed */

    OUTPUT_PORT_NOT_RESET = 0x01,
    OUTPUT_PORT_A20 = 0x02,

    SELF_TEST_PASSED = 0x55,
    TEST_NO_DEVICE = 0x02, /* "clock line stuck high" */
};

void i8042_init(struct i8042 *i8042, struct life *life)
{
    memset(i8042, 0, sizeof(*i8042));
    i8042->life = life;
    i8042->config = CONFIG_SYSTEM | CONFIG_KEYBOARD_OFF | CONFIG_AUX_OFF;
    pthread_mutex_init(&i8042->lock, NULL);
}

void i8042_destroy(struct i8042 *i8042)
{
    pthread_mutex_destroy(&i8042->lock);
}

static void answer(struct i8042 *i8042, uint8_t byte)
{
    i8042->output = byte;
    i8042->output_full = true;
}

static void reset_unless(struct i8042 *i8042, uint8_t output_port)
{
    if ((output_port & OUTPUT_PORT_NOT_RESET) == 0)
        life_post(i8042->life, LIFE_REBOOT, 0);
}

static void write_command(struct i8042 *i8042, uint8_t command)
{
    i8042->pending = 0;
    i8042->last_was_command = true;
    switch (command) {
    case COMMAND_READ_CONFIG:
        answer(i8042, i8042->config);
        break;
    case COMMAND_WRITE_CONFIG:
    case COMMAND_WRITE_OUTPUT_PORT:
    case COMMAND_LOOP_AUX:
    case COMMAND_WRITE_AUX:
        i8042->pending = command;
        break;
    case COMMAND_SELF_TEST:
        answer(i8042, SELF_TEST_PASSED);
        break;
    case COMMAND_TEST_KEYBOARD:
    case COMMAND_TEST_AUX:
        answer(i8042, TEST_NO_DEVICE);
        break;
    case COMMAND_KEYBOARD_OFF:
        i8042->config |= CONFIG_KEYBOARD_OFF;
        break;
    case COMMAND_KEYBOARD_ON:
        i8042->config &= (uint8_t)~CONFIG_KEYBOARD_OFF;
        break;
    case COMMAND_READ_OUTPUT_PORT:
        answer(i8042, OUTPUT_PORT_NOT_RESET | OUTPUT_PORT_A20);
        break;
    default:
        if (command >= COMMAND_PULSE)
            reset_unless(i8042, command);
        break;
    }
}

static void write_data(struct i8042 *i8042, uint8_t byte)
{
    i8042->last_was_command = false;
    switch (i8042->pending) {
    case COMMAND_WRITE_CONFIG:
        i8042->config = byte;
        break;
    case COMMAND_WRITE_OUTPUT_PORT:
        reset_unless(i8042, byte); /* the A20 gate of this machine is always open */
        break;
    case COMMAND_LOOP_AUX:
        answer(i8042, (uint8_t)~byte); /* no auxiliary port: the loop does not close */
        break;
    default: /* for a keyboard or mouse that is not there */
        break;
    }
    i8042->pending = 0;
}

static void data_read(void *device, uint64_t offset, void *data, unsigned len)
{
    struct i8042 *i8042 = device;

    (void)offset;
    memset(data, 0, len);
    pthread_mutex_lock(&i8042->lock);
    *(uint8_t *)data = i8042->output;
    i8042->output_full = false;
    pthread_mutex_unlock(&i8042->lock);
}

static void data_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct i8042 *i8042 = device;

    (void)offset;
    (void)len;
    pthread_mutex_lock(&i8042->lock);
    write_data(i8042, *(const uint8_t *)data);
    pthread_mutex_unlock(&i8042->lock);
}

static void command_read(void *device, uint64_t offset, void *data, unsigned len)
{
    struct i8042 *i8042 = device;
    uint8_t status = STATUS_SYSTEM | STATUS_UNLOCKED;

    (void)offset;
    memset(data, 0, len);
    pthread_mutex_lock(&i8042->lock);
    if (i8042->output_full)
        status |= STATUS_OUTPUT_FULL;
    if (i8042->last_was_command)
        status |= STATUS_COMMAND;
    pthread_mutex_unlock(&i8042->lock);
    *(uint8_t *)data = status;
}

static void command_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct i8042 *i8042 = device;

    (void)offset;
    (void)len;
    pthread_mutex_lock(&i8042->lock);
    write_command(i8042, *(const uint8_t *)data);
    pthread_mutex_unlock(&i8042->lock);
}

const struct bus_ops i8042_data_bus_ops = {.read = data_read, .write = data_write};
const struct bus_ops i8042_command_bus_ops = {.read = command_read, .write = command_write};
