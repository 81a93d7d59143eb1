/*
 * aml.c - see aml.h. Lengths are written in the three-byte form always: no need to know them before.
 */
#include "aml.h"

#include "bytes.h"

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXT = 0x5b,
    OP_EXT_REGION = 0x80,
    OP_EXT_FIELD = 0x81,
    OP_EXT_DEVICE = 0x82,
};

enum { LENGTH_BYTES = 3, END_TAG = 0x79 };

void aml_bytes(struct aml *aml, const void *bytes, size_t count)
{
    if (count > aml->size - aml->used) {
        aml->overflow = true;
        return;
    }
    memcpy(aml->bytes + aml->used, bytes, count);
    aml->used += count;
}

void aml_byte(struct aml *aml, uint8_t byte)
{
    aml_bytes(aml, &byte, 1);
}

static void add_word(struct aml *aml, uint16_t value)
{
    uint8_t bytes[2];

    store_le16(bytes, value);
    aml_bytes(aml, bytes, sizeof(bytes));
}

static void add_dword(struct aml *aml, uint32_t value)
{
    uint8_t bytes[4];

    store_le32(bytes, value);
    aml_bytes(aml, bytes, sizeof(bytes));
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        aml_byte(aml, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        aml_byte(aml, OP_BYTE);
        aml_byte(aml, (uint8_t)value);
    } else if (value <= UINT16_MAX) {
        aml_byte(aml, OP_WORD);
        add_word(aml, (uint16_t)value);
    } else if (value <= UINT32_MAX) {
        aml_byte(aml, OP_DWORD);
        add_dword(aml, (uint32_t)value);
    } else {
        aml_byte(aml, OP_QWORD);
        add_dword(aml, (uint32_t)value);
        add_dword(aml, (uint32_t)(value >> 32));
    }
}

void aml_string(struct aml *aml, const char *text)
{
    aml_byte(aml, OP_STRING);
    aml_bytes(aml, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

void aml_eisa_id(struct aml *aml, const char *id)
{
    /* Three letters of five bits and four hexadecimal digits, the most significant byte first. */
    uint32_t value = 0;
    uint8_t bytes[4];

    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | (unsigned)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);
    store_be32(bytes, value);
    aml_byte(aml, OP_DWORD);
    aml_bytes(aml, bytes, sizeof(bytes));
}

static aml_mark open_length(struct aml *aml)
{
    static const uint8_t place[LENGTH_BYTES];
    aml_mark mark = aml->used;

    aml_bytes(aml, place, sizeof(place));
    return mark;
}

void aml_close(struct aml *aml, aml_mark mark)
{
    /* Section 20.2.4: two bytes follow the first one, which holds the low four bits. */
    size_t length = aml->used - mark;

    if (aml->overflow)
        return;
    aml->bytes[mark] = (uint8_t)((LENGTH_BYTES - 1) << 6 | (length & 0xf));
    aml->bytes[mark + 1] = (uint8_t)(length >> 4);
    aml->bytes[mark + 2] = (uint8_t)(length >> 12);
}

static void add_name(struct aml *aml, const char *name)
{
    aml_bytes(aml, name, strlen(name));
}

aml_mark aml_open_scope(struct aml *aml, const char *name)
{
    aml_mark mark;

    aml_byte(aml, OP_SCOPE);
    mark = open_length(aml);
    add_name(aml, name);
    return mark;
}

aml_mark aml_open_device(struct aml *aml, const char *name)
{
    aml_mark mark;

    aml_byte(aml, OP_EXT);
    aml_byte(aml, OP_EXT_DEVICE);
    mark = open_length(aml);
    add_name(aml, name);
    return mark;
}

aml_mark aml_open_method(struct aml *aml, const char *name, unsigned arguments)
{
    aml_mark mark;

    aml_byte(aml, OP_METHOD);
    mark = open_length(aml);
    add_name(aml, name);
    aml_byte(aml, (uint8_t)arguments);
    return mark;
}

aml_mark aml_open_package(struct aml *aml, unsigned elements)
{
    aml_mark mark;

    aml_byte(aml, OP_PACKAGE);
    mark = open_length(aml);
    aml_byte(aml, (uint8_t)elements);
    return mark;
}

void aml_name(struct aml *aml, const char *name)
{
    aml_byte(aml, OP_NAME);
    add_name(aml, name);
}

void aml_name_integer(struct aml *aml, const char *name, uint64_t value)
{
    aml_name(aml, name);
    aml_integer(aml, value);
}

void aml_port_field(struct aml *aml, const char *region, const char *field, uint16_t port,
                    uint8_t bytes)
{
    enum { SYSTEM_IO = 1, BYTE_ACCESS = 1 };
    aml_mark mark;

    aml_byte(aml, OP_EXT);
    aml_byte(aml, OP_EXT_REGION);
    add_name(aml, region);
    aml_byte(aml, SYSTEM_IO);
    aml_integer(aml, port);
    aml_integer(aml, bytes);

    aml_byte(aml, OP_EXT);
    aml_byte(aml, OP_EXT_FIELD);
    mark = open_length(aml);
    add_name(aml, region);
    aml_byte(aml, BYTE_ACCESS);
    add_name(aml, field);
    aml_byte(aml, (uint8_t)(bytes * 8)); /* bits; below 64 it is its own length */
    aml_close(aml, mark);
}

struct aml_resources aml_open_resources(struct aml *aml)
{
    struct aml_resources resources;

    aml_byte(aml, OP_BUFFER);
    resources.package = open_length(aml);
    aml_byte(aml, OP_WORD);
    resources.length_at = aml->used;
    add_word(aml, 0);
    resources.begin = aml->used;
    return resources;
}

void aml_close_resources(struct aml *aml, struct aml_resources resources)
{
    aml_byte(aml, END_TAG);
    aml_byte(aml, 0); /* a checksum of zero is always right */
    if (!aml->overflow)
        store_le16(aml->bytes + resources.length_at, (uint16_t)(aml->used - resources.begin));
    aml_close(aml, resources.package);
}

void aml_io(struct aml *aml, uint16_t port, uint8_t count)
{
    aml_byte(aml, 0x47); /* I/O port descriptor, 7 bytes */
    aml_byte(aml, 1);    /* 16 address bits are decoded */
    add_word(aml, port);
    add_word(aml, port);
    aml_byte(aml, 1); /* alignment */
    aml_byte(aml, count);
}

void aml_irq(struct aml *aml, unsigned irq)
{
    aml_byte(aml, 0x22); /* IRQ descriptor, 2 bytes: edge triggered, active high, exclusive */
    add_word(aml, (uint16_t)(1U << irq));
}

void aml_memory32_fixed(struct aml *aml, uint32_t start, uint32_t size)
{
    aml_byte(aml, 0x86);
    add_word(aml, 9);
    aml_byte(aml, 1); /* read and write */
    add_dword(aml, start);
    add_dword(aml, size);
}

/* Address space descriptors (section 6.4.3.5): a window that the bridge produces, both ends fixed. */
static void word_window(struct aml *aml, uint8_t type, uint8_t type_flags, uint16_t first,
                        uint16_t last)
{
    aml_byte(aml, 0x88);
    add_word(aml, 13);
    aml_byte(aml, type);
    aml_byte(aml, 0x0c); /* minimum and maximum are fixed */
    aml_byte(aml, type_flags);
    add_word(aml, 0); /* granularity */
    add_word(aml, first);
    add_word(aml, last);
    add_word(aml, 0); /* translation */
    add_word(aml, (uint16_t)(last - first + 1));
}

void aml_bus_window(struct aml *aml, uint16_t first, uint16_t last)
{
    word_window(aml, 2, 0, first, last);
}

void aml_io_window(struct aml *aml, uint16_t first, uint16_t last)
{
    word_window(aml, 1, 3, first, last); /* the whole range, ISA ports included */
}

void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last)
{
    aml_byte(aml, 0x87);
    add_word(aml, 23);
    aml_byte(aml, 0);    /* memory */
    aml_byte(aml, 0x0c); /* minimum and maximum are fixed */
    aml_byte(aml, 1);    /* not cacheable, read and write */
    add_dword(aml, 0);   /* granularity */
    add_dword(aml, first);
    add_dword(aml, last);
    add_dword(aml, 0); /* translation */
    add_dword(aml, last - first + 1);
}
