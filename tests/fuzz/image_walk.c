/*
 * image_walk.c - follows the tables of an image that may be damaged, within bounds, and says what lies
 * where; and gives it refcounts that agree with its tables, so that damage is not seen at the first
 * look at a refcount but leads deeper.
 */
#include "checked.h"
#include "image.h"
#include "qcow2/format.h"

#include <string.h>

enum {
    MAX_VISITS = 20000,   /* entries that lead somewhere, in all */
    MAX_STEPS = 300000,   /* entries that are looked at */
    MAX_CLUSTERS = 65536, /* whose references are counted */
    MAX_SNAPSHOTS = 64,
    MAX_TABLE = 4096, /* entries of one L1, refcount or bitmap table that are looked at */
};

struct walk {
    const struct memfile *mem;
    struct image_map *map;
    unsigned visits, steps;
    void (*seen)(struct walk *walk, enum landmark_kind kind, uint64_t offset, uint64_t length);
    /* Counting. */
    uint16_t *counts;
    uint64_t clusters;
    bool overlaps, without_data;
    bool is_odd; /* an entry breaks a rule that no check looks at */
};

static void note_landmark(struct walk *w, enum landmark_kind kind, uint64_t offset, uint64_t length)
{
    struct image_map *map = w->map;

    if (map->count < MAX_LANDMARKS) {
        map->landmarks[map->count++] = (struct landmark){kind, offset, length};
    }
}

static void count_clusters(struct walk *w, enum landmark_kind kind, uint64_t offset,
                           uint64_t length)
{
    uint64_t first = offset >> w->map->cluster_bits;
    uint64_t last = (offset + length - 1) >> w->map->cluster_bits;

    /* Entries of a directory and header extensions are parts of what was counted as a whole. */
    if (kind == LANDMARK_SNAPSHOT || kind == LANDMARK_DIRECTORY || kind == LANDMARK_EXTENSION ||
        length == 0) {
        return;
    }
    for (uint64_t i = first; i <= last && i < w->clusters; i++) {
        w->counts[i] = (uint16_t)(w->counts[i] + (w->counts[i] < UINT16_MAX));
    }
}

/* Data and L2 tables may be shared, each with its like. */
static void note_overlap(struct walk *w, enum landmark_kind kind, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> w->map->cluster_bits;
    uint64_t last = (offset + length - 1) >> w->map->cluster_bits;
    uint16_t group = kind == LANDMARK_DATA || kind == LANDMARK_COMPRESSED ? 1
                     : kind == LANDMARK_L2                                ? 2
                                                                          : 3;

    if (kind == LANDMARK_SNAPSHOT || kind == LANDMARK_DIRECTORY || kind == LANDMARK_EXTENSION ||
        (group == 1 && w->without_data)) {
        return;
    }
    for (uint64_t i = first; i <= last && i < w->clusters; i++) {
        w->overlaps |= w->counts[i] != 0 && (w->counts[i] != group || group == 3);
        w->counts[i] = group;
    }
}

static void see(struct walk *w, enum landmark_kind kind, uint64_t offset, uint64_t length)
{
    w->visits++;
    if (length > 0 && range_within(offset, length, INT64_MAX)) {
        w->seen(w, kind, offset, length);
    }
}

/* Whether to go on; `at` moves over pages that hold nothing. */
static bool next_entry(struct walk *w, uint64_t *at, uint64_t end)
{
    const struct mem_page *page;

    if (*at < end && *at % MEM_PAGE < 16) {
        page = memfile_next(w->mem, *at / MEM_PAGE);
        if (page == NULL) {
            return false;
        }
        *at = max_u64(*at, page->index * MEM_PAGE);
    }
    return *at < end && w->visits < MAX_VISITS && w->steps++ < MAX_STEPS;
}

/* Of the device's cluster at `guest`. */
static void walk_l2_entry(struct walk *w, uint64_t entry, uint64_t guest)
{
    unsigned x = 62 - (w->map->cluster_bits - 8);
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_L2_COMPRESSED) {
        offset = entry & ((UINT64_C(1) << x) - 1);
        see(w, LANDMARK_COMPRESSED, offset,
            (((entry & (QCOW2_L2_COMPRESSED - 1)) >> x) + 1) * 512 - offset % 512);
    } else if (offset != 0 && !w->map->data_file) {
        see(w, LANDMARK_DATA, offset, w->map->cluster_size);
    } else if (w->map->data_file && (entry & ~QCOW2_L2_ZERO) != 0) {
        w->is_odd |= offset != guest;
    }
}

static void walk_l1(struct walk *w, uint64_t l1, uint64_t entries)
{
    uint64_t size = w->map->cluster_size, step = w->map->extended_l2 ? 16 : 8;

    if (entries == 0 || l1 > INT64_MAX) {
        return;
    }
    see(w, LANDMARK_L1, l1, entries * 8);
    entries = min_u64(entries, MAX_TABLE);
    for (uint64_t at = l1; next_entry(w, &at, l1 + entries * 8); at += 8) {
        uint64_t l2 = memfile_be64(w->mem, at) & QCOW2_OFFSET_MASK;

        if (l2 == 0) {
            continue;
        }
        see(w, LANDMARK_L2, l2, size);
        for (uint64_t e = l2; next_entry(w, &e, l2 + size); e += step) {
            uint64_t guest = ((at - l1) / 8 * (size / step) + (e - l2) / step) * size;

            walk_l2_entry(w, memfile_be64(w->mem, e), guest);
        }
    }
}

static void walk_snapshots(struct walk *w)
{
    uint64_t offset = memfile_be64(w->mem, 64), at = offset;
    uint64_t in_header = memfile_be32(w->mem, 60), count = min_u64(in_header, MAX_SNAPSHOTS);

    w->overlaps |= count < in_header; /* what the others do is not looked at */
    if (count == 0 || offset > INT64_MAX) {
        return;
    }
    for (uint64_t i = 0; i < count && w->visits++ < MAX_VISITS; i++) {
        uint64_t length = 40 + (uint64_t)memfile_be32(w->mem, at + 36) +
                          memfile_be16(w->mem, at + 12) + memfile_be16(w->mem, at + 14);

        see(w, LANDMARK_SNAPSHOT, at, length);
        walk_l1(w, memfile_be64(w->mem, at), memfile_be32(w->mem, at + 8));
        at += align_up(length, 8);
    }
    if (w->counts != NULL) {
        see(w, LANDMARK_HEADER, offset, at - offset);
    }
}

static void walk_bitmap(struct walk *w, uint64_t at)
{
    uint64_t table = memfile_be64(w->mem, at), entries = memfile_be32(w->mem, at + 8);

    if (table == 0 || table > INT64_MAX) {
        return;
    }
    see(w, LANDMARK_BITMAP, table, entries * 8);
    entries = min_u64(entries, MAX_TABLE);
    for (uint64_t e = table; next_entry(w, &e, table + entries * 8); e += 8) {
        uint64_t entry = memfile_be64(w->mem, e), data = entry & QCOW2_OFFSET_MASK;

        w->is_odd |= (entry & ~QCOW2_OFFSET_MASK) != (data == 0 ? entry & 1 : 0);
        if (data != 0) {
            see(w, LANDMARK_BITMAP_DATA, data, w->map->cluster_size);
        }
    }
}

static void walk_bitmaps(struct walk *w, uint64_t extension)
{
    uint64_t count = min_u64(memfile_be32(w->mem, extension + 8), 64);
    uint64_t size = memfile_be64(w->mem, extension + 16);
    uint64_t offset = memfile_be64(w->mem, extension + 24), at = offset;

    if (offset == 0 || offset > INT64_MAX || size > INT32_MAX) {
        return;
    }
    if (w->counts != NULL) {
        see(w, LANDMARK_HEADER, offset, size);
    }
    for (uint64_t i = 0; i < count && at < offset + size && w->visits++ < MAX_VISITS; i++) {
        uint64_t length = align_up(
            24 + (uint64_t)memfile_be16(w->mem, at + 18) + memfile_be32(w->mem, at + 20), 8);

        see(w, LANDMARK_DIRECTORY, at, length);
        walk_bitmap(w, at);
        at += length;
    }
}

static void walk_extensions(struct walk *w)
{
    uint64_t at = w->map->version >= 3 ? memfile_be32(w->mem, 100) : QCOW2_V2_HEADER_LENGTH;

    while (at + 8 <= w->map->cluster_size && w->visits++ < MAX_VISITS) {
        uint32_t type = memfile_be32(w->mem, at), length = memfile_be32(w->mem, at + 4);

        if (type == QCOW2_EXT_END || length > w->map->cluster_size) {
            break;
        }
        see(w, LANDMARK_EXTENSION, at, 8 + (uint64_t)length);
        if (type == QCOW2_EXT_BITMAPS && length >= 24) {
            walk_bitmaps(w, at);
        } else if (type == QCOW2_EXT_LUKS && length >= 16) {
            uint64_t bytes = memfile_be64(w->mem, at + 16);

            see(w, LANDMARK_LUKS, memfile_be64(w->mem, at + 8), min_u64(bytes, UINT64_C(4) << 20));
        }
        at += 8 + align_up(length, 8);
    }
}

static void walk_refcounts(struct walk *w)
{
    uint64_t table = memfile_be64(w->mem, 48);
    uint64_t bytes = (uint64_t)memfile_be32(w->mem, 56) << w->map->cluster_bits;

    if (table > INT64_MAX) {
        return;
    }
    see(w, LANDMARK_REFTABLE, table, bytes);
    bytes = min_u64(bytes, MAX_TABLE * 8);
    for (uint64_t at = table; next_entry(w, &at, table + bytes); at += 8) {
        uint64_t block = memfile_be64(w->mem, at) & QCOW2_OFFSET_MASK;

        if (block != 0) {
            see(w, LANDMARK_REFBLOCK, block, w->map->cluster_size);
        }
    }
}

static bool walk_header(struct walk *w)
{
    struct image_map *map = w->map;

    *map = (struct image_map){
        .version = memfile_be32(w->mem, 4),
        .cluster_bits = memfile_be32(w->mem, 20),
        .refcount_order = QCOW2_DEFAULT_REFCOUNT_ORDER,
    };
    if (map->cluster_bits < QCOW2_MIN_CLUSTER_BITS || map->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return false;
    }
    map->cluster_size = UINT64_C(1) << map->cluster_bits;
    if (map->version >= 3) {
        map->refcount_order = memfile_be32(w->mem, 96);
        map->extended_l2 = (memfile_be64(w->mem, 72) & QCOW2_INCOMPAT_EXTENDED_L2) != 0;
        map->data_file = (memfile_be64(w->mem, 72) & QCOW2_INCOMPAT_DATA_FILE) != 0;
    }
    return map->refcount_order <= QCOW2_MAX_REFCOUNT_ORDER;
}

static void walk(struct walk *w)
{
    see(w, LANDMARK_HEADER, 0, w->map->cluster_size);
    walk_refcounts(w);
    walk_l1(w, memfile_be64(w->mem, 40), memfile_be32(w->mem, 36));
    walk_snapshots(w);
    walk_extensions(w);
}

bool image_find(const struct memfile *mem, struct image_map *map)
{
    struct walk w = {.mem = mem, .map = map, .seen = note_landmark};

    if (!walk_header(&w)) {
        return false;
    }
    walk(&w);
    return true;
}

static void write_counts(struct memfile *mem, const struct walk *w)
{
    unsigned bits = 1U << w->map->refcount_order;
    uint64_t per_block = w->map->cluster_size * 8 / bits, limit = qcow2_refcount_limit(bits);
    uint64_t table = memfile_be64(mem, 48);
    uint64_t entries = (uint64_t)memfile_be32(mem, 56) << (w->map->cluster_bits - 3);

    for (uint64_t i = 0; i < entries && i * per_block < w->clusters; i++) {
        uint64_t block = memfile_be64(mem, table + i * 8) & QCOW2_OFFSET_MASK;

        for (uint64_t n = 0; block != 0 && n < per_block && i * per_block + n < w->clusters; n++) {
            uint64_t at = block + n * bits / 8, in_byte = bits < 8 ? n % (8 / bits) : 0;
            uint8_t raw[8];

            memfile_read(mem, at, raw, sizeof(raw));
            qcow2_refcount_encode(raw, bits, in_byte, min_u64(w->counts[i * per_block + n], limit));
            (void)memfile_write(mem, at, raw, bits < 8 ? 1 : bits / 8);
        }
    }
}

static uint64_t with_copied(const struct walk *w, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK, cluster = offset >> w->map->cluster_bits;
    bool is_one = offset != 0 && (cluster >= w->clusters || w->counts[cluster] == 1);

    return is_one ? entry | QCOW2_ENTRY_COPIED : entry & ~QCOW2_ENTRY_COPIED;
}

static void write_copied(struct memfile *mem, struct walk *w)
{
    uint64_t l1 = memfile_be64(mem, 40), step = w->map->extended_l2 ? 16 : 8;
    uint64_t entries = min_u64(memfile_be32(mem, 36), MAX_TABLE);

    w->visits = 0;
    w->steps = 0;
    for (uint64_t at = l1; next_entry(w, &at, l1 + entries * 8); at += 8) {
        uint64_t entry = memfile_be64(mem, at), l2 = entry & QCOW2_OFFSET_MASK;

        memfile_set_be64(mem, at, with_copied(w, entry));
        if (l2 == 0 || w->map->data_file) {
            continue;
        }
        for (uint64_t e = l2; next_entry(w, &e, l2 + w->map->cluster_size); e += step) {
            entry = memfile_be64(mem, e);
            memfile_set_be64(mem, e,
                             entry & QCOW2_L2_COMPRESSED ? entry & ~QCOW2_ENTRY_COPIED
                                                         : with_copied(w, entry));
        }
    }
}

static uint16_t counts[MAX_CLUSTERS];

static bool start_counting(struct walk *w)
{
    if (!walk_header(w)) {
        return false;
    }
    w->counts = counts;
    w->clusters = min_u64(div_round_up(w->mem->size, w->map->cluster_size), MAX_CLUSTERS);
    memset(counts, 0, sizeof(counts[0]) * w->clusters);
    return true;
}

void image_recount(struct memfile *mem)
{
    struct image_map map;
    struct walk w = {.mem = mem, .map = &map, .seen = count_clusters};
    uint64_t size = mem->size;

    if (!start_counting(&w)) {
        return;
    }
    walk(&w);
    write_counts(mem, &w);
    write_copied(mem, &w);
    (void)memfile_resize(mem, size);
}

static struct walk find_overlaps(const struct memfile *mem, bool without_data)
{
    struct image_map map;
    struct walk w = {.mem = mem, .map = &map, .seen = note_overlap, .without_data = without_data};

    if (start_counting(&w)) {
        walk(&w);
    }
    w.overlaps |= w.visits >= MAX_VISITS || w.steps >= MAX_STEPS;
    w.map = NULL;
    return w;
}

bool image_is_odd(const struct memfile *mem)
{
    struct walk w = find_overlaps(mem, false);

    return w.overlaps || w.is_odd;
}

bool image_tables_overlap(const struct memfile *mem)
{
    return find_overlaps(mem, true).overlaps;
}

/* A table's entry is as it was, or may lead somewhere. */
static bool expect_entries(const struct memfile *before, const struct memfile *after,
                           uint64_t table_at, uint64_t entries, uint64_t reserved)
{
    uint64_t old = memfile_be64(before, table_at), now = memfile_be64(after, table_at);
    uint64_t cluster = UINT64_C(1) << memfile_be32(after, 20);

    entries = min_u64(entries, MAX_TABLE);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t entry = memfile_be64(after, now + i * 8), offset = entry & QCOW2_OFFSET_MASK;

        if (entry != memfile_be64(before, old + i * 8) &&
            ((entry & reserved) != 0 || !is_aligned(offset, cluster) || offset >= after->size)) {
            return false;
        }
    }
    return true;
}

bool image_tables_intact(const struct memfile *before, const struct memfile *after)
{
    uint64_t reftable_entries = (uint64_t)memfile_be32(before, 56)
                                << (memfile_be32(before, 20) - 3);

    return memfile_be64(before, 0) == memfile_be64(after, 0) &&
           memfile_be64(before, 16) == memfile_be64(after, 16) &&
           expect_entries(before, after, 40, memfile_be32(before, 36), QCOW2_L1_RESERVED) &&
           expect_entries(before, after, 48, reftable_entries, QCOW2_REFTABLE_RESERVED);
}
