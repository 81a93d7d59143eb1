/*
 * reset_port.h - the reset control register at port 0xcf9, also the FADT's RESET_REG.
 * Source: Intel PIIX4/ICH data sheets, RST_CNT: bit 2 resets, bits 1 and 3 choose how thoroughly.
 *
 * Threads: accesses from any vCPU thread.
 */
#ifndef VMM_RESET_PORT_H
#define VMM_RESET_PORT_H

#include "life.h"

#include <stdatomic.h>
#include <stdint.h>

struct reset_port {
    struct life *life;
    atomic_uchar value;
};

void reset_port_init(struct reset_port *port, struct life *life);
uint8_t reset_port_read(struct reset_port *port);
void reset_port_write(struct reset_port *port, uint8_t value);

#endif
