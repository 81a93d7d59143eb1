/*
 * kvm_private.h - what the kvm_*.c files share.
 */
#ifndef VMM_KVM_PRIVATE_H
#define VMM_KVM_PRIVATE_H

#include "err.h"
#include "pci_host.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Interrupt pins of the IOAPIC; their GSIs come first, those of messages follow. */
enum { KVM_IRQ_PINS = 24 };

struct msi_source {
    bool used;
    bool routed; /* address and data are what the kernel has */
    uint64_t address;
    uint32_t data;
};

struct kvm_irq {
    struct pci_host host;
    int vm_fd;
    bool doorbells; /* ioeventfds that match writes of any length */
    unsigned msi_max;
    unsigned msi_count;
    struct msi_source *msis;
};

struct vm {
    int kvm_fd, vm_fd;
    size_t run_size; /* of the shared page of a vCPU */
    unsigned max_vcpus;
    bool tsc_deadline;
    struct kvm_cpuid2 *cpuid; /* the host's, read with the first vCPU */
    struct kvm_irq irq;
};

/* ioctl() that goes on after a signal; -errno on failure. */
int kvm_ioctl(int fd, unsigned long request, const void *argument);
/* The value of a capability, 0 when absent. */
int kvm_capability(int fd, unsigned long capability);

int kvm_irq_init(struct kvm_irq *irq, int vm_fd, struct err *err);
void kvm_irq_destroy(struct kvm_irq *irq);

#endif
