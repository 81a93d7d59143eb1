/*
 * kvm_vcpu.c - set-up of a vCPU and the loop that runs it.
 *
 * Set-up order: CPUID first, since KVM checks MSRs and control registers against it; then MSRs, then
 * registers.
 *
 * Stopping without a lost kick: vcpu_kick() sets `stop`, then immediate_exit in the page shared with
 * KVM, then sends a signal. Whatever the thread does at that moment, it leaves:
 *  - before KVM_RUN: KVM sees immediate_exit and returns EINTR without entering the guest;
 *  - inside KVM_RUN: the signal (its handler does nothing) ends the call with EINTR, and a signal that
 *    arrives between KVM's test of immediate_exit and the entry is pending, which KVM tests last;
 *  - in a device: the access ends, and the loop tests `stop` before the next KVM_RUN.
 * Pausing does the same with `paused`, and the thread waits where it would enter the guest again.
 * The kick signal is open in vCPU threads alone, and nothing else is.
 */
#include "kvm_vcpu.h"

#include "bytes.h"
#include "checked.h"
#include "kvm_cpuid.h"
#include "kvm_private.h"
#include "kvm_report.h"
#include "log.h"
#include "signals.h"
#include "startup.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

struct vcpu {
    struct vcpu_options options;
    int fd;
    struct kvm_run *run; /* shared with KVM */
    size_t run_size;
    atomic_bool stop;
    atomic_bool paused; /* set with the lock held */
    pthread_mutex_t lock;
    pthread_cond_t resumed; /* not paused any more, or to stop */
    bool started;
    pthread_t thread;
};

static int kick_signal(void)
{
    return SIGRTMIN;
}

static void on_kick(int signal)
{
    (void)signal;
}

static int set_cpuid(struct vm *vm, struct vcpu *vcpu, struct err *err)
{
    const struct cpuid_topology topology = {
        .apic_id = vcpu->options.index,
        .cpus = vcpu->options.count,
        .tsc_deadline = vm->tsc_deadline,
    };
    struct kvm_cpuid2 *table;
    int r;

    if (!vm->cpuid)
        vm->cpuid = kvm_cpuid_supported(vm->kvm_fd, err);
    if (!vm->cpuid)
        return -EIO;
    table = kvm_cpuid_for(vm->cpuid, &topology);
    if (!table)
        return err_set_errno(err, -ENOMEM, "CPUID table");
    r = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, table);
    free(table);
    return r < 0 ? err_set_errno(err, r, "KVM_SET_CPUID2") : 0;
}

/* What firmware would have left: a guest runs without them, only worse. */
static void set_msrs(const struct vcpu *vcpu)
{
    static const struct {
        uint32_t index;
        uint64_t value;
        const char *name;
    } wanted[] = {
        {0x1a0, 1, "IA32_MISC_ENABLE (fast strings)"},
        {0x2ff, 1 << 11 | 6, "IA32_MTRR_DEF_TYPE (all memory write-back)"},
    };

    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        union {
            struct kvm_msrs header;
            uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
        } msrs = {.header = {.nmsrs = 1}};

        msrs.header.entries[0] =
            (struct kvm_msr_entry){.index = wanted[i].index, .data = wanted[i].value};
        /* The count of MSRs set; one warning speaks for all vCPUs. */
        if (kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msrs) != 1 && vcpu->options.index == 0)
            log_warn("this host's KVM does not take MSR 0x%x, %s", wanted[i].index, wanted[i].name);
    }
}

/*
 * The local APIC as firmware leaves it: the PIC behind LINT0 of the first processor, NMI behind LINT1.
 * Writing it back matters for every vCPU: KVM's table of interrupt destinations is made anew with it,
 * and before that a vCPU is not in the table and its start-up message is lost.
 */
static int set_lapic(const struct vcpu *vcpu, struct err *err)
{
    enum { LVT_LINT0 = 0x350, LVT_LINT1 = 0x360, MODE_NMI = 4 << 8, MODE_EXTINT = 7 << 8 };
    struct kvm_lapic_state lapic = {0};
    int r = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic);

    if (r < 0)
        return err_set_errno(err, r, "KVM_GET_LAPIC");
    if (vcpu->options.index == 0)
        store_le32(lapic.regs + LVT_LINT0, MODE_EXTINT);
    store_le32(lapic.regs + LVT_LINT1, MODE_NMI);
    r = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic);
    return r < 0 ? err_set_errno(err, r, "KVM_SET_LAPIC") : 0;
}

int vcpu_create(struct vm *vm, const struct vcpu_options *options, struct vcpu **out,
                struct err *err)
{
    struct sigaction action = {.sa_handler = on_kick};
    struct vcpu *vcpu;
    int r;

    if (options->count > vm->max_vcpus)
        return err_set(err, -EINVAL, "%u CPUs are more than this host's KVM can do (%u)",
                       options->count, vm->max_vcpus);
    vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu)
        return err_set_errno(err, -ENOMEM, "vCPU %u", options->index);
    vcpu->options = *options;
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->resumed, NULL);
    vcpu->run = MAP_FAILED;
    vcpu->run_size = vm->run_size;
    vcpu->fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)options->index);
    if (vcpu->fd < 0) {
        r = err_set_errno(err, -errno, "KVM_CREATE_VCPU %u", options->index);
        goto fail;
    }
    vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED) {
        r = err_set_errno(err, -errno, "mapping the run page of vCPU %u", options->index);
        goto fail;
    }
    r = set_cpuid(vm, vcpu, err);
    if (r < 0)
        goto fail;
    set_msrs(vcpu);
    r = set_lapic(vcpu, err);
    if (r < 0)
        goto fail;
    sigaction(kick_signal(), &action, NULL);
    *out = vcpu;
    return 0;

fail:
    vcpu_destroy(vcpu);
    return r;
}

void vcpu_destroy(struct vcpu *vcpu)
{
    if (!vcpu)
        return;
    if (vcpu->run != MAP_FAILED)
        munmap(vcpu->run, vcpu->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    pthread_cond_destroy(&vcpu->resumed);
    pthread_mutex_destroy(&vcpu->lock);
    free(vcpu);
}

static struct kvm_segment kvm_segment(const struct boot_segment *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->type,
        .present = s->present,
        .dpl = s->dpl,
        .db = s->db,
        .s = s->s,
        .l = s->l,
        .g = s->g,
    };
}

int vcpu_set_boot_state(struct vcpu *vcpu, const struct boot_registers *boot, struct err *err)
{
    struct kvm_regs regs = {
        .rip = boot->rip,
        .rsp = boot->rsp,
        .rbx = boot->rbx,
        .rsi = boot->rsi,
        .rflags = 2, /* the bit that is always one */
    };
    struct kvm_sregs sregs = {0};
    int r;

    r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
    if (r < 0)
        return err_set_errno(err, r, "KVM_GET_SREGS");
    sregs.cs = kvm_segment(&boot->code);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = kvm_segment(&boot->data);
    sregs.tr = kvm_segment(&boot->task);
    sregs.gdt = (struct kvm_dtable){.base = boot->gdt.base, .limit = boot->gdt.limit};
    sregs.idt = (struct kvm_dtable){.base = boot->idt.base, .limit = boot->idt.limit};
    sregs.cr0 = boot->cr0;
    sregs.cr3 = boot->cr3;
    sregs.cr4 = boot->cr4;
    sregs.efer = boot->efer;
    r = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
    if (r < 0)
        return err_set_errno(err, r, "KVM_SET_SREGS");
    r = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
    return r < 0 ? err_set_errno(err, r, "KVM_SET_REGS") : 0;
}

static void handle_pio(const struct vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)vcpu->run + run->io.data_offset;

    /* A string instruction is many accesses to one port. */
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            bus_write(vcpu->options.pio, run->io.port, data, run->io.size);
        else
            bus_read(vcpu->options.pio, run->io.port, data, run->io.size);
    }
}

static void handle_mmio(const struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    /* KVM cuts an access at the end of a page, into 3 and 5 bytes for one; no bus knows such lengths. */
    unsigned step = is_power_of_2(run->mmio.len) ? run->mmio.len : 1;

    for (unsigned at = 0; at < run->mmio.len; at += step) {
        if (run->mmio.is_write)
            bus_write(vcpu->options.mmio, run->mmio.phys_addr + at, run->mmio.data + at, step);
        else
            bus_read(vcpu->options.mmio, run->mmio.phys_addr + at, run->mmio.data + at, step);
    }
}

static void fail(const struct vcpu *vcpu, const char *what)
{
    kvm_report(vcpu->fd, vcpu->run, vcpu->options.index, what);
    life_post(vcpu->options.life, LIFE_FAILED, 0);
}

static void handle_system_event(const struct vcpu *vcpu)
{
    switch (vcpu->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        life_post(vcpu->options.life, LIFE_POWEROFF, 0);
        break;
    case KVM_SYSTEM_EVENT_RESET:
        life_post(vcpu->options.life, LIFE_REBOOT, 0);
        break;
    case KVM_SYSTEM_EVENT_CRASH:
        life_post(vcpu->options.life, LIFE_PANIC, 0);
        break;
    default:
        fail(vcpu, "KVM reports an unknown system event");
    }
}

static void handle_exit(const struct vcpu *vcpu)
{
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        handle_pio(vcpu);
        break;
    case KVM_EXIT_MMIO:
        handle_mmio(vcpu);
        break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
    case KVM_EXIT_SHUTDOWN:
        life_post(vcpu->options.life, LIFE_TRIPLE_FAULT, 0);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        handle_system_event(vcpu);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        fail(vcpu, "the processor refuses to enter the guest");
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        fail(vcpu, "KVM cannot go on");
        break;
    case KVM_EXIT_HLT:
        /* The in-kernel APIC waits for interrupts; only a KVM without it comes back. */
        fail(vcpu, "KVM leaves a halted processor to user space");
        break;
    default:
        fail(vcpu, "KVM gives an unknown reason for leaving the guest");
    }
}

static void wait_while_paused(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    while (atomic_load(&vcpu->paused) && !atomic_load(&vcpu->stop))
        pthread_cond_wait(&vcpu->resumed, &vcpu->lock);
    pthread_mutex_unlock(&vcpu->lock);
    /* Keeps the guest's watchdogs from taking the pause for a hang. A guest without kvmclock has
     * nothing to be told, and the call fails. */
    (void)kvm_ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, NULL);
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *vcpu = opaque;
    char name[16];

    snprintf(name, sizeof(name), "vcpu-%u", vcpu->options.index);
    pthread_setname_np(pthread_self(), name);
    if (vcpu->options.index == 0)
        startup_log();
    while (!atomic_load(&vcpu->stop) && life_event(vcpu->options.life) == LIFE_RUNNING) {
        int r;

        if (atomic_load(&vcpu->paused)) {
            wait_while_paused(vcpu);
            continue;
        }
        r = ioctl(vcpu->fd, KVM_RUN, NULL) < 0 ? -errno : 0;
        if (r == 0)
            handle_exit(vcpu);
        else if (r == -EFAULT)
            fail(vcpu, "the host cannot provide a page of guest memory (out of memory or huge "
                       "pages?)");
        else if (r != -EINTR && r != -EAGAIN)
            fail(vcpu, strerror(-r));
    }
    return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct err *err)
{
    sigset_t blocked, before;
    int r;

    /* The new thread inherits the mask. */
    signals_fill_worker_mask(&blocked);
    sigdelset(&blocked, kick_signal());
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return err_set_errno(err, -r, "thread of vCPU %u", vcpu->options.index);
    vcpu->started = true;
    return 0;
}

static void leave_guest(struct vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(vcpu->thread, kick_signal());
}

void vcpu_pause(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    atomic_store(&vcpu->paused, true);
    pthread_mutex_unlock(&vcpu->lock);
    leave_guest(vcpu);
}

void vcpu_resume(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    atomic_store(&vcpu->paused, false);
    pthread_cond_broadcast(&vcpu->resumed);
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_kick(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    atomic_store(&vcpu->stop, true);
    pthread_cond_broadcast(&vcpu->resumed);
    pthread_mutex_unlock(&vcpu->lock);
    if (vcpu->started)
        leave_guest(vcpu);
}

void vcpu_join(struct vcpu *vcpu)
{
    if (!vcpu->started)
        return;
    pthread_join(vcpu->thread, NULL);
    vcpu->started = false;
}
