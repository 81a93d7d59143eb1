/*
 * platform.h - the legacy devices of the machine on the port bus: COM1, the ACPI PM1 block, the
 * i8042 and reset ports, pvpanic, and the exit port of test guests.
 *
 * Threads: create and destroy from the main thread while no vCPU runs; the rest as each device
 * says.
 */
#ifndef VMM_PLATFORM_H
#define VMM_PLATFORM_H

#include "bus.h"
#include "err.h"
#include "irq.h"
#include "life.h"

#include <stdbool.h>
#include <stdint.h>

struct platform;
struct serial;

struct platform_options {
    struct bus *pio;      /* borrowed; the devices stay in it, so it is not used after destroy */
    struct life *life;    /* borrowed, outlives the platform */
    struct irq_line com1; /* GSI 4, edge (LAYOUT_GSI_COM1) */
    bool test_device;     /* the exit port (LAYOUT_PORT_TEST_EXIT) */
};

/* Creates the devices in their power-on state and adds them to the port bus. -ENOMEM, or what
 * bus_add() says. */
int platform_create(const struct platform_options *options, struct platform **out, struct err *err);
/* No vCPU runs any more. NULL is allowed. */
void platform_destroy(struct platform *platform);

/* COM1; lives as long as the platform. */
struct serial *platform_com1(struct platform *platform);

/* The reset control register lies inside the ports of PCI configuration (0xcf8 .. 0xcff), which the
 * PCI root claims as one range: it hands one-byte accesses to LAYOUT_PORT_RESET on to these. Any
 * thread. */
uint8_t platform_reset_port_read(struct platform *platform);
void platform_reset_port_write(struct platform *platform, uint8_t value);

#endif
