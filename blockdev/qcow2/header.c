/*
 * header.c - reads and checks the header, its extensions and the backing name: all of cluster 0.
 * Nothing here is trusted: every number is checked against the format's limits and the file's size
 * before it is used. Source: qcow2 specification, "Header" and "Header extensions".
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FEATURE_ENTRY_BYTES = 48,
    FEATURE_NAME_BYTES = 46,
    FEATURE_TYPE_INCOMPATIBLE = 0,
    FIRST_BYTES = 4096 /* read at once, and so in steps */
};

static void decode(struct qcow2_header *h, const uint8_t *raw)
{
    *h = (struct qcow2_header){
        .magic = load_be32(raw),
        .version = load_be32(raw + 4),
        .backing_file_offset = load_be64(raw + 8),
        .backing_file_size = load_be32(raw + 16),
        .cluster_bits = load_be32(raw + 20),
        .size = load_be64(raw + 24),
        .crypt_method = load_be32(raw + 32),
        .l1_size = load_be32(raw + 36),
        .l1_table_offset = load_be64(raw + 40),
        .refcount_table_offset = load_be64(raw + 48),
        .refcount_table_clusters = load_be32(raw + 56),
        .nb_snapshots = load_be32(raw + 60),
        .snapshots_offset = load_be64(raw + 64),
        .refcount_order = QCOW2_DEFAULT_REFCOUNT_ORDER,
        .header_length = QCOW2_V2_HEADER_LENGTH,
    };
    if (h->version >= 3) {
        h->incompatible_features = load_be64(raw + 72);
        h->compatible_features = load_be64(raw + 80);
        h->autoclear_features = load_be64(raw + 88);
        h->refcount_order = load_be32(raw + 96);
        h->header_length = load_be32(raw + 100);
        if (h->header_length > QCOW2_V3_HEADER_MIN) {
            h->compression_type = raw[104];
        }
    }
}

static int check_table(const char *what, uint64_t offset, uint64_t bytes, uint64_t cluster_size,
                       uint64_t file_size, struct err *err)
{
    if (!is_aligned(offset, cluster_size) || (bytes > 0 && offset == 0)) {
        return err_set(err, -EINVAL, "%s offset 0x%" PRIx64 " is invalid", what, offset);
    }
    if (bytes > 0 && !range_within(offset, bytes, file_size)) {
        return err_set(err, -EINVAL, "%s lies beyond the end of the file", what);
    }
    return 0;
}

/* Guest data must not land on it, nor the tables' own writes. */
static int check_luks(const struct qcow2_header *h, uint64_t cluster_size, uint64_t file_size,
                      bool may_overlap, struct err *err)
{
    uint64_t l1_bytes = (uint64_t)h->l1_size * QCOW2_ENTRY_SIZE;
    uint64_t reftable_bytes = h->refcount_table_clusters * cluster_size;
    int r;

    if (h->luks_length == 0) {
        return err_set(err, -EINVAL, "The image is encrypted, but has no encryption header");
    }
    r = check_table("Encryption header", h->luks_offset, h->luks_length, cluster_size, file_size,
                    err);
    if (r == 0 && !may_overlap &&
        (ranges_overlap(h->luks_offset, h->luks_length, h->l1_table_offset, l1_bytes) ||
         ranges_overlap(h->luks_offset, h->luks_length, h->refcount_table_offset,
                        reftable_bytes))) {
        r = err_set(err, -EINVAL, "Encryption header overlaps with a table");
    }
    return r;
}

static int check_tables(const struct qcow2_header_info *info, uint64_t file_size, struct err *err)
{
    const struct qcow2_header *h = &info->header;
    uint64_t cluster_size = UINT64_C(1) << h->cluster_bits;
    uint64_t l2_coverage = cluster_size << (h->cluster_bits - qcow2_header_l2_entry_bits(h));
    uint64_t reftable_bytes = h->refcount_table_clusters * cluster_size;
    int r;

    if (h->size > INT64_MAX) {
        return err_set(err, -EFBIG, "Image size %" PRIu64 " is too large", h->size);
    }
    if (h->l1_size > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE) {
        return err_set(err, -EFBIG, "L1 table is too large");
    }
    if (h->l1_size < div_round_up(h->size, l2_coverage)) {
        return err_set(err, -EINVAL, "L1 table is too small");
    }
    if (h->refcount_table_clusters == 0) {
        return err_set(err, -EINVAL, "Image does not contain a refcount table");
    }
    if (reftable_bytes > QCOW2_MAX_REFCOUNT_TABLE_BYTES) {
        return err_set(err, -EFBIG, "Refcount table is too large");
    }
    r = check_table("L1 table", h->l1_table_offset, (uint64_t)h->l1_size * QCOW2_ENTRY_SIZE,
                    cluster_size, file_size, err);
    if (r == 0) {
        /* Only its first entries must exist: a file may end inside the table's last cluster. */
        r = check_table("Refcount table", h->refcount_table_offset, QCOW2_ENTRY_SIZE, cluster_size,
                        file_size, err);
    }
    if (r == 0 && h->crypt_method == QCOW2_CRYPT_LUKS) {
        r = check_luks(h, cluster_size, file_size, info->for_check, err);
    }
    return r;
}

int qcow2_header_check_snapshots(const struct qcow2_header *h, uint64_t file_size, struct err *err)
{
    if (h->nb_snapshots > QCOW2_MAX_SNAPSHOTS) {
        return err_set(err, -EFBIG, "Snapshot table is too large");
    }
    return h->nb_snapshots > 0 ? check_table("Snapshot table", h->snapshots_offset, 1,
                                             UINT64_C(1) << h->cluster_bits, file_size, err)
                               : 0;
}

static int check_basics(const struct qcow2_header *h, struct err *err)
{
    if (h->magic != QCOW2_MAGIC) {
        return err_set(err, -EINVAL, "Image is not in qcow2 format");
    }
    if (h->version != 2 && h->version != 3) {
        return err_set(err, -ENOTSUP, "Unsupported qcow2 version %" PRIu32, h->version);
    }
    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return err_set(err, -EINVAL, "Unsupported cluster size: 2^%" PRIu32, h->cluster_bits);
    }
    if (h->version == 3 && h->header_length < QCOW2_V3_HEADER_MIN) {
        return err_set(err, -EINVAL, "qcow2 header too short");
    }
    if (h->header_length > UINT64_C(1) << h->cluster_bits || h->header_length % 8 != 0) {
        return err_set(err, -EINVAL, "qcow2 header length %" PRIu32 " is invalid",
                       h->header_length);
    }
    if (h->refcount_order > QCOW2_MAX_REFCOUNT_ORDER) {
        return err_set(err, -EINVAL,
                       "Reference count entry width too large; may not exceed 64 bits");
    }
    if (h->backing_file_offset != 0 && (h->backing_file_offset < QCOW2_V2_HEADER_LENGTH ||
                                        h->backing_file_size > QCOW2_MAX_BACKING_NAME ||
                                        !range_within(h->backing_file_offset, h->backing_file_size,
                                                      UINT64_C(1) << h->cluster_bits))) {
        return err_set(err, -EINVAL, "Backing file name is too long or out of place");
    }
    return 0;
}

/* Names the incompatible bits that we do not know, from the feature name table where it has them.
 */
static int refuse_unknown(uint64_t bits, const uint8_t *names, size_t names_bytes, struct err *err)
{
    char text[512] = "";
    size_t used = 0;

    for (unsigned bit = 0; bit < 64; bit++) {
        const uint8_t *name = NULL;

        if ((bits >> bit & 1) == 0) {
            continue;
        }
        for (size_t i = 0; i + FEATURE_ENTRY_BYTES <= names_bytes; i += FEATURE_ENTRY_BYTES) {
            if (names[i] == FEATURE_TYPE_INCOMPATIBLE && names[i + 1] == bit) {
                name = names + i + 2;
            }
        }
        if (used < sizeof(text) - FEATURE_NAME_BYTES - 16) {
            int n =
                name != NULL && name[0] != 0
                    ? snprintf(text + used, sizeof(text) - used, "%s%.*s", used ? ", " : "",
                               FEATURE_NAME_BYTES, (const char *)name)
                    : snprintf(text + used, sizeof(text) - used, "%sbit %u", used ? ", " : "", bit);

            used += (size_t)n;
        }
    }
    return err_set(err, -ENOTSUP, "Unsupported qcow2 feature(s): %s", text);
}

static int check_features(const struct qcow2_header *h, const uint8_t *names, size_t names_bytes,
                          struct err *err)
{
    uint64_t unknown = h->incompatible_features & ~QCOW2_INCOMPAT_KNOWN;
    bool other_compression = (h->incompatible_features & QCOW2_INCOMPAT_COMPRESSION) != 0;

    if (unknown != 0) {
        return refuse_unknown(unknown, names, names_bytes, err);
    }
    if (h->crypt_method == QCOW2_CRYPT_AES) {
        return err_set(
            err, -ENOTSUP,
            "AES encryption of qcow2 is not safe and not supported; qemu-img convert can "
            "make a LUKS image of it");
    }
    if (h->crypt_method > QCOW2_CRYPT_LUKS) {
        return err_set(err, -ENOTSUP, "Unknown encryption method %" PRIu32, h->crypt_method);
    }
    if ((h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) != 0 &&
        h->cluster_bits < QCOW2_EXTENDED_L2_MIN_CLUSTER_BITS) {
        return err_set(err, -EINVAL, "Extended L2 entries need clusters of at least %d bytes",
                       1 << QCOW2_EXTENDED_L2_MIN_CLUSTER_BITS);
    }
    if (h->compression_type > 1) {
        return err_set(err, -ENOTSUP, "Unknown compression type %u", h->compression_type);
    }
    if (other_compression != (h->compression_type != 0)) {
        return err_set(err, -EINVAL, "Compression type and its feature bit contradict each other");
    }
    return 0;
}

static int copy_text(const struct qcow2_header_info *info, char **out, const uint8_t *bytes,
                     size_t length, const char *what, struct err *err)
{
    if (!info->for_check && memchr(bytes, 0, length) != NULL) {
        return err_set(err, -EINVAL, "%s holds a zero byte", what);
    }
    free(*out);
    *out = strndup((const char *)bytes, length);
    return *out != NULL ? 0 : err_set_errno(err, -ENOMEM, "%s", what);
}

static int read_bitmaps(struct qcow2_bitmaps_extension *out, const uint8_t *data, uint32_t length,
                        uint64_t at, struct err *err)
{
    if (length != QCOW2_BITMAPS_EXTENSION_BYTES) {
        return err_set(err, -EINVAL, "bitmaps_ext: Invalid extension length");
    }
    *out = (struct qcow2_bitmaps_extension){
        .at = at,
        .count = load_be32(data),
        .reserved = load_be32(data + 4),
        .directory_size = load_be64(data + 8),
        .directory_offset = load_be64(data + 16),
    };
    return 0;
}

static int read_luks(struct qcow2_header *h, const uint8_t *data, uint32_t length, struct err *err)
{
    if (h->crypt_method == QCOW2_CRYPT_NONE) {
        return err_set(err, -EINVAL, "There is an encryption header, but no LUKS encryption");
    }
    if (length != QCOW2_LUKS_EXTENSION_BYTES || load_be64(data + 8) == 0) {
        return err_set(err, -EINVAL, "The encryption header's extension has a wrong length");
    }
    h->luks_offset = load_be64(data);
    h->luks_length = load_be64(data + 8);
    return 0;
}

/* What the header may occupy at the beginning of the file, of which raw[0, loaded) has been read so far:
 * most headers take a few hundred bytes, and memory that is not touched costs nothing. */
struct header_bytes {
    struct file *file;
    uint8_t *raw;
    uint64_t loaded;
    uint64_t available; /* a cluster at most; zeros where the file ends before */
};

/* Loads raw[0, end); `end` is at most `available`. */
static int need(struct header_bytes *bytes, uint64_t end, struct err *err)
{
    uint64_t to = min_u64(bytes->available, align_up(end, FIRST_BYTES));
    int r;

    if (end <= bytes->loaded) {
        return 0;
    }
    r = file_pread(bytes->file, bytes->loaded, bytes->raw + bytes->loaded, to - bytes->loaded);
    if (r != 0) {
        return err_set_errno(err, r, "Could not read the header");
    }
    bytes->loaded = to;
    return 0;
}

/* Walks the extensions in front of `end`; the feature names are returned as a view into the bytes. */
static int read_extensions(struct qcow2_header_info *info, struct header_bytes *bytes, uint64_t end,
                           const uint8_t **names, size_t *names_bytes, struct err *err)
{
    uint64_t at = info->header.header_length;

    while (at + 8 <= end) {
        const uint8_t *data = bytes->raw + at + 8;
        uint32_t type, length;
        int r = need(bytes, at + 8, err);

        if (r != 0) {
            return r;
        }
        type = load_be32(data - 8);
        length = load_be32(data - 4);
        if (type == QCOW2_EXT_END) {
            at += 8;
            break;
        }
        if (length > end - at - 8) {
            return err_set(err, -EINVAL, "Header extension 0x%08" PRIx32 " is too large", type);
        }
        r = need(bytes, at + 8 + length, err);
        if (r != 0) {
            return r;
        }
        if (type == QCOW2_EXT_BACKING_FORMAT) {
            r = copy_text(info, &info->backing_format, data, length, "Backing format", err);
        } else if (type == QCOW2_EXT_DATA_FILE) {
            r = copy_text(info, &info->data_name, data, length, "Data file name", err);
        } else if (type == QCOW2_EXT_FEATURE_NAMES) {
            *names = data;
            *names_bytes = length;
        } else if (type == QCOW2_EXT_BITMAPS) {
            r = read_bitmaps(&info->bitmaps, data, length, at + 8, err);
        } else if (type == QCOW2_EXT_LUKS) {
            r = read_luks(&info->header, data, length, err);
        }
        if (r != 0) {
            return r;
        }
        at = min_u64(end, at + 8 + align_up(length, 8));
    }
    info->used_bytes = max_u64(info->used_bytes, at);
    return 0;
}

static int parse(struct qcow2_header_info *info, struct header_bytes *bytes, uint64_t file_size,
                 struct err *err)
{
    struct qcow2_header *h = &info->header;
    uint64_t end = h->backing_file_offset != 0 ? h->backing_file_offset : bytes->available;
    const uint8_t *names = NULL;
    size_t names_bytes = 0;
    int r = 0;

    info->used_bytes = h->header_length;
    r = read_extensions(info, bytes, end, &names, &names_bytes, err);
    if (r == 0 && h->backing_file_offset != 0 && h->backing_file_size != 0) {
        uint64_t name_end = h->backing_file_offset + h->backing_file_size;

        r = need(bytes, name_end, err);
        if (r == 0) {
            r = copy_text(info, &info->backing_name, bytes->raw + h->backing_file_offset,
                          h->backing_file_size, "Backing file name", err);
        }
        info->used_bytes = max_u64(info->used_bytes, name_end);
    }
    if (r == 0) {
        r = check_features(h, names, names_bytes, err);
    }
    return r != 0 ? r : check_tables(info, file_size, err);
}

int qcow2_header_read(struct file *file, bool for_check, struct qcow2_header_info *info,
                      struct err *err)
{
    struct header_bytes bytes = {.file = file, .available = FIRST_BYTES};
    uint64_t file_size;
    int r;

    *info = (struct qcow2_header_info){.for_check = for_check};
    r = file->ops->size(file, &file_size);
    if (r != 0) {
        return err_set_errno(err, r, "Could not read the file's size");
    }
    if (file_size < QCOW2_V2_HEADER_LENGTH) {
        uint8_t magic[4];
        bool is_qcow2 = file_size >= sizeof(magic) &&
                        file_pread(file, 0, magic, sizeof(magic)) == 0 &&
                        load_be32(magic) == QCOW2_MAGIC;

        return err_set(err, -EINVAL,
                       is_qcow2 ? "qcow2 header too short" : "Image is not in qcow2 format");
    }
    bytes.raw = malloc(QCOW2_HEADER_AREA);
    if (bytes.raw == NULL) {
        return err_set_errno(err, -ENOMEM, "Could not read the header");
    }
    r = need(&bytes, FIRST_BYTES, err);
    if (r == 0) {
        decode(&info->header, bytes.raw);
        r = check_basics(&info->header, err);
    }
    if (r == 0) {
        bytes.available = min_u64(QCOW2_HEADER_AREA, UINT64_C(1) << info->header.cluster_bits);
        r = !range_within(info->header.backing_file_offset, info->header.backing_file_size,
                          bytes.available)
                ? err_set(err, -ENOTSUP, "Backing file name lies too far behind the header")
                : parse(info, &bytes, for_check ? INT64_MAX : file_size, err);
    }
    free(bytes.raw);
    if (r != 0) {
        qcow2_header_free(info);
    }
    return r;
}

void qcow2_header_free(struct qcow2_header_info *info)
{
    free(info->backing_name);
    free(info->backing_format);
    free(info->data_name);
    info->data_name = NULL;
    info->backing_name = NULL;
    info->backing_format = NULL;
}
