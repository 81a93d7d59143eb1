/*
 * pvpanic.h - the port by which a guest kernel reports its panic (ACPI device QEMU0001).
 * Source: QEMU's docs/specs/pvpanic.txt.
 *
 * Threads: accesses from any vCPU thread.
 */
#ifndef VMM_PVPANIC_H
#define VMM_PVPANIC_H

#include "bus.h"
#include "life.h"

#include <stdatomic.h>

struct pvpanic {
    struct life *life;
    atomic_flag reported; /* a guest may not fill the log */
};

void pvpanic_init(struct pvpanic *pvpanic, struct life *life);

/* For bus_add(): 1 port. */
extern const struct bus_ops pvpanic_bus_ops;

#endif
