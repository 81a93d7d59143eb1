#include "layouts.h"

#include "checked.h"

/* clang-format off */
#define RAW(bytes)                {0, 0, (bytes), BLK_PREALLOC_OFF, false}
#define V2(cluster_bytes, bytes)  {2, (cluster_bytes), (bytes), BLK_PREALLOC_OFF, false}
#define V3(cluster_bytes, bytes)  {3, (cluster_bytes), (bytes), BLK_PREALLOC_OFF, false}
#define LAZY(cluster_bytes, bytes) {3, (cluster_bytes), (bytes), BLK_PREALLOC_OFF, true}
#define PRE(how, compat_, cluster_bytes, bytes) \
    {(compat_), (cluster_bytes), (bytes), BLK_PREALLOC_##how, false}

#define K   UINT64_C(1024)
#define M   UINT64_C(1048576)
#define ODD UINT64_C(1536) /* no multiple of a cluster above 512 */

const struct layout exact_layouts[] = {
    {.name = "raw alone", .count = 1, .layers = {RAW(3 * M + ODD)}},
    {.name = "64K clusters alone", .count = 1, .layers = {V3(64 * K, 6 * M + ODD)}},
    {.name = "512-byte clusters alone", .count = 1, .layers = {V3(512, 3 * M)}},
    {.name = "2M clusters alone", .count = 1, .layers = {V3(2 * M, 30 * M + ODD)}},
    {.name = "version 2 alone", .count = 1, .layers = {V2(64 * K, 6 * M + ODD)}},
    {.name = "version 2, 512-byte clusters alone", .count = 1, .layers = {V2(512, 2 * M)}},
    {.name = "4K over a shorter raw of odd length", .count = 2,
     .layers = {RAW(1000001), V3(4 * K, 3 * M + ODD)}},
    {.name = "64K over a longer raw", .count = 2, .grows = true,
     .layers = {RAW(7 * M + 13), V3(64 * K, 4 * M + ODD)}},
    {.name = "version 2 over a longer version 3", .count = 2, .grows = true,
     .layers = {V3(64 * K, 4 * M), V2(4 * K, 3 * M + ODD)}},
    {.name = "64K over version 2 over raw", .count = 3,
     .layers = {RAW(2 * M), V2(512, 3 * M), V3(64 * K, 4 * M + ODD)}},
    {.name = "small over large clusters", .count = 2,
     .layers = {V3(2 * M, 10 * M + ODD), V3(512, 3 * M)}},
    {.name = "large over small clusters", .count = 2,
     .layers = {V3(512, 3 * M), V3(2 * M, 9 * M + ODD)}},
    {.name = "depth 5, mixed", .count = 6,
     .layers = {RAW(2 * M + 1), V3(512, 3 * M), V2(2 * K, 2 * M + ODD), V3(2 * M, 7 * M),
                V3(4 * K, 4 * M + ODD), V3(64 * K, 5 * M + ODD)}},
    {.name = "depth 5, one size", .count = 6,
     .layers = {V3(64 * K, 4 * M), V3(64 * K, 4 * M), V3(64 * K, 4 * M), V3(64 * K, 4 * M),
                V3(64 * K, 4 * M), V3(64 * K, 4 * M)}},
    {.name = "a short layer in the middle hides what is below", .count = 4, .grows = true,
     .layers = {RAW(4 * M), V3(64 * K, 4 * M), V3(4 * K, 1 * M + ODD), V3(32 * K, 4 * M + ODD)}},
    {.name = "a cache of two tables", .count = 2, .metadata_cache = 1024,
     .layers = {RAW(4 * M), V3(512, 4 * M)}},
    {.name = "refcount table and L1 grow", .count = 1, .grows = true,
     .layers = {V3(512, 20 * M)}},
    {.name = "lazy refcounts", .count = 2, .layers = {RAW(3 * M), LAZY(16 * K, 4 * M)}},
    {.name = "preallocated metadata", .count = 1, .layers = {PRE(METADATA, 3, 16 * K, 4 * M + ODD)}},
    {.name = "preallocated space, version 2", .count = 1, .layers = {PRE(FALLOC, 2, 8 * K, 4 * M)}},
    {.name = "fully preallocated below an overlay", .count = 2,
     .layers = {PRE(FULL, 3, 64 * K, 2 * M + ODD), V3(1 * M, 8 * M)}},
    {.name = "discard off", .count = 2, .discard_off = true,
     .layers = {RAW(2 * M), V3(4 * K, 2 * M + ODD)}},
    {.name = "cache=direct on a disk", .count = 2, .cache = BLK_CACHE_DIRECT, .on_disk = true,
     .layers = {RAW(3 * M + 7), V3(64 * K, 3 * M + ODD)}},
    {.name = "cache=unsafe", .count = 2, .cache = BLK_CACHE_UNSAFE,
     .layers = {V3(8 * K, 3 * M), V3(32 * K, 4 * M)}},
};
const unsigned exact_layout_count = ARRAY_LEN(exact_layouts);

const struct layout overlap_layouts[] = {
    {.name = "64K over raw", .count = 2, .layers = {RAW(8 * M), V3(64 * K, 8 * M)}},
    {.name = "4K over 64K", .count = 2, .layers = {V3(64 * K, 2 * M), V3(4 * K, 2 * M)}},
    {.name = "512 over raw, tiny cache", .count = 2, .metadata_cache = 1024,
     .layers = {RAW(1 * M), V3(512, 1 * M)}},
    {.name = "version 2 over raw", .count = 2, .layers = {RAW(2 * M), V2(16 * K, 2 * M)}},
    {.name = "64K alone", .count = 1, .layers = {V3(64 * K, 4 * M)}},
};
const unsigned overlap_layout_count = ARRAY_LEN(overlap_layouts);
/* clang-format on */
