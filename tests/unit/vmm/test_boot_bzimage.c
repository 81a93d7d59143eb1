/* bzImages: what a good one finds in memory, and that no header leads outside of it. */
#include "boot_fixture.h"
#include "checked.h"
#include "e820.h"
#include "layout.h"

#include <asm/bootparam.h>
#include <errno.h>

#define PAGE 4096ULL

enum {
    SETUP_SECTS = 2,
    BODY = (SETUP_SECTS + 1) * 512,
    BODY_SIZE = 4096,
    LOAD = 16 << 20,
    INIT_SIZE = 8 << 20,
};

struct image {
    uint8_t bytes[BODY + BODY_SIZE];
    size_t size;
};

static void put(struct image *image, size_t offset, uint64_t value, unsigned bytes)
{
    uint8_t raw[8];

    store_le64(raw, value);
    memcpy(image->bytes + offset, raw, bytes);
}

/* Field by field as Documentation/x86/boot.rst gives them. */
static void good_image(struct image *image)
{
    memset(image->bytes, 0x90, sizeof(image->bytes));
    memset(image->bytes, 0, BODY);
    image->size = sizeof(image->bytes);
    put(image, 0x1f1, SETUP_SECTS, 1);
    put(image, 0x1f4, BODY_SIZE / 16, 4);
    put(image, 0x1fe, 0xaa55, 2);
    put(image, 0x200, 0x6aeb, 2); /* the jump: the header ends at 0x26c */
    memcpy(image->bytes + 0x202, "HdrS", 4);
    put(image, 0x206, 0x20f, 2);
    put(image, 0x211, 0x01, 1);       /* loaded high */
    put(image, 0x22c, 0x7fffffff, 4); /* initrd_addr_max */
    put(image, 0x230, 0x200000, 4);   /* kernel_alignment */
    put(image, 0x234, 1, 1);          /* relocatable */
    put(image, 0x236, 0x7f, 2);       /* xloadflags */
    put(image, 0x238, 2047, 4);       /* cmdline_size */
    put(image, 0x250, 0xdead, 8);     /* setup_data */
    put(image, 0x258, LOAD, 8);
    put(image, 0x260, INIT_SIZE, 4);
}

static void a_good_image_finds_what_the_protocol_promises(void **state)
{
    static const char initrd[] = "an initrd";
    struct e820_entry map[E820_MAX_ENTRIES];
    const struct boot_params *params;
    struct boot_fixture f;
    struct image image;

    (void)state;
    good_image(&image);
    fixture_init(&f, 256 * MIB);
    fixture_kernel(&f, image.bytes, image.size);
    fixture_initrd(&f, initrd, sizeof(initrd));
    assert_int_equal(fixture_load(&f), 0);

    assert_memory_equal(fixture_at(&f, LOAD, BODY_SIZE), image.bytes + BODY, BODY_SIZE);
    params = (const void *)fixture_at(&f, BOOT_ZERO_PAGE, sizeof(*params));
    /* The image's own header, but for what is the loader's. */
    assert_int_equal(params->hdr.header, 0x53726448);
    assert_int_equal(params->hdr.version, 0x20f);
    assert_int_equal(params->hdr.kernel_alignment, 0x200000);
    assert_int_equal(params->hdr.init_size, INIT_SIZE);
    assert_int_equal(params->hdr.type_of_loader, 0xff);
    assert_int_equal(params->hdr.setup_data, 0);
    assert_int_equal(params->sentinel, 0);
    assert_int_equal(params->acpi_rsdp_addr, 0xe0000);
    assert_string_equal((char *)fixture_at(&f, params->hdr.cmd_line_ptr, 32), "console=ttyS0");
    assert_int_equal(params->hdr.ramdisk_size, sizeof(initrd));
    assert_int_equal(params->hdr.ramdisk_image, 256 * MIB - 4096);
    assert_memory_equal(fixture_at(&f, params->hdr.ramdisk_image, sizeof(initrd)), initrd,
                        sizeof(initrd));
    assert_int_equal(params->e820_entries, e820_build(256 * MIB, map));
    for (unsigned i = 0; i < params->e820_entries; i++) {
        assert_int_equal(params->e820_table[i].addr, map[i].address);
        assert_int_equal(params->e820_table[i].size, map[i].size);
        assert_int_equal(params->e820_table[i].type, map[i].type);
    }
    assert_int_equal(f.registers.rip, LOAD + 0x200);
    assert_int_equal(f.registers.rsi, BOOT_ZERO_PAGE);
    fixture_destroy(&f);
}

/* Follows the page tables as the processor would, for 2 MiB pages. */
static uint64_t translate(struct boot_fixture *f, uint64_t virtual)
{
    uint64_t entry = f->registers.cr3;

    for (unsigned shift = 39; shift >= 21; shift -= 9) {
        uint64_t table = entry & 0xffffffffff000;

        entry = load_le64(fixture_at(f, table + (virtual >> shift & 511) * 8, 8));
        if (!(entry & 1))
            return UINT64_MAX;
        if (shift == 21)
            assert_true(entry & 0x80);
    }
    return (entry & 0xfffffffe00000) | (virtual & 0x1fffff);
}

static void the_64_bit_entry_runs_in_long_mode_with_4_gib_mapped_one_to_one(void **state)
{
    static const uint64_t mapped[] = {0, 0x7000, LOAD, 0x3fffffff, 0xc0000000, 0xffffffff};
    struct boot_fixture f;
    struct image image;
    const uint8_t *gdt;

    (void)state;
    good_image(&image);
    fixture_init(&f, 64 * MIB);
    fixture_kernel(&f, image.bytes, image.size);
    assert_int_equal(fixture_load(&f), 0);
    for (size_t i = 0; i < ARRAY_LEN(mapped); i++)
        assert_int_equal(translate(&f, mapped[i]), mapped[i]);
    assert_int_equal(translate(&f, 1ULL << 32), UINT64_MAX);
    assert_int_equal(f.registers.efer, 0x500);
    assert_int_equal(f.registers.cr0 & 0x80000001, 0x80000001);
    assert_int_equal(f.registers.cr4 & 0x20, 0x20);
    assert_int_equal(f.registers.code.selector, 0x10);
    assert_int_equal(f.registers.data.selector, 0x18);
    assert_true(f.registers.code.l && !f.registers.code.db);
    gdt = fixture_at(&f, f.registers.gdt.base, f.registers.gdt.limit + 1U);
    assert_int_equal(load_le64(gdt + 0x10), 0x00af9b000000ffff);
    assert_int_equal(load_le64(gdt + 0x18), 0x00cf93000000ffff);
    fixture_destroy(&f);
}

static void the_initrd_lies_as_high_as_the_kernel_allows(void **state)
{
    static const struct {
        uint64_t memory;
        uint32_t max;
        uint64_t address; /* of an initrd of two pages and a byte; 0: it does not fit */
    } rows[] = {
        {256 * MIB, 0x7fffffff, 256 * MIB - 3 * PAGE},
        {256 * MIB, 0x03ffffff, 64 * MIB - 3 * PAGE},
        {256 * MIB, 0x03ffefff, 64 * MIB - 4 * PAGE},
        {256 * MIB, LOAD + INIT_SIZE + 3 * PAGE - 1, LOAD + INIT_SIZE},
        {256 * MIB, LOAD + INIT_SIZE + 8191, 0},
        {256 * MIB, LOAD, 0},
        {256 * MIB, 0, 0},
        {256 * MIB, 0xffffffff, 256 * MIB - 3 * PAGE},
        {5120 * MIB, 0xffffffff, 3072 * MIB - 3 * PAGE},
        {5120 * MIB, 0x7fffffff, 2048 * MIB - 3 * PAGE},
        {LOAD + INIT_SIZE, 0x7fffffff, 0},
        {LOAD + INIT_SIZE + 3 * PAGE, 0x7fffffff, LOAD + INIT_SIZE},
    };
    static const uint8_t initrd[2 * 4096 + 1] = {1};
    struct image image;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct boot_fixture f;

        good_image(&image);
        put(&image, 0x22c, rows[i].max, 4);
        fixture_init(&f, rows[i].memory);
        fixture_kernel(&f, image.bytes, image.size);
        fixture_initrd(&f, initrd, sizeof(initrd));
        if (rows[i].address) {
            const struct boot_params *params;

            assert_int_equal(fixture_load(&f), 0);
            params = (const void *)fixture_at(&f, BOOT_ZERO_PAGE, sizeof(*params));
            assert_int_equal(params->hdr.ramdisk_image, rows[i].address);
            assert_int_equal(*fixture_at(&f, rows[i].address, 1), 1);
        } else {
            fixture_expect_refusal(&f, "an initrd without a place", -ENOMEM, "does not fit");
        }
        fixture_destroy(&f);
    }
}

static void hostile_headers_are_refused(void **state)
{
    static const struct {
        const char *what;
        size_t offset;
        uint64_t value;
        unsigned bytes;
        int error;
        const char *word;
    } rows[] = {
        {"an old protocol", 0x206, 0x20b, 2, -ENOTSUP, "2.11"},
        {"no protocol", 0x206, 0, 2, -ENOTSUP, "0.00"},
        {"a 32-bit kernel", 0x236, 0, 2, -ENOTSUP, "32-bit"},
        {"a zImage", 0x211, 0, 1, -ENOTSUP, "zImage"},
        {"a header that ends too early", 0x201, 0, 1, -EINVAL, "malformed"},
        {"a header without init_size", 0x201, 0x61, 1, -EINVAL, "malformed"},
        {"a header beyond its room", 0x201, 0x8f, 1, -EINVAL, "malformed"},
        {"a header far beyond its room", 0x201, 0xff, 1, -EINVAL, "malformed"},
        {"setup sectors beyond the file", 0x1f1, 255, 1, -EINVAL, "cut short"},
        {"setup sectors up to its end", 0x1f1, 10, 1, -EINVAL, "cut short"},
        {"no kernel", 0x1f4, 0, 4, -EINVAL, "cut short"},
        {"a kernel that ends before its entry", 0x1f4, 0x20, 4, -EINVAL, "cut short"},
        {"a kernel beyond the file", 0x1f4, BODY_SIZE / 16 + 1, 4, -EINVAL, "cut short"},
        {"a kernel of 64 GiB", 0x1f4, UINT32_MAX, 4, -EINVAL, "cut short"},
        {"a load address of 0", 0x258, 0, 8, -EINVAL, "0x0"},
        {"a load address below 1 MiB", 0x258, 0xff000, 8, -EINVAL, "0xff000"},
        {"a load address that is odd", 0x258, LOAD + 1, 8, -EINVAL, "0x1000001"},
        {"a load address at the end of RAM", 0x258, 64 * MIB, 8, -ENOMEM, "needs"},
        {"a load address in the hole", 0x258, LAYOUT_HOLE_START, 8, -ENOMEM, "needs"},
        {"a load address that wraps", 0x258, 0xfffffffffffff000, 8, -ENOMEM, "needs"},
        {"a load address of ones", 0x258, UINT64_MAX, 8, -EINVAL, "0xffff"},
        {"more memory than there is", 0x260, 48 * MIB + 1, 4, -ENOMEM, "needs"},
        {"4 GiB of memory", 0x260, UINT32_MAX, 4, -ENOMEM, "needs"},
        {"no command line", 0x238, 0, 4, -E2BIG, "at most 0"},
        {"a short command line", 0x238, 12, 4, -E2BIG, "at most 12"},
    };
    struct image image;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct boot_fixture f;

        good_image(&image);
        put(&image, rows[i].offset, rows[i].value, rows[i].bytes);
        fixture_init(&f, 64 * MIB);
        fixture_kernel(&f, image.bytes, image.size);
        fixture_expect_refusal(&f, rows[i].what, rows[i].error, rows[i].word);
        fixture_destroy(&f);
    }
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    static const size_t sizes[] = {0x206, 0x207,    0x236,        0x25f,
                                   0x263, 0x264,    0x400,        BODY - 1,
                                   BODY,  BODY + 1, BODY + 0x200, BODY + BODY_SIZE - 16};
    struct image image;

    (void)state;
    good_image(&image);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct boot_fixture f;

        fixture_init(&f, 64 * MIB);
        fixture_kernel(&f, image.bytes, sizes[i]);
        fixture_expect_refusal(&f, "a cut file", -EINVAL, "cut short");
        fixture_destroy(&f);
    }
}

static void limits_that_are_just_met_are_taken(void **state)
{
    static const struct {
        size_t offset;
        uint64_t value;
        unsigned bytes;
    } rows[] = {
        {0x260, 48 * MIB, 4}, /* up to the last byte of RAM */
        {0x258, MIB, 8},      {0x238, 13, 4}, {0x201, 0x62, 1}, {0x201, 0x8e, 1}, {0x206, 0x20c, 2},
    };
    struct image image;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct boot_fixture f;

        good_image(&image);
        put(&image, rows[i].offset, rows[i].value, rows[i].bytes);
        fixture_init(&f, 64 * MIB);
        fixture_kernel(&f, image.bytes, image.size);
        if (fixture_load(&f) != 0)
            fail_msg("row %zu: %s", i, f.err.text);
        fixture_destroy(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_image_finds_what_the_protocol_promises),
        cmocka_unit_test(the_64_bit_entry_runs_in_long_mode_with_4_gib_mapped_one_to_one),
        cmocka_unit_test(the_initrd_lies_as_high_as_the_kernel_allows),
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(limits_that_are_just_met_are_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
