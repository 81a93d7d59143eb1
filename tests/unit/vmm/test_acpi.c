/* The ACPI tables: found from the RSDP, with right checksums, and what iasl thinks of them. */
#include "acpi.h"
#include "bytes.h"
#include "checked.h"
#include "layout.h"
#include "memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct memory memory;
    uint64_t rsdp;
};

static void build(struct fixture *f, unsigned cpus)
{
    struct err err;

    assert_int_equal(memory_create(&f->memory, 32 << 20, false, &err), 0);
    assert_int_equal(acpi_write_tables(&f->memory.map, cpus, &f->rsdp, &err), 0);
}

static const uint8_t *at(const struct fixture *f, uint64_t gpa, uint64_t size)
{
    const uint8_t *p = guestmem_ptr(&f->memory.map, gpa, size);

    assert_non_null(p);
    return p;
}

static uint8_t sum(const uint8_t *bytes, size_t size)
{
    uint8_t total = 0;

    for (size_t i = 0; i < size; i++)
        total = (uint8_t)(total + bytes[i]);
    return total;
}

static const uint8_t *checked_table(const struct fixture *f, uint64_t gpa)
{
    const uint8_t *table = at(f, gpa, 36);
    uint32_t size = load_le32(table + 4);

    assert_true(gpa >= LAYOUT_ACPI_START && gpa + size <= LAYOUT_ACPI_END);
    assert_true(size >= 36);
    table = at(f, gpa, size);
    assert_int_equal(sum(table, size), 0);
    return table;
}

/* A table of the XSDT, or the DSDT by way of the FADT. */
static const uint8_t *find(const struct fixture *f, const char *signature)
{
    const uint8_t *xsdt = checked_table(f, load_le64(at(f, f->rsdp, 36) + 24));

    if (memcmp(signature, "DSDT", 4) == 0)
        return checked_table(f, load_le64(find(f, "FACP") + 140));
    for (uint32_t i = 36; i + 8 <= load_le32(xsdt + 4); i += 8) {
        const uint8_t *table = checked_table(f, load_le64(xsdt + i));

        if (memcmp(table, signature, 4) == 0)
            return table;
    }
    fail_msg("no table %s", signature);
    return NULL;
}

static void the_rsdp_leads_to_every_table(void **state)
{
    static const unsigned counts[] = {1, 2, 4, 64};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        struct fixture f;
        const uint8_t *rsdp;

        build(&f, counts[i]);
        rsdp = at(&f, f.rsdp, 36);
        assert_memory_equal(rsdp, "RSD PTR ", 8);
        assert_true(is_aligned(f.rsdp, 16));
        assert_int_equal(sum(rsdp, 20), 0);
        assert_int_equal(sum(rsdp, 36), 0);
        find(&f, "FACP");
        find(&f, "APIC");
        find(&f, "MCFG");
        find(&f, "DSDT");
        memory_destroy(&f.memory);
    }
}

static void the_fadt_keeps_the_legacy_hardware(void **state)
{
    const uint8_t *fadt, *facs;
    uint32_t flags;
    struct fixture f;

    (void)state;
    build(&f, 1);
    fadt = find(&f, "FACP");
    flags = load_le32(fadt + 112);
    assert_false(flags & 1U << 20); /* hardware-reduced: Linux would drop PIC and PIT */
    assert_true(flags & 1U << 10);  /* the reset register counts */
    assert_int_equal(fadt[116], 1);
    assert_int_equal(load_le64(fadt + 120), 0xcf9);
    assert_int_equal(fadt[128], 6);
    assert_true(load_le16(fadt + 109) & 1U << 1); /* an i8042 is there */
    assert_true(load_le16(fadt + 109) & 1U << 5); /* no CMOS clock */
    assert_int_equal(load_le32(fadt + 56), LAYOUT_PORT_ACPI_PM1);
    assert_int_equal(load_le32(fadt + 64), LAYOUT_PORT_ACPI_PM1 + 4);
    assert_int_equal(load_le16(fadt + 46), LAYOUT_GSI_SCI);
    assert_int_equal(load_le32(fadt + 48), 0); /* no SMI command: in ACPI mode from the start */
    assert_int_equal(fadt[91], 0);             /* no PM timer */
    facs = at(&f, load_le32(fadt + 36), 64);
    assert_true(is_aligned(load_le32(fadt + 36), 64));
    assert_memory_equal(facs, "FACS", 4);
    assert_int_equal(load_le32(facs + 4), 64);
    memory_destroy(&f.memory);
}

static void the_madt_lists_every_cpu_and_both_overrides(void **state)
{
    static const unsigned counts[] = {1, 2, 64};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        bool has_pit = false, has_sci = false, has_ioapic = false, has_nmi = false;
        unsigned cpus = 0;
        const uint8_t *madt;
        struct fixture f;

        build(&f, counts[i]);
        madt = find(&f, "APIC");
        for (uint32_t o = 44; o < load_le32(madt + 4); o += madt[o + 1]) {
            const uint8_t *entry = madt + o;

            assert_true(entry[1] >= 2);
            switch (entry[0]) {
            case 0:
                assert_int_equal(entry[3], cpus);
                assert_int_equal(load_le32(entry + 4), 1);
                cpus++;
                break;
            case 1:
                has_ioapic = load_le32(entry + 4) == LAYOUT_IOAPIC && load_le32(entry + 8) == 0;
                break;
            case 2:
                has_pit |= entry[3] == 0 && load_le32(entry + 4) == 2;
                has_sci |= entry[3] == 9 && load_le32(entry + 4) == 9 && load_le16(entry + 8) == 13;
                break;
            case 4:
                has_nmi = entry[2] == 0xff && entry[5] == 1;
                break;
            default:
                fail_msg("entry of type %u", entry[0]);
            }
        }
        assert_int_equal(cpus, counts[i]);
        assert_true(has_ioapic && has_pit && has_sci && has_nmi);
        memory_destroy(&f.memory);
    }
}

static void a_guest_too_small_for_the_tables_is_an_error(void **state)
{
    struct memory memory;
    struct err err;
    uint64_t rsdp;

    (void)state;
    assert_int_equal(memory_create(&memory, 0x80000, false, &err), 0);
    assert_int_equal(acpi_write_tables(&memory.map, 1, &rsdp, &err), -ENOMEM);
    memory_destroy(&memory);
}

/* Runs a shell command in $DIR with $NAME set; true when it exits 0. */
static bool shell(const char *command, const char *name)
{
    int status;

    setenv("NAME", name, 1);
    status = system(command);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void save(const char *dir, const char *name, const uint8_t *table)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(table, load_le32(table + 4), 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

static void iasl_takes_the_tables_apart_and_together_again(void **state)
{
    static const char *const names[] = {"DSDT", "FACP", "APIC", "MCFG"};
    static const char *const objects[] = {"QEMU0001", "_S5", "PNP0A08", "PNP0501", "PNP0C02"};
    char dir[] = "/tmp/minivmm-acpi-XXXXXX";
    struct fixture f;

    (void)state;
    if (system("command -v iasl >/dev/null 2>&1") != 0)
        skip();
    assert_non_null(mkdtemp(dir));
    setenv("DIR", dir, 1);
    build(&f, 64);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        save(dir, names[i], find(&f, names[i]));
        assert_true(shell("cd $DIR && iasl -d $NAME.aml >out 2>&1", names[i]));
        assert_false(shell("grep -iE 'error|warning|invalid|unknown' $DIR/out", names[i]));
        assert_false(shell("grep -iE ' error|invalid|unknown' $DIR/$NAME.dsl", names[i]));
        assert_true(shell("cd $DIR && iasl -p again $NAME.dsl >out 2>&1", names[i]));
        assert_false(shell("grep -E '[1-9][0-9]* (Errors|Warnings)' $DIR/out", names[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(objects); i++)
        assert_true(shell("grep -q $NAME $DIR/DSDT.dsl", objects[i]));
    assert_true(shell("rm -rf $DIR", ""));
    memory_destroy(&f.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rsdp_leads_to_every_table),
        cmocka_unit_test(the_fadt_keeps_the_legacy_hardware),
        cmocka_unit_test(the_madt_lists_every_cpu_and_both_overrides),
        cmocka_unit_test(a_guest_too_small_for_the_tables_is_an_error),
        cmocka_unit_test(iasl_takes_the_tables_apart_and_together_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
