#include "images.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[256];

enum { BASE_SECTORS = 2048, NEW_SECTORS = 1536, AREA = 96 };

/* Backing files hold areas of data and areas of zeros; the two files differ in some of each. */
static bool make_base(const char *name, uint64_t sectors, uint32_t value, uint64_t every)
{
    uint8_t bytes[SECTOR];
    FILE *f = fopen(name, "w");
    bool ok = f != NULL;

    for (uint64_t s = 0; s < sectors && ok; s++) {
        uint64_t area = s / AREA;

        stamp_fill(bytes, s, 1,
                   area % every == every - 1 ? VALUE_ZERO
                   : area % 5                ? value
                                             : VALUE_BASE);
        ok = fwrite(bytes, 1, SECTOR, f) == SECTOR;
    }
    return f != NULL && fclose(f) == 0 && ok;
}

/* Where minivmm-img is, for the workloads' commands: beside us. */
static bool find_program(void)
{
    char path[512];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);

    /* BUILD/tests/crash/crash */
    for (int i = 0; i < 3 && n > 0; i++) {
        while (n > 0 && path[--n] != '/') {
        }
    }
    if (n <= 0) {
        return false;
    }
    strcpy(path + n, "/minivmm-img");
    return setenv("MINIVMM_IMG", path, 1) == 0;
}

bool images_begin(void)
{
    const char *parent = getenv("TMPDIR");

    snprintf(folder, sizeof(folder), "%s/minivmm-crash.XXXXXX", parent != NULL ? parent : "/tmp");
    return find_program() && mkdtemp(folder) != NULL && chdir(folder) == 0 &&
           make_base("base.raw", BASE_SECTORS, VALUE_BASE, 3) &&
           make_base("new.raw", NEW_SECTORS, VALUE_NEW_BASE, 4);
}

void images_end(void)
{
    char command[320];

    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    if (chdir("/") != 0 || system(command) != 0) {
        perror(folder);
    }
}

bool images_make(const struct workload *workload, struct disk *disk)
{
    for (unsigned i = 0; i < MAX_COMMANDS && workload->make[i] != NULL; i++) {
        int status = system(workload->make[i]);

        if (WIFSIGNALED(status)) {
            raise(WTERMSIG(status)); /* system() kept it from us */
        }
        if (status != 0) {
            return false;
        }
    }
    for (unsigned i = 0; i < DISK_FILES && workload->files[i] != NULL; i++) {
        struct disk_file *file = disk_add(disk, workload->files[i]);

        if (!pages_load(&file->pages, workload->files[i])) {
            return false;
        }
    }
    return true;
}
