/*
 * bitmap_dir.c - the bitmap directory: a list of entries of variable length. What it says is checked
 * here as far as that needs no look at the file; words and limits are QEMU's. One thing is allowed
 * that QEMU refuses: extra data, which the specification wants to be kept as it is, and whose bitmap
 * can be used only if it says so.
 */
#include "bytes.h"
#include "qcow2/bitmap.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void bitmap_free(struct qcow2_bitmaps *set, struct bitmap *b)
{
    if (b != NULL) {
        bitmap_bits_drop(set, b);
        free(b->name);
        free(b->extra);
        free(b);
    }
}

struct bitmap *bitmap_find(const struct qcow2_bitmaps *set, const char *name)
{
    for (unsigned i = 0; set != NULL && i < set->count; i++) {
        if (strcmp(set->list[i]->name, name) == 0) {
            return set->list[i];
        }
    }
    return NULL;
}

int bitmap_list_append(struct qcow2_bitmaps *set, struct bitmap *b)
{
    /* Room grows at each power of two. */
    if ((set->count & (set->count + 1)) == 0) {
        struct bitmap **grown =
            realloc(set->list, ((size_t)set->count + 1) * 2 * sizeof(struct bitmap *));

        if (grown == NULL) {
            return -ENOMEM;
        }
        set->list = grown;
    }
    set->list[set->count++] = b;
    return 0;
}

static uint64_t entry_bytes(uint64_t name_size, uint64_t extra_size)
{
    return align_up(BITMAP_ENTRY_BYTES + extra_size + name_size, 8);
}

/* Whether an entry's fields are within the limits. */
static bool is_sound(const struct bitmap *b, uint8_t type, uint64_t name_size,
                     unsigned cluster_bits)
{
    return b->now.table_size != 0 && b->now.table_offset != 0 &&
           is_aligned(b->now.table_offset, UINT64_C(1) << cluster_bits) &&
           b->now.table_offset < QCOW2_MAX_HOST_OFFSET &&
           b->now.table_size <= BITMAP_MAX_BYTES >> cluster_bits &&
           (b->now.flags & ~BITMAP_FLAGS_KNOWN) == 0 && type == BITMAP_TYPE_DIRTY &&
           b->granularity_bits >= BITMAP_MIN_GRANULARITY_BITS &&
           b->granularity_bits <= BITMAP_MAX_GRANULARITY_BITS && name_size > 0 &&
           name_size <= BITMAP_MAX_NAME;
}

static int parse_entry(struct qcow2_bitmaps *set, const uint8_t *raw, uint64_t room,
                       bool is_too_many, unsigned cluster_bits, uint64_t *used, struct err *err)
{
    uint64_t name_size, extra_size;
    const uint8_t *name;
    struct bitmap *b;

    if (room < BITMAP_ENTRY_BYTES) {
        return err_set(err, -EINVAL, "Broken bitmap directory");
    }
    name_size = load_be16(raw + 18);
    extra_size = load_be32(raw + 20);
    *used = entry_bytes(name_size, extra_size);
    if (*used > room) {
        return err_set(err, -EINVAL, "Broken bitmap directory");
    }
    if (is_too_many) {
        return err_set(err, -EINVAL, "More bitmaps found than specified in header extension");
    }
    name = raw + BITMAP_ENTRY_BYTES + extra_size;
    b = calloc(1, sizeof(*b));
    if (b == NULL) {
        return err_set_errno(err, -ENOMEM, "Bitmap directory");
    }
    b->now.table_offset = load_be64(raw);
    b->now.table_size = load_be32(raw + 8);
    b->now.flags = load_be32(raw + 12);
    b->granularity_bits = raw[17];
    b->extra_size = (uint32_t)extra_size;
    b->now.is_enabled = (b->now.flags & BITMAP_AUTO) != 0;
    b->now.is_inconsistent = (b->now.flags & BITMAP_IN_USE) != 0;
    b->is_foreign = extra_size > 0 && (b->now.flags & BITMAP_EXTRA_COMPATIBLE) == 0;
    b->name = strndup((const char *)name, name_size);
    b->extra = extra_size > 0 ? malloc(extra_size) : NULL;
    if (b->name == NULL || (extra_size > 0 && b->extra == NULL)) {
        bitmap_free(set, b);
        return err_set_errno(err, -ENOMEM, "Bitmap directory");
    }
    set->has_cut_name |= strlen(b->name) != name_size;
    if (b->extra != NULL) {
        memcpy(b->extra, raw + BITMAP_ENTRY_BYTES, extra_size);
    }
    if (!is_sound(b, raw[16], name_size, cluster_bits)) {
        int r = err_set(err, -EINVAL, "Bitmap '%s' doesn't satisfy the constraints", b->name);

        bitmap_free(set, b);
        return r;
    }
    if (bitmap_list_append(set, b) != 0) {
        bitmap_free(set, b);
        return err_set_errno(err, -ENOMEM, "Bitmap directory");
    }
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(struct bitmap *const *)a)->name, (*(struct bitmap *const *)b)->name);
}

static int refuse_duplicates(const struct qcow2_bitmaps *set, struct err *err)
{
    struct bitmap **sorted = calloc((size_t)set->count + 1, sizeof(void *));
    int r = 0;

    if (sorted == NULL) {
        return err_set_errno(err, -ENOMEM, "Bitmap directory");
    }
    for (unsigned i = 0; i < set->count; i++) {
        sorted[i] = set->list[i];
    }
    qsort(sorted, set->count, sizeof(void *), compare_names);
    for (unsigned i = 1; i < set->count && r == 0; i++) {
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) {
            r = err_set(err, -EINVAL, "Bitmap already exists: %s", sorted[i]->name);
        }
    }
    free(sorted);
    return r;
}

int bitmap_directory_parse(struct qcow2_bitmaps *set, const uint8_t *raw, uint64_t size,
                           uint32_t count, unsigned cluster_bits, struct err *err)
{
    uint64_t at = 0, used = 0;

    while (at < size) {
        int r;

        r = parse_entry(set, raw + at, size - at, set->count == count, cluster_bits, &used, err);
        if (r != 0) {
            return r;
        }
        at += used;
    }
    if (set->count < count) {
        return err_set(err, -EINVAL, "Less bitmaps found than specified in header extension");
    }
    return refuse_duplicates(set, err);
}

uint64_t bitmap_directory_bytes(const struct qcow2_bitmaps *set)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < set->count; i++) {
        bytes += entry_bytes(strlen(set->list[i]->name), set->list[i]->extra_size);
    }
    return bytes;
}

void bitmap_directory_encode(const struct qcow2_bitmaps *set, uint8_t *raw)
{
    for (unsigned i = 0; i < set->count; i++) {
        struct bitmap *b = set->list[i];
        size_t name_size = strlen(b->name);
        uint64_t bytes = entry_bytes(name_size, b->extra_size);

        b->now.flags = (b->now.flags & BITMAP_EXTRA_COMPATIBLE) |
                       (b->now.is_enabled ? BITMAP_AUTO : 0) |
                       (b->now.is_inconsistent || b->now.is_marked ? BITMAP_IN_USE : 0);
        memset(raw, 0, bytes);
        store_be64(raw, b->now.table_offset);
        store_be32(raw + 8, b->now.table_size);
        store_be32(raw + 12, b->now.flags);
        raw[16] = BITMAP_TYPE_DIRTY;
        raw[17] = (uint8_t)b->granularity_bits;
        store_be16(raw + 18, (uint16_t)name_size);
        store_be32(raw + 20, b->extra_size);
        if (b->extra_size > 0) {
            memcpy(raw + BITMAP_ENTRY_BYTES, b->extra, b->extra_size);
        }
        memcpy(raw + BITMAP_ENTRY_BYTES + b->extra_size, b->name, name_size);
        raw += bytes;
    }
}
