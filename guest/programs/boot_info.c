/*
 * boot_info - prints what the boot loader handed over, by whichever protocol: built as a PVH ELF file,
 * as an ELF file with a 64-bit entry alone (boot_info.elf64) and as a bzImage (boot_info.bzimage).
 */
#include "acpi.h"
#include "lib.h"

/* struct boot_params, Documentation/arch/x86/zero-page.rst */
enum {
    PARAMS_E820_ENTRIES = 0x1e8,
    PARAMS_HEADER_MAGIC = 0x202,
    PARAMS_TYPE_OF_LOADER = 0x210,
    PARAMS_RAMDISK_IMAGE = 0x218,
    PARAMS_RAMDISK_SIZE = 0x21c,
    PARAMS_E820_TABLE = 0x2d0,
    E820_ENTRY_SIZE = 20,
};

static void say_initrd(uint64_t address, uint64_t size)
{
    uint32_t sum = 0;

    for (uint64_t i = 0; i < size; i++)
        sum += *(uint8_t *)at(address + i);
    say("initrd: %lu bytes, sum %u\n", size, sum);
}

static void say_start_info(void)
{
    const struct start_info *info = boot_start_info;
    const struct memory_map_entry *map = at(info->memory_map);
    const struct start_module *module = at(info->modules);

    say("protocol: pvh\n");
    check(info->magic == START_INFO_MAGIC, "the magic number of PVH");
    check(info->version == 1, "version 1");
    for (uint32_t i = 0; i < info->memory_map_entries; i++)
        say("memory: %lx %lx %u\n", map[i].address, map[i].size, map[i].type);
    if (info->module_count)
        say_initrd(module->address, module->size);
}

static void say_boot_params(void)
{
    say("protocol: linux\n");
    check(memcmp(boot_params + PARAMS_HEADER_MAGIC, "HdrS", 4) == 0, "a setup header");
    check(boot_params[PARAMS_TYPE_OF_LOADER] != 0, "a loader type");
    check(boot_params[PARAMS_E820_ENTRIES] > 0, "a memory map");
    for (unsigned i = 0; i < boot_params[PARAMS_E820_ENTRIES]; i++) {
        const uint8_t *entry = boot_params + PARAMS_E820_TABLE + i * E820_ENTRY_SIZE;

        say("memory: %lx %lx %u\n", acpi_load64(entry, 0), acpi_load64(entry, 8),
            acpi_load32(entry, 16));
    }
    if (acpi_load32(boot_params, PARAMS_RAMDISK_SIZE))
        say_initrd(acpi_load32(boot_params, PARAMS_RAMDISK_IMAGE),
                   acpi_load32(boot_params, PARAMS_RAMDISK_SIZE));
}

int main(void)
{
    const uint8_t *rsdp;

    if (boot_start_info)
        say_start_info();
    else if (boot_params)
        say_boot_params();
    else
        check(false, "boot information");
    say("command line: %s\n", command_line());
    rsdp = acpi_rsdp();
    check(rsdp && acpi_checksum_ok(rsdp, 20), "an RSDP with a sound checksum");
    check(acpi_find("FACP") && acpi_find("APIC") && acpi_find("MCFG"), "FADT, MADT and MCFG");
    return 0;
}
