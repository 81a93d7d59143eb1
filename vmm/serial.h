/*
 * serial.h - a 16550A UART: registers, 16-byte FIFOs, interrupts. The wire goes to a console.
 *
 * Threads: register accesses come from vCPU threads, input from the console's thread; a lock inside
 * orders them. `output` is called with that lock held and must not call back.
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

/* Bytes that the guest sends; NULL: thrown away. */
void serial_set_output(struct serial *serial, void (*output)(void *opaque, uint8_t byte),
                       void *opaque);
/* Bytes from outside: returns how many fitted into the receive FIFO (0 .. length). */
size_t serial_input(struct serial *serial, const uint8_t *bytes, size_t length);
/* An eventfd that is signalled when the guest made room in a receive FIFO that had refused input. */
int serial_room_fd(const struct serial *serial);

/* For bus_add(): 8 ports. */
extern const struct bus_ops serial_bus_ops;

#endif
