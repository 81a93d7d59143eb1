/*
 * start.S - from the boot loader to guest_main() in long mode.
 *
 * Three ways in: the PVH entry (32-bit protected mode, %ebx: hvm_start_info), the 64-bit entry of an
 * ELF file without a PVH note, and the 64-bit entry of a bzImage (%rsi: boot_params, both by the Linux
 * boot protocol). All end on page tables, a GDT and a stack of our own. The tables are data of the
 * file: where every instruction is emulated, building them would take longer than most tests.
 *
 * First 8 GiB identity-mapped with 2 MiB pages; [3 GiB, 4 GiB), where devices are, uncached.
 */
#define CR0_PE        0x00000001
#define CR0_PG        0x80000000
#define CR4_PAE       0x00000020
#define MSR_EFER      0xc0000080
#define EFER_LME      0x00000100
#define PAGE_TABLE    0x003 /* present, writable */
#define PAGE_RAM      0x083 /* ... 2 MiB */
#define PAGE_DEVICE   0x09b /* ... 2 MiB, write-through, cache disabled */
#define STACK_SIZE    0x4000

/* XEN_ELFNOTE_PHYS32_ENTRY */
#ifndef NO_PVH
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad start_pvh
#endif

#ifdef BZIMAGE
    /* The protected-mode part of a bzImage: 32-bit entry at 0 (not offered), 64-bit entry at 0x200. */
    .section .text.start, "ax"
    .code32
1:  hlt
    jmp 1b
    .org 0x200
    .code64
    jmp start_linux
#endif

    .text
    .code32
    .global start_pvh
start_pvh:
    cld
    movl %ebx, boot_start_info
    lgdt gdt_pointer
    movl %cr4, %eax
    orl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    orl $(CR0_PE | CR0_PG), %eax
    movl %eax, %cr0
    ljmp $8, $start_long

    .code64
    .global start_linux
start_linux:
    cld
    movq %rsi, boot_params
    lgdt gdt_pointer
    movl $pml4, %eax
    movq %rax, %cr3
    pushq $8
    pushq $start_long
    /* The stack of the loader is good for this far return at the most. */
    lretq

start_long:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $stack_top, %esp
    xorl %ebp, %ebp
    call guest_main
1:  hlt
    jmp 1b

/*
 * Interrupts: a stub a vector pushes an error code where the CPU does not, and the vector.
 */
    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 48
    .balign 16
    .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21))
    pushq $0
    .endif
    pushq $vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq 72(%rsp), %rdi
    leaq 80(%rsp), %rsi
    /* The CPU aligned the stack to 16 before it pushed 40 bytes; 88 more bytes keep it aligned. */
    cld
    call interrupt_dispatch
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff /* 8: 64-bit code */
    .quad 0x00cf92000000ffff /* 16: data */
gdt_end:
    .global gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .balign 8
    .global boot_start_info, boot_params
boot_start_info:
    .quad 0
boot_params:
    .quad 0

    .balign 4096
    .global pml4
pml4:
    .quad pdpt + PAGE_TABLE
    .fill 511, 8, 0
pdpt:
    .set i, 0
    .rept 8
    .quad page_directories + i * 4096 + PAGE_TABLE
    .set i, i + 1
    .endr
    .fill 504, 8, 0
page_directories:
    .set i, 0
    .rept 8 * 512
    .if (i >= 3 * 512) && (i < 4 * 512)
    .quad i * 0x200000 + PAGE_DEVICE
    .else
    .quad i * 0x200000 + PAGE_RAM
    .endif
    .set i, i + 1
    .endr

    .bss
    .balign 16
    .fill STACK_SIZE
stack_top:

    .section .note.GNU-stack, "", @progbits
