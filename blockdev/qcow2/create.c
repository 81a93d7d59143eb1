/*
 * create.c - a new qcow2 image.
 *
 * Host clusters, in this order (in brackets: with preallocation alone):
 *   header | refcount table | refcount blocks | L1 table | encryption header, if the image is encrypted |
 *   [L2 tables] | [data clusters]
 *
 * The number of refcount blocks depends on the number of clusters, which they are themselves a part
 * of, so the layout is found by iteration (layout_compute). Every cluster of the layout has refcount
 * one. Preallocated clusters with extended L2 entries have no subcluster in use, as QEMU leaves them:
 * they read as the backing file, which preallocation is therefore possible over, or as zeros. Those of an
 * encrypted image carry the zero flag: what is written as zeros does not decrypt to zeros.
 *
 * The file is made as long as the layout first, as one hole, so that tables full of zeros cost
 * nothing; then come the tables and the header last, so that a creation cut short is no image.
 */
#include "qcow2/create.h"

#include "bytes.h"
#include "checked.h"
#include "crypto/luks.h"
#include "qcow2/format.h"

#include <errno.h>
#include <stdlib.h>

enum {
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
    uint64_t mapped_clusters; /* that the L2 tables lead to */
    uint64_t total_clusters;
    /* Byte offsets in the file. */
    uint64_t refcount_table, first_refcount_block, l1_table, luks_header, first_l2_table,
        first_data;
    struct luks_header luks;
    uint64_t luks_clusters;
    uint64_t first_mapped; /* in the file with the guest's data */
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

static unsigned refcount_bits_of(const struct blk_create_options *options)
{
    return options->refcount_bits != 0 ? options->refcount_bits
                                       : 1U << QCOW2_DEFAULT_REFCOUNT_ORDER;
}

static bool has_zstd(const struct blk_create_options *options)
{
    return options->compression_type != NULL && strcmp(options->compression_type, "zstd") == 0;
}

static size_t l2_entry_bytes(const struct blk_create_options *options)
{
    return options->extended_l2 ? QCOW2_EXTENDED_L2_ENTRY_SIZE : QCOW2_ENTRY_SIZE;
}

static struct luks_format_options luks_options_of(const struct blk_create_options *options)
{
    const struct blk_luks_options *o = options->luks;

    return (struct luks_format_options){
        .cipher_alg = o->cipher_alg,
        .cipher_mode = o->cipher_mode,
        .ivgen_alg = o->ivgen_alg,
        .ivgen_hash_alg = o->ivgen_hash_alg,
        .hash_alg = o->hash_alg,
        .iter_time = o->iter_time,
    };
}

/* All of a raw data file is mapped from the start, so that reading it alone shows the device. */
static bool has_tables(const struct blk_create_options *options)
{
    return options->prealloc != BLK_PREALLOC_OFF || options->data_file_raw;
}

/* False when a table would pass QEMU's limits, or an offset the format's 56 bits. */
static bool layout_compute(const struct blk_create_options *options, struct layout *l)
{
    uint64_t cs = cluster_size_of(options);
    uint64_t l2_entries = cs / l2_entry_bytes(options);
    uint64_t guest_clusters;

    *l = (struct layout){.cluster_size = cs, .size = options->size};
    if (options->luks != NULL) {
        struct luks_format_options luks = luks_options_of(options);

        /* Checked before: check_luks_options(). */
        if (luks_format_plan(&luks, &l->luks, NULL) != 0)
            return false;
        l->luks_clusters = div_round_up(l->luks.payload_offset, cs);
    }
    guest_clusters = div_round_up(l->size, cs);
    l->l1_entries = div_round_up(guest_clusters, l2_entries);
    if (l->l1_entries > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE)
        return false;
    l->l1_clusters = div_round_up(l->l1_entries * QCOW2_ENTRY_SIZE, cs);
    if (has_tables(options)) {
        l->l2_tables = l->l1_entries;
        l->mapped_clusters = guest_clusters;
        l->data_clusters = options->data_file == NULL ? guest_clusters : 0;
    }

    /* More blocks never need fewer clusters, so this climbs to the smallest layout that holds. */
    uint64_t per_block = cs * 8 / refcount_bits_of(options);
    l->refcount_table_clusters = l->refcount_blocks = 1;
    for (;;) {
        l->total_clusters = 1 + l->refcount_table_clusters + l->refcount_blocks + l->l1_clusters +
                            l->luks_clusters + l->l2_tables + l->data_clusters;
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
    l->luks_header = l->l1_table + l->l1_clusters * cs;
    l->first_l2_table = l->luks_header + l->luks_clusters * cs;
    l->first_data = l->first_l2_table + l->l2_tables * cs;
    l->first_mapped = options->data_file == NULL ? l->first_data : 0;
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
    if (options->luks != NULL)
        bytes += EXTENSION_HEADER + QCOW2_LUKS_EXTENSION_BYTES;
    if (options->data_file != NULL)
        bytes += EXTENSION_HEADER + align_up(strlen(options->data_file), 8);
    return bytes + feature_table_bytes(options) + EXTENSION_HEADER;
}

/* In QEMU's order, which decides what is said about options that have two faults. */
static int check_format_options(const struct blk_create_options *options, struct err *err)
{
    const char *path = options->path;
    unsigned cs = cluster_size_of(options);
    unsigned bits = refcount_bits_of(options);
    bool v2 = version_of(options) < 3;

    if (!is_power_of_2(cs) || cs < 1U << QCOW2_MIN_CLUSTER_BITS ||
        cs > 1U << QCOW2_MAX_CLUSTER_BITS)
        return err_set(err, -EINVAL,
                       "%s: Cluster size must be a power of two between 512 and 2048k", path);
    if (options->extended_l2 && v2)
        return err_set(err, -EINVAL,
                       "%s: Extended L2 entries are only supported with compatibility level 1.1 "
                       "and above (use version=v3 or greater)",
                       path);
    if (options->extended_l2 && cs < 1U << QCOW2_EXTENDED_L2_MIN_CLUSTER_BITS)
        return err_set(err, -EINVAL,
                       "%s: Extended L2 entries are only supported with cluster sizes of at least "
                       "%u bytes",
                       path, 1U << QCOW2_EXTENDED_L2_MIN_CLUSTER_BITS);
    if (options->data_file != NULL && v2)
        return err_set(err, -EINVAL,
                       "%s: External data files are only supported with compatibility level 1.1 "
                       "and above (use version=v3 or greater)",
                       path);
    if (options->data_file_raw && options->data_file == NULL)
        return err_set(err, -EINVAL, "%s: data-file-raw requires data-file", path);
    if (options->data_file_raw && options->backing_name != NULL)
        return err_set(err, -EINVAL,
                       "%s: Backing file and data-file-raw cannot be used at the same time", path);
    if (options->backing_name != NULL && options->prealloc != BLK_PREALLOC_OFF &&
        !options->extended_l2)
        return err_set(err, -EINVAL,
                       "%s: Backing file and preallocation can only be used at the same time if "
                       "extended_l2 is on",
                       path);
    if (options->lazy_refcounts && v2)
        return err_set(err, -EINVAL,
                       "%s: Lazy refcounts only supported with compatibility level 1.1 and above "
                       "(use version=v3 or greater)",
                       path);
    if (!is_power_of_2(bits) || bits > 1U << QCOW2_MAX_REFCOUNT_ORDER)
        return err_set(err, -EINVAL,
                       "%s: Refcount width must be a power of two and may not exceed 64 bits",
                       path);
    if (bits != 1U << QCOW2_DEFAULT_REFCOUNT_ORDER && v2)
        return err_set(err, -EINVAL,
                       "%s: Different refcount widths than 16 bits require compatibility level 1.1 "
                       "or above (use version=v3 or greater)",
                       path);
    if (options->compression_type != NULL && !has_zstd(options) &&
        strcmp(options->compression_type, "zlib") != 0)
        return err_set(err, -EINVAL, "%s: Unknown compression type '%s'", path,
                       options->compression_type);
    if (has_zstd(options) && v2)
        return err_set(err, -EINVAL,
                       "%s: Non-zlib compression type is only supported with compatibility level "
                       "1.1 and above (use version=v3 or greater)",
                       path);
    return 0;
}

static int check_luks_options(const struct blk_create_options *options, struct err *err)
{
    struct luks_format_options luks;
    struct luks_header header;
    int rc;

    if (options->luks == NULL)
        return 0;
    if (options->luks->key.bytes == NULL)
        return err_set(err, -ENOKEY, "%s: An encrypted image needs a key", options->path);
    if (version_of(options) < 3 && options->prealloc != BLK_PREALLOC_OFF)
        return err_set(err, -EINVAL,
                       "%s: Preallocation of an encrypted image requires compatibility level 1.1 "
                       "(use version=v3 or greater)",
                       options->path);
    luks = luks_options_of(options);
    rc = luks_format_plan(&luks, &header, err);
    return rc < 0 ? err_prefix(err, rc, "%s", options->path) : 0;
}

int qcow2_create_validate(const struct blk_create_options *options, struct err *err)
{
    const char *path = options->path;
    unsigned cs = cluster_size_of(options);
    struct layout layout;
    int rc = check_format_options(options, err);

    if (rc == 0)
        rc = check_luks_options(options, err);
    if (rc < 0)
        return rc;
    if (options->backing_name != NULL) {
        size_t length = strlen(options->backing_name);

        if (length == 0 || options->backing_format == NULL)
            return err_set(err, -EINVAL, "%s: A backing file needs a name and a format", path);
        if (length > QCOW2_MAX_BACKING_NAME)
            return err_set(err, -ENAMETOOLONG,
                           "%s: The backing file name is longer than the %d bytes that qcow2 "
                           "allows",
                           path, QCOW2_MAX_BACKING_NAME);
        if (header_bytes(options) > cs || length > cs - header_bytes(options))
            return err_set(err, -ENAMETOOLONG,
                           "%s: The backing file name does not fit into the header cluster (try "
                           "using a larger cluster size)",
                           path);
    } else if (options->backing_format != NULL) {
        return err_set(err, -EINVAL, "%s: Backing format cannot be used without backing file",
                       path);
    }
    if (header_bytes(options) > cs)
        return err_set(err, -ENAMETOOLONG,
                       "%s: The data file name does not fit into the header cluster (try using a "
                       "larger cluster size)",
                       path);
    if (!layout_compute(options, &layout))
        return err_set(err, -EFBIG,
                       "%s: The image size is too large for file format 'qcow2' (try using a "
                       "larger cluster size)",
                       path);
    return 0;
}

int qcow2_create_measure(const struct blk_create_options *options, uint64_t *bytes, struct err *err)
{
    struct blk_create_options all = *options;
    struct layout layout;
    int rc = qcow2_create_validate(options, err);

    if (rc < 0)
        return rc;
    all.prealloc = BLK_PREALLOC_METADATA;
    all.data_file = NULL;
    if (!layout_compute(&all, &layout))
        return err_set(err, -EFBIG,
                       "%s: The image size is too large (try using a larger cluster size)",
                       options->path);
    *bytes = (layout.total_clusters - layout.data_clusters) * layout.cluster_size;
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
    store_be32(header + 32, options->luks != NULL ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_NONE);
    store_be32(header + 36, (uint32_t)l->l1_entries);
    store_be64(header + 40, l->l1_table);
    store_be64(header + 48, l->refcount_table);
    store_be32(header + 56, (uint32_t)l->refcount_table_clusters);
    at = header + QCOW2_V2_HEADER_LENGTH;
    if (v3) {
        store_be64(header + 72, (has_zstd(options) ? QCOW2_INCOMPAT_COMPRESSION : 0) |
                                    (options->data_file != NULL ? QCOW2_INCOMPAT_DATA_FILE : 0) |
                                    (options->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0));
        store_be64(header + 80, options->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
        store_be64(header + 88, options->data_file_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0);
        store_be32(header + 96, (uint32_t)__builtin_ctz(refcount_bits_of(options)));
        store_be32(header + 100, QCOW2_V3_HEADER_LENGTH);
        header[104] = has_zstd(options) ? QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB;
        at = header + QCOW2_V3_HEADER_LENGTH;
    }
    if (options->backing_format != NULL)
        at = put_extension(at, QCOW2_EXT_BACKING_FORMAT, options->backing_format,
                           strlen(options->backing_format));
    if (options->luks != NULL) {
        unsigned char place[QCOW2_LUKS_EXTENSION_BYTES];

        store_be64(place, l->luks_header);
        store_be64(place + 8, l->luks.payload_offset);
        at = put_extension(at, QCOW2_EXT_LUKS, place, sizeof(place));
    }
    if (options->data_file != NULL)
        at = put_extension(at, QCOW2_EXT_DATA_FILE, options->data_file, strlen(options->data_file));
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

/* Writes `count` entries from `offset` on, each the big-endian 64-bit number first, first + step, ...
 * and, when it is larger, zeros. */
static int write_entries(struct file *file, uint64_t offset, uint64_t count, size_t entry_bytes,
                         uint64_t first, uint64_t step)
{
    size_t room = (size_t)min_u64(count * entry_bytes, CHUNK);
    unsigned char *buf = calloc(1, room + 1);
    int rc = buf == NULL ? -ENOMEM : 0;

    while (rc == 0 && count > 0) {
        size_t n = (size_t)min_u64(count, room / entry_bytes);

        for (size_t i = 0; i < n; i++, first += step)
            store_be64(buf + entry_bytes * i, first);
        rc = file_pwrite(file, offset, buf, entry_bytes * n);
        offset += entry_bytes * n;
        count -= n;
    }
    free(buf);
    return rc;
}

static int write_refcounts(struct file *file, const struct blk_create_options *options,
                           const struct layout *l)
{
    unsigned bits = refcount_bits_of(options);
    uint64_t offset = l->first_refcount_block;
    uint64_t left = l->total_clusters;
    uint64_t per_chunk = min_u64(left, (uint64_t)CHUNK * 8 / bits);
    unsigned char *buf = malloc(div_round_up(per_chunk * bits, 8));
    int rc = 0;

    if (buf == NULL)
        return -ENOMEM;
    while (rc == 0 && left > 0) {
        uint64_t n = min_u64(left, per_chunk);
        size_t bytes = (size_t)div_round_up(n * bits, 8);

        /* The bits behind the last cluster stay zero in its byte. */
        memset(buf, 0, bytes);
        for (uint64_t i = 0; i < n; i++)
            qcow2_refcount_encode(buf, bits, i, 1);
        rc = file_pwrite(file, offset, buf, bytes);
        offset += bytes;
        left -= n;
    }
    free(buf);
    return rc;
}

static int write_l2_tables(struct file *file, const struct blk_create_options *options,
                           const struct layout *l)
{
    int rc = write_entries(file, l->l1_table, l->l1_entries, QCOW2_ENTRY_SIZE,
                           l->first_l2_table | QCOW2_ENTRY_COPIED, l->cluster_size);

    /* The tables lie side by side: one run of entries. */
    if (rc == 0)
        rc = write_entries(file, l->first_l2_table, l->mapped_clusters, l2_entry_bytes(options),
                           l->first_mapped | QCOW2_ENTRY_COPIED |
                               (options->luks != NULL && !options->extended_l2 ? QCOW2_L2_ZERO : 0),
                           l->cluster_size);
    return rc;
}

/* The encryption header, and the key material of its one slot; the others are zeros. */
static int write_luks(struct file *file, const struct blk_create_options *options, struct layout *l,
                      struct err *err)
{
    const struct luks_passphrase key = {options->luks->key.bytes, options->luks->key.length};
    const struct luks_format_options luks = luks_options_of(options);
    unsigned char raw[LUKS_HEADER_BYTES];
    size_t bytes = luks_material_bytes(&l->luks);
    unsigned char *material = malloc(bytes);
    int rc = material != NULL ? 0 : err_set_errno(err, -ENOMEM, "%s", options->path);

    if (rc == 0) {
        rc = luks_format(&luks, &l->luks, &key, material, NULL, err);
        if (rc < 0)
            err_prefix(err, rc, "%s", options->path);
    }
    if (rc == 0) {
        luks_header_encode(&l->luks, raw);
        rc = file_pwrite(file, l->luks_header, raw, sizeof(raw));
        if (rc == 0)
            rc = file_pwrite(file, l->luks_header + l->luks.slots[0].key_offset, material, bytes);
        if (rc < 0)
            err_set_errno(err, rc, "%s: Could not write the encryption header", options->path);
    }
    free(material);
    return rc;
}

int qcow2_create_write(struct file *file, const struct blk_create_options *options, struct err *err)
{
    struct layout l;
    uint64_t data_bytes, size;
    struct err problem;
    int rc;

    if (!layout_compute(options, &l))
        return err_set(err, -EFBIG, "%s: The image size is too large", options->path);
    data_bytes = l.data_clusters * l.cluster_size;
    rc = file_remake(file, l.total_clusters * l.cluster_size);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not resize image", options->path);
    rc = file->ops->size(file, &size);
    /* A block device keeps its length and what it held. */
    if (rc == 0 && size != l.total_clusters * l.cluster_size)
        rc = file_write_zeroes(file, 0, l.first_data);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not clear the image", options->path);
    if (options->prealloc == BLK_PREALLOC_FALLOC || options->prealloc == BLK_PREALLOC_FULL)
        rc = file_preallocate(file, l.first_data, data_bytes,
                              options->prealloc == BLK_PREALLOC_FULL, &problem);
    if (rc < 0)
        return err_set(err, rc, "%s: Could not resize image: Failed to resize underlying file: %s",
                       options->path, problem.text);
    if (options->luks != NULL) {
        rc = write_luks(file, options, &l, err);
        if (rc < 0)
            return rc;
    }
    if (has_tables(options))
        rc = write_l2_tables(file, options, &l);
    if (rc == 0)
        rc = write_refcounts(file, options, &l);
    if (rc == 0)
        rc = write_entries(file, l.refcount_table, l.refcount_blocks, QCOW2_ENTRY_SIZE,
                           l.first_refcount_block, l.cluster_size);
    if (rc == 0)
        rc = write_header(file, options, &l);
    if (rc < 0)
        return err_set_errno(err, rc, "%s: Could not write qcow2 header", options->path);
    return 0;
}
