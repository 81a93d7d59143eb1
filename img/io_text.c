/*
 * io_text.c - numbers that commands read, and the forms of what they print.
 */
#include "io.h"
#include "size.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512, DUMP_WIDTH = 16, HOUR = 3600, MINUTE = 60 };

int io_parse_number(const char *text, int64_t *number)
{
    uint64_t value = 0;
    int rc = strchr(text, '-') != NULL ? -EINVAL : size_parse(text, 'B', &value);

    if (rc == -ERANGE) {
        printf("Parsing error: argument too large -- %s\n", text);
    } else if (rc < 0) {
        printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n",
               text);
    }
    *number = (int64_t)value;
    return rc;
}

int io_parse_range(char **argv, uint64_t limit, const char *without, uint64_t *offset,
                   uint64_t *length)
{
    int64_t at = 0, count = 0;
    int rc = io_parse_number(argv[0], &at);

    rc = rc == 0 ? io_parse_number(argv[1], &count) : rc;
    if (rc < 0)
        return rc;
    if (limit > 0 && (uint64_t)count > limit) {
        printf("length cannot exceed %" PRIu64 "%s, given %s\n", limit, without, argv[1]);
        return -EINVAL;
    }
    *offset = (uint64_t)at;
    *length = (uint64_t)count;
    return 0;
}

int io_check_sectors(uint64_t offset, uint64_t length)
{
    if (offset % SECTOR == 0 && length % SECTOR == 0)
        return 0;
    printf("%" PRIu64 " is not a sector-aligned value for '%s'\n",
           offset % SECTOR != 0 ? offset : length, offset % SECTOR != 0 ? "offset" : "count");
    return -EINVAL;
}

int io_parse_pattern(const char *text, unsigned char *pattern)
{
    char *end;
    long value = strtol(text, &end, 0);

    if (value < 0 || value > UCHAR_MAX || *end != '\0') {
        printf("%s is not a valid pattern byte\n", text);
        return -EINVAL;
    }
    *pattern = (unsigned char)value;
    return 0;
}

const char *io_size_text(double bytes, char *out)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    char number[IO_SIZE_TEXT_MAX / 2];
    char *point;

    while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        bytes /= 1024;
        unit++;
    }
    (void)snprintf(number, sizeof(number), "%.*f", unit == 0 ? 6 : 3, bytes);
    point = strstr(number, ".000");
    if (point != NULL)
        *point = '\0';
    (void)snprintf(out, IO_SIZE_TEXT_MAX, "%s %s", number, units[unit]);
    return out;
}

void io_dump(const unsigned char *data, uint64_t offset, uint64_t length)
{
    for (uint64_t line = 0; line < length; line += DUMP_WIDTH) {
        uint64_t width = length - line < DUMP_WIDTH ? length - line : DUMP_WIDTH;

        printf("%08" PRIx64 ":  ", offset + line);
        for (uint64_t i = 0; i < width; i++)
            printf("%02x ", data[line + i]);
        putchar(' ');
        for (uint64_t i = 0; i < width; i++)
            putchar(isalnum(data[line + i]) ? data[line + i] : '.');
        putchar('\n');
    }
}

void io_print_report(const struct io_report *report, const char *verb, const struct timespec *begun,
                     uint64_t offset, uint64_t length)
{
    char total[IO_SIZE_TEXT_MAX], rate[IO_SIZE_TEXT_MAX], took[IO_SIZE_TEXT_MAX];
    struct timespec now;
    unsigned long whole;
    double seconds;

    if (report->quiet)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    seconds = (double)(now.tv_sec - begun->tv_sec) + (double)(now.tv_nsec - begun->tv_nsec) / 1e9;
    seconds = seconds > 0 ? seconds : 1e-9;
    whole = (unsigned long)seconds;
    if (report->for_machines || whole > 0) {
        (void)snprintf(took, sizeof(took), "%lu:%02lu:%05.2f", whole / HOUR, whole % HOUR / MINUTE,
                       seconds - (double)(whole - whole % MINUTE));
    } else {
        (void)snprintf(took, sizeof(took), "%05.2f sec", seconds);
    }
    if (report->for_machines) {
        printf("%" PRIu64 ",1,%s,%.3f,%.3f\n", length, took, (double)length / seconds, 1 / seconds);
        return;
    }
    printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", verb, length, length,
           offset);
    printf("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", io_size_text((double)length, total), took,
           io_size_text((double)length / seconds, rate), 1 / seconds);
}
