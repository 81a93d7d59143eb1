#include "short_io.h"
#include "checked.h"
#include "iov.h"
#include "tap.h"
#include "verify.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

/* The program is linked so that these come first. */
ssize_t __real_pread64(int fd, void *buf, size_t length, off_t offset);
ssize_t __real_pwrite64(int fd, const void *buf, size_t length, off_t offset);
ssize_t __real_preadv64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pread64(int fd, void *buf, size_t length, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t length, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);

enum { VECTOR = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_on;
static struct rng rng;
static uint64_t cut_count;

/* How many bytes a transfer of `length` is to have; 0: it is interrupted. */
static size_t cut(size_t length)
{
    size_t n = length;

    pthread_mutex_lock(&lock);
    if (is_on && length > 0 && rng_one_in(&rng, 2)) {
        n = rng_one_in(&rng, 4) ? 0 : rng_between(&rng, 1, length);
        cut_count++;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

static ssize_t interrupted(void)
{
    errno = EINTR;
    return -1;
}

ssize_t __wrap_pread64(int fd, void *buf, size_t length, off_t offset)
{
    size_t n = cut(length);

    return n == 0 && length > 0 ? interrupted() : __real_pread64(fd, buf, n, offset);
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t length, off_t offset)
{
    size_t n = cut(length);

    return n == 0 && length > 0 ? interrupted() : __real_pwrite64(fd, buf, n, offset);
}

ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int count, off_t offset)
{
    size_t length = iov_length(iov, count), n = cut(length);
    struct iovec part[VECTOR];

    if (n == length) {
        return __real_preadv64(fd, iov, count, offset);
    }
    return n == 0 ? interrupted()
                  : __real_preadv64(fd, part, iov_slice(part, VECTOR, iov, count, 0, n), offset);
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
    size_t length = iov_length(iov, count), n = cut(length);
    struct iovec part[VECTOR];

    if (n == length) {
        return __real_pwritev64(fd, iov, count, offset);
    }
    return n == 0 ? interrupted()
                  : __real_pwritev64(fd, part, iov_slice(part, VECTOR, iov, count, 0, n), offset);
}

/* The files as they are on the host, looked at as a disk. */
static bool look_at_host(const struct world *world, uint64_t seed, char *why, size_t size)
{
    uint64_t end = world->disk.clock + 1;
    struct expected expected;
    struct disk disk;
    bool ok = true;

    disk_init(&disk);
    for (unsigned i = 0; i < world->disk.count && ok; i++) {
        struct disk_file *file = disk_add(&disk, world->disk.files[i].name);

        ok = pages_load(&file->pages, file->name);
    }
    expected_init(&expected, world, MODEL_AFTER_CUT, end);
    ok = ok && verify_disk(&disk, &expected, VERIFY_QEMU | VERIFY_RECOVER, seed, why, size);
    expected_free(&expected);
    disk_free(&disk);
    return ok;
}

/* The workload has no `prepare`: the host's files are those that it begins with. */
static bool run_on_host(const struct workload *workload, uint64_t seed, char *why, size_t size)
{
    struct world world;
    bool ok = world_prepare(&world, workload, seed);

    if (ok) {
        disk_use(NULL);
        cut_count = 0;
        rng = rng_fork(seed, 11);
        is_on = true;
        world_run(&world, workload->steps);
        is_on = false;
        ok = world.complaint[0] == '\0';
    }
    if (!ok) {
        snprintf(why, size, "%s", world.complaint);
    }
    ok = ok && look_at_host(&world, seed, why, size);
    world_free(&world);
    return ok && cut_count > 0;
}

void short_io_tests(const struct settings *settings)
{
    static const char *const names[] = {"allocate", "copy on write", "copy on write, small cache",
                                        "version 2", "threads"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char why[1024] = "";
        bool ok = run_on_host(workload_find(names[i]), settings->seed, why, sizeof(why));

        if (!tap_result(ok, "short and interrupted transfers: %s (%llu)", names[i],
                        (unsigned long long)cut_count)) {
            tap_note("%s", why);
        }
    }
}
