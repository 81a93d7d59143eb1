/*
 * i8042.h - the keyboard controller without a keyboard: what is left of it is the reset line.
 *
 * Ports 0x60 (data) and 0x64 (command, status). Every command that owes an answer gives one at
 * once, so that a driver's probe never waits for its time-out. There is no interrupt and no
 * auxiliary port. Source: IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller".
 *
 * Threads: accesses from any vCPU thread; a lock inside orders them.
 */
#ifndef VMM_I8042_H
#define VMM_I8042_H

#include "bus.h"
#include "life.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct i8042 {
    struct life *life;
    pthread_mutex_t lock; /* all below */
    uint8_t config;       /* the "command byte" */
    uint8_t output;       /* what port 0x60 reads */
    bool output_full;
    bool last_was_command;
    uint8_t pending; /* a command that waits for its parameter, or 0 */
};

void i8042_init(struct i8042 *i8042, struct life *life);
void i8042_destroy(struct i8042 *i8042);

/* For bus_add(): one range of one port each. */
extern const struct bus_ops i8042_data_bus_ops;
extern const struct bus_ops i8042_command_bus_ops;

#endif
