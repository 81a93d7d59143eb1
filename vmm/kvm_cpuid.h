/*
 * kvm_cpuid.h - what the guest's processors say they are: the host's answers with the machine's own
 * topology, the same for every vCPU but for its APIC id.
 */
#ifndef VMM_KVM_CPUID_H
#define VMM_KVM_CPUID_H

#include "err.h"

#include <linux/kvm.h>
#include <stdbool.h>

enum { KVM_CPUID_MAX_ENTRIES = 256 };

struct cpuid_topology {
    unsigned apic_id;
    unsigned cpus; /* one socket, one thread a core; APIC ids 0 .. cpus-1 */
    bool tsc_deadline;
};

/* KVM_GET_SUPPORTED_CPUID; free() the result. NULL with a message on failure. */
struct kvm_cpuid2 *kvm_cpuid_supported(int kvm_fd, struct err *err);

/* A copy of `host`, changed for one vCPU; free() the result. NULL without memory. */
struct kvm_cpuid2 *kvm_cpuid_for(const struct kvm_cpuid2 *host,
                                 const struct cpuid_topology *topology);

#endif
