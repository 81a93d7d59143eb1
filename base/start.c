/*
 * start.c - the first instructions of a static program, before those of the C library (Makefile: LDFLAGS_STATIC).
 *
 * A position-independent program writes to nearly every page of its data as it starts, to put addresses right. Each
 * is a fault; where the kernel is itself a guest without the processor's help, one of 10 to 30 microseconds. So one
 * call asks for all of them. Whether it succeeds does not matter: kernels before 5.14 do not have it.
 */
#include <sys/mman.h>
#include <sys/syscall.h>

/* The stack is the kernel's (System V ABI, AMD64, 3.4.1), and %rdx goes on to _start(); no C before the relocation. */
__attribute__((naked, noreturn, used)) void program_start(void);

void program_start(void)
{
    __asm__("mov %%rdx, %%r8\n\t"
            "lea __init_array_start(%%rip), %%rdi\n\t"
            "and %[page_mask], %%rdi\n\t"
            "lea _end(%%rip), %%rsi\n\t"
            "sub %%rdi, %%rsi\n\t"
            "mov %[advice], %%edx\n\t"
            "mov %[number], %%eax\n\t"
            "syscall\n\t"
            "mov %%r8, %%rdx\n\t"
            "jmp _start"
            :
            : [page_mask] "i"(-4096), [advice] "i"(MADV_POPULATE_WRITE), [number] "i"(SYS_madvise));
}
