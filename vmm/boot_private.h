/*
 * boot_private.h - what the boot_*.c files share: the file under the loader, the map of low memory, and
 * where things may be put.
 *
 * Low memory, all of it below the EBDA:
 *
 *   0x00500  GDT
 *   0x06000  hvm_start_info, its module list and memory map (PVH)
 *   0x07000  boot_params, the "zero page" (64-bit entry)
 *   0x09000  page tables: one PML4, one PDPT, four page directories
 *   0x0f000  stack up to 0x20000, for guests that do not bring one of their own
 *   0x20000  command line
 *   0xe0000  ACPI tables (acpi.h)
 */
#ifndef VMM_BOOT_PRIVATE_H
#define VMM_BOOT_PRIVATE_H

#include "boot.h"

#include <sys/types.h>

#define BOOT_GDT         0x500ULL
#define BOOT_START_INFO  0x6000ULL
#define BOOT_ZERO_PAGE   0x7000ULL
#define BOOT_PAGES       0x9000ULL
#define BOOT_STACK_TOP   0x20000ULL
#define BOOT_CMDLINE     0x20000ULL
#define BOOT_CMDLINE_MAX 0x10000U
/* Kernels are loaded from here on. */
#define BOOT_KERNEL_MIN 0x100000ULL

struct boot_file {
    const char *path;
    int fd;
    uint64_t size;
};

/* Opens a regular file for reading; `what` ("kernel", "initrd") begins the messages. */
int boot_file_open(struct boot_file *file, const char *path, const char *what, struct err *err);
void boot_file_close(struct boot_file *file);
/* Reads exactly `length` bytes at `offset`; -EIO with a message when the file ends before that. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *buf, uint64_t length,
                   struct err *err);

enum { BOOT_HEAD_SIZE = 4096 };

/* The loaders. `head` holds the first `head_size` bytes of the file. */
int boot_bzimage(const struct guestmem *mem, const struct boot_request *request,
                 const struct boot_file *file, const uint8_t *head, size_t head_size,
                 struct boot_registers *registers, struct err *err);
int boot_elf(const struct guestmem *mem, const struct boot_request *request,
             const struct boot_file *file, const uint8_t *head, size_t head_size,
             struct boot_registers *registers, struct err *err);

/* Copies the command line to BOOT_CMDLINE; `max` is what the kernel takes, without the final NUL. */
int boot_put_cmdline(const struct guestmem *mem, const char *cmdline, uint64_t max,
                     struct err *err);

struct boot_initrd {
    uint64_t address, size; /* size 0: none */
};

/* Reads request->initrd to the highest page-aligned place with all of it at or above `floor` and
 * below `ceiling`, inside the RAM below the hole. */
int boot_put_initrd(const struct guestmem *mem, const struct boot_request *request, uint64_t floor,
                    uint64_t ceiling, struct boot_initrd *initrd, struct err *err);

/* Fills the zero page: the kernel's own setup header, from offset 0x1f1 on (`header_size` bytes; 0 for
 * an ELF file, which has none), with the loader's fields, memory map and ACPI address. */
int boot_zero_page(const struct guestmem *mem, const struct boot_request *request,
                   const struct boot_initrd *initrd, const uint8_t *header, size_t header_size,
                   struct err *err);
/* The 64-bit state: long mode, the first 4 GiB mapped one to one, rsi at the zero page. */
int boot_enter_64bit(const struct guestmem *mem, uint64_t entry, struct boot_registers *registers,
                     struct err *err);
/* The 32-bit state of the PVH entry with hvm_start_info at BOOT_START_INFO. */
int boot_enter_pvh(const struct guestmem *mem, const struct boot_request *request,
                   const struct boot_initrd *initrd, uint32_t entry,
                   struct boot_registers *registers, struct err *err);

#endif
