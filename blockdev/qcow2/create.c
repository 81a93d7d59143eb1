/*
 * create.c - a new qcow2 image.
 *
 * Host clusters, in this order (in brackets: with preallocation alone):
 *   header | refcount table | refcount blocks | L1 table | [L2 tables] | [data clusters]
 *
 * The number of refcount blocks depends on the number of clusters, which they are themselves a part
 * of, so the layout is found by iteration (layout_compute). Refcounts are 16 bits wide; every
 * cluster of the layout has refcount one.
 *
 * The file is made as long as the layout first, as one hole, so that tables full of zeros cost
 * nothing; then come the tables and the header last, so that a creation cut short is no image.
 */
#include "qcow2/create.h"

#include "bytes.h"
#include "checked.h"
#include "qcow2/format.h"

#include <errno.h>
#include <stdlib.h>

enum {
    REFCOUNT_BYTES = 2,
    CHUNK = 1 << 20,
    FEATURE_NAME_MAX = 46,
    FEATURE_ENTRY_SIZE = 48,
    EXTENSION_HEADER = 8,
};

struct layout {
    uint64_t cluster_size;
    uint64_t size; /* virtual size, as the header says it */
    uint64_t l1_entries;
    uint64_t refcount_table_clusters, refcount_blocks, l1_clusters, l2_tables, data_clusters;
    uint64_t total_clusters;
    /* Byte offsets in the file. */
    uint64_t refcount_table, first_refcount_block, l1_table, first_l2_table, first_data;
};

struct feature_name {
    uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
    uint8_t bit;
    char name[FEATURE_NAME_MAX];
};

/* The table that QEMU writes, in its order. */
static const struct feature_name feature_names[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

_Static_assert(sizeof(struct feature_name) == FEATURE_ENTRY_SIZE, "as on disk");

static unsigned cluster_size_of(const struct blk_create_options *options)
{
    return options->cluster_size != 0 ? options->cluster_size : 1U << QCOW2_DEFAULT_CLUSTER_BITS;
}

static unsigned version_of(const struct blk_create_options *options)
{
    return options->compat != 0 ? options->compat : 3;
}

/* False when a table would pass QEMU's limits, or an offset the format's 56 bits. */
static bool layout_compute(const struct blk_create_options *options, struct layout *l)
{
    uint64_t cs = cluster_size_of(options);
    uint64_t l2_entries = cs / QCOW2_ENTRY_SIZE;
    uint64_t guest_clusters;

    *l = (struct layout){.cluster_size = cs, .size = options->size};
    guest_clusters = div_round_up(l->size, cs);
    l->l1_entries = div_round_up(guest_clusters, l2_entries);
    if (l->l1_entries > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE)
        return false;
    l->l1_clusters = div_round_up(l->l1_entries * QCOW2_ENTRY_SIZE, cs);
    if (options->prealloc != BLK_PREALLOC_OFF) {
        l->l2_tables = l->l1_entries;
        l->data_clusters = guest_clusters;
    }

    /* More blocks never need fewer clusters, so this climbs to the smallest layout that holds. */
    uint64_t per_block = cs / REFCOUNT_BYTES;
    l->refcount_table_clusters = l->refcount_blocks = 1;
    for (;;) {
        l->total_clusters = 1 + l->refcount_table_clusters + l->refcount_blocks + l->l1_clusters +
                            l->l2_tables + l->data_clusters;
        uint64_t blocks = div_round_up(l->total_clusters, per_block);
        uint64_t table = div_round_up(blocks * QCOW2_ENTRY_SIZE, cs);

        if (blocks <= l->refcount_blocks && table <= l->refcount_table_clusters)
            break;
        l->refcount_blocks = max_u64(blocks, l->refcount_blocks);
        l->refcount_table_clusters = max_u64(table, l->refcount_table_clusters);
    }
    if (l->refcount_table_clusters > QCOW2_MAX_REFCOUNT_TABLE_BYTES / cs ||
        l->total_clusters > QCOW2_MAX_HOST_OFFSET / cs)
        return false;
    l->refcount_table = cs;
    l->first_refcount_block = l->refcount_table + l->refcount_table_clusters * cs;
    l->l1_table = l->first_refcount_block + l->refcount_blocks * cs;
    l->first_l2_table = l->l1_table + l->l1_clusters * cs;
    l->first_data = l->first_l2_table + l->l2_tables * cs;
    return true;
}

/* A 512-byte cluster has no room for the feature name table, which is optional. */
static size_t feature_table_bytes(const struct blk_create_options *options)
{
    if (version_of(options) < 3 || cluster_size_of(options) == 512)
        return 0;
    return EXTENSION_HEADER + sizeof(feature_names);
}

static size_t header_bytes(const struct blk_create_options *options)
{
    size_t bytes = version_of(options) < 3 ? QCOW2_V2_HEADER_LENGTH : QCOW2_V3_HEADER_LENGTH;

    if (options->backing_format != NULL)
        bytes += EXTENSION_HEADER + align_up(strlen(options->backing_format), 8);
    return bytes + feature_table_bytes(options) + EXTENSION_HEADER;
}

int qcow2_create_validate(const struct blk_create_options *options, struct err *err)
{
    const char *path = options->path;
    unsigned cs = cluster_size_of(options);
    struct layout layout;

    if (!is_power_of_2(cs) || cs < 1U << QCOW2_MIN_CLUSTER_BITS ||
        cs > 1U << QCOW2_MAX_CLUSTER_BITS)
        return err_set(err, -EINVAL,
                       "%s: Cluster size must be a power of two between 512 and 2048k", path);
    if (options->lazy_refcounts && version_of(options) < 3)
        return err_set(err, -EINVAL,
                       "%s: Lazy refcounts only supported with compatibility level 1.1 and above "
                       "(use version=v3 or greater)",
                       path);
    if (options->backing_name != NULL) {
        size_t length = strlen(options->backing_name);

        if (options->prealloc != BLK_PREALLOC_OFF)
            return err_set(err, -EINVAL,
                           "%s: Backing file and preallocation can only be used at the same time "
                           "if extended_l2 is on",
                           path);
        if (length == 0 || options->backing_format == NULL)
            return err_set(err, -EINVAL, "%s: A backing file needs a name and a format", path);
        if (length > QCOW2_MAX_BACKING_NAME)
            return err_set(err, -ENAMETOOLONG,
                           "%s: The backing file name is longer than the %d bytes that qcow2 "
                           "allows",
                           path, QCOW2_MAX_BACKING_NAME);
        if (length > cs - header_bytes(options))
            return err_set(err, -ENAMETOOLONG,
                           "%s: The backing file name does not fit into the header cluster (try "
                           "using a larger cluster size)",
                           path);
    } else if (options->backing_format != NULL) {
        return err_set(err, -EINVAL, "%s: Backing format cannot be used without backing file",
                       path);
    }
    if (!layout_compute(options, &layout))
        return err_set(err, -EFBIG,
                       "%s: The image size is too large for file format 'qcow2' (try using a "
                       "larger cluster size)",
                       path);
    return 0;
}

static unsigned char *put_extension(unsigned char *at, uint32_t type, const void *data,
                                    size_t length)
{
    store_be32(at, type);
    store_be32(at + 4, (uint32_t)length);
    if (length > 0)
        memcpy(at + EXTENSION_HEADER, data, length);
    return at + EXTENSION_HEADER + align_up(length, 8);
}

static int write_header(struct file *file, const struct blk_create_options *options,
                        const struct layout *l)
{
    bool v3 = version_of(options) >= 3;
    size_t name_length = options->backing_name != NULL ? strlen(options->backing_name) : 0;
    size_t fixed = header_bytes(options);
    unsigned char *header = calloc(1, fixed + name_length);
    unsigned char *at;
    int rc;

    if (header == NULL)
        return -ENOMEM;
    store_be32(header, QCOW2_MAGIC);
    store_be32(header + 4, v3 ? 3 : 2);
    store_be32(header + 20, (uint32_t)__builtin_ctz((unsigned)l->cluster_size));
    store_be64(header + 24, l->size);
    store_be32(header + 36, (uint32_t)l->l1_entries);
    store_be64(header + 40, l->l1_table);
    store_be64(header + 48, l->refcount_table);
    store_be32(header + 56, (uint32_t)l->refcount_table_clusters);
    at = header + QCOW2_V2_HEADER_LENGTH;
    if (v3) {
        store_be64(header + 80, options->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
        store_be32(header + 96, QCOW2_DEFAULT_REFCOUNT_ORDER);
        store_be32(header + 100, QCOW2_V3_HEADER_LENGTH);
        at = header + QCOW2_V3_HEADER_LENGTH;
    }
    if (options->backing_format != NULL)
        at = put_extension(at, QCOW2_EXT_BACKING_FORMAT, options->backing_format,
                           strlen(options->backing_format));
    if (feature_table_bytes(options) > 0)
        at = put_extension(at, QCOW2_EXT_FEATURE_NAMES, feature_names, sizeof(feature_names));
    (void)put_extension(at, QCOW2_EXT_END, NULL, 0);
    if (name_length > 0) {
        store_be64(header + 8, fixed);
        store_be32(header + 16, (uint32_t)name_length);
        memcpy(header + fixed, options->backing_name, name_length);
    }
    rc = file_pwrite(file, 0, header, fixed + name_length);
    free(header);
    return rc;
}

/* Writes `count` big-endian 64-bit entries first, first + step, ... from `offset` on. */
static int write_entries(struct file *file, uint64_t offset, uint64_t count, uint64_t first,
                         uint64_t step)
{
    size_t room = (size_t)min_u64(count * 8, CHUNK);
    unsigned char *buf = malloc(room);
    int rc = buf == NULL && room > 0 ? -ENOMEM : 0;

    while (rc == 0 && count > 0) {
        size_t n = (size_t)min_u64(count, room / 8);

        for (size_t i = 0; i < n; i++, first += step)
            store_be64(buf + 8 * i, first);
        rc = file_pwrite(file, offset, buf, 8 * n);
        offset += 8 * n;
        count -= n;
    }
    free(buf);
    return rc;
}

static int write_refcounts(struct file *file, const struct layout *l)
{
    uint64_t offset = l->first_refcount_block;
    uint64_t left = l->total_clusters * REFCOUNT_BYTES;
    size_t room = (size_t)min_u64(left, CHUNK);
    unsigned char *buf = malloc(room);
    int rc = 0;

    if (buf == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < room; i += REFCOUNT_BYTES)
        store_be16(buf + i, 1);
    while (rc == 0 && left > 0) {
        size_t n = (size_t)min_u64(left, room);

        rc = file_pwrite(file, offset, buf, n);
        offset += n;
        left -= n;
    }
    free(buf);
    return rc;
}

static int write_l2_tables(struct file *file, const struct layout *l)
{
    int rc = write_entries(file, l->l1_table, l->l1_entries, l->first_l2_table | QCOW2_ENTRY_COPIED,
                           l->cluster_size);

    /* The tables lie side by side: one run of entries. */
    if (rc == 0)
        rc = write_entries(file, l->first_l2_table, l->data_clusters,
                           l->first_data | QCOW2_ENTRY_COPIED, l->cluster_size);
    return rc;
}

static int write_zeros(struct file *file, uint64_t offset, uint64_t length)
{
    size_t room = (size_t)min_u64(length, CHUNK);
    unsigned char *buf = calloc(1, room + 1);
    int rc = buf == NULL ? -ENOMEM : 0;

    while (rc == 0 && length > 0) {
        size_t n = (size_t)min_u64(length, room);

        rc = file_pwrite(file, offset, buf, n);
        offset += n;
        length -= n;
    }
    free(buf);
    return rc;
}

int qcow2_create_write(struct file *file, const struct blk_create_options *options, struct err *err)
{
    struct layout l;
    uint64_t data_bytes, size;
    int rc;

    if (!layout_compute(options, &l))
        return err_set(err, -EFBIG, "%s: The image size is too large", options->path);
    data_bytes = l.data_clusters * l.cluster_size;
    rc = file->ops->truncate(file, 0);
    if (rc == 0)
        rc = file->ops->truncate(file, l.total_clusters * l.cluster_size);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not resize image", options->path);
    rc = file->ops->size(file, &size);
    /* A block device keeps its length and what it held. */
    if (rc == 0 && size != l.total_clusters * l.cluster_size)
        rc = write_zeros(file, 0, l.first_data);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not clear the image", options->path);
    if (options->prealloc == BLK_PREALLOC_FALLOC && data_bytes > 0)
        rc = file->ops->allocate(file, l.first_data, data_bytes);
    else if (options->prealloc == BLK_PREALLOC_FULL)
        rc = write_zeros(file, l.first_data, data_bytes);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not preallocate data", options->path);
    if (options->prealloc != BLK_PREALLOC_OFF)
        rc = write_l2_tables(file, &l);
    if (rc == 0)
        rc = write_refcounts(file, &l);
    if (rc == 0)
        rc = write_entries(file, l.refcount_table, l.refcount_blocks, l.first_refcount_block,
                           l.cluster_size);
    if (rc == 0)
        rc = write_header(file, options, &l);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not write the image", options->path);
    return 0;
}
