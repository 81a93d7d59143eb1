/* triple_fault - an exception with no IDT to find a handler in. */
#include "lib.h"

int main(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) nothing = {0, 0};

    say("triple fault\n");
    __asm__ volatile("lidt %0; ud2" ::"m"(nothing));
    return EXIT_FAIL;
}
