/* ELF kernels: both entries, hostile headers; and files that are no kernel at all. */
#include "boot_fixture.h"
#include "checked.h"
#include "e820.h"
#include "layout.h"

#include <asm/bootparam.h>
#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <sys/stat.h>

enum { TEXT = 0x200, TEXT_SIZE = 64, NOTE = 0x400, NOTE_SIZE = 20, FILE_SIZE = 0x500 };

#define LOAD 0x200000ULL

/* One PT_LOAD with a tail of zeros, one PT_NOTE with the PVH entry. */
struct image {
    Elf64_Ehdr header;
    Elf64_Phdr load, note;
    uint8_t padding[TEXT - sizeof(Elf64_Ehdr) - 2 * sizeof(Elf64_Phdr)];
    uint8_t text[NOTE - TEXT];
    struct {
        Elf64_Nhdr header;
        char name[4];
        uint32_t entry;
    } pvh;
    uint8_t end[FILE_SIZE - NOTE - NOTE_SIZE];
};

static_assert(sizeof(struct image) == FILE_SIZE, "a file without gaps");

static void good_image(struct image *image)
{
    memset(image, 0, sizeof(*image));
    memcpy(image->header.e_ident, ELFMAG, SELFMAG);
    image->header.e_ident[EI_CLASS] = ELFCLASS64;
    image->header.e_ident[EI_DATA] = ELFDATA2LSB;
    image->header.e_type = ET_EXEC;
    image->header.e_machine = EM_X86_64;
    image->header.e_entry = LOAD + 8;
    image->header.e_phoff = offsetof(struct image, load);
    image->header.e_phentsize = sizeof(Elf64_Phdr);
    image->header.e_phnum = 2;
    image->load = (Elf64_Phdr){.p_type = PT_LOAD,
                               .p_offset = TEXT,
                               .p_vaddr = 0xffffffff81000000,
                               .p_paddr = LOAD,
                               .p_filesz = TEXT_SIZE,
                               .p_memsz = 0x3000};
    image->note = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = NOTE, .p_filesz = NOTE_SIZE};
    memset(image->text, 0x90, TEXT_SIZE);
    image->pvh.header = (Elf64_Nhdr){.n_namesz = 4, .n_descsz = 4, .n_type = 18};
    memcpy(image->pvh.name, "Xen", 4);
    image->pvh.entry = LOAD + 16;
}

static void a_pvh_kernel_gets_its_start_info(void **state)
{
    static const char initrd[] = "an initrd";
    struct e820_entry map[E820_MAX_ENTRIES];
    const uint8_t *info, *module;
    struct boot_fixture f;
    struct image image;
    unsigned count;

    (void)state;
    good_image(&image);
    fixture_init(&f, 5120 * MIB);
    fixture_kernel(&f, &image, sizeof(image));
    fixture_initrd(&f, initrd, sizeof(initrd));
    assert_int_equal(fixture_load(&f), 0);
    assert_memory_equal(fixture_at(&f, LOAD, TEXT_SIZE), image.text, TEXT_SIZE);
    assert_int_equal(*fixture_at(&f, LOAD + TEXT_SIZE, 1), 0);

    assert_int_equal(f.registers.rip, LOAD + 16);
    assert_int_equal(f.registers.cr0, 0x11);
    assert_int_equal(f.registers.cr4, 0);
    assert_int_equal(f.registers.efer, 0);
    assert_true(f.registers.code.db && !f.registers.code.l && f.registers.code.g);
    assert_int_equal(f.registers.code.base, 0);
    assert_int_equal(f.registers.code.limit, UINT32_MAX);

    info = fixture_at(&f, f.registers.rbx, 56);
    assert_int_equal(load_le32(info), 0x336ec578);
    assert_int_equal(load_le32(info + 4), 1);
    assert_string_equal((char *)fixture_at(&f, load_le64(info + 24), 32), "console=ttyS0");
    assert_int_equal(load_le64(info + 32), 0xe0000);
    assert_int_equal(load_le32(info + 12), 1);
    module = fixture_at(&f, load_le64(info + 16), 32);
    assert_int_equal(load_le64(module), 3072 * MIB - 4096);
    assert_int_equal(load_le64(module + 8), sizeof(initrd));
    assert_memory_equal(fixture_at(&f, load_le64(module), sizeof(initrd)), initrd, sizeof(initrd));
    count = e820_build(5120 * MIB, map);
    assert_int_equal(load_le32(info + 48), count);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *entry = fixture_at(&f, load_le64(info + 40) + i * 24, 24);

        assert_int_equal(load_le64(entry), map[i].address);
        assert_int_equal(load_le64(entry + 8), map[i].size);
        assert_int_equal(load_le32(entry + 16), map[i].type);
    }
    fixture_destroy(&f);
}

static void without_a_note_the_64_bit_entry_gets_a_zero_page(void **state)
{
    const struct boot_params *params;
    struct boot_fixture f;
    struct image image;

    (void)state;
    good_image(&image);
    image.header.e_phnum = 1;
    fixture_init(&f, 64 * MIB);
    fixture_kernel(&f, &image, sizeof(image));
    assert_int_equal(fixture_load(&f), 0);
    assert_int_equal(f.registers.rip, LOAD + 8);
    assert_int_equal(f.registers.rsi, BOOT_ZERO_PAGE);
    assert_int_equal(f.registers.efer, 0x500);
    params = (const void *)fixture_at(&f, BOOT_ZERO_PAGE, sizeof(*params));
    assert_int_equal(params->hdr.type_of_loader, 0xff); /* else Linux ignores the initrd */
    assert_int_equal(params->hdr.cmd_line_ptr, BOOT_CMDLINE);
    assert_true(params->e820_entries > 0);
    fixture_destroy(&f);
}

enum field {
    CLASS,
    DATA,
    TYPE,
    MACHINE,
    ENTRY,
    PHOFF,
    PHENTSIZE,
    PHNUM,
    OFFSET,
    PADDR,
    FILESZ,
    MEMSZ,
    PVH_ENTRY,
};

static void set(struct image *image, enum field field, uint64_t value)
{
    switch (field) {
    case CLASS:
        image->header.e_ident[EI_CLASS] = (uint8_t)value;
        break;
    case DATA:
        image->header.e_ident[EI_DATA] = (uint8_t)value;
        break;
    case TYPE:
        image->header.e_type = (uint16_t)value;
        break;
    case MACHINE:
        image->header.e_machine = (uint16_t)value;
        break;
    case ENTRY:
        image->header.e_phnum = 1; /* without the note */
        image->header.e_entry = value;
        break;
    case PHOFF:
        image->header.e_phoff = value;
        break;
    case PHENTSIZE:
        image->header.e_phentsize = (uint16_t)value;
        break;
    case PHNUM:
        image->header.e_phnum = (uint16_t)value;
        break;
    case OFFSET:
        image->load.p_offset = value;
        break;
    case PADDR:
        image->load.p_paddr = value;
        break;
    case FILESZ:
        image->load.p_filesz = value;
        break;
    case MEMSZ:
        image->load.p_memsz = value;
        break;
    case PVH_ENTRY:
        image->pvh.entry = (uint32_t)value;
        break;
    }
}

static void hostile_headers_are_refused(void **state)
{
    static const struct {
        const char *what;
        enum field field;
        uint64_t value;
        int error;
        const char *word;
    } rows[] = {
        {"another class", CLASS, ELFCLASS32, -ENOTSUP, "64-bit"},
        {"another byte order", DATA, ELFDATA2MSB, -ENOTSUP, "big-endian"},
        {"an object file", TYPE, ET_REL, -ENOTSUP, "not executable"},
        {"a core file", TYPE, ET_CORE, -ENOTSUP, "not executable"},
        {"ARM64", MACHINE, EM_AARCH64, -ENOTSUP, "ARM64"},
        {"i386", MACHINE, EM_386, -ENOTSUP, "32-bit x86"},
        {"an unknown machine", MACHINE, 0xffff, -ENOTSUP, "another machine"},
        {"no segments", PHNUM, 0, -EINVAL, "segments"},
        {"65535 segments", PHNUM, 0xffff, -EINVAL, "segments"},
        {"segments beyond the file", PHNUM, 64, -EINVAL, "cut short"},
        {"segments of no size", PHENTSIZE, 0, -EINVAL, "segments"},
        {"segments of another size", PHENTSIZE, 32, -EINVAL, "segments"},
        {"segments at the end", PHOFF, FILE_SIZE, -EINVAL, "cut short"},
        {"segments that wrap", PHOFF, UINT64_MAX, -EINVAL, "cut short"},
        {"segments that wrap a little", PHOFF, UINT64_MAX - 111, -EINVAL, "cut short"},
        {"an offset at the end", OFFSET, FILE_SIZE - TEXT_SIZE + 1, -EINVAL, "cut"},
        {"an offset that wraps", OFFSET, UINT64_MAX - 15, -EINVAL, "cut"},
        {"more file than memory", FILESZ, 0x3001, -EINVAL, "malformed"},
        {"less memory than file", MEMSZ, TEXT_SIZE - 1, -EINVAL, "malformed"},
        {"a size of ones", FILESZ, UINT64_MAX, -EINVAL, "malformed"},
        {"a memory of ones", MEMSZ, UINT64_MAX, -ENOMEM, "wants"},
        {"a byte beyond RAM", MEMSZ, 62 * MIB + 1, -ENOMEM, "wants"},
        {"an address of 0", PADDR, 0, -ENOMEM, "wants"},
        {"the loader's own memory", PADDR, 0x7000, -ENOMEM, "wants"},
        {"across 1 MiB", PADDR, 0xff000, -ENOMEM, "wants"},
        {"the end of RAM", PADDR, 64 * MIB - 0x2000, -ENOMEM, "wants"},
        {"the hole", PADDR, LAYOUT_HOLE_START, -ENOMEM, "wants"},
        {"an address that wraps", PADDR, UINT64_MAX - 0xfff, -ENOMEM, "wants"},
        {"an entry of 0", ENTRY, 0, -EINVAL, "entry"},
        {"an entry behind what is loaded", ENTRY, LOAD + 0x3000, -EINVAL, "entry"},
        {"a virtual entry", ENTRY, 0xffffffff81000000, -EINVAL, "entry"},
        {"a PVH entry of 0", PVH_ENTRY, 0, -EINVAL, "entry"},
        {"a PVH entry of ones", PVH_ENTRY, UINT32_MAX, -EINVAL, "entry"},
    };
    struct image image;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct boot_fixture f;

        good_image(&image);
        set(&image, rows[i].field, rows[i].value);
        fixture_init(&f, 64 * MIB);
        fixture_kernel(&f, &image, sizeof(image));
        fixture_expect_refusal(&f, rows[i].what, rows[i].error, rows[i].word);
        fixture_destroy(&f);
    }
}

/* A malformed note is no note: the kernel is entered in 64-bit mode. */
static void hostile_notes_are_skipped(void **state)
{
    static const struct {
        uint32_t name_size, desc_size, type;
        uint64_t segment_offset, segment_size;
    } rows[] = {
        {4, 4, 17, NOTE, NOTE_SIZE},
        {4, 3, 18, NOTE, NOTE_SIZE},
        {4, 0, 18, NOTE, NOTE_SIZE},
        {4, 8, 18, NOTE, NOTE_SIZE},
        {3, 4, 18, NOTE, NOTE_SIZE},
        {0, 0, 0, NOTE, NOTE_SIZE},
        {UINT32_MAX, 4, 18, NOTE, NOTE_SIZE},
        {4, UINT32_MAX, 18, NOTE, NOTE_SIZE},
        {UINT32_MAX, UINT32_MAX, 18, NOTE, NOTE_SIZE},
        {4, 4, 18, NOTE, 11},
        {4, 4, 18, NOTE, 19},
        {4, 4, 18, NOTE, 0},
        {4, 4, 18, NOTE, UINT64_MAX},
        {4, 4, 18, UINT64_MAX, NOTE_SIZE},
        {4, 4, 18, FILE_SIZE, NOTE_SIZE},
    };
    struct image image;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct boot_fixture f;

        good_image(&image);
        image.pvh.header.n_namesz = rows[i].name_size;
        image.pvh.header.n_descsz = rows[i].desc_size;
        image.pvh.header.n_type = rows[i].type;
        image.note.p_offset = rows[i].segment_offset;
        image.note.p_filesz = rows[i].segment_size;
        fixture_init(&f, 64 * MIB);
        fixture_kernel(&f, &image, sizeof(image));
        if (fixture_load(&f) != 0 || f.registers.rip != LOAD + 8)
            fail_msg("row %zu: rip %lx, %s", i, (unsigned long)f.registers.rip, f.err.text);
        fixture_destroy(&f);
    }
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    struct image image;

    (void)state;
    good_image(&image);
    for (size_t size = SELFMAG; size < NOTE; size += 20) {
        struct boot_fixture f;
        int r;

        if (size >= TEXT + TEXT_SIZE)
            break;
        fixture_init(&f, 64 * MIB);
        fixture_kernel(&f, &image, size);
        r = fixture_load(&f);
        if (r != -EINVAL)
            fail_msg("%zu bytes: %d, %s", size, r, f.err.text);
        fixture_destroy(&f);
    }
}

static void what_is_no_kernel_is_named(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *word;
    } rows[] = {
        {"\x1f\x8b\x08\0\0", 5, "gzip"},
        {"\x28\xb5\x2f\xfd\x04", 5, "zstd"},
        {"\xfd"
         "7zXZ\0",
         6, "xz"},
        {"QFI\xfb\0\0\0\3", 8, "qcow2"},
        {"070701000000", 12, "cpio"},
        {"MZ\x90\0", 4, "EFI"},
        {"!<arch>\ndebian", 14, "Debian"},
        {"#!/bin/sh\n", 10, "script"},
        {"just words\n", 11, "text"},
        {"\x01\x02\x03", 3, "unknown"},
        {"\x7f", 1, "unknown"},
        {"\x7f"
         "EL",
         3, "unknown"},
    };
    struct boot_fixture f;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        fixture_init(&f, 32 * MIB);
        fixture_kernel(&f, rows[i].bytes, rows[i].size);
        fixture_expect_refusal(&f, rows[i].word, -EINVAL, rows[i].word);
        fixture_destroy(&f);
    }
    fixture_init(&f, 32 * MIB);
    fixture_kernel(&f, "", 0);
    fixture_expect_refusal(&f, "an empty file", -EINVAL, "is empty");
    fixture_destroy(&f);
}

static void what_is_no_file_is_refused(void **state)
{
    char fifo[] = "/tmp/minivmm-boot-fifo-XXXXXX";
    struct boot_fixture f;

    (void)state;
    fixture_init(&f, 32 * MIB);
    f.request.kernel = "/tmp";
    fixture_expect_refusal(&f, "a directory", -EINVAL, "a directory");
    f.request.kernel = "/dev/null";
    fixture_expect_refusal(&f, "a device", -EINVAL, "a device");
    f.request.kernel = "/nonexistent/vmlinuz";
    fixture_expect_refusal(&f, "no file", -ENOENT, "/nonexistent/vmlinuz");
    assert_true(mkdtemp(fifo) != NULL);
    assert_int_equal(rmdir(fifo), 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    f.request.kernel = fifo;
    fixture_expect_refusal(&f, "a FIFO without a writer", -EINVAL, "pipe");
    unlink(fifo);
    fixture_destroy(&f);
}

static void a_bad_initrd_is_refused(void **state)
{
    struct boot_fixture f;
    struct image image;

    (void)state;
    good_image(&image);
    fixture_init(&f, 32 * MIB);
    fixture_kernel(&f, &image, sizeof(image));
    f.request.initrd = "/tmp";
    fixture_expect_refusal(&f, "a directory", -EINVAL, "initrd '/tmp' is a directory");
    f.request.initrd = "/nonexistent/initrd";
    fixture_expect_refusal(&f, "no file", -ENOENT, "/nonexistent/initrd");
    fixture_initrd(&f, "", 0);
    fixture_expect_refusal(&f, "an empty file", -EINVAL, "is empty");
    assert_int_equal(truncate(f.initrd, 1 << 30), 0);
    fixture_expect_refusal(&f, "larger than memory", -ENOMEM, "does not fit");
    assert_int_equal(truncate(f.initrd, 1LL << 42), 0);
    fixture_expect_refusal(&f, "larger than anything", -ENOMEM, "does not fit");
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pvh_kernel_gets_its_start_info),
        cmocka_unit_test(without_a_note_the_64_bit_entry_gets_a_zero_page),
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(hostile_notes_are_skipped),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(what_is_no_kernel_is_named),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(a_bad_initrd_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
