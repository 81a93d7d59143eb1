/*
 * machine.c - puts the parts together, in the order in which they need each other, and takes them
 * apart in the reverse order.
 *
 * Stopping: vCPUs first, so that nothing new reaches a device; then the functions are reset, which
 * drains their queues; then the disks are flushed.
 */
#include "machine.h"

#include "acpi.h"
#include "boot.h"
#include "bus.h"
#include "cmdline.h"
#include "disks.h"
#include "kvm_vcpu.h"
#include "kvm_vm.h"
#include "layout.h"
#include "log.h"
#include "memory.h"
#include "pci_root.h"
#include "platform.h"
#include "stats.h"
#include "virtio_pci.h"
#include "virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct machine {
    const struct vm_config *config;
    struct life *life;
    struct halt *halt;
    struct memory memory;
    struct vm *vm;
    struct bus pio, mmio;
    struct platform *platform;
    struct pci_root *pci;
    struct disks *disks;
    unsigned vcpu_count;
    struct vcpu *vcpus[CONFIG_MAX_CPUS];
    bool paused;
    int stats_fd; /* -1: none */
};

static void reset_read(void *device, uint64_t offset, void *data, unsigned len)
{
    (void)offset;
    (void)len;
    *(uint8_t *)data = platform_reset_port_read(device);
}

static void reset_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    (void)offset;
    (void)len;
    platform_reset_port_write(device, *(const uint8_t *)data);
}

static const struct bus_ops reset_ops = {.read = reset_read, .write = reset_write};

static int add_board(struct machine *m, struct err *err)
{
    const struct platform_options platform = {
        .pio = &m->pio,
        .life = m->life,
        .com1 = vm_irq_line(m->vm, LAYOUT_GSI_COM1),
        .test_device = m->config->test_device,
    };
    struct pci_root_options pci = {
        .host = vm_pci_host(m->vm),
        .pio = &m->pio,
        .mmio = &m->mmio,
        .inner_port = LAYOUT_PORT_RESET,
        .inner_ops = &reset_ops,
    };
    int r = platform_create(&platform, &m->platform, err);

    if (r < 0)
        return r;
    pci.inner_device = m->platform;
    return pci_root_create(&pci, &m->pci, err);
}

static int add_entropy(struct machine *m, struct err *err)
{
    struct virtio_device *device;
    struct pci_function *fn;
    int r = virtio_rng_create(&device, err);

    if (r < 0)
        return r;
    r = virtio_pci_create(device, &m->memory.map, &fn, err);
    if (r < 0)
        return r;
    return pci_root_add(m->pci, fn, err);
}

/* Disks take device numbers 1, 2, ... in their order; the entropy device follows. */
static int add_devices(struct machine *m, struct err *err)
{
    int r = disks_open(m->config, m->halt, &m->disks, err);

    for (unsigned i = 0; r == 0 && i < m->config->disk_count; i++) {
        struct pci_function *fn;

        r = disks_create_function(m->disks, i, &m->memory.map, &fn, err);
        if (r == 0)
            r = pci_root_add(m->pci, fn, err);
    }
    return r < 0 ? r : add_entropy(m, err);
}

static int add_vcpus(struct machine *m, struct err *err)
{
    while (m->vcpu_count < m->config->cpus) {
        const struct vcpu_options options = {
            .index = m->vcpu_count,
            .count = m->config->cpus,
            .pio = &m->pio,
            .mmio = &m->mmio,
            .life = m->life,
        };
        int r = vcpu_create(m->vm, &options, &m->vcpus[m->vcpu_count], err);

        if (r < 0)
            return r;
        m->vcpu_count++;
    }
    return 0;
}

static int load_kernel(struct machine *m, struct err *err)
{
    char cmdline[CMDLINE_DEFAULT_SIZE];
    struct boot_request request = {
        .kernel = m->config->kernel,
        .initrd = m->config->initrd,
        .cmdline = m->config->append,
        .memory = m->config->memory,
    };
    struct boot_registers registers;
    int r = acpi_write_tables(&m->memory.map, m->config->cpus, &request.rsdp, err);

    if (!request.cmdline)
        request.cmdline = cmdline_default(m->config->disk_count > 0,
                                          disks_first_is_partitioned(m->disks), cmdline);
    if (r == 0)
        r = boot_load(&m->memory.map, &request, &registers, err);
    return r < 0 ? r : vcpu_set_boot_state(m->vcpus[0], &registers, err);
}

int machine_create(const struct vm_config *config, struct life *life, struct halt *halt,
                   struct machine **out, struct err *err)
{
    struct machine *m = calloc(1, sizeof(*m));
    int r;

    if (!m)
        return err_set_errno(err, -ENOMEM, "machine");
    m->config = config;
    m->life = life;
    m->halt = halt;
    m->stats_fd = -1;
    if (config->cpus == 0 || config->cpus > CONFIG_MAX_CPUS)
        r = err_set(err, -EINVAL, "a machine has 1 to %d CPUs", CONFIG_MAX_CPUS);
    else
        r = vm_create(&m->vm, err);
    if (r == 0)
        r = memory_create(&m->memory, config->memory, config->hugepages, err);
    if (r == 0) {
        memory_guard(&m->memory);
        r = vm_map_memory(m->vm, &m->memory.map, err);
    }
    if (r == 0)
        r = add_board(m, err);
    if (r == 0)
        r = add_devices(m, err);
    if (r == 0)
        r = add_vcpus(m, err);
    if (r == 0)
        r = load_kernel(m, err);
    if (r == 0)
        r = stats_open(config->stats, &m->stats_fd, err);
    if (r < 0) {
        machine_destroy(m, NULL);
        return r;
    }
    *out = m;
    return 0;
}

struct serial *machine_com1(struct machine *machine)
{
    return platform_com1(machine->platform);
}

int machine_start(struct machine *machine, struct err *err)
{
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        int r = vcpu_start(machine->vcpus[i], err);

        if (r < 0) {
            machine_stop(machine, NULL);
            return r;
        }
    }
    return 0;
}

void machine_pause(struct machine *machine, bool keys)
{
    for (unsigned i = 0; !machine->paused && i < machine->vcpu_count; i++)
        vcpu_pause(machine->vcpus[i]);
    machine->paused = true;
    disks_report_halts(machine->disks, keys);
}

void machine_resume(struct machine *machine)
{
    if (!machine->paused)
        return;
    machine->paused = false;
    log_info("the machine goes on");
    disks_retry(machine->disks);
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_resume(machine->vcpus[i]);
}

void machine_write_stats(struct machine *machine)
{
    stats_write(machine->stats_fd, machine->disks);
}

int machine_stop(struct machine *machine, struct err *err)
{
    int r;

    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_kick(machine->vcpus[i]);
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_join(machine->vcpus[i]);
    pci_root_reset(machine->pci);
    r = disks_flush(machine->disks, err);
    if (machine->stats_fd >= 0)
        machine_write_stats(machine);
    return r;
}

int machine_destroy(struct machine *machine, struct err *err)
{
    int r;

    if (!machine)
        return 0;
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_destroy(machine->vcpus[i]);
    pci_root_destroy(machine->pci);
    platform_destroy(machine->platform);
    r = disks_close(machine->disks, err);
    vm_destroy(machine->vm);
    memory_destroy(&machine->memory);
    if (machine->stats_fd >= 0)
        close(machine->stats_fd);
    free(machine);
    return r;
}
