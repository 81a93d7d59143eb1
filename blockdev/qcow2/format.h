/*
 * format.h - qcow2 as it lies on disk: constants, offsets and limits. Source: the qcow2
 * specification, docs/interop/qcow2.txt of QEMU. Every integer on disk is big-endian; the struct
 * below is host order.
 *
 * Header (version 2 ends at 72; version 3 at header_length):
 *   0 magic  4 version  8 backing_file_offset(8)  16 backing_file_size  20 cluster_bits  24 size(8)
 *   32 crypt_method  36 l1_size  40 l1_table_offset(8)  48 refcount_table_offset(8)
 *   56 refcount_table_clusters  60 nb_snapshots  64 snapshots_offset(8)
 *   72 incompatible_features(8)  80 compatible_features(8)  88 autoclear_features(8)
 *   96 refcount_order  100 header_length  104 compression_type(1)
 * Extensions follow at header_length (72 in version 2): type(4), length(4), data padded to 8 bytes.
 */
#ifndef QCOW2_FORMAT_H
#define QCOW2_FORMAT_H

#include <stdint.h>

#define QCOW2_MAGIC UINT32_C(0x514649fb) /* "QFI\xfb" */

enum {
    QCOW2_AT_INCOMPATIBLE = 72, /* in the header */
    QCOW2_V2_HEADER_LENGTH = 72,
    QCOW2_V3_HEADER_MIN = 104,
    QCOW2_V3_HEADER_LENGTH = 112, /* what we write: compression_type and its padding included */
    QCOW2_MIN_CLUSTER_BITS = 9,
    QCOW2_MAX_CLUSTER_BITS = 21,
    QCOW2_DEFAULT_CLUSTER_BITS = 16,
    QCOW2_MAX_REFCOUNT_ORDER = 6,
    QCOW2_DEFAULT_REFCOUNT_ORDER = 4, /* 16 bits */
    QCOW2_MAX_BACKING_NAME = 1023,
    QCOW2_MAX_SNAPSHOTS = 65536,
    QCOW2_ENTRY_SIZE = 8, /* L1, L2, refcount and bitmap table entries */
    QCOW2_EXTENDED_L2_ENTRY_SIZE = 16,
    QCOW2_SUBCLUSTERS_BITS = 5, /* with extended L2 entries */
    QCOW2_SUBCLUSTERS = 1 << QCOW2_SUBCLUSTERS_BITS,
    QCOW2_EXTENDED_L2_MIN_CLUSTER_BITS = 14, /* 32 subclusters of 512 bytes */
    QCOW2_BITMAPS_EXTENSION_BYTES = 24,
    QCOW2_LUKS_EXTENSION_BYTES = 16,
    QCOW2_CRYPT_NONE = 0,
    QCOW2_CRYPT_AES = 1,
    QCOW2_CRYPT_LUKS = 2,
    QCOW2_HEADER_AREA = 64 << 10, /* what is read of cluster 0: names and extensions need no more */
    QCOW2_COMPRESSION_ZLIB = 0,
    QCOW2_COMPRESSION_ZSTD = 1,
    QCOW2_PACKED_SECTOR = 512, /* what the length of compressed data is counted in */
};

/* QEMU's limits; a table that passes them is still checked against the file. */
#define QCOW2_MAX_L1_BYTES             (UINT64_C(32) << 20)
#define QCOW2_MAX_REFCOUNT_TABLE_BYTES (UINT64_C(8) << 20)
/* Host offsets have 56 bits (specification, "Standard Cluster Descriptor"). */
#define QCOW2_MAX_HOST_OFFSET (UINT64_C(1) << 56)

/* Incompatible features */
#define QCOW2_INCOMPAT_DIRTY       (UINT64_C(1) << 0)
#define QCOW2_INCOMPAT_CORRUPT     (UINT64_C(1) << 1)
#define QCOW2_INCOMPAT_DATA_FILE   (UINT64_C(1) << 2)
#define QCOW2_INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2 (UINT64_C(1) << 4)
#define QCOW2_INCOMPAT_KNOWN       UINT64_C(0x1f)
/* Compatible features */
#define QCOW2_COMPAT_LAZY_REFCOUNTS (UINT64_C(1) << 0)
/* Autoclear features */
#define QCOW2_AUTOCLEAR_BITMAPS  (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA (UINT64_C(1) << 1)

/* Header extensions */
#define QCOW2_EXT_END            UINT32_C(0x00000000)
#define QCOW2_EXT_BACKING_FORMAT UINT32_C(0xe2792aca)
#define QCOW2_EXT_FEATURE_NAMES  UINT32_C(0x6803f857)
#define QCOW2_EXT_BITMAPS        UINT32_C(0x23852875)
#define QCOW2_EXT_LUKS           UINT32_C(0x0537be77)
#define QCOW2_EXT_DATA_FILE      UINT32_C(0x44415441)

/* L1 and L2 entries. Decode in this order: COMPRESSED, then ZERO, then the offset. */
#define QCOW2_ENTRY_COPIED      (UINT64_C(1) << 63) /* refcount is exactly one */
#define QCOW2_L2_COMPRESSED     (UINT64_C(1) << 62)
#define QCOW2_L2_ZERO           (UINT64_C(1) << 0) /* version 3, standard L2 entries */
#define QCOW2_OFFSET_MASK       UINT64_C(0x00fffffffffffe00)
#define QCOW2_L1_RESERVED       UINT64_C(0x7f000000000001ff)
#define QCOW2_L2_RESERVED       UINT64_C(0x3f000000000001fe)
#define QCOW2_REFTABLE_RESERVED UINT64_C(0x00000000000001ff)

/* The header in host byte order. */
struct qcow2_header {
    uint32_t magic;
    uint32_t version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size; /* entries */
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order;
    uint32_t header_length;
    uint8_t compression_type;
    /* From its extension: where the encryption header lies, whole clusters; length 0: there is none. */
    uint64_t luks_offset, luks_length;
};

/* log2 of the bytes of an L2 entry. */
static inline unsigned qcow2_header_l2_entry_bits(const struct qcow2_header *h)
{
    return (h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) != 0 ? 4 : 3;
}

/* refcount_width.c: entry `index` of a refcount block (or of blocks that lie side by side), `bits`
 * wide: 1, 2, 4, ... 64. The value must fit. */
uint64_t qcow2_refcount_decode(const uint8_t *block, unsigned bits, uint64_t index);
void qcow2_refcount_encode(uint8_t *block, unsigned bits, uint64_t index, uint64_t value);
/* The greatest value of an entry. */
uint64_t qcow2_refcount_limit(unsigned bits);

#endif
