/*
 * serial.h - a 16550A UART: registers, 16-byte FIFOs, interrupts. The wire goes to a console.
 *
 * Threads: register accesses come from vCPU threads, input from the console's thread; a lock inside
 * orders them. `output` is called in the vCPU thread with no lock held: it may wait for the
 * console, which holds up that vCPU alone.
 */
#ifndef VMM_SERIAL_H
#define VMM_SERIAL_H

#include "bus.h"
#include "irq.h"

#include <stddef.h>
#include <stdint.h>

struct serial;

/* Returns a UART that drives `irq` (copied), or NULL without memory. */
struct serial *serial_create(const struct irq_line *irq);
void serial_destroy(struct serial *serial);

/* Bytes that the guest sends; NULL: thrown away. Not while a vCPU runs. */
void serial_set_output(struct serial *serial, void (*output)(void *opaque, uint8_t byte),
                       void *opaque);
/* Bytes from outside: returns how many the UART took (0 .. length). It takes what the receive FIFO
 * has room for, and nothing while the guest does not listen (serial.c says when it does). */
size_t serial_input(struct serial *serial, const uint8_t *bytes, size_t length);
/* An eventfd that is signalled when a UART that had refused input can take some again. */
int serial_room_fd(const struct serial *serial);

/* For bus_add(): 8 ports. */
extern const struct bus_ops serial_bus_ops;

#endif
