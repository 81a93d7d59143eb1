/*
 * hang - never ends: `spin` in a loop, `halt` with interrupts off, `ports` or `mmio` in exits. For
 * timeouts and signals. "ready" on the console says that it runs.
 */
#include "lib.h"

int main(void)
{
    say("ready\n");
    if (has_argument("halt"))
        for (;;)
            __asm__ volatile("cli; hlt");
    if (has_argument("ports"))
        for (;;)
            (void)in8(PORT_COM1 + 7);
    if (has_argument("mmio"))
        for (;;)
            (void)mmio_read32(0xdffff000);
    for (;;)
        __asm__ volatile("pause");
}
