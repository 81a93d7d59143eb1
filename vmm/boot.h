/*
 * boot.h - loads a kernel into guest memory and says in what state the first vCPU enters it.
 *
 * What the file is decides, not its name: a Linux bzImage (64-bit boot protocol), an ELF file with a PVH
 * note, or an ELF file that is entered in 64-bit mode as a Linux vmlinux is. Everything in a kernel
 * file is hostile: a bad one leads to an error, whatever it says.
 *
 * Sources: Documentation/x86/boot.rst and zero-page.rst of Linux; the x86/HVM direct boot ABI of Xen.
 *
 * Threads: called by the main thread before a vCPU runs.
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include "err.h"
#include "guestmem.h"

#include <stdint.h>

struct boot_request {
    const char *kernel;
    const char *initrd; /* or NULL */
    const char *cmdline;
    uint64_t memory; /* bytes of guest RAM, laid out as memory.h says */
    uint64_t rsdp;   /* where the ACPI tables begin, or 0 */
};

struct boot_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type; /* as in a segment descriptor */
    uint8_t present, dpl, db, s, l, g;
};

struct boot_table {
    uint64_t base;
    uint16_t limit;
};

/* Registers not named here are zero; interrupts are off. */
struct boot_registers {
    uint64_t rip, rsp, rbx, rsi;
    uint64_t cr0, cr3, cr4, efer;
    struct boot_segment code, data, task;
    struct boot_table gdt, idt;
};

int boot_load(const struct guestmem *mem, const struct boot_request *request,
              struct boot_registers *registers, struct err *err);

#endif
