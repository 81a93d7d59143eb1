/*
 * acpi_private.h - the DSDT's definition block, apart from the fixed tables.
 */
#ifndef VMM_ACPI_PRIVATE_H
#define VMM_ACPI_PRIVATE_H

#include "aml.h"

void acpi_dsdt(struct aml *aml);

#endif
