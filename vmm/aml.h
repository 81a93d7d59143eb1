/*
 * aml.h - writes ACPI Machine Language (ACPI specification 6.4, chapter 20), as much as the DSDT needs.
 *
 * A writer appends to a buffer of fixed size; what does not fit is dropped and remembered in
 * `overflow`, so that the caller checks once, at the end. aml_open_*() and aml_close() nest.
 */
#ifndef VMM_AML_H
#define VMM_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *bytes;
    size_t used, size;
    bool overflow;
};

/* The place of a package length that aml_close() fills in. */
typedef size_t aml_mark;

void aml_bytes(struct aml *aml, const void *bytes, size_t count);
void aml_byte(struct aml *aml, uint8_t byte);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* A compressed identifier such as "PNP0501". */
void aml_eisa_id(struct aml *aml, const char *id);

/* `name` is a NameString of single segments of four characters; '\' and no dots. */
aml_mark aml_open_scope(struct aml *aml, const char *name);
aml_mark aml_open_device(struct aml *aml, const char *name);
aml_mark aml_open_method(struct aml *aml, const char *name, unsigned arguments);
aml_mark aml_open_package(struct aml *aml, unsigned elements);
void aml_close(struct aml *aml, aml_mark mark);

/* Name (name, ...): the object follows. */
void aml_name(struct aml *aml, const char *name);
void aml_name_integer(struct aml *aml, const char *name, uint64_t value);

/* Operation region of ports with one field that covers it, in bytes. */
void aml_port_field(struct aml *aml, const char *region, const char *field, uint16_t port,
                    uint8_t bytes);

/* Resource templates: open after aml_name(aml, "_CRS"). */
struct aml_resources {
    aml_mark package;
    size_t length_at, begin;
};

struct aml_resources aml_open_resources(struct aml *aml);
void aml_close_resources(struct aml *aml, struct aml_resources resources);
void aml_io(struct aml *aml, uint16_t port, uint8_t count);
void aml_irq(struct aml *aml, unsigned irq);
void aml_memory32_fixed(struct aml *aml, uint32_t start, uint32_t size);
/* Windows that a bridge passes on: bus numbers, ports, memory; `last` is included. */
void aml_bus_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_io_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last);

#endif
