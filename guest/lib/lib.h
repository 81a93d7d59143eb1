/*
 * lib.h - what every bare-metal test program has: the console, the exit port, checks, the boot
 * information, time, port and memory accesses.
 *
 * A program is one file with `int main(void)`: it calls check() and returns. The guest then ends
 * through the exit port with EXIT_PASS when it checked something and every check held, which no
 * accident gives. Programs run where each instruction is emulated (about a million a second): they
 * count their instructions, not their lines.
 */
#ifndef GUEST_LIB_H
#define GUEST_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EXIT_PASS = 42, EXIT_FAIL = 43, EXIT_EXCEPTION = 44 };

#define PORT_EXIT 0xf4
#define PORT_COM1 0x3f8

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Ends the guest with a status. */
_Noreturn void finish(uint8_t status);
/* "ok - NAME" or "not ok - NAME", which makes the program fail. NAME is formatted as in say().
 * Returns `held`. */
bool check(bool held, const char *name, ...);
/* Checks that did not hold so far. */
unsigned failures(void);
/* Prints: %s, %c, %u (unsigned), %x (unsigned), %lx (uint64_t), %lu (uint64_t). */
void say(const char *fmt, ...);
void put_char(char c);

/* ---- boot information ---- */

/* hvm_start_info of the PVH boot protocol, version 1 */
struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
};
struct start_module {
    uint64_t address, size, command_line, reserved;
};
struct memory_map_entry {
    uint64_t address, size;
    uint32_t type, reserved;
};
enum { START_INFO_MAGIC = 0x336ec578, MEMORY_RAM = 1, MEMORY_RESERVED = 2 };

extern struct start_info *boot_start_info; /* NULL unless booted by PVH */
extern uint8_t *boot_params; /* the zero page, NULL unless booted by the Linux protocol */

const char *command_line(void);
/* The number behind "NAME=" on the command line, or `otherwise`. */
uint64_t argument(const char *name, uint64_t otherwise);
/* Whether WORD stands on the command line. */
bool has_argument(const char *word);

/* ---- time ---- */

static inline uint64_t time_stamp(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

/* Some seconds: for what must happen. Something under a tenth of one: for what must not happen. */
#define LONG_WAIT  (1ULL << 34)
#define SHORT_WAIT (1ULL << 26)

/* Waits until CONDITION holds or WAIT time stamps have passed; says whether it held. */
#define WAIT_FOR(condition, wait)                                                                  \
    ({                                                                                             \
        uint64_t wait_start = time_stamp();                                                        \
        bool wait_held;                                                                            \
        while (!(wait_held = (condition)) && time_stamp() - wait_start < (wait))                   \
            __asm__ volatile("pause" ::: "memory");                                                \
        wait_held;                                                                                 \
    })

/* ---- memory and strings ---- */

/* Zeroed memory, never freed. `align` is a power of two. */
void *allocate(size_t size, size_t align);
void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *s);

static inline void *at(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

static inline uint64_t address_of(const volatile void *p)
{
    return (uint64_t)(uintptr_t)p;
}

/* ---- devices ---- */

#define DEFINE_ACCESS(bits)                                                                        \
    static inline uint##bits##_t mmio_read##bits(uint64_t address)                                 \
    {                                                                                              \
        return *(volatile uint##bits##_t *)at(address);                                            \
    }                                                                                              \
    static inline void mmio_write##bits(uint64_t address, uint##bits##_t value)                    \
    {                                                                                              \
        *(volatile uint##bits##_t *)at(address) = value;                                           \
    }

#define DEFINE_PORT_ACCESS(bits, suffix)                                                           \
    static inline uint##bits##_t in##bits(uint16_t port)                                           \
    {                                                                                              \
        uint##bits##_t value;                                                                      \
                                                                                                   \
        __asm__ volatile("in" suffix " %1, %0" : "=a"(value) : "Nd"(port) : "memory");             \
        return value;                                                                              \
    }                                                                                              \
    static inline void out##bits(uint16_t port, uint##bits##_t value)                              \
    {                                                                                              \
        __asm__ volatile("out" suffix " %0, %1" ::"a"(value), "Nd"(port) : "memory");              \
    }

DEFINE_ACCESS(8)
DEFINE_ACCESS(16)
DEFINE_ACCESS(32)
DEFINE_ACCESS(64)
DEFINE_PORT_ACCESS(8, "b")
DEFINE_PORT_ACCESS(16, "w")
DEFINE_PORT_ACCESS(32, "l")

/* Every store before is visible before any load or store after: rings and doorbells. */
static inline void fence(void)
{
    __asm__ volatile("mfence" ::: "memory");
}

int main(void);

#endif
