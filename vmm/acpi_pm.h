/*
 * acpi_pm.h - the PM1a event and control blocks: how a guest powers itself off.
 * Source: ACPI specification 6.4, section 4.8.3.
 *
 *   0  PM1_STS   status; no event source exists, so it reads 0 and a write of ones clears nothing
 *   2  PM1_EN    enable
 *   4  PM1_CNT   bit 0 SCI_EN, bits 10..12 SLP_TYP, bit 13 SLP_EN (reads 0)
 *
 * The machine has no SMI command port, so it is in ACPI mode from the start: SCI_EN always reads 1.
 *
 * Threads: accesses from any vCPU thread; each byte is atomic.
 */
#ifndef VMM_ACPI_PM_H
#define VMM_ACPI_PM_H

#include "bus.h"
#include "life.h"

#include <stdatomic.h>

/* SLP_TYP of S5, soft off: the DSDT's \_S5 package says the same. */
enum { ACPI_PM_SLEEP_TYPE_S5 = 5, ACPI_PM_SIZE = 6 };

struct acpi_pm {
    struct life *life;
    atomic_uchar bytes[ACPI_PM_SIZE];
};

void acpi_pm_init(struct acpi_pm *pm, struct life *life);

/* For bus_add(): ACPI_PM_SIZE ports. */
extern const struct bus_ops acpi_pm_bus_ops;

#endif
