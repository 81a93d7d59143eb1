/*
 * boot_state.c - what a kernel finds at its entry: zero page or hvm_start_info, GDT, page tables,
 * registers.
 *
 * Nothing is cleared: guest memory is fresh, and untouched pages stay untouched.
 */
#include "boot_private.h"

#include "bytes.h"
#include "checked.h"
#include "e820.h"

#include <asm/bootparam.h>
#include <asm/processor-flags.h>
#include <errno.h>

enum { SELECTOR_CODE = 0x10, SELECTOR_DATA = 0x18, SELECTOR_TASK = 0x20 };

enum { EFER_LME = 1 << 8, EFER_LMA = 1 << 10 };

enum { PAGE_PRESENT = 1, PAGE_WRITABLE = 2, PAGE_LARGE = 0x80 };

/* Flat descriptors: base 0, limit 4 GiB, accessed; the code one 64-bit or 32-bit. */
#define GDT_CODE_64 0x00af9b000000ffffULL
#define GDT_CODE_32 0x00cf9b000000ffffULL
#define GDT_DATA    0x00cf93000000ffffULL

/* hvm_start_info version 1 and what it points to, by offset. */
enum {
    START_INFO_MAGIC = 0x336ec578,
    START_INFO_SIZE = 56,
    START_INFO_MODULES = 0x100, /* from BOOT_START_INFO */
    START_INFO_MODULE_SIZE = 32,
    START_INFO_MEMMAP = 0x200, /* from BOOT_START_INFO */
    START_INFO_MEMMAP_ENTRY_SIZE = 24,
};

static void *low_memory(const struct guestmem *mem, uint64_t gpa, uint64_t size, struct err *err)
{
    void *at = guestmem_ptr(mem, gpa, size);

    if (!at)
        err_set(err, -ENOMEM, "no guest memory at 0x%llx to boot from", (unsigned long long)gpa);
    return at;
}

int boot_zero_page(const struct guestmem *mem, const struct boot_request *request,
                   const struct boot_initrd *initrd, const uint8_t *header, size_t header_size,
                   struct err *err)
{
    struct boot_params *params = low_memory(mem, BOOT_ZERO_PAGE, sizeof(*params), err);
    struct e820_entry map[E820_MAX_ENTRIES];

    if (!params)
        return -ENOMEM;
    if (header_size > 0) {
        memcpy(&params->hdr, header, header_size);
    } else {
        /* By these a kernel tells that a zero page is one. */
        params->hdr.boot_flag = 0xaa55;
        params->hdr.header = 0x53726448; /* "HdrS" */
    }
    params->hdr.type_of_loader = 0xff; /* none of the registered ones */
    params->hdr.loadflags =
        (uint8_t)((params->hdr.loadflags | LOADED_HIGH) & ~(KASLR_FLAG | CAN_USE_HEAP));
    params->hdr.vid_mode = 0xffff; /* "normal" */
    params->hdr.cmd_line_ptr = BOOT_CMDLINE;
    params->hdr.ramdisk_image = (uint32_t)initrd->address;
    params->hdr.ramdisk_size = (uint32_t)initrd->size;
    params->hdr.setup_data = 0; /* a list of the loader's, which is empty */
    params->acpi_rsdp_addr = request->rsdp;
    params->e820_entries = (uint8_t)e820_build(request->memory, map);
    for (unsigned i = 0; i < params->e820_entries; i++)
        params->e820_table[i] = (struct boot_e820_entry){
            .addr = map[i].address, .size = map[i].size, .type = map[i].type};
    return 0;
}

static int put_gdt(const struct guestmem *mem, uint64_t code, struct boot_registers *registers,
                   struct err *err)
{
    uint8_t *gdt = low_memory(mem, BOOT_GDT, SELECTOR_TASK, err);

    if (!gdt)
        return -ENOMEM;
    store_le64(gdt + SELECTOR_CODE, code);
    store_le64(gdt + SELECTOR_DATA, GDT_DATA);
    registers->gdt = (struct boot_table){.base = BOOT_GDT, .limit = SELECTOR_TASK - 1};
    registers->data = (struct boot_segment){.limit = UINT32_MAX,
                                            .selector = SELECTOR_DATA,
                                            .type = 3, /* read/write, accessed */
                                            .present = 1,
                                            .db = 1,
                                            .s = 1,
                                            .g = 1};
    registers->code = registers->data;
    registers->code.selector = SELECTOR_CODE;
    registers->code.type = 0xb; /* execute/read, accessed */
    /* VMX wants a busy TSS in TR; nothing uses it. */
    registers->task =
        (struct boot_segment){.limit = 0x67, .selector = SELECTOR_TASK, .type = 0xb, .present = 1};
    return 0;
}

/* The first 4 GiB, one to one, in 2 MiB pages: 1 GiB pages are not there on every processor. */
static int put_page_tables(const struct guestmem *mem, struct err *err)
{
    const uint64_t table = 4096, directories = 4, entries = 512;
    uint8_t *pml4 = low_memory(mem, BOOT_PAGES, (2 + directories) * table, err);
    uint8_t *pdpt, *directory;

    if (!pml4)
        return -ENOMEM;
    pdpt = pml4 + table;
    directory = pdpt + table;
    store_le64(pml4, (BOOT_PAGES + table) | PAGE_PRESENT | PAGE_WRITABLE);
    for (uint64_t i = 0; i < directories; i++)
        store_le64(pdpt + 8 * i, (BOOT_PAGES + (2 + i) * table) | PAGE_PRESENT | PAGE_WRITABLE);
    for (uint64_t i = 0; i < directories * entries; i++)
        store_le64(directory + 8 * i, i << 21 | PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE);
    return 0;
}

int boot_enter_64bit(const struct guestmem *mem, uint64_t entry, struct boot_registers *registers,
                     struct err *err)
{
    int r = put_page_tables(mem, err);

    if (r == 0)
        r = put_gdt(mem, GDT_CODE_64, registers, err);
    if (r < 0)
        return r;
    registers->code.db = 0;
    registers->code.l = 1;
    registers->rip = entry;
    registers->rsp = BOOT_STACK_TOP;
    registers->rsi = BOOT_ZERO_PAGE;
    registers->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG;
    registers->cr3 = BOOT_PAGES;
    registers->cr4 = X86_CR4_PAE;
    registers->efer = EFER_LME | EFER_LMA;
    return 0;
}

static int put_start_info(const struct guestmem *mem, const struct boot_request *request,
                          const struct boot_initrd *initrd, struct err *err)
{
    uint8_t *info = low_memory(mem, BOOT_START_INFO, 4096, err);
    struct e820_entry map[E820_MAX_ENTRIES];
    unsigned count;

    if (!info)
        return -ENOMEM;
    store_le32(info, START_INFO_MAGIC);
    store_le32(info + 4, 1); /* version */
    if (initrd->size > 0) {
        store_le32(info + 12, 1); /* modules */
        store_le64(info + 16, BOOT_START_INFO + START_INFO_MODULES);
        store_le64(info + START_INFO_MODULES, initrd->address);
        store_le64(info + START_INFO_MODULES + 8, initrd->size);
    }
    store_le64(info + 24, BOOT_CMDLINE);
    store_le64(info + 32, request->rsdp);
    store_le64(info + 40, BOOT_START_INFO + START_INFO_MEMMAP);
    count = e820_build(request->memory, map);
    store_le32(info + 48, count);
    for (size_t i = 0; i < count; i++) {
        uint8_t *entry = info + START_INFO_MEMMAP + i * START_INFO_MEMMAP_ENTRY_SIZE;

        store_le64(entry, map[i].address);
        store_le64(entry + 8, map[i].size);
        store_le32(entry + 16, map[i].type);
    }
    return 0;
}

int boot_enter_pvh(const struct guestmem *mem, const struct boot_request *request,
                   const struct boot_initrd *initrd, uint32_t entry,
                   struct boot_registers *registers, struct err *err)
{
    int r = put_start_info(mem, request, initrd, err);

    if (r == 0)
        r = put_gdt(mem, GDT_CODE_32, registers, err);
    if (r < 0)
        return r;
    registers->rip = entry;
    registers->rsp = BOOT_STACK_TOP;
    registers->rbx = BOOT_START_INFO;
    registers->cr0 = X86_CR0_PE | X86_CR0_ET;
    return 0;
}
