/* lib.c - the start of main(), the console, checks, the boot information, memory. */
#include "lib.h"
#include "interrupt.h"

#include <stdarg.h>

#define LSR_TRANSMIT_EMPTY 0x20

extern char _end[];

static unsigned checks, failed;
static uint64_t heap;

void guest_main(void);

void put_char(char c)
{
    if (c == '\n')
        put_char('\r');
    while (!(in8(PORT_COM1 + 5) & LSR_TRANSMIT_EMPTY))
        ;
    out8(PORT_COM1, (uint8_t)c);
}

static void put_string(const char *s)
{
    while (*s)
        put_char(*s++);
}

static void put_number(uint64_t value, unsigned base)
{
    char digits[21];
    char *p = digits + sizeof(digits) - 1;

    *p = '\0';
    do {
        *--p = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    put_string(p);
}

static void say_list(const char *fmt, va_list args)
{
    for (; *fmt; fmt++) {
        bool is_long = false;

        if (*fmt != '%') {
            put_char(*fmt);
            continue;
        }
        fmt++;
        if (*fmt == 'l') {
            is_long = true;
            fmt++;
        }
        switch (*fmt) {
        case 's':
            put_string(va_arg(args, const char *));
            break;
        case 'c':
            put_char((char)va_arg(args, int));
            break;
        case 'u':
        case 'x':
            put_number(is_long ? va_arg(args, uint64_t) : va_arg(args, unsigned),
                       *fmt == 'x' ? 16 : 10);
            break;
        default:
            put_char(*fmt);
        }
    }
}

void say(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say_list(fmt, args);
    va_end(args);
}

bool check(bool held, const char *name, ...)
{
    va_list args;

    checks++;
    if (!held)
        failed++;
    put_string(held ? "ok - " : "not ok - ");
    va_start(args, name);
    say_list(name, args);
    va_end(args);
    put_char('\n');
    return held;
}

unsigned failures(void)
{
    return failed;
}

_Noreturn void finish(uint8_t status)
{
    out8(PORT_EXIT, status);
    for (;;)
        __asm__ volatile("cli; hlt");
}

const char *command_line(void)
{
    enum { PARAMS_CMD_LINE_PTR = 0x228 };

    if (boot_start_info && boot_start_info->command_line)
        return at(boot_start_info->command_line);
    if (boot_params)
        return at(*(uint32_t *)(boot_params + PARAMS_CMD_LINE_PTR));
    return "";
}

/* What follows `name` where it begins a word of the command line, or NULL. */
static const char *find_argument(const char *name)
{
    const char *line = command_line();
    size_t length = strlen(name);

    for (const char *p = line; *p; p++)
        if ((p == line || p[-1] == ' ') && memcmp(p, name, length) == 0)
            return p + length;
    return NULL;
}

uint64_t argument(const char *name, uint64_t otherwise)
{
    const char *p = find_argument(name);
    uint64_t value = 0;

    if (!p || *p++ != '=')
        return otherwise;
    while (*p >= '0' && *p <= '9')
        value = value * 10 + (uint64_t)(*p++ - '0');
    return value;
}

bool has_argument(const char *word)
{
    const char *p = find_argument(word);

    return p && (*p == ' ' || *p == '\0');
}

void *allocate(size_t size, size_t align)
{
    uint64_t start = (heap + align - 1) & ~((uint64_t)align - 1);

    /* Nothing was here since the machine started: it is zero. */
    heap = start + size;
    return at(start);
}

void *memset(void *to, int byte, size_t size)
{
    void *p = to;

    __asm__ volatile("rep stosb" : "+D"(p), "+c"(size) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    void *p = to;

    __asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(size)::"memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *x = a, *y = b;

    for (; size; size--, x++, y++)
        if (*x != *y)
            return *x < *y ? -1 : 1;
    return 0;
}

size_t strlen(const char *s)
{
    const char *end = s;

    while (*end)
        end++;
    return (size_t)(end - s);
}

void guest_main(void)
{
    int status;

    heap = address_of(_end);
    interrupt_init();
    status = main();
    if (status == 0)
        status = checks && !failed ? EXIT_PASS : EXIT_FAIL;
    finish((uint8_t)status);
}
