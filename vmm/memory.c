/*
 * memory.c - guest RAM.
 *
 * Invariants:
 * 1. Guest-physical 0 and guest-physical 4 GiB sit at host addresses aligned to 2 MiB (the hole starts
 *    at a multiple of it), so that transparent huge pages and 2 MiB nested page table entries apply.
 * 2. Nothing here touches the pages: what the guest does not use costs the host nothing.
 */
#include "memory.h"

#include "checked.h"
#include "layout.h"
#include "log.h"
#include "size.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static_assert(LAYOUT_HOLE_START % MEMORY_ALIGN == 0, "invariant 1");

uint64_t memory_low_size(uint64_t size)
{
    return min_u64(size, LAYOUT_HOLE_START);
}

uint64_t memory_high_size(uint64_t size)
{
    return size - memory_low_size(size);
}

/* Address space of `size` bytes that begins at a multiple of MEMORY_ALIGN. */
static void *map_aligned(uint64_t size)
{
    size_t span = (size_t)size + MEMORY_ALIGN;
    char *start = mmap(NULL, span, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uintptr_t aligned;
    size_t before;

    if (start == MAP_FAILED)
        return MAP_FAILED;
    aligned = (uintptr_t)align_up((uintptr_t)start, MEMORY_ALIGN);
    before = aligned - (uintptr_t)start;
    if (before > 0)
        munmap(start, before);
    munmap((char *)aligned + size, span - before - (size_t)size);
    return (void *)aligned;
}

static void *map_memory(uint64_t size, bool hugepages)
{
    void *mapping;

    if (hugepages && is_aligned(size, MEMORY_ALIGN)) {
        /* Without MAP_NORESERVE: the pages are reserved now, so that no fault can fail later. */
        mapping = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), -1, 0);
        if (mapping != MAP_FAILED)
            return mapping;
    }
    mapping = map_aligned(size);
    if (mapping != MAP_FAILED && hugepages) {
        if (madvise(mapping, (size_t)size, MADV_HUGEPAGE) != 0)
            log_warn("no huge pages for guest memory: none reserved (vm.nr_hugepages) and "
                     "transparent ones are off");
        else
            log_warn(
                "not enough reserved huge pages of 2 MiB (vm.nr_hugepages) for this much guest "
                "memory: transparent ones are used");
    }
    return mapping;
}

int memory_create(struct memory *memory, uint64_t size, bool hugepages, struct err *err)
{
    uint64_t low = memory_low_size(size), high = memory_high_size(size);
    char text[SIZE_TEXT_MAX];
    int r;

    memset(memory, 0, sizeof(*memory));
    if (size == 0 || !is_aligned(size, 4096) || size > SIZE_MAX - MEMORY_ALIGN)
        return err_set(err, -EINVAL, "guest memory of %s is not a multiple of 4 KiB",
                       size_format(size, text));
    memory->mapping = map_memory(size, hugepages);
    if (memory->mapping == MAP_FAILED)
        return err_set_errno(err, -errno, "cannot get %s of memory for the guest from this host",
                             size_format(size, text));
    memory->size = size;
    /* A core dump of the VMM is for the VMM's own state. */
    madvise(memory->mapping, (size_t)size, MADV_DONTDUMP);
    r = guestmem_add(&memory->map, 0, low, memory->mapping);
    if (r == 0 && high > 0)
        r = guestmem_add(&memory->map, LAYOUT_HOLE_END, high, (char *)memory->mapping + low);
    if (r < 0) {
        memory_destroy(memory);
        return err_set_errno(err, r, "cannot lay out %s of guest memory", size_format(size, text));
    }
    return 0;
}

void memory_destroy(struct memory *memory)
{
    if (memory->size > 0)
        munmap(memory->mapping, (size_t)memory->size);
    memset(memory, 0, sizeof(*memory));
}

/* A signal handler has no argument of ours: the one place where a global holds a machine's facts. */
static struct {
    const char *start;
    uint64_t size;
    void (*cleanup)(void);
} guard;

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
    static const char text[] = "minivmm: guest memory failed: the host could not provide a page "
                               "(out of memory or huge pages, or a hardware memory error)\n";
    const char *address = info->si_addr;

    (void)context;
    if (address >= guard.start && (uint64_t)(address - guard.start) < guard.size) {
        if (guard.cleanup)
            guard.cleanup();
        if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
            _exit(2);
        _exit(2);
    }
    /* Not ours: the default action, a core dump, when the instruction runs again. */
    struct sigaction plain = {.sa_handler = SIG_DFL};

    sigaction(signal, &plain, NULL);
}

void memory_guard(const struct memory *memory)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    guard.start = memory->mapping;
    guard.size = memory->size;
    sigaction(SIGBUS, &action, NULL);
}

void memory_guard_on_exit(void (*cleanup)(void))
{
    guard.cleanup = cleanup;
}
