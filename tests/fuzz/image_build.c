/*
 * image_build.c - sound images of every kind, from the specification.
 *
 * Host clusters are handed out from the front, in the order in which things are built: header, refcount
 * table, L1 table, L2 tables with their data, snapshots, bitmaps, refcount blocks. Refcounts and COPIED
 * flags come last, from what the tables lead to (image_recount()).
 */
#include "bytes.h"
#include "checked.h"
#include "image.h"
#include "qcow2/format.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum {
    MAX_L1 = 4,           /* L2 tables that an image has */
    MAX_ENTRIES = 24,     /* entries in use of each */
    MAX_COMPRESSED = 600, /* guest bytes of a compressed cluster that are not zero */
};

struct build {
    struct memfile *mem;
    struct rng *rng;
    unsigned must, features, version, bits, order;
    uint64_t size, cluster;      /* virtual size; bytes of a cluster */
    uint64_t next;               /* the next free host cluster */
    uint64_t l1, l1_entries;     /* the active table */
    uint64_t packed, packed_end; /* where the next compressed cluster may lie */
    uint64_t header_at;          /* where the next header extension goes */
    uint64_t bitmaps, bitmaps_size;
    uint64_t luks; /* the encryption header; 0: there is none */
    unsigned bitmap_count;
    bool zstd;
};

static uint64_t alloc(struct build *b, uint64_t clusters)
{
    uint64_t offset = b->next * b->cluster;

    b->next += clusters;
    return offset;
}

static bool has(const struct build *b, unsigned feature)
{
    return (b->features & feature) != 0;
}

static bool coin(struct build *b)
{
    return rng_one_in(b->rng, 2);
}

static uint64_t l2_entries(const struct build *b)
{
    return b->cluster / (has(b, BUILD_EXTENDED_L2) ? 16 : 8);
}

/* A few bytes in it that are not zero. */
static void fill(struct build *b, uint64_t offset, uint64_t length)
{
    uint64_t value = rng_next(b->rng);

    (void)memfile_write(b->mem, offset, &value, min_u64(8, length));
    if (coin(b) && length >= 16) {
        (void)memfile_write(b->mem, offset + length - 8, &value, 8);
    }
}

/* ---- compressed clusters ---- */

static size_t deflate_raw(const uint8_t *in, size_t length, uint8_t *out, size_t room)
{
    z_stream z = {0};
    size_t used;

    if (deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK) {
        return 0;
    }
    z.next_in = (uint8_t *)(uintptr_t)in;
    z.avail_in = (unsigned)length;
    z.next_out = out;
    z.avail_out = (unsigned)room;
    used = deflate(&z, Z_FINISH) == Z_STREAM_END ? room - z.avail_out : 0;
    deflateEnd(&z);
    return used;
}

/* The L2 entry of a new compressed cluster; 0 when it did not get smaller. */
static uint64_t build_compressed(struct build *b)
{
    static uint8_t in[UINT32_C(1) << QCOW2_MAX_CLUSTER_BITS], out[64 << 10];
    unsigned x = 62 - (b->bits - 8);
    uint64_t offset, sectors;
    size_t n;

    memset(in, (int)rng_next(b->rng), b->cluster);
    if (coin(b)) {
        rng_fill(b->rng, in, min_u64(b->cluster / 4, MAX_COMPRESSED));
    }
    n = b->zstd ? ZSTD_compress(out, sizeof(out), in, b->cluster, 1)
                : deflate_raw(in, b->cluster, out, sizeof(out));
    if (n == 0 || n >= b->cluster || n > sizeof(out)) {
        return 0;
    }
    if (b->packed + n > b->packed_end) {
        if (b->packed_end == b->next * b->cluster && b->packed != 0) {
            b->packed_end += b->cluster;
            b->next++;
        } else {
            b->packed = alloc(b, 1);
            b->packed_end = b->packed + b->cluster;
        }
    }
    offset = b->packed;
    sectors = (offset % 512 + n - 1) / 512;
    (void)memfile_write(b->mem, offset, out, n);
    b->packed += n;
    return QCOW2_L2_COMPRESSED | sectors << x | offset;
}

/* ---- guest clusters ---- */

static uint64_t data_cluster(struct build *b, uint64_t guest)
{
    uint64_t offset = guest;

    if (!has(b, BUILD_DATA_FILE)) {
        offset = alloc(b, 1);
        fill(b, offset, b->cluster);
    }
    return offset | QCOW2_ENTRY_COPIED;
}

static void build_extended_entry(struct build *b, uint64_t at, uint64_t guest)
{
    uint64_t alloc_bits = rng_next(b->rng) & UINT32_MAX, zero_bits = rng_next(b->rng) & UINT32_MAX;
    uint64_t entry = 0;

    switch (rng_below(b->rng, 6)) {
    case 0:
        alloc_bits = UINT32_MAX;
        break;
    case 1:
        alloc_bits = 0;
        break;
    case 2:
        alloc_bits &= UINT64_C(0xff00ff);
        break;
    case 3:
        if (has(b, BUILD_COMPRESSED) && (entry = build_compressed(b)) != 0) {
            memfile_set_be64(b->mem, at, entry);
            memfile_set_be64(b->mem, at + 8, 0);
            return;
        }
        break;
    default:
        break;
    }
    if (alloc_bits != 0 || coin(b)) {
        entry = data_cluster(b, guest);
    }
    memfile_set_be64(b->mem, at, entry);
    memfile_set_be64(b->mem, at + 8, (zero_bits & ~alloc_bits) << 32 | alloc_bits);
}

static void build_entry(struct build *b, uint64_t l2, uint64_t index, uint64_t guest)
{
    uint64_t entry = 0;

    if (has(b, BUILD_EXTENDED_L2)) {
        build_extended_entry(b, l2 + index * 16, guest);
        return;
    }
    switch (rng_below(b->rng, 8)) {
    case 0:
        break;
    case 1:
        entry = b->version >= 3 ? QCOW2_L2_ZERO : 0;
        break;
    case 2:
        entry = data_cluster(b, guest) | (b->version >= 3 ? QCOW2_L2_ZERO : 0);
        break;
    case 3:
    case 4:
        entry = has(b, BUILD_COMPRESSED) ? build_compressed(b) : data_cluster(b, guest);
        break;
    default:
        entry = data_cluster(b, guest);
    }
    memfile_set_be64(b->mem, l2 + index * 8, entry);
}

/* An L2 table for entry `i` of the L1 table at `l1`. */
static void build_l2(struct build *b, uint64_t l1, uint64_t i, uint64_t guest_clusters)
{
    uint64_t entries = l2_entries(b), first = i * entries, l2 = alloc(b, 1);
    uint64_t in_use = min_u64(entries, guest_clusters - min_u64(guest_clusters, first));

    memfile_set_be64(b->mem, l1 + i * 8, l2);
    for (unsigned n = 0; n < MAX_ENTRIES && in_use > 0; n++) {
        uint64_t index = in_use <= MAX_ENTRIES ? n : rng_below(b->rng, in_use);

        if (index < in_use && !rng_one_in(b->rng, 4) &&
            memfile_be64(b->mem, l2 + index * (b->cluster / entries)) == 0) {
            build_entry(b, l2, index, (first + index) * b->cluster);
        }
    }
}

static void build_active(struct build *b)
{
    uint64_t guest_clusters = div_round_up(b->size, b->cluster);

    b->l1_entries = div_round_up(guest_clusters, l2_entries(b));
    b->l1 = alloc(b, max_u64(1, div_round_up(b->l1_entries * 8, b->cluster)));
    for (unsigned n = 0; n < MAX_L1 && b->l1_entries > 0; n++) {
        uint64_t i = b->l1_entries <= MAX_L1 ? n : rng_below(b->rng, b->l1_entries);

        if (i < b->l1_entries && memfile_be64(b->mem, b->l1 + i * 8) == 0 &&
            !rng_one_in(b->rng, 4)) {
            build_l2(b, b->l1, i, guest_clusters);
        }
    }
}

/* ---- snapshots: each takes the active tables as they are, then some of these become new ones ---- */

static void build_snapshot_entry(struct build *b, uint64_t *at, uint64_t l1, unsigned number)
{
    unsigned extra = b->version >= 3 || coin(b) ? (coin(b) ? 16 : 24) : 0;
    uint8_t head[40 + 24 + 16] = {0};
    unsigned name_length = (unsigned)rng_below(b->rng, 8), length;

    store_be64(head, l1);
    store_be32(head + 8, (uint32_t)b->l1_entries);
    store_be16(head + 12, 1);
    store_be16(head + 14, (uint16_t)name_length);
    store_be32(head + 16, 1600000000);
    store_be32(head + 36, extra);
    if (extra >= 16) {
        store_be64(head + 48, b->size);
    }
    if (extra >= 24) {
        store_be64(head + 56, UINT64_MAX);
    }
    length = 40 + extra;
    head[length++] = (uint8_t)('1' + number);
    memset(head + length, 's', name_length);
    (void)memfile_write(b->mem, *at, head, length + name_length);
    *at += align_up(length + name_length, 8);
}

static void build_snapshots(struct build *b)
{
    unsigned count = (unsigned)rng_between(b->rng, 1, 3);
    uint64_t table = alloc(b, 1), at = table;

    for (unsigned i = 0; i < count; i++) {
        uint64_t clusters = max_u64(1, div_round_up(b->l1_entries * 8, b->cluster));
        uint64_t l1 = alloc(b, clusters);

        for (uint64_t e = 0; e < min_u64(b->l1_entries, 4096); e++) {
            memfile_set_be64(b->mem, l1 + e * 8, memfile_be64(b->mem, b->l1 + e * 8));
        }
        build_snapshot_entry(b, &at, l1, i);
        for (uint64_t e = 0; e < min_u64(b->l1_entries, MAX_L1); e++) {
            if (coin(b)) {
                build_l2(b, b->l1, e, div_round_up(b->size, b->cluster));
            }
        }
    }
    memfile_set_be32(b->mem, 60, count);
    memfile_set_be64(b->mem, 64, table);
}

/* ---- bitmaps ---- */

static void build_bitmap(struct build *b, uint64_t *at, unsigned number)
{
    unsigned granularity = (unsigned)rng_between(b->rng, 9, 20);
    uint64_t bytes = div_round_up(div_round_up(b->size, UINT64_C(1) << granularity), 8);
    uint64_t entries = div_round_up(bytes, b->cluster), table;
    uint8_t head[32] = {0};

    if (entries > b->cluster / 8) {
        granularity = 31;
        entries =
            div_round_up(div_round_up(div_round_up(b->size, UINT64_C(1) << 31), 8), b->cluster);
    }
    table = alloc(b, max_u64(1, div_round_up(entries * 8, b->cluster)));
    for (uint64_t i = 0; i < min_u64(entries, 8); i++) {
        uint64_t data;

        switch (rng_below(b->rng, 3)) {
        case 0:
            break;
        case 1:
            memfile_set_be64(b->mem, table + i * 8, 1);
            break;
        default:
            data = alloc(b, 1);
            fill(b, data, min_u64(b->cluster, max_u64(1, bytes - i * b->cluster)));
            memfile_set_be64(b->mem, table + i * 8, data);
        }
    }
    store_be64(head, table);
    store_be32(head + 8, (uint32_t)entries);
    store_be32(head + 12, (uint32_t)rng_below(b->rng, 4) & 2);
    head[16] = 1;
    head[17] = (uint8_t)granularity;
    store_be16(head + 18, 2);
    head[24] = 'b';
    head[25] = (uint8_t)('0' + number);
    (void)memfile_write(b->mem, *at, head, sizeof(head));
    *at += sizeof(head);
}

static void build_bitmaps(struct build *b)
{
    uint64_t at = alloc(b, 1);

    b->bitmaps = at;
    b->bitmap_count = (unsigned)rng_between(b->rng, 1, 3);
    for (unsigned i = 0; i < b->bitmap_count; i++) {
        build_bitmap(b, &at, i);
    }
    b->bitmaps_size = at - b->bitmaps;
}

/* ---- header ---- */

static void build_extension(struct build *b, uint32_t type, const void *bytes, uint32_t length)
{
    memfile_set_be32(b->mem, b->header_at, type);
    memfile_set_be32(b->mem, b->header_at + 4, length);
    (void)memfile_write(b->mem, b->header_at + 8, bytes, length);
    b->header_at += 8 + align_up(length, 8);
}

static void build_extensions(struct build *b, bool base_is_qcow2)
{
    uint8_t bitmaps[24] = {0}, names[96] = {0, 0, 'd', 'i', 'r', 't', 'y'}, luks[16];

    if (has(b, BUILD_BACKING)) {
        const char *format = base_is_qcow2 ? "qcow2" : "raw";

        build_extension(b, QCOW2_EXT_BACKING_FORMAT, format, (uint32_t)strlen(format));
    }
    if (has(b, BUILD_DATA_FILE)) {
        build_extension(b, QCOW2_EXT_DATA_FILE, "data", 4);
    }
    if (has(b, BUILD_BITMAPS)) {
        store_be32(bitmaps, b->bitmap_count);
        store_be64(bitmaps + 8, b->bitmaps_size);
        store_be64(bitmaps + 16, b->bitmaps);
        build_extension(b, QCOW2_EXT_BITMAPS, bitmaps, sizeof(bitmaps));
    }
    if (b->luks != 0) {
        store_be64(luks, b->luks);
        store_be64(luks + 8, image_luks_header(b->mem, b->luks));
        build_extension(b, QCOW2_EXT_LUKS, luks, sizeof(luks));
    }
    if (coin(b)) {
        names[48] = 1;
        memcpy(names + 50, "lazy", 4);
        build_extension(b, QCOW2_EXT_FEATURE_NAMES, names, sizeof(names));
    }
    if (coin(b)) {
        build_extension(b, 0x12345678, "unknown", (uint32_t)rng_between(b->rng, 1, 7));
    }
    build_extension(b, QCOW2_EXT_END, "", 0);
}

static void build_header(struct build *b)
{
    uint64_t incompatible = 0;

    memfile_set_be32(b->mem, 0, QCOW2_MAGIC);
    memfile_set_be32(b->mem, 4, b->version);
    memfile_set_be32(b->mem, 20, b->bits);
    memfile_set_be64(b->mem, 24, b->size);
    memfile_set_be32(b->mem, 36, (uint32_t)b->l1_entries);
    memfile_set_be64(b->mem, 40, b->l1);
    b->header_at = QCOW2_V2_HEADER_LENGTH;
    if (b->version >= 3) {
        b->header_at = coin(b) ? QCOW2_V3_HEADER_MIN : QCOW2_V3_HEADER_LENGTH;
        if (b->zstd) {
            b->header_at = QCOW2_V3_HEADER_LENGTH;
            memfile_set_be32(b->mem, 104, 1U << 24);
            incompatible |= QCOW2_INCOMPAT_COMPRESSION;
        }
        incompatible |= has(b, BUILD_DATA_FILE) ? QCOW2_INCOMPAT_DATA_FILE : 0;
        incompatible |= has(b, BUILD_EXTENDED_L2) ? QCOW2_INCOMPAT_EXTENDED_L2 : 0;
        memfile_set_be64(b->mem, 72, incompatible);
        memfile_set_be64(b->mem, 80, rng_one_in(b->rng, 4) ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
        memfile_set_be64(b->mem, 88, has(b, BUILD_BITMAPS) ? QCOW2_AUTOCLEAR_BITMAPS : 0);
        memfile_set_be32(b->mem, 96, b->order);
        memfile_set_be32(b->mem, 100, (uint32_t)b->header_at);
    }
}

static void build_backing_name(struct build *b)
{
    memfile_set_be64(b->mem, 8, b->header_at);
    memfile_set_be32(b->mem, 16, 4);
    (void)memfile_write(b->mem, b->header_at, "base", 4);
}

/* Blocks for all clusters so far, for themselves, and for some that are still to come. */
static void build_refblocks(struct build *b, uint64_t table)
{
    uint64_t per_block = b->cluster * 8 >> b->order, blocks = 1;

    while (blocks * per_block < b->next + blocks) {
        blocks++;
    }
    blocks += rng_below(b->rng, 2);
    for (uint64_t i = 0; i < blocks && i < b->cluster / 8; i++) {
        memfile_set_be64(b->mem, table + i * 8, alloc(b, 1));
    }
}

/* Version, cluster size, refcount width and length, and features that go with them. */
static void choose_geometry(struct build *b)
{
    struct rng *rng = b->rng;

    b->version = rng_one_in(rng, 4) && (b->must & BUILD_BITMAPS) == 0 ? 2 : 3;
    b->bits = (unsigned)rng_between(rng, 9, 16);
    b->order = QCOW2_DEFAULT_REFCOUNT_ORDER;
    if (b->version == 2) {
        b->features &= ~(unsigned)(BUILD_EXTENDED_L2 | BUILD_BITMAPS | BUILD_DATA_FILE);
    } else if (coin(b)) {
        b->order = (unsigned)rng_below(rng, QCOW2_MAX_REFCOUNT_ORDER + 1);
    }
    if (b->must & (BUILD_COMPRESSED | BUILD_SNAPSHOTS)) {
        b->features &= ~(unsigned)BUILD_DATA_FILE;
    } else if (has(b, BUILD_DATA_FILE)) {
        b->features &= ~(unsigned)(BUILD_COMPRESSED | BUILD_SNAPSHOTS);
    }
    if (has(b, BUILD_SNAPSHOTS | BUILD_COMPRESSED)) {
        /* Several references to one cluster. */
        b->order = b->order < 3 ? 3 : b->order;
    }
    if (has(b, BUILD_EXTENDED_L2)) {
        b->bits = b->bits < 14 ? 14 : b->bits;
    }
    b->cluster = UINT64_C(1) << b->bits;
    b->zstd = has(b, BUILD_COMPRESSED) && b->version >= 3 && coin(b);
    switch (rng_below(rng, 8)) {
    case 0:
        b->size = b->cluster * l2_entries(b) * rng_below(rng, 3000);
        break;
    case 1:
        b->size = rng_below(rng, 3) * 512;
        break;
    case 2:
    case 3:
        b->size = b->cluster * l2_entries(b) * rng_between(rng, 1, 3);
        break;
    default:
        b->size = b->cluster * rng_between(rng, 1, 60);
    }
    b->size -= min_u64(b->size, coin(b) ? 0 : 512 * rng_below(rng, b->cluster / 512));
    if (b->size == 0 && has(b, BUILD_BITMAPS)) {
        /* QEMU opens no bitmap of an empty disk. */
        b->features &= ~(unsigned)BUILD_BITMAPS;
    }
}

void image_build(struct memfile *mem, struct rng *rng, unsigned must, unsigned may)
{
    struct build b = {.mem = mem, .rng = rng, .must = must, .features = must};
    uint64_t table;

    memfile_clear(mem);
    for (unsigned bit = 1; bit <= BUILD_ALL; bit *= 2) {
        b.features |= rng_one_in(rng, 2) ? may & bit : 0;
    }
    choose_geometry(&b);
    b.next = 1;
    table = alloc(&b, 1);
    build_active(&b);
    if (has(&b, BUILD_SNAPSHOTS)) {
        build_snapshots(&b);
    }
    if (has(&b, BUILD_BITMAPS)) {
        build_bitmaps(&b);
    }
    if ((may & BUILD_LUKS) != 0 && rng_one_in(rng, 6)) {
        memfile_set_be32(mem, 32, QCOW2_CRYPT_LUKS);
        b.luks = alloc(&b, div_round_up(IMAGE_LUKS_BYTES, b.cluster));
    }
    memfile_set_be64(mem, 48, table);
    memfile_set_be32(mem, 56, 1);
    build_header(&b);
    build_extensions(&b, ((must | may) & BUILD_BASE_IS_QCOW2) != 0);
    if (has(&b, BUILD_BACKING)) {
        build_backing_name(&b);
    }
    build_refblocks(&b, table);
    (void)memfile_resize(mem, b.next * b.cluster);
    image_recount(mem);
}
