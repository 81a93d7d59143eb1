/*
 * kvm_vcpu.h - one virtual processor and its thread.
 *
 * Life: create -> [set_boot_state] -> start -> (pause <-> resume) -> (kick and join) -> destroy. The first vCPU boots; the
 * others wait for its start-up message, as on a PC.
 *
 * Threads: all calls from the main thread. The vCPU thread calls the devices on the buses, and posts
 * to `life` what the processor itself reports: a triple fault, or a failure of KVM, with the registers
 * on standard error. After an event in `life` it runs no further guest instruction once its current
 * access is done.
 */
#ifndef VMM_KVM_VCPU_H
#define VMM_KVM_VCPU_H

#include "boot.h"
#include "bus.h"
#include "err.h"
#include "life.h"

struct vm;
struct vcpu;

struct vcpu_options {
    unsigned index;        /* the APIC id too */
    unsigned count;        /* of vCPUs in the machine */
    const struct bus *pio; /* the buses and `life` are borrowed and outlive the vCPU */
    const struct bus *mmio;
    struct life *life;
};

/* Makes vCPU `index`; the CPUID tables of the VM are read from the host with the first one. */
int vcpu_create(struct vm *vm, const struct vcpu_options *options, struct vcpu **out,
                struct err *err);
/* After vcpu_join(), or never started. NULL is allowed. */
void vcpu_destroy(struct vcpu *vcpu);

int vcpu_set_boot_state(struct vcpu *vcpu, const struct boot_registers *registers, struct err *err);

int vcpu_start(struct vcpu *vcpu, struct err *err);
/* Makes the thread leave the guest and wait, until vcpu_resume(); returns at once. An access to a
 * device may still be under way. Between vcpu_start() and vcpu_kick(). */
void vcpu_pause(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);
/* Makes the thread leave the guest and end, wherever it is; returns at once. */
void vcpu_kick(struct vcpu *vcpu);
/* Waits for the thread, after vcpu_kick(). Harmless when it was never started. */
void vcpu_join(struct vcpu *vcpu);

#endif
