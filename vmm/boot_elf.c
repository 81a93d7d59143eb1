/*
 * boot_elf.c - ELF kernels: by the PVH note, or at the 64-bit entry with a zero page.
 *
 * PT_LOAD segments go to their physical addresses. Guest memory is fresh, so the part of a segment
 * that the file does not hold is zero already. A note of owner "Xen" and type 18 in a PT_NOTE segment
 * holds the physical address of a 32-bit entry (Xen's x86/HVM direct boot ABI); without one the
 * kernel is entered at e_entry as arch/x86/kernel/head_64.S of Linux wants it.
 */
#include "boot_private.h"

#include "bytes.h"
#include "checked.h"
#include "memory.h"
#include "size.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

enum {
    ELF_MAX_SEGMENTS = 64,      /* a vmlinux has five */
    ELF_MAX_NOTES = 64 << 10,   /* bytes of one PT_NOTE segment */
    XEN_NOTE_PHYS32_ENTRY = 18, /* XEN_ELFNOTE_PHYS32_ENTRY */
};

struct elf_kernel {
    const struct boot_file *file;
    Elf64_Ehdr header;
    Elf64_Phdr segments[ELF_MAX_SEGMENTS];
    uint64_t end; /* behind the highest loaded byte */
    bool has_pvh;
    uint32_t pvh_entry;
};

static const char *machine_name(unsigned machine)
{
    switch (machine) {
    case EM_386:
        return "32-bit x86";
    case EM_AARCH64:
        return "ARM64";
    case EM_ARM:
        return "ARM";
    case EM_RISCV:
        return "RISC-V";
    case EM_PPC64:
        return "POWER";
    case EM_S390:
        return "S/390";
    default:
        return "another machine";
    }
}

static int read_headers(struct elf_kernel *elf, const uint8_t *head, size_t size, struct err *err)
{
    const char *path = elf->file->path;
    Elf64_Ehdr *header = &elf->header;

    /* Both classes have e_machine at the same offset. */
    if (size < sizeof(*header))
        return err_set(err, -EINVAL, "kernel '%s' is cut short in its ELF header", path);
    memcpy(header, head, sizeof(*header));
    if (header->e_ident[EI_DATA] != ELFDATA2LSB)
        return err_set(err, -ENOTSUP, "kernel '%s' is a big-endian ELF file", path);
    if (header->e_machine != EM_X86_64)
        return err_set(err, -ENOTSUP, "kernel '%s' is an ELF file for %s, not for x86-64", path,
                       machine_name(header->e_machine));
    if (header->e_ident[EI_CLASS] != ELFCLASS64)
        return err_set(err, -ENOTSUP, "kernel '%s' is not a 64-bit ELF file", path);
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
        return err_set(err, -ENOTSUP, "kernel '%s' is an ELF file that is not executable", path);
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0 ||
        header->e_phnum > ELF_MAX_SEGMENTS)
        return err_set(err, -EINVAL, "kernel '%s' has %u ELF segments of %u bytes each", path,
                       header->e_phnum, header->e_phentsize);
    if (!range_within(header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr), elf->file->size))
        return err_set(err, -EINVAL, "kernel '%s' is cut short in its ELF segments", path);
    return boot_file_read(elf->file, header->e_phoff, elf->segments,
                          header->e_phnum * sizeof(Elf64_Phdr), err);
}

static int load_segment(struct elf_kernel *elf, const struct guestmem *mem, uint64_t memory,
                        const Elf64_Phdr *segment, struct err *err)
{
    const char *path = elf->file->path;
    char have[SIZE_TEXT_MAX];
    void *at = NULL;

    if (segment->p_memsz == 0)
        return 0;
    if (segment->p_filesz > segment->p_memsz ||
        !range_within(segment->p_offset, segment->p_filesz, elf->file->size))
        return err_set(err, -EINVAL, "kernel '%s' has a malformed or cut ELF segment", path);
    if (segment->p_paddr >= BOOT_KERNEL_MIN &&
        range_within(segment->p_paddr, segment->p_memsz, memory_low_size(memory)))
        at = guestmem_ptr(mem, segment->p_paddr, segment->p_memsz);
    if (!at)
        return err_set(err, -ENOMEM,
                       "kernel '%s' wants 0x%llx bytes at 0x%llx; the guest has %s of memory, of "
                       "which a kernel may use what lies above 1 MiB",
                       path, (unsigned long long)segment->p_memsz,
                       (unsigned long long)segment->p_paddr, size_format(memory, have));
    elf->end = max_u64(elf->end, segment->p_paddr + segment->p_memsz);
    return boot_file_read(elf->file, segment->p_offset, at, segment->p_filesz, err);
}

/* Looks through the notes of one segment; what is malformed ends the search. */
static void find_pvh_note(struct elf_kernel *elf, const uint8_t *notes, uint64_t size)
{
    uint64_t at = 0;

    while (range_within(at, sizeof(Elf64_Nhdr), size)) {
        uint64_t name_size = load_le32(notes + at), desc_size = load_le32(notes + at + 4);
        uint32_t type = load_le32(notes + at + 8);
        uint64_t name = at + sizeof(Elf64_Nhdr), desc = name + align_up(name_size, 4);

        /* Sums of 32-bit values: no overflow. */
        if (!range_within(desc, desc_size, size))
            return;
        if (type == XEN_NOTE_PHYS32_ENTRY && name_size == 4 &&
            memcmp(notes + name, "Xen", 4) == 0 && (desc_size == 4 || desc_size == 8)) {
            elf->has_pvh = true;
            elf->pvh_entry = load_le32(notes + desc);
            return;
        }
        at = desc + align_up(desc_size, 4);
    }
}

static int read_notes(struct elf_kernel *elf, const Elf64_Phdr *segment, struct err *err)
{
    uint8_t notes[ELF_MAX_NOTES];
    int r;

    if (segment->p_filesz > sizeof(notes) ||
        !range_within(segment->p_offset, segment->p_filesz, elf->file->size))
        return 0;
    r = boot_file_read(elf->file, segment->p_offset, notes, segment->p_filesz, err);
    if (r == 0)
        find_pvh_note(elf, notes, segment->p_filesz);
    return r;
}

int boot_elf(const struct guestmem *mem, const struct boot_request *request,
             const struct boot_file *file, const uint8_t *head, size_t head_size,
             struct boot_registers *registers, struct err *err)
{
    struct elf_kernel elf = {.file = file};
    struct boot_initrd initrd;
    uint64_t entry;
    int r;

    r = read_headers(&elf, head, head_size, err);
    for (unsigned i = 0; r == 0 && i < elf.header.e_phnum; i++) {
        if (elf.segments[i].p_type == PT_LOAD)
            r = load_segment(&elf, mem, request->memory, &elf.segments[i], err);
        else if (elf.segments[i].p_type == PT_NOTE && !elf.has_pvh)
            r = read_notes(&elf, &elf.segments[i], err);
    }
    if (r < 0)
        return r;
    entry = elf.has_pvh ? elf.pvh_entry : elf.header.e_entry;
    if (entry < BOOT_KERNEL_MIN || entry >= elf.end)
        return err_set(err, -EINVAL, "kernel '%s' has its entry at 0x%llx, outside what it loads",
                       file->path, (unsigned long long)entry);
    r = boot_put_cmdline(mem, request->cmdline, BOOT_CMDLINE_MAX, err);
    if (r == 0)
        r = boot_put_initrd(mem, request, elf.end, UINT64_MAX, &initrd, err);
    if (r < 0)
        return r;
    if (elf.has_pvh)
        return boot_enter_pvh(mem, request, &initrd, elf.pvh_entry, registers, err);
    r = boot_zero_page(mem, request, &initrd, NULL, 0, err);
    if (r < 0)
        return r;
    return boot_enter_64bit(mem, entry, registers, err);
}
