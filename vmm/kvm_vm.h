/*
 * kvm_vm.h - the virtual machine as KVM sees it: /dev/kvm, the VM, memory slots, interrupt controllers.
 *
 * Threads: create, memory and destroy by the main thread without vCPUs; interrupt lines from any
 * thread; the pci_host under the PCI lock (pci_host.h).
 */
#ifndef VMM_KVM_VM_H
#define VMM_KVM_VM_H

#include "err.h"
#include "guestmem.h"
#include "irq.h"
#include "pci_host.h"

struct vm;

/* Opens /dev/kvm and makes a VM with the in-kernel PIC, IOAPIC, local APICs and PIT. The message of a
 * failure says what the user can do. */
int vm_create(struct vm **out, struct err *err);
/* After every vCPU was destroyed. NULL is allowed. */
void vm_destroy(struct vm *vm);

/* Shows every region to the guest as RAM; the mappings outlive the VM. */
int vm_map_memory(struct vm *vm, const struct guestmem *mem, struct err *err);

/* A level-triggered or edge-triggered wire to pin `gsi` (0..23) of the PIC and the IOAPIC. */
struct irq_line vm_irq_line(struct vm *vm, unsigned gsi);

/* Doorbells and message-signalled interrupts for PCI functions; lives as long as the VM. */
struct pci_host *vm_pci_host(struct vm *vm);

#endif
