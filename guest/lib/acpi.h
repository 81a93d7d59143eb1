/*
 * acpi.h - finding ACPI tables from the RSDP that the boot information names.
 */
#ifndef GUEST_ACPI_H
#define GUEST_ACPI_H

#include <stdbool.h>
#include <stdint.h>

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem[6], oem_table[8];
    uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

/* The bytes of a table add up to 0. */
bool acpi_checksum_ok(const void *table, uint32_t length);
/* The RSDP, or NULL when the boot information names none or its signature is wrong. */
const uint8_t *acpi_rsdp(void);
/* A table by signature through the XSDT, or the RSDT where there is no XSDT. The DSDT comes by the
 * FADT. NULL when it is not there. */
const struct acpi_header *acpi_find(const char *signature);
/* Unaligned little-endian loads at an offset in a table. */
uint32_t acpi_load32(const void *table, unsigned offset);
uint64_t acpi_load64(const void *table, unsigned offset);
/* Where ECAM of segment 0 begins, by the MCFG; 0 without one. */
uint64_t acpi_ecam(void);

#endif
