/*
 * trampoline.S - where the other CPUs start: real mode, at a page below 1 MiB that smp.c copies this to.
 * They share the GDT and the page tables of the first CPU; one CPU at a time is started, so one stack
 * pointer in memory is enough.
 */
    .text
    .code16
    .global ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    cld
    /* The GDT's pointer and the tables lie below 4 GiB; an operand-size prefix loads 32 bits of base. */
    movw %cs, %ax
    movw %ax, %ds
    lgdtl ap_gdt_pointer - ap_trampoline
    movl $0x20, %eax
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    /* Caches on (CD and NW are set after INIT), protection and paging on: straight to long mode. */
    andl $0x9fffffff, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpl $8, $ap_long
ap_gdt_pointer:
    .word 23
    .long 0 /* smp.c puts the base of the GDT here */
ap_trampoline_end:
    .global ap_gdt_base
    .set ap_gdt_base, ap_gdt_pointer + 2

    .code64
ap_long:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movq ap_stack, %rsp
    xorl %ebp, %ebp
    call ap_main
1:  cli
    hlt
    jmp 1b

    .data
    .balign 8
    .global ap_stack
ap_stack:
    .quad 0
    .section .note.GNU-stack, "", @progbits
