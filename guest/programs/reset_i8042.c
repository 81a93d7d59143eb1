/* reset_i8042 - a reboot by the keyboard controller's pulse of the reset line. */
#include "lib.h"

int main(void)
{
    say("rebooting\n");
    while (in8(0x64) & 2)
        ;
    out8(0x64, 0xfe);
    (void)WAIT_FOR(false, SHORT_WAIT);
    check(false, "the machine restarts");
    return 0;
}
