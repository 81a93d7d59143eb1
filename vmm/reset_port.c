#include "reset_port.h"

enum { RESET_HARD = 0x02, RESET_CPU = 0x04, RESET_FULL = 0x08 };

void reset_port_init(struct reset_port *port, struct life *life)
{
    port->life = life;
    atomic_init(&port->value, 0);
}

uint8_t reset_port_read(struct reset_port *port)
{
    return atomic_load(&port->value);
}

void reset_port_write(struct reset_port *port, uint8_t value)
{
    atomic_store(&port->value, value & (RESET_HARD | RESET_FULL));
    if (value & RESET_CPU)
        life_post(port->life, LIFE_REBOOT, 0);
}
