#include "planted.h"
#include "checked.h"
#include "tap.h"

#include <string.h>

static const struct plant {
    const char *what;
    enum barrier barrier;
    const char *workload;
} plants[] = {
    {"a refcount block before the table's entry", BARRIER_REFTABLE, "many refcount blocks"},
    {"refcounts before the mapping", BARRIER_MAPPING, "copy on write"},
    {"data before the mapping", BARRIER_MAPPING, "write into zero clusters"},
    {"a new L1 table before the header", BARRIER_HEADER, "grow"},
    {"a new refcount table before the header", BARRIER_HEADER, "refcount table grows"},
    {"a snapshot and its refcounts before the header", BARRIER_HEADER, "snapshots"},
    {"the mapping before holes in freed clusters", BARRIER_FREE, "discard"},
    {"what a flush promises", BARRIER_FLUSH, "overwrite"},
    {"the dirty bit before a mapping without refcounts", BARRIER_DIRTY, "lazy refcounts"},
    {"refcounts before the dirty bit goes", BARRIER_HEADER, "lazy refcounts"},
    {"a smaller size before what lies behind it is given up", BARRIER_SIZE, "shrink"},
    {"the dirty bit before what snapshots change in place", BARRIER_DIRTY,
     "snapshots, a full disk"},
    {"a new L1 table before the header, where the disk is full", BARRIER_HEADER,
     "snapshots, a full disk"},
    {"marks at bitmaps before data", BARRIER_MARKS, "bitmaps, overwrite"},
    {"the bits and tables of bitmaps before the header", BARRIER_HEADER, "bitmaps"},
    {"an external file's data before the mapping", BARRIER_OTHER,
     "external data file over a backing file"},
    {"the base before the overlay is emptied", BARRIER_OTHER, "commit into a raw base"},
    {"key material before its slot is active", BARRIER_SLOT, "key slots"},
    {"an erased slot before its key material goes", BARRIER_ERASED, "key slots"},
    {"a repaired refcount table before the header", BARRIER_HEADER,
     "repair, new refcount structures"},
    {"a repaired snapshot table before the header", BARRIER_HEADER, "repair, snapshots"},
};

void planted_barriers(const struct settings *settings)
{
    for (size_t i = 0; i < ARRAY_LEN(plants); i++) {
        const struct workload *workload = workload_find(plants[i].workload);
        struct settings with_fault = *settings;
        struct result result = {0};

        with_fault.drop = plants[i].barrier;
        with_fault.stride = 1;
        suite_crash(workload, &with_fault, &result);
        if (!tap_result(result.failed && result.dropped > 0, "finds a dropped barrier: %s",
                        plants[i].what)) {
            tap_note("%u barriers were dropped from '%s'", (unsigned)result.dropped,
                     workload->name);
        } else {
            result.why[strcspn(result.why, "\n")] = '\0';
            tap_note("%s", result.why);
        }
    }
}
