/*
 * acpi.h - the ACPI tables of the machine (ACPI specification 6.4).
 */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include "err.h"
#include "guestmem.h"

#include <stdint.h>

/* Writes all tables to the ACPI area of layout.h, for `cpus` processors with APIC ids 0 .. cpus-1,
 * and tells the address of the RSDP. */
int acpi_write_tables(const struct guestmem *mem, unsigned cpus, uint64_t *rsdp, struct err *err);

#endif
