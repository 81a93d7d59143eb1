/* How a disk's format is settled, and that a guest cannot change it by what it writes. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bytes.h"
#include "checked.h"
#include "disks.h"

static void the_name_states_the_format_unless_an_option_does(void **state)
{
    static const struct {
        const char *path, *format, *expect;
    } cases[] = {
        {"snapshot.qcow2", NULL, "qcow2"},
        {"/a.raw/b.qcow2", NULL, "qcow2"},
        {"disk.raw", NULL, "raw"},
        {"disk.img", NULL, NULL},
        {"qcow2", NULL, NULL},
        {"disk.qcow2.bak", NULL, NULL},
        {"/x.qcow2/disk", NULL, NULL},
        {"disk.qcow2", "raw", "raw"},
        {"disk", "qcow2", "qcow2"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char path[32], given[8];
        const struct disk_config disk = {
            .path = strcpy(path, cases[i].path),
            .format = cases[i].format ? strcpy(given, cases[i].format) : NULL,
        };
        const char *format = disks_format(&disk);

        if (cases[i].expect)
            assert_string_equal(format, cases[i].expect);
        else
            assert_null(format);
    }
}

/* A qcow2 header of version 2 that names `backing`: all that a hostile guest has to write. */
static void write_hostile_disk(const char *path, const char *backing)
{
    uint8_t image[4 * 65536] = {0};
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

    store_be32(image, 0x514649fb);
    store_be32(image + 4, 2);
    store_be64(image + 8, 512);
    store_be32(image + 16, (uint32_t)strlen(backing));
    store_be32(image + 20, 16);
    store_be64(image + 24, 1 << 20);
    store_be32(image + 36, 1);
    store_be64(image + 40, 3 << 16);
    store_be64(image + 48, 1 << 16);
    store_be32(image + 56, 1);
    store_be64(image + (1 << 16), 2 << 16);
    for (unsigned i = 0; i < 4; i++)
        store_be16(image + (2 << 16) + 2 * i, 1);
    memcpy(image + 512, backing, strlen(backing));
    assert_true(fd >= 0);
    assert_int_equal(write(fd, image, sizeof(image)), sizeof(image));
    close(fd);
}

static int open_one(char *path, char *format, struct err *err)
{
    struct vm_config config = {.disk_count = 1, .disks = {{.path = path, .format = format}}};
    struct disks *disks = NULL;
    int r = disks_open(&config, NULL, &disks, err);

    if (r == 0)
        assert_int_equal(disks_close(disks, err), 0);
    return r;
}

static void a_header_that_a_guest_wrote_opens_no_host_file(void **state)
{
    char raw[] = "raw", folder[] = "/tmp/minivmm-disks.XXXXXX";
    char disk[64], named[64], secret[64];
    struct err err = {.text = ""};
    int fd;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(disk, sizeof(disk), "%s/disk.img", folder);
    snprintf(named, sizeof(named), "%s/disk.qcow2", folder);
    snprintf(secret, sizeof(secret), "%s/secret", folder);
    fd = open(secret, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    close(fd);
    write_hostile_disk(disk, secret);
    write_hostile_disk(named, secret);

    assert_int_equal(open_one(disk, NULL, &err), -EPERM);
    assert_non_null(strstr(err.text, disk));
    assert_int_equal(open_one(disk, raw, &err), 0);
    /* The same bytes under a name that the user chose for a qcow2 image are one. */
    assert_int_equal(open_one(named, NULL, &err), 0);

    unlink(disk);
    unlink(named);
    unlink(secret);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_name_states_the_format_unless_an_option_does),
        cmocka_unit_test(a_header_that_a_guest_wrote_opens_no_host_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
