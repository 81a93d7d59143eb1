/* Where RAM lies and what the guest is told of it, at sizes around the hole below 4 GiB. */
#include "checked.h"
#include "e820.h"
#include "layout.h"
#include "memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)

static const struct {
    uint64_t size, low, high;
} rows[] = {
    {32 * MIB, 32 * MIB, 0},
    {256 * MIB, 256 * MIB, 0},
    {3 * GIB - 4096, 3 * GIB - 4096, 0},
    {3 * GIB, 3 * GIB, 0},
    {3 * GIB + 4096, 3 * GIB, 4096},
    {4 * GIB, 3 * GIB, GIB},
    {5 * GIB, 3 * GIB, 2 * GIB},
};

static void ram_stops_at_the_hole_and_goes_on_at_4_gib(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct memory memory;
        struct err err;
        char *last;

        assert_int_equal(memory_create(&memory, rows[i].size, false, &err), 0);
        assert_int_equal(memory.map.count, rows[i].high ? 2 : 1);
        assert_int_equal(memory.map.regions[0].gpa, 0);
        assert_int_equal(memory.map.regions[0].size, rows[i].low);
        assert_true(is_aligned((uintptr_t)memory.map.regions[0].host, MEMORY_ALIGN));
        if (rows[i].high) {
            assert_int_equal(memory.map.regions[1].gpa, LAYOUT_HOLE_END);
            assert_int_equal(memory.map.regions[1].size, rows[i].high);
            assert_true(is_aligned((uintptr_t)memory.map.regions[1].host, MEMORY_ALIGN));
        }
        assert_null(guestmem_ptr(&memory.map, rows[i].low, 1));
        assert_null(guestmem_ptr(&memory.map, LAYOUT_HOLE_END + rows[i].high, 1));
        last = guestmem_ptr(&memory.map,
                            rows[i].high ? LAYOUT_HOLE_END + rows[i].high - 1 : rows[i].low - 1, 1);
        assert_non_null(last);
        assert_int_equal(*last, 0);
        *last = 1;
        memory_destroy(&memory);
        assert_int_equal(memory.map.count, 0);
    }
}

static bool covered(const struct e820_entry *map, unsigned count, uint64_t address,
                    enum e820_type type)
{
    for (unsigned i = 0; i < count; i++) {
        if (address >= map[i].address && address - map[i].address < map[i].size)
            return map[i].type == type;
    }
    return false;
}

static void the_memory_map_is_sorted_disjoint_and_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct e820_entry map[E820_MAX_ENTRIES];
        unsigned count = e820_build(rows[i].size, map);
        uint64_t ram = 0;

        assert_true(count > 0 && count <= E820_MAX_ENTRIES);
        for (unsigned e = 0; e < count; e++) {
            assert_true(map[e].size > 0);
            if (e > 0)
                assert_true(map[e - 1].address + map[e - 1].size <= map[e].address);
            if (map[e].type != E820_RAM)
                continue;
            ram += map[e].size;
            /* All of it is backed. */
            assert_true(map[e].address + map[e].size <= rows[i].low ||
                        (map[e].address == LAYOUT_HOLE_END && map[e].size == rows[i].high));
        }
        /* Only the EBDA and the area up to 1 MiB are lost. */
        assert_int_equal(ram, rows[i].size - (MIB - LAYOUT_EBDA));
        assert_true(covered(map, count, 0, E820_RAM));
        assert_true(covered(map, count, LAYOUT_ACPI_START, E820_RESERVED));
        assert_true(covered(map, count, LAYOUT_ACPI_END - 1, E820_RESERVED));
        assert_true(covered(map, count, rows[i].low - 1, E820_RAM));
        assert_true(covered(map, count, LAYOUT_ECAM_START, E820_RESERVED));
        assert_true(covered(map, count, LAYOUT_ECAM_START + LAYOUT_ECAM_SIZE - 1, E820_RESERVED));
        assert_true(covered(map, count, LAYOUT_TSS, E820_RESERVED));
        assert_false(covered(map, count, LAYOUT_PCI_START, E820_RAM));
        assert_int_equal(covered(map, count, LAYOUT_HOLE_END, E820_RAM), rows[i].high > 0);
    }
}

static void sizes_that_no_guest_can_have_are_refused(void **state)
{
    static const uint64_t bad[] = {0, 1, 4095, 4097, UINT64_MAX, UINT64_MAX - 4095, 1ULL << 62};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct memory memory;
        struct err err = {""};

        assert_true(memory_create(&memory, bad[i], false, &err) < 0);
        assert_true(strlen(err.text) > 0);
        memory_destroy(&memory);
    }
}

static void huge_pages_are_a_wish(void **state)
{
    struct memory memory;
    struct err err;

    (void)state;
    assert_int_equal(memory_create(&memory, 64 * MIB, true, &err), 0);
    memset(guestmem_ptr(&memory.map, 0, 4096), 1, 4096);
    memory_destroy(&memory);
}

/* A page of guest memory that the host cannot provide when a device touches it. */
static void a_bus_error_in_guest_memory_ends_the_process_with_one_line(void **state)
{
    int pipes[2], status;
    char text[512];
    ssize_t n;
    pid_t child;

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        int empty = memfd_create("empty", MFD_CLOEXEC);
        struct memory memory;
        volatile char *page;

        dup2(pipes[1], STDERR_FILENO);
        if (memory_create(&memory, 32 * MIB, false, NULL) < 0)
            _exit(99);
        memory_guard(&memory);
        page = guestmem_ptr(&memory.map, MIB, 4096);
        if (mmap((void *)page, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, empty, 0) ==
            MAP_FAILED)
            _exit(99);
        *page = 1;
        _exit(98);
    }
    close(pipes[1]);
    n = read(pipes[0], text, sizeof(text) - 1);
    close(pipes[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 2);
    assert_true(n > 0);
    text[n] = '\0';
    assert_non_null(strstr(text, "guest memory failed"));
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ram_stops_at_the_hole_and_goes_on_at_4_gib),
        cmocka_unit_test(the_memory_map_is_sorted_disjoint_and_complete),
        cmocka_unit_test(sizes_that_no_guest_can_have_are_refused),
        cmocka_unit_test(huge_pages_are_a_wish),
        cmocka_unit_test(a_bus_error_in_guest_memory_ends_the_process_with_one_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
