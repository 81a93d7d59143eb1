#include "random.h"

#include <errno.h>
#include <sys/random.h>

int random_bytes(void *bytes, size_t length)
{
    char *at = bytes;

    while (length > 0) {
        ssize_t got = getrandom(at, length, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -EIO;
        at += got;
        length -= (size_t)got;
    }
    return 0;
}
