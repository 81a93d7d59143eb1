/*
 * mapping.c - L2 tables of an image that is only read are used where they lie, in the page cache: all
 * processes that read one base share one copy of its metadata, and nobody copies it.
 *
 * The file is mapped as a whole when its first table is looked for; in a sandbox too, where whatever else
 * is asked of the system was asked before (qcow2_mapping_init()). Before a table is touched for the
 * first time it is read the usual way (cache.c): that waits for storage without the lock, and gives an
 * error that can be passed on. Afterwards its pages may leave memory, and then a look-up waits for them;
 * they may change, and so each entry is checked when it is used; and if somebody shortens the file they
 * may be gone, which is an I/O error from then on (mapguard.h).
 *
 * Tables are copied as those of writable images where there is a limit of address space, which large
 * files would use up; where a file cannot be mapped; and beyond MAX_MAPPINGS files.
 */
#include "checked.h"
#include "mapguard.h"
#include "qcow2/qcow2.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MAX_MAPPINGS = MAPGUARD_MAX / 2 };

static atomic_uint mappings;

void qcow2_mapping_init(struct qcow2 *q)
{
    struct rlimit limit;

    q->mapping.is_wanted = !q->writable && q->file->fd >= 0 && q->file->alignment == 1 &&
                           q->file->fd_offset == 0 && q->file->ops->plain_fd != NULL &&
                           getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

static void map_file(struct qcow2 *q)
{
    struct iovec none = {0};
    int fd = q->file->ops->plain_fd(q->file, 0, &none, 1);
    struct qcow2_mapping *mapping = &q->mapping;
    uint64_t length;
    void *start;

    if (fd < 0 || q->file->ops->size(q->file, &length) != 0) {
        return;
    }
    length = align_down(length, (uint64_t)sysconf(_SC_PAGESIZE));
    if (length == 0) {
        return;
    }
    start = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED) {
        return;
    }
    if (mapguard_add(start, length, &mapping->lost, -1) != 0) {
        (void)munmap(start, length);
        return;
    }
    mapping->start = start;
    mapping->length = length;
}

void qcow2_mapping_open(struct qcow2 *q)
{
    if (!q->mapping.is_wanted) {
        return;
    }
    q->mapping.is_wanted = false;
    if (atomic_fetch_add(&mappings, 1) < MAX_MAPPINGS) {
        map_file(q);
    }
    if (q->mapping.start == NULL) {
        atomic_fetch_sub(&mappings, 1);
    }
}

void qcow2_mapping_close(struct qcow2 *q)
{
    if (q->mapping.start != NULL) {
        mapguard_remove(q->mapping.start);
        (void)munmap(q->mapping.start, q->mapping.length);
        atomic_fetch_sub(&mappings, 1);
    }
    q->mapping.start = NULL;
}
