/*
 * interrupt.h - the IDT, the local APIC and the I/O APIC.
 *
 * An exception ends the program with EXIT_EXCEPTION and a line about it, unless a handler was set.
 * Interrupts are off until interrupt_enable().
 */
#ifndef GUEST_INTERRUPT_H
#define GUEST_INTERRUPT_H

#include <stdint.h>

enum { VECTOR_FIRST = 32, VECTOR_COUNT = 48 };

void interrupt_init(void);
/* Switches the local APIC on, the 8259s off, and interrupts on. */
void interrupt_enable(void);
/* `handler` runs for `vector` (VECTOR_FIRST .. VECTOR_COUNT - 1); the end of interrupt is said for
 * it. */
void interrupt_set_handler(unsigned vector, void (*handler)(unsigned vector));
/* How often the vector arrived. */
unsigned interrupt_count(unsigned vector);
/* Message address and data that send `vector` to this CPU. */
uint64_t interrupt_message_address(void);
/* Routes an I/O APIC pin, edge-triggered and active high, to this CPU. */
void ioapic_route(unsigned pin, unsigned vector);

uint32_t lapic_read(unsigned offset);
void lapic_write(unsigned offset, uint32_t value);

#endif
