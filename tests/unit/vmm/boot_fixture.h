/*
 * boot_fixture.h - kernel files made by code, a guest memory to load them into, and the loader's verdict.
 */
#ifndef TEST_BOOT_FIXTURE_H
#define TEST_BOOT_FIXTURE_H

#include "boot.h"
#include "boot_private.h"
#include "bytes.h"
#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (1ULL << 20)

struct boot_fixture {
    struct memory memory;
    char kernel[64], initrd[64];
    struct boot_request request;
    struct boot_registers registers;
    struct err err;
};

static inline void fixture_write(char path[64], const void *bytes, size_t size)
{
    int fd;

    snprintf(path, 64, "/tmp/minivmm-boot-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
    close(fd);
}

static inline void fixture_init(struct boot_fixture *f, uint64_t memory)
{
    memset(f, 0, sizeof(*f));
    assert_int_equal(memory_create(&f->memory, memory, false, &f->err), 0);
    f->request =
        (struct boot_request){.cmdline = "console=ttyS0", .memory = memory, .rsdp = 0xe0000};
}

static inline void fixture_kernel(struct boot_fixture *f, const void *bytes, size_t size)
{
    fixture_write(f->kernel, bytes, size);
    f->request.kernel = f->kernel;
}

static inline void fixture_initrd(struct boot_fixture *f, const void *bytes, size_t size)
{
    fixture_write(f->initrd, bytes, size);
    f->request.initrd = f->initrd;
}

static inline int fixture_load(struct boot_fixture *f)
{
    f->err.text[0] = '\0';
    return boot_load(&f->memory.map, &f->request, &f->registers, &f->err);
}

static inline void fixture_destroy(struct boot_fixture *f)
{
    if (f->kernel[0])
        unlink(f->kernel);
    if (f->initrd[0])
        unlink(f->initrd);
    memory_destroy(&f->memory);
}

static inline uint8_t *fixture_at(struct boot_fixture *f, uint64_t gpa, uint64_t size)
{
    uint8_t *p = guestmem_ptr(&f->memory.map, gpa, size);

    assert_non_null(p);
    return p;
}

/* One refusal: the status and a word of the message. */
static inline void fixture_expect_refusal(struct boot_fixture *f, const char *what, int error,
                                          const char *word)
{
    int r = fixture_load(f);

    if (r != error || !strstr(f->err.text, word) || strchr(f->err.text, '\n'))
        fail_msg("%s: status %d, expected %d with '%s': %s", what, r, error, word, f->err.text);
}

#endif
