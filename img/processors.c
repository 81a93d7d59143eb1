#include "img.h"

#include <unistd.h>

unsigned img_processors(void)
{
    long number = sysconf(_SC_NPROCESSORS_ONLN);

    return number < 1 ? 1 : (unsigned)number;
}
