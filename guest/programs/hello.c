/* hello - the console and the exit port: the smallest guest. `status=N` ends with that status. */
#include "lib.h"

int main(void)
{
    say("hello from a bare-metal guest\n");
    return (int)argument("status", EXIT_PASS);
}
