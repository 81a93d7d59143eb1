/*
 * kvm_report.h - what a person needs to know of a vCPU that KVM gave up: on standard error.
 */
#ifndef VMM_KVM_REPORT_H
#define VMM_KVM_REPORT_H

#include <linux/kvm.h>

/* `what` opens the report; the facts of the exit and the registers follow. */
void kvm_report(int vcpu_fd, const struct kvm_run *run, unsigned index, const char *what);

#endif
