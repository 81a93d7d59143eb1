#include "layouts.h"

#include "checked.h"

static const struct blk_luks_options xts = {
    .key = {.bytes = DIFF_KEY, .length = sizeof(DIFF_KEY) - 1},
    .iter_time = 1,
};
static const struct blk_luks_options cbc = {
    .key = {.bytes = DIFF_KEY, .length = sizeof(DIFF_KEY) - 1},
    .cipher_mode = "cbc",
    .ivgen_alg = "essiv",
    .iter_time = 1,
};

/* clang-format off */
#define RAW(bytes)                 {.size = (bytes)}
#define V2(cluster_bytes, bytes)   {.compat = 2, .cluster = (cluster_bytes), .size = (bytes)}
#define V3(cluster_bytes, bytes)   {.compat = 3, .cluster = (cluster_bytes), .size = (bytes)}
#define LAZY(cluster_bytes, bytes) \
    {.compat = 3, .cluster = (cluster_bytes), .size = (bytes), .lazy = true}
#define EXTENDED(cluster_bytes, bytes) \
    {.compat = 3, .cluster = (cluster_bytes), .size = (bytes), .extended_l2 = true}
#define PRE(how, compat_, cluster_bytes, bytes)                     \
    {.compat = (compat_), .cluster = (cluster_bytes), .size = (bytes), \
     .prealloc = BLK_PREALLOC_##how}
#define PRE_EXTENDED(how, cluster_bytes, bytes)               \
    {.compat = 3, .cluster = (cluster_bytes), .size = (bytes), \
     .prealloc = BLK_PREALLOC_##how, .extended_l2 = true}

#define LUKS(options, cluster_bytes, bytes) \
    {.compat = 3, .cluster = (cluster_bytes), .size = (bytes), .luks = (options)}

#define EPHEMERAL(where) {.ephemeral = BLK_EPHEMERAL_##where}

#define DATA(how, cluster_bytes, bytes) \
    {.compat = 3, .cluster = (cluster_bytes), .size = (bytes), .data = (how)}

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
    {.name = "external data file over raw", .count = 2, .grows = true,
     .layers = {RAW(3 * M), DATA(DATA_FILE, 4 * K, 3 * M + ODD)}},
    {.name = "raw external data file", .count = 1, .grows = true,
     .layers = {DATA(DATA_FILE_RAW, 64 * K, 4 * M + ODD)}},
    {.name = "over an external data file", .count = 2,
     .layers = {DATA(DATA_FILE, 512, 2 * M), V3(64 * K, 3 * M)}},
    {.name = "lazy refcounts", .count = 2, .layers = {RAW(3 * M), LAZY(16 * K, 4 * M)}},
    {.name = "preallocated metadata", .count = 1, .layers = {PRE(METADATA, 3, 16 * K, 4 * M + ODD)}},
    {.name = "preallocated space, version 2", .count = 1, .layers = {PRE(FALLOC, 2, 8 * K, 4 * M)}},
    {.name = "fully preallocated below an overlay", .count = 2,
     .layers = {PRE(FULL, 3, 64 * K, 2 * M + ODD), V3(1 * M, 8 * M)}},
    {.name = "subclusters over a shorter raw of odd length", .count = 2, .grows = true,
     .layers = {RAW(1000001), EXTENDED(16 * K, 3 * M + ODD)}},
    {.name = "subclusters over small clusters and subclusters", .count = 3, .metadata_cache = 4096,
     .layers = {EXTENDED(2 * M, 5 * M), V3(4 * K, 4 * M), EXTENDED(64 * K, 4 * M + ODD)}},
    {.name = "preallocated subclusters over a longer raw", .count = 2, .grows = true,
     .layers = {RAW(4 * M), PRE_EXTENDED(METADATA, 32 * K, 3 * M + ODD)}},
    {.name = "discard off", .count = 2, .discard_off = true,
     .layers = {RAW(2 * M), V3(4 * K, 2 * M + ODD)}},
    {.name = "cache=direct on a disk", .count = 2, .cache = BLK_CACHE_DIRECT, .on_disk = true,
     .layers = {RAW(3 * M + 7), V3(64 * K, 3 * M + ODD)}},
    {.name = "snapshots, subclusters, cache=direct on a disk", .count = 2, .snapshots = true, .cache = BLK_CACHE_DIRECT,
     .on_disk = true, .layers = {RAW(2 * M), EXTENDED(32 * K, 3 * M)}},
    {.name = "cache=unsafe", .count = 2, .cache = BLK_CACHE_UNSAFE,
     .layers = {V3(8 * K, 3 * M), V3(32 * K, 4 * M)}},
    {.name = "encrypted alone", .count = 1, .grows = true,
     .layers = {LUKS(&xts, 64 * K, 4 * M + ODD)}},
    {.name = "encrypted over raw, plain over that, encrypted on top", .count = 4,
     .layers = {RAW(2 * M + 13), LUKS(&cbc, 512, 2 * M), V3(32 * K, 3 * M), LUKS(&xts, 4 * K, 3 * M + ODD)}},
    {.name = "encrypted and preallocated", .count = 1,
     .layers = {{.compat = 3, .cluster = 16 * K, .size = 3 * M, .prealloc = BLK_PREALLOC_METADATA, .luks = &xts}}},
    {.name = "encrypted subclusters over encrypted", .count = 2,
     .layers = {LUKS(&xts, 64 * K, 2 * M), {.compat = 3, .cluster = 32 * K, .size = 3 * M, .extended_l2 = true, .luks = &xts}}},
    {.name = "snapshots, 64K over raw", .count = 2, .snapshots = true,
     .layers = {RAW(3 * M), V3(64 * K, 4 * M + ODD)}},
    {.name = "snapshots, 512-byte clusters that grow", .count = 1, .snapshots = true, .grows = true,
     .metadata_cache = 8192, .layers = {V3(512, 2 * M)}},
    {.name = "snapshots, version 2 over version 3", .count = 2, .snapshots = true,
     .layers = {V3(4 * K, 2 * M), V2(16 * K, 3 * M + ODD)}},
    {.name = "snapshots, subclusters over raw", .count = 2, .snapshots = true, .grows = true,
     .layers = {RAW(2 * M), EXTENDED(32 * K, 3 * M)}},
    {.name = "snapshots, lazy refcounts", .count = 1, .snapshots = true,
     .layers = {LAZY(4 * K, 3 * M)}},
    {.name = "snapshots, encrypted subclusters over encrypted", .count = 2, .snapshots = true, .grows = true,
     .layers = {LUKS(&cbc, 4 * K, 2 * M), {.compat = 3, .cluster = 32 * K, .size = 3 * M, .extended_l2 = true, .luks = &xts}}},
    {.name = "a throwaway file over qcow2 over raw", .count = 3, .on_disk = true,
     .layers = {RAW(2 * M), V3(64 * K, 4 * M + ODD), EPHEMERAL(FILE)}},
    {.name = "a throwaway file on a disk, cache=direct", .count = 2, .cache = BLK_CACHE_DIRECT, .on_disk = true,
     .layers = {V3(4 * K, 3 * M + ODD), EPHEMERAL(FILE)}},
    {.name = "throwaway memory over raw of odd length", .count = 2,
     .layers = {RAW(3 * M + 7), EPHEMERAL(RAM)}},
};
const unsigned exact_layout_count = ARRAY_LEN(exact_layouts);

const struct layout overlap_layouts[] = {
    {.name = "64K over raw", .count = 2, .layers = {RAW(8 * M), V3(64 * K, 8 * M)}},
    {.name = "4K over 64K", .count = 2, .layers = {V3(64 * K, 2 * M), V3(4 * K, 2 * M)}},
    {.name = "4K over 64K, cache=direct on a disk", .count = 2, .cache = BLK_CACHE_DIRECT, .on_disk = true,
     .layers = {V3(64 * K, 2 * M), V3(4 * K, 2 * M)}},
    {.name = "512 over raw, tiny cache", .count = 2, .metadata_cache = 1024,
     .layers = {RAW(1 * M), V3(512, 1 * M)}},
    {.name = "version 2 over raw", .count = 2, .layers = {RAW(2 * M), V2(16 * K, 2 * M)}},
    {.name = "64K alone", .count = 1, .layers = {V3(64 * K, 4 * M)}},
    {.name = "external data file over raw", .count = 2,
     .layers = {RAW(2 * M), DATA(DATA_FILE, 16 * K, 2 * M)}},
    {.name = "subclusters over raw", .count = 2, .layers = {RAW(8 * M), EXTENDED(128 * K, 8 * M)}},
    {.name = "subclusters over subclusters, tiny cache", .count = 2, .metadata_cache = 1024,
     .layers = {EXTENDED(64 * K, 2 * M), EXTENDED(16 * K, 2 * M)}},
    {.name = "lazy refcounts, tiny cache", .count = 2, .metadata_cache = 8192,
     .layers = {RAW(2 * M), LAZY(4 * K, 2 * M)}},
    {.name = "encrypted over encrypted", .count = 2,
     .layers = {LUKS(&cbc, 64 * K, 2 * M), LUKS(&xts, 16 * K, 2 * M)}},
    {.name = "throwaway memory over raw", .count = 2, .layers = {RAW(1 * M), EPHEMERAL(RAM)}},
    {.name = "a throwaway file over 64K", .count = 2, .layers = {V3(64 * K, 1 * M), EPHEMERAL(FILE)}},
};
const unsigned overlap_layout_count = ARRAY_LEN(overlap_layouts);

#define G UINT64_C(1073741824)

const struct layout warm_layouts[] = {
    {.name = "4 GiB over raw", .count = 2, .metadata_cache = 256 * K,
     .layers = {RAW(4 * G), V3(4 * K, 4 * G)}},
    {.name = "4 GiB mapped", .count = 1, .metadata_cache = 256 * K,
     .layers = {PRE(METADATA, 3, 4 * K, 4 * G)}},
};
const unsigned warm_layout_count = ARRAY_LEN(warm_layouts);
/* clang-format on */
