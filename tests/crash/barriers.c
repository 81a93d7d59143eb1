#include "barriers.h"
#include "bytes.h"
#include "checked.h"

#include <string.h>

enum { AT_SIZE = 24, AT_INCOMPATIBLE = 72, DIRTY = 1 };

static uint64_t load(const struct pages *pages, uint64_t at, size_t bytes)
{
    uint8_t raw[8];

    pages_read(pages, at, raw, bytes);
    return bytes == 4 ? load_be32(raw) : load_be64(raw);
}

static bool writes_luks_header(const struct event *event)
{
    static const char magic[] = {'L', 'U', 'K', 'S'};

    return event->op == DISK_WRITE && event->length > sizeof(magic) &&
           memcmp(event->data, magic, sizeof(magic)) == 0;
}

/* What a change of the image in the end is, by the tables that the image then has. */
static enum barrier kind_of(const struct pages *image, const struct event *event)
{
    const uint64_t mask = UINT64_C(0x00fffffffffffe00);
    uint64_t cluster = UINT64_C(1) << load(image, 20, 4), l1 = load(image, 40, 8);
    uint64_t l1_count = load(image, 36, 4);

    if (event->op == DISK_ZERO) {
        return BARRIER_FREE;
    }
    if (event->op != DISK_WRITE) {
        return BARRIER_NONE;
    }
    if (event->offset < SECTOR) {
        return BARRIER_HEADER;
    }
    if (writes_luks_header(event)) {
        return BARRIER_SLOT;
    }
    if (ranges_overlap(event->offset, event->length, load(image, 48, 8),
                       load(image, 56, 4) * cluster)) {
        return BARRIER_REFTABLE;
    }
    if (ranges_overlap(event->offset, event->length, l1, l1_count * 8)) {
        return BARRIER_MAPPING;
    }
    for (uint64_t i = 0; i < l1_count; i++) {
        uint64_t l2 = load(image, l1 + i * 8, 8) & mask;

        if (l2 != 0 && ranges_overlap(event->offset, event->length, l2, cluster)) {
            return BARRIER_MAPPING;
        }
    }
    return BARRIER_FLUSH;
}

/* What stands behind the sync, but for other files' changes and syncs. */
static enum barrier kind_behind(const struct disk *log, size_t sync)
{
    for (size_t i = sync + 1; i < log->event_count; i++) {
        const struct event *event = &log->events[i];

        if (event->file == 0 && event->op != DISK_SYNC && event->op != DISK_TRUNCATE) {
            return kind_of(&log->files[0].pages, event);
        }
    }
    return BARRIER_FLUSH;
}

/* Whether the event writes the 8 bytes of the image at `at`; then *value is what they become. */
static bool writes_field(const struct event *event, uint64_t at, uint64_t *value)
{
    if (event->file != 0 || event->op != DISK_WRITE || event->offset > at ||
        event->offset + event->length < at + 8) {
        return false;
    }
    *value = load_be64(event->data + (at - event->offset));
    return true;
}

static bool is_smaller(const struct disk *log, size_t at)
{
    uint64_t size, before;

    if (!writes_field(&log->events[at], AT_SIZE, &size)) {
        return false;
    }
    while (at > 0) {
        if (writes_field(&log->events[--at], AT_SIZE, &before)) {
            return size < before;
        }
    }
    return true; /* the first is, in the workloads that shrink */
}

/* A directory of bitmaps: it has the tracker's name in it. */
static bool writes_directory(const struct event *event)
{
    static const char name[] = "tracker";

    return event->op == DISK_WRITE &&
           memmem(event->data, event->length, name, sizeof(name) - 1) != NULL;
}

/* What was written to the image last when the sync came. */
static enum barrier kind_before(const struct disk *log, size_t sync)
{
    uint64_t features;

    while (sync > 0) {
        const struct event *event = &log->events[--sync];

        if (event->file != 0 || event->op == DISK_SYNC) {
            continue;
        }
        if (writes_field(event, AT_INCOMPATIBLE, &features) && (features & DIRTY) != 0) {
            return BARRIER_DIRTY;
        }
        return is_smaller(log, sync)       ? BARRIER_SIZE
               : writes_directory(event)   ? BARRIER_MARKS
               : writes_luks_header(event) ? BARRIER_ERASED
                                           : BARRIER_NONE;
    }
    return BARRIER_NONE;
}

static bool is_kind(const struct disk *log, size_t sync, enum barrier barrier)
{
    if (log->events[sync].op != DISK_SYNC) {
        return false;
    }
    if (log->events[sync].file != 0) {
        return barrier == BARRIER_OTHER;
    }
    return barrier == kind_behind(log, sync) || barrier == kind_before(log, sync);
}

unsigned barriers_drop(struct disk *log, enum barrier barrier)
{
    unsigned dropped = 0;

    for (size_t i = 0; i < log->event_count && barrier != BARRIER_NONE; i++) {
        if (is_kind(log, i, barrier)) {
            log->events[i].end = DISK_NEVER;
            dropped++;
        }
    }
    return dropped;
}
