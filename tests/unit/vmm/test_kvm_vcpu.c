/*
 * vCPUs on the real /dev/kvm (skipped where it cannot be opened): every way to leave the guest ends
 * in an event and never in a hang. A test that hangs is ended by alarm().
 */
#include "boot_private.h"
#include "checked.h"
#include "kvm_vcpu.h"
#include "kvm_vm.h"
#include "memory.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { CODE = 0x100000, RAM = 32 << 20, HANG_SECONDS = 60 };

struct fixture {
    struct memory memory;
    struct vm *vm;
    struct bus pio, mmio;
    struct life life;
    struct vcpu *vcpu;
    unsigned port_bytes, mmio_writes, mmio_bytes;
    uint8_t last[8];
};

static void port_read(void *device, uint64_t offset, void *data, unsigned len)
{
    (void)device;
    (void)offset;
    memset(data, 0x41, len);
}

static void port_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct fixture *f = device;

    (void)offset;
    f->port_bytes += len;
    memcpy(f->last, data, len);
    if (f->last[0] == 'q')
        life_post(&f->life, LIFE_POWEROFF, 0);
}

static void mmio_write(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct fixture *f = device;

    (void)data;
    assert_true(is_power_of_2(len) && range_within(offset, len, 4096));
    f->mmio_bytes += len;
    f->mmio_writes++;
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write};
static const struct bus_ops mmio_ops = {.read = port_read, .write = mmio_write};

/* A machine of one vCPU that will run `code` in 64-bit mode; false where there is no KVM. */
static bool build(struct fixture *f, const void *code, size_t size)
{
    struct boot_registers registers = {0};
    struct err err = {""};

    memset(f, 0, sizeof(*f));
    alarm(HANG_SECONDS);
    if (access("/dev/kvm", R_OK | W_OK) != 0 || vm_create(&f->vm, &err) < 0) {
        print_message("skipped: %s\n", err.text);
        return false;
    }
    assert_int_equal(memory_create(&f->memory, RAM, false, &err), 0);
    assert_int_equal(vm_map_memory(f->vm, &f->memory.map, &err), 0);
    assert_int_equal(life_init(&f->life), 0);
    assert_int_equal(bus_add(&f->pio, 0x80, 1, &port_ops, f), 0);
    assert_int_equal(bus_add(&f->mmio, 0xd0000000, 4096, &mmio_ops, f), 0);
    const struct vcpu_options options = {
        .index = 0, .count = 1, .pio = &f->pio, .mmio = &f->mmio, .life = &f->life};

    assert_int_equal(vcpu_create(f->vm, &options, &f->vcpu, &err), 0);
    memcpy(guestmem_ptr(&f->memory.map, CODE, size), code, size);
    assert_int_equal(boot_enter_64bit(&f->memory.map, CODE, &registers, &err), 0);
    assert_int_equal(vcpu_set_boot_state(f->vcpu, &registers, &err), 0);
    return true;
}

static void run_until_event(struct fixture *f)
{
    struct pollfd event = {.fd = life_fd(&f->life), .events = POLLIN};
    struct err err;

    assert_int_equal(vcpu_start(f->vcpu, &err), 0);
    assert_int_equal(poll(&event, 1, HANG_SECONDS * 1000), 1);
    vcpu_kick(f->vcpu);
    vcpu_join(f->vcpu);
}

static void destroy(struct fixture *f)
{
    vcpu_destroy(f->vcpu);
    vm_destroy(f->vm);
    memory_destroy(&f->memory);
    life_destroy(&f->life);
    alarm(0);
}

static const uint8_t spin[] = {0xeb, 0xfe};

static void a_kick_is_never_lost(void **state)
{
    unsigned seed = 1;
    struct err err;

    (void)state;
    print_message("seed %u\n", seed);
    for (unsigned i = 0; i < 60; i++) {
        struct fixture f;

        if (!build(&f, spin, sizeof(spin)))
            skip();
        assert_int_equal(vcpu_start(f.vcpu, &err), 0);
        /* From before the thread runs to well inside the guest. */
        for (int n = rand_r(&seed) % 4096 * (int)(i % 16); n > 0; n--)
            __asm__ volatile("pause");
        vcpu_kick(f.vcpu);
        vcpu_join(f.vcpu);
        assert_int_equal(life_event(&f.life), LIFE_RUNNING);
        destroy(&f);
    }
}

static void a_vcpu_that_was_never_started_is_stopped_too(void **state)
{
    struct fixture f;

    (void)state;
    if (!build(&f, spin, sizeof(spin)))
        skip();
    vcpu_kick(f.vcpu);
    vcpu_join(f.vcpu);
    destroy(&f);
}

static void string_io_carries_every_byte_and_an_event_stops_the_vcpu(void **state)
{
    static const uint8_t code[] = {
        0xb9, 0x10, 0x00, 0x00, 0x00, /* mov $16, %ecx */
        0xbe, 0x00, 0x00, 0x10, 0x00, /* mov $CODE, %esi */
        0xba, 0x80, 0x00, 0x00, 0x00, /* mov $0x80, %edx */
        0xf3, 0x6e,                   /* rep outsb */
        0xb0, 'q',  0xee,             /* outb 'q' */
        0xb0, 'x',  0xee,             /* outb 'x': never reached */
        0xeb, 0xfe,
    };
    struct fixture f;

    (void)state;
    if (!build(&f, code, sizeof(code)))
        skip();
    run_until_event(&f);
    assert_int_equal(life_event(&f.life), LIFE_POWEROFF);
    assert_int_equal(f.port_bytes, 17);
    assert_int_equal(f.last[0], 'q');
    destroy(&f);
}

static void a_triple_fault_is_told_apart(void **state)
{
    /* An undefined instruction without an IDT. */
    static const uint8_t code[] = {0x0f, 0x0b};
    struct fixture f;

    (void)state;
    if (!build(&f, code, sizeof(code)))
        skip();
    run_until_event(&f);
    assert_int_equal(life_event(&f.life), LIFE_TRIPLE_FAULT);
    destroy(&f);
}

/* Runs `body` with standard error in `text`. */
static void capture(struct fixture *f, char *text, size_t size)
{
    int keep = dup(STDERR_FILENO), pipes[2];
    ssize_t n;

    assert_int_equal(pipe(pipes), 0);
    dup2(pipes[1], STDERR_FILENO);
    run_until_event(f);
    dup2(keep, STDERR_FILENO);
    close(pipes[1]);
    close(keep);
    n = read(pipes[0], text, size - 1);
    close(pipes[0]);
    text[n > 0 ? n : 0] = '\0';
}

/* Fetched from and not written to: a KVM without VMX and SVM retries a write for ever. Its own words
 * differ too: it fails to emulate, where hardware leaves with EFAULT. */
static void memory_that_the_host_cannot_provide_fails_with_registers(void **state)
{
    static const uint8_t code[] = {
        0xb8, 0x00, 0x00, 0x80, 0x00, /* mov $0x800000, %eax */
        0xff, 0xe0,                   /* jmp *%rax */
    };
    struct fixture f;
    char text[8192];

    (void)state;
    if (!build(&f, code, sizeof(code)))
        skip();
    assert_int_equal(mprotect(guestmem_ptr(&f.memory.map, 0x800000, 4096), 4096, PROT_NONE), 0);
    capture(&f, text, sizeof(text));
    assert_int_equal(life_event(&f.life), LIFE_FAILED);
    assert_non_null(strstr(text, "vCPU 0 failed"));
    assert_non_null(strstr(text, "rip 0000000000800000"));
    destroy(&f);
}

static void code_where_nobody_is_fails_with_registers_and_does_not_hang(void **state)
{
    static const uint8_t code[] = {
        0xb8, 0x00, 0x00, 0x00, 0xd1, /* mov $0xd1000000, %eax */
        0xff, 0xe0,                   /* jmp *%rax */
    };
    struct fixture f;
    char text[8192];

    (void)state;
    if (!build(&f, code, sizeof(code)))
        skip();
    capture(&f, text, sizeof(text));
    assert_int_equal(life_event(&f.life), LIFE_FAILED);
    assert_non_null(strstr(text, "vCPU 0 failed"));
    assert_non_null(strstr(text, "rip 00000000d1000000"));
    destroy(&f);
}

static void a_doorbell_rings_without_a_device_access(void **state)
{
    static const uint8_t code[] = {
        0xb8, 0x00, 0x00, 0x00, 0xd0, /* mov $0xd0000000, %eax */
        0x66, 0x89, 0x00,             /* movw %ax, (%rax) */
        0x89, 0x00,                   /* movl %eax, (%rax) */
        0x88, 0x40, 0x04,             /* movb %al, 4(%rax): not the doorbell */
        0xba, 0x80, 0x00, 0x00, 0x00, /* mov $0x80, %edx */
        0xb0, 'q',  0xee,             /* outb 'q' */
    };
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct pci_host *host;
    struct fixture f;
    uint64_t count = 0;
    int r;

    (void)state;
    if (!build(&f, code, sizeof(code))) {
        close(fd);
        skip();
    }
    host = vm_pci_host(f.vm);
    r = host->ops->doorbell_assign(host, 0xd0000000, fd);
    run_until_event(&f);
    assert_int_equal(life_event(&f.life), LIFE_POWEROFF);
    if (r == 0) {
        assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
        assert_int_equal(count, 2);
        assert_int_equal(f.mmio_writes, 1);
        host->ops->doorbell_deassign(host, 0xd0000000, fd);
    } else {
        assert_int_equal(f.mmio_writes, 3);
    }
    close(fd);
    destroy(&f);
}

/* KVM cuts an access at the page, wherever that is: 8 bytes become 3 and 5. */
static void an_access_across_a_page_reaches_devices_in_lengths_they_know(void **state)
{
    static const uint8_t code[] = {
        0xb8, 0xfd, 0xff, 0xff, 0xcf, /* mov $0xcffffffd, %eax */
        0x48, 0x89, 0x00,             /* movq %rax, (%rax): 3 bytes of nobody, 5 of the device */
        0xb8, 0xfd, 0x0f, 0x00, 0xd0, /* mov $0xd0000ffd, %eax */
        0x48, 0x89, 0x00,             /* movq %rax, (%rax): 3 bytes of the device */
        0xba, 0x80, 0x00, 0x00, 0x00, /* mov $0x80, %edx */
        0xb0, 'q',  0xee,             /* outb 'q' */
    };
    struct fixture f;

    (void)state;
    if (!build(&f, code, sizeof(code)))
        skip();
    run_until_event(&f);
    assert_int_equal(life_event(&f.life), LIFE_POWEROFF);
    assert_int_equal(f.mmio_bytes, 8);
    destroy(&f);
}

static void message_sources_are_many_and_come_back(void **state)
{
    enum { MANY = 300 };
    int msis[MANY], fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct pci_host *host;
    struct fixture f;
    uint64_t pending = 1;

    (void)state;
    if (!build(&f, spin, sizeof(spin))) {
        close(fd);
        skip();
    }
    host = vm_pci_host(f.vm);
    for (unsigned i = 0; i < MANY; i++) {
        msis[i] = host->ops->msi_create(host);
        assert_int_equal(msis[i], i);
        /* Any address and data that a guest may write. */
        assert_int_equal(host->ops->msi_route(host, msis[i], i * 0x0123456789abcdefULL, ~i), 0);
    }
    /* What was pending is sent at the connection, once. */
    assert_int_equal(write(fd, &pending, sizeof(pending)), sizeof(pending));
    assert_int_equal(host->ops->msi_connect(host, msis[7], fd), 0);
    assert_int_equal(read(fd, &pending, sizeof(pending)), -1);
    host->ops->msi_disconnect(host, msis[7], fd);
    host->ops->msi_destroy(host, msis[7]);
    assert_int_equal(host->ops->msi_create(host), 7);
    close(fd);
    destroy(&f);
}

static void more_vcpus_than_kvm_can_do_are_refused(void **state)
{
    struct fixture f;
    struct vcpu *vcpu;
    struct err err;

    (void)state;
    if (!build(&f, spin, sizeof(spin)))
        skip();
    const struct vcpu_options options = {
        .index = 1, .count = 1U << 30, .pio = &f.pio, .mmio = &f.mmio, .life = &f.life};

    assert_true(vcpu_create(f.vm, &options, &vcpu, &err) < 0);
    assert_non_null(strstr(err.text, "more than this host's KVM can do"));
    destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kick_is_never_lost),
        cmocka_unit_test(a_vcpu_that_was_never_started_is_stopped_too),
        cmocka_unit_test(string_io_carries_every_byte_and_an_event_stops_the_vcpu),
        cmocka_unit_test(a_triple_fault_is_told_apart),
        cmocka_unit_test(memory_that_the_host_cannot_provide_fails_with_registers),
        cmocka_unit_test(code_where_nobody_is_fails_with_registers_and_does_not_hang),
        cmocka_unit_test(a_doorbell_rings_without_a_device_access),
        cmocka_unit_test(an_access_across_a_page_reaches_devices_in_lengths_they_know),
        cmocka_unit_test(message_sources_are_many_and_come_back),
        cmocka_unit_test(more_vcpus_than_kvm_can_do_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
