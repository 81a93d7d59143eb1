/* panic - the pvpanic device: discovery, then the event that a panicking kernel sends. */
#include "lib.h"

enum { PVPANIC = 0x505, PANICKED = 1 };

int main(void)
{
    if (!check(in8(PVPANIC) & PANICKED, "the device offers the panic event"))
        return 0;
    say("panicking\n");
    out8(PVPANIC, PANICKED);
    /* The machine may need a moment to stop this CPU; a reset meanwhile must not hide the panic. */
    out8(0xcf9, 0x06);
    (void)WAIT_FOR(false, SHORT_WAIT);
    check(false, "the machine ends");
    return 0;
}
