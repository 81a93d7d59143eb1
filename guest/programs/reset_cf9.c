/* reset_cf9 - a reboot by the reset control register at port 0xcf9. */
#include "lib.h"

int main(void)
{
    say("rebooting\n");
    out8(0xcf9, 0x02);
    out8(0xcf9, 0x06);
    (void)WAIT_FOR(false, SHORT_WAIT);
    check(false, "the machine restarts");
    return 0;
}
