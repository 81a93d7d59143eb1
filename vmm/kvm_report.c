/*
 * kvm_report.c - exit facts and registers of a failed vCPU.
 */
#include "kvm_report.h"

#include "checked.h"
#include "kvm_private.h"
#include "log.h"

#include <inttypes.h>
#include <stdio.h>

static void report_exit(const struct kvm_run *run, unsigned index)
{
    switch (run->exit_reason) {
    case KVM_EXIT_FAIL_ENTRY:
        log_error("vCPU %u: hardware entry failure reason 0x%" PRIx64, index,
                  (uint64_t)run->fail_entry.hardware_entry_failure_reason);
        break;
    case KVM_EXIT_INTERNAL_ERROR: {
        char text[256] = "";
        int at = 0;

        for (uint32_t i = 0; i < run->internal.ndata && i < ARRAY_LEN(run->internal.data); i++) {
            at += snprintf(text + at, sizeof(text) - (size_t)at, " 0x%" PRIx64,
                           (uint64_t)run->internal.data[i]);
            if (at >= (int)sizeof(text) - 24)
                break;
        }
        log_error("vCPU %u: internal error, suberror %" PRIu32 "%s%s%s", index,
                  run->internal.suberror,
                  run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                      ? " (an instruction that KVM cannot emulate)"
                      : "",
                  at ? ", data" : "", text);
        break;
    }
    default:
        log_error("vCPU %u: exit reason %" PRIu32, index, run->exit_reason);
    }
}

void kvm_report(int vcpu_fd, const struct kvm_run *run, unsigned index, const char *what)
{
    struct kvm_regs r = {0};
    struct kvm_sregs s = {0};

    log_error("vCPU %u failed: %s", index, what);
    report_exit(run, index);
    if (kvm_ioctl(vcpu_fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0) {
        log_error("vCPU %u: its registers cannot be read", index);
        return;
    }
    log_error("rip %016llx rsp %016llx rflags %08llx", r.rip, r.rsp, r.rflags);
    log_error("rax %016llx rbx %016llx rcx %016llx rdx %016llx", r.rax, r.rbx, r.rcx, r.rdx);
    log_error("rsi %016llx rdi %016llx rbp %016llx", r.rsi, r.rdi, r.rbp);
    log_error("r8  %016llx r9  %016llx r10 %016llx r11 %016llx", r.r8, r.r9, r.r10, r.r11);
    log_error("r12 %016llx r13 %016llx r14 %016llx r15 %016llx", r.r12, r.r13, r.r14, r.r15);
    log_error("cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %08llx", s.cr0, s.cr2, s.cr3,
              s.cr4, s.efer);
    log_error("cs %04x base %016llx limit %08x%s, ss %04x, ds %04x, tr %04x", s.cs.selector,
              s.cs.base, s.cs.limit,
              s.cs.l    ? " 64-bit"
              : s.cs.db ? " 32-bit"
                        : " 16-bit",
              s.ss.selector, s.ds.selector, s.tr.selector);
    log_error("gdt %016llx limit %04x, idt %016llx limit %04x", s.gdt.base, s.gdt.limit, s.idt.base,
              s.idt.limit);
}
