/*
 * kvm_vm.c - /dev/kvm, the VM and its memory slots.
 *
 * A capability that the machine cannot do without fails with its name; one that makes it slower or
 * poorer is a warning. Nothing asks for a brand of processor or kernel version.
 */
#include "kvm_vm.h"

#include "checked.h"
#include "kvm_private.h"
#include "layout.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct capability {
    unsigned long number;
    const char *name;
};

static const struct capability required[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
};

static const struct {
    struct capability capability;
    const char *without;
} optional[] = {
    {{KVM_CAP_PIT2, "KVM_CAP_PIT2"}, "the guest has no PIT"},
    {{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"}, "device doorbells are slow"},
    {{KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH"}, "device doorbells are slow"},
    {{KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER"}, "guest timers are slower"},
};

int kvm_ioctl(int fd, unsigned long request, const void *argument)
{
    int r;

    do
        r = ioctl(fd, request, argument);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

int kvm_capability(int fd, unsigned long capability)
{
    int r = ioctl(fd, KVM_CHECK_EXTENSION, capability);

    return r > 0 ? r : 0;
}

/* Which virtualisation extension /proc/cpuinfo names: "vmx", "svm" or NULL. */
static const char *cpu_extension(void)
{
    /* The flags of the first processor lie well within this. */
    char text[8192];
    int fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;
    char *flags, *end;

    if (fd >= 0) {
        n = read(fd, text, sizeof(text) - 2);
        close(fd);
    }
    if (n <= 0)
        return NULL;
    text[n] = '\0';
    flags = strstr(text, "\nflags");
    if (!flags)
        return NULL;
    end = strchr(flags + 1, '\n');
    if (!end)
        end = flags + strlen(flags);
    /* So that the last word is followed by a blank like every other. */
    end[0] = ' ';
    end[1] = '\0';
    if (strstr(flags, " vmx "))
        return "vmx";
    return strstr(flags, " svm ") ? "svm" : NULL;
}

static int open_failed(int code, struct err *err)
{
    const char *extension = cpu_extension();

    switch (code) {
    case -EACCES:
    case -EPERM:
        return err_set(err, code,
                       "no permission to open /dev/kvm: run as root, or join the group kvm "
                       "(usermod -aG kvm USER) and log in again");
    case -ENOENT:
    case -ENODEV:
    case -ENXIO:
        if (!extension)
            return err_set(
                err, code,
                "no usable /dev/kvm, and the processor shows neither vmx nor svm: switch "
                "virtualisation on in the firmware, or nested virtualisation in the "
                "hypervisor that this host runs on, then modprobe kvm_intel or kvm_amd");
        return err_set(err, code, "no usable /dev/kvm: modprobe %s",
                       strcmp(extension, "vmx") == 0 ? "kvm_intel" : "kvm_amd");
    default:
        return err_set_errno(err, code, "cannot open /dev/kvm");
    }
}

static int open_kvm(struct vm *vm, struct err *err)
{
    int version;

    vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0)
        return open_failed(-errno, err);
    version = kvm_ioctl(vm->kvm_fd, KVM_GET_API_VERSION, NULL);
    if (version < 0)
        return err_set_errno(err, version, "/dev/kvm does not answer as KVM");
    if (version != KVM_API_VERSION)
        return err_set(err, -ENOTSUP, "/dev/kvm speaks API version %d, this program needs %d",
                       version, KVM_API_VERSION);
    for (unsigned i = 0; i < ARRAY_LEN(required); i++) {
        if (kvm_capability(vm->kvm_fd, required[i].number) == 0)
            return err_set(err, -ENOTSUP, "this host's KVM has no %s, which a machine needs",
                           required[i].name);
    }
    for (unsigned i = 0; i < ARRAY_LEN(optional); i++) {
        if (kvm_capability(vm->kvm_fd, optional[i].capability.number) == 0)
            log_warn("this host's KVM has no %s: %s", optional[i].capability.name,
                     optional[i].without);
    }
    vm->tsc_deadline = kvm_capability(vm->kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER) != 0;
    vm->max_vcpus = (unsigned)kvm_capability(vm->kvm_fd, KVM_CAP_MAX_VCPUS);
    if (vm->max_vcpus == 0)
        vm->max_vcpus = 4; /* Documentation/virt/kvm/api.rst, KVM_CREATE_VCPU */
    if (!cpu_extension())
        log_warn("no vmx or svm in /proc/cpuinfo: this KVM emulates every instruction; small test "
                 "guests run, a stock Linux kernel does not get through its start-up");
    return 0;
}

static int create_irqchip(struct vm *vm, struct err *err)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    uint64_t identity_map = LAYOUT_IDENTITY_MAP;
    int r;

    if (kvm_capability(vm->kvm_fd, KVM_CAP_SET_IDENTITY_MAP_ADDR) != 0) {
        r = kvm_ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
        if (r < 0)
            return err_set_errno(err, r, "KVM_SET_IDENTITY_MAP_ADDR");
    }
    r = ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_TSS);
    if (r < 0)
        return err_set_errno(err, -errno, "KVM_SET_TSS_ADDR");
    r = kvm_ioctl(vm->vm_fd, KVM_CREATE_IRQCHIP, NULL);
    if (r < 0)
        return err_set_errno(err, r, "KVM_CREATE_IRQCHIP");
    if (kvm_capability(vm->kvm_fd, KVM_CAP_PIT2) != 0) {
        r = kvm_ioctl(vm->vm_fd, KVM_CREATE_PIT2, &pit);
        if (r < 0)
            return err_set_errno(err, r, "KVM_CREATE_PIT2");
    }
    return kvm_irq_init(&vm->irq, vm->vm_fd, err);
}

int vm_create(struct vm **out, struct err *err)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    int r;

    if (!vm)
        return err_set_errno(err, -ENOMEM, "virtual machine");
    vm->kvm_fd = vm->vm_fd = -1;
    r = open_kvm(vm, err);
    if (r < 0)
        goto fail;
    r = kvm_ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (r < (int)sizeof(struct kvm_run)) {
        r = err_set_errno(err, r < 0 ? r : -ENOTSUP, "KVM_GET_VCPU_MMAP_SIZE");
        goto fail;
    }
    vm->run_size = (size_t)r;
    vm->vm_fd = kvm_ioctl(vm->kvm_fd, KVM_CREATE_VM, NULL);
    if (vm->vm_fd < 0) {
        r = err_set_errno(err, vm->vm_fd, "KVM_CREATE_VM");
        goto fail;
    }
    r = create_irqchip(vm, err);
    if (r < 0)
        goto fail;
    *out = vm;
    return 0;

fail:
    vm_destroy(vm);
    return r;
}

void vm_destroy(struct vm *vm)
{
    if (!vm)
        return;
    kvm_irq_destroy(&vm->irq);
    free(vm->cpuid);
    if (vm->vm_fd >= 0)
        close(vm->vm_fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    free(vm);
}

int vm_map_memory(struct vm *vm, const struct guestmem *mem, struct err *err)
{
    for (unsigned i = 0; i < mem->count; i++) {
        struct kvm_userspace_memory_region slot = {
            .slot = i,
            .guest_phys_addr = mem->regions[i].gpa,
            .memory_size = mem->regions[i].size,
            .userspace_addr = (uintptr_t)mem->regions[i].host,
        };
        int r = kvm_ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);

        if (r < 0)
            return err_set_errno(err, r, "KVM refuses guest memory at 0x%llx, %llu bytes",
                                 (unsigned long long)slot.guest_phys_addr,
                                 (unsigned long long)slot.memory_size);
    }
    return 0;
}

static void set_line(void *controller, unsigned gsi, bool level)
{
    struct vm *vm = controller;
    struct kvm_irq_level line = {.irq = gsi, .level = level};

    /* Fails only for a pin that does not exist. */
    kvm_ioctl(vm->vm_fd, KVM_IRQ_LINE, &line);
}

struct irq_line vm_irq_line(struct vm *vm, unsigned gsi)
{
    return (struct irq_line){.set = set_line, .controller = vm, .gsi = gsi};
}

struct pci_host *vm_pci_host(struct vm *vm)
{
    return &vm->irq.host;
}
