#include "size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int suffix_shift(char suffix)
{
    static const char order[] = "bkmgtpe";
    const char *at = NULL;

    if (suffix != '\0')
        at = strchr(order, suffix | 0x20);
    return at != NULL ? (int)(at - order) * 10 : -1;
}

int size_parse(const char *text, char default_suffix, uint64_t *bytes)
{
    char *end;
    unsigned long long whole;
    double fraction = 0;
    int shift;

    if (text[0] == '-')
        return -ERANGE;
    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    errno = 0;
    whole = strtoull(text, &end, text[0] == '0' && (text[1] | 0x20) == 'x' ? 16 : 10);
    if (errno != 0)
        return -ERANGE;
    if (*end == '.') {
        char *after;

        if (end[1] < '0' || end[1] > '9')
            return -EINVAL;
        fraction = strtod(end, &after);
        end = after;
        if (!(fraction >= 0 && fraction < 1))
            return -EINVAL;
    }
    shift = suffix_shift(*end != '\0' ? *end : default_suffix);
    if (shift < 0 || (*end != '\0' && end[1] != '\0') || (fraction > 0 && shift == 0))
        return -EINVAL;
    if (whole > ((uint64_t)INT64_MAX >> shift))
        return -ERANGE;
    *bytes = ((uint64_t)whole << shift) + (uint64_t)(fraction * (double)(1ULL << shift));
    return *bytes <= INT64_MAX ? 0 : -ERANGE;
}

char *size_format(uint64_t bytes, char *out)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    unsigned unit = 0;
    double value = (double)bytes;

    /* The next unit from 1000 on, so that at most three digits stand before the point. */
    while (value >= 1000 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(out, SIZE_TEXT_MAX, "%0.3g %sB", value, units[unit]);
    return out;
}
