#include "disk.h"
#include "checked.h"
#include "file.h"
#include "iov.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No workload needs more: a size beyond it is an error of the engine. */
static const uint64_t max_file = UINT64_C(1) << 30;

struct open_file {
    struct file file;
    struct disk *disk;
    unsigned index;
};

static struct disk *in_use;

int __wrap_file_open_posix(const char *path, const struct file_open_options *options,
                           struct file **out, struct err *err);
int __real_file_open_posix(const char *path, const struct file_open_options *options,
                           struct file **out, struct err *err);

void disk_init(struct disk *disk)
{
    *disk = (struct disk){.rng = {1}};
    pthread_mutex_init(&disk->lock, NULL);
}

void disk_free(struct disk *disk)
{
    for (unsigned i = 0; i < disk->count; i++) {
        pages_free(&disk->files[i].pages);
    }
    for (size_t i = 0; i < disk->event_count; i++) {
        free(disk->events[i].data);
    }
    free(disk->events);
    pthread_mutex_destroy(&disk->lock);
}

void disk_copy(struct disk *to, const struct disk *from)
{
    disk_init(to);
    to->count = from->count;
    for (unsigned i = 0; i < from->count; i++) {
        memcpy(to->files[i].name, from->files[i].name, sizeof(to->files[i].name));
        pages_copy(&to->files[i].pages, &from->files[i].pages);
    }
}

struct disk_file *disk_find(struct disk *disk, const char *name)
{
    while (strncmp(name, "./", 2) == 0) {
        name += 2;
    }
    for (unsigned i = 0; i < disk->count; i++) {
        if (strcmp(disk->files[i].name, name) == 0) {
            return &disk->files[i];
        }
    }
    return NULL;
}

struct disk_file *disk_add(struct disk *disk, const char *name)
{
    struct disk_file *file = disk_find(disk, name);

    if (file == NULL && disk->count < DISK_FILES) {
        file = &disk->files[disk->count++];
        snprintf(file->name, sizeof(file->name), "%s", name);
    }
    return file;
}

void disk_use(struct disk *disk)
{
    in_use = disk;
}

struct disk *disk_in_use(void)
{
    return in_use;
}

uint64_t disk_tick(struct disk *disk)
{
    uint64_t now;

    pthread_mutex_lock(&disk->lock);
    now = ++disk->clock;
    pthread_mutex_unlock(&disk->lock);
    return now;
}

uint64_t event_sectors(const struct event *event)
{
    return event->op == DISK_TRUNCATE
               ? 1
               : div_round_up(event->offset % SECTOR + event->length, SECTOR);
}

static void apply_range(const struct event *event, struct pages *pages, uint64_t from, uint64_t to)
{
    if (event->op == DISK_WRITE) {
        pages_write(pages, from, event->data + (from - event->offset), to - from);
    } else {
        pages_zero(pages, from, to - from);
    }
}

void event_apply(const struct event *event, struct pages *pages)
{
    if (event->op == DISK_TRUNCATE) {
        pages_resize(pages, event->offset);
    } else if (event->op != DISK_SYNC) {
        apply_range(event, pages, event->offset, event->offset + event->length);
    }
}

void event_apply_sectors(const struct event *event, struct pages *pages, uint64_t sector,
                         uint64_t count)
{
    uint64_t first = align_down(event->offset, SECTOR) + sector * SECTOR;

    if (event->op == DISK_TRUNCATE) {
        event_apply(event, pages);
    } else {
        apply_range(event, pages, max_u64(first, event->offset),
                    min_u64(first + count * SECTOR, event->offset + event->length));
    }
}

static struct open_file *open_of(struct file *file)
{
    return (struct open_file *)(void *)file;
}

static struct pages *pages_of(struct file *file)
{
    return &open_of(file)->disk->files[open_of(file)->index].pages;
}

/* With the lock. 0, or how the operation is to fail. */
static int take_fault(struct disk *d, enum disk_op op)
{
    if ((d->fault.ops & op) == 0) {
        return 0;
    }
    d->operations++;
    if (d->operations < d->fault.at || d->operations - d->fault.at >= d->fault.count) {
        return 0;
    }
    d->fault_fired = true;
    d->fired_ops |= op;
    return d->fault.code;
}

/* With the lock. Where the event stands in the log, or SIZE_MAX. */
static size_t log_event(struct disk *d, const struct event *event)
{
    if (!d->records) {
        return SIZE_MAX;
    }
    if (d->event_count == d->room) {
        d->room = d->room != 0 ? d->room * 2 : 256;
        d->events = realloc(d->events, d->room * sizeof(d->events[0]));
        if (d->events == NULL) {
            abort();
        }
    }
    d->events[d->event_count] = *event;
    d->events[d->event_count].start = ++d->clock;
    if (event->op == DISK_WRITE) {
        d->events[d->event_count].data = malloc(event->length + 1);
        memcpy(d->events[d->event_count].data, event->data, event->length);
    }
    return d->event_count++;
}

/* With the lock. A failed change leaves any part of itself behind: each of its sectors is written or
 * not, and those that are count as writes of their own. */
static void leave_pieces(struct disk *d, const struct event *event, struct pages *pages)
{
    if (event->op != DISK_WRITE && event->op != DISK_ZERO) {
        return;
    }
    for (uint64_t s = 0; s < event_sectors(event); s++) {
        uint64_t first = align_down(event->offset, SECTOR) + s * SECTOR;
        struct event piece = *event;
        size_t at;

        if (rng_one_in(&d->rng, 2)) {
            continue;
        }
        piece.offset = max_u64(first, event->offset);
        piece.length = min_u64(first + SECTOR, event->offset + event->length) - piece.offset;
        if (event->op == DISK_WRITE) {
            piece.data = event->data + (piece.offset - event->offset);
        }
        at = log_event(d, &piece);
        event_apply(&piece, pages);
        if (at != SIZE_MAX) {
            d->events[at].end = ++d->clock;
        }
    }
}

/* How many pages of a range are not there. */
static uint64_t missing_pages(const struct pages *pages, uint64_t offset, uint64_t length)
{
    uint64_t missing = 0;

    for (uint64_t at = align_down(offset, PAGE_BYTES); at < offset + length; at += PAGE_BYTES) {
        missing += !pages_hold(pages, at);
    }
    return missing;
}

/* With the lock. Takes what a write needs of a full disk, and gives back what a hole frees. */
static int take_room(struct disk *d, const struct event *event, const struct pages *pages)
{
    uint64_t missing = missing_pages(pages, event->offset, event->length);

    if (!d->is_full || event->op == DISK_SYNC) {
        return 0;
    }
    if (event->op == DISK_WRITE && missing > d->free_pages) {
        return -ENOSPC;
    }
    if (event->op == DISK_WRITE) {
        d->free_pages -= missing;
    } else if (event->op == DISK_ZERO) {
        uint64_t first = align_up(event->offset, PAGE_BYTES);
        uint64_t end = align_down(event->offset + event->length, PAGE_BYTES);

        d->free_pages +=
            first < end ? (end - first) / PAGE_BYTES - missing_pages(pages, first, end - first) : 0;
    }
    return 0;
}

/* Carries out a change or a sync: the pages change at its start; it ends, for the clock, later. */
static int run_event(struct file *file, struct event *event, void (*midway)(void *opaque))
{
    struct disk *d = open_of(file)->disk;
    size_t at = SIZE_MAX;
    int r;

    event->file = open_of(file)->index;
    pthread_mutex_lock(&d->lock);
    r = take_fault(d, event->op);
    r = r == 0 ? take_room(d, event, pages_of(file)) : r;
    d->was_full = d->was_full || r == -ENOSPC;
    if (r == 0) {
        at = log_event(d, event);
        event_apply(event, pages_of(file));
    } else {
        leave_pieces(d, event, pages_of(file));
    }
    if (d->dawdles || midway != NULL) {
        pthread_mutex_unlock(&d->lock);
        if (midway != NULL) {
            midway(d->opaque);
        } else {
            sched_yield();
        }
        pthread_mutex_lock(&d->lock);
    }
    if (at != SIZE_MAX) {
        d->events[at].end = ++d->clock;
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

static int disk_preadv(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    struct disk *d = open_of(file)->disk;
    int r;

    if (!range_within(offset, iov_length(iov, count), INT64_MAX)) {
        return -EINVAL;
    }
    pthread_mutex_lock(&d->lock);
    r = take_fault(d, DISK_READ);
    for (int i = 0; i < count && r == 0; i++) {
        pages_read(pages_of(file), offset, iov[i].iov_base, iov[i].iov_len);
        offset += iov[i].iov_len;
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

static int disk_pwritev(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    struct event event = {.op = DISK_WRITE, .offset = offset, .length = iov_length(iov, count)};
    int r;

    if (!range_within(offset, event.length, max_file)) {
        return -EFBIG;
    }
    event.data = malloc(event.length + 1);
    iov_to_buf(iov, count, 0, event.data, event.length);
    r = run_event(file, &event, open_of(file)->disk->midway);
    free(event.data);
    return r;
}

static int disk_sync(struct file *file)
{
    return run_event(file, &(struct event){.op = DISK_SYNC}, NULL);
}

static int disk_size(struct file *file, uint64_t *bytes)
{
    pthread_mutex_lock(&open_of(file)->disk->lock);
    *bytes = pages_of(file)->size;
    pthread_mutex_unlock(&open_of(file)->disk->lock);
    return 0;
}

static int disk_truncate(struct file *file, uint64_t bytes)
{
    return bytes > max_file
               ? -EFBIG
               : run_event(file, &(struct event){.op = DISK_TRUNCATE, .offset = bytes}, NULL);
}

static int disk_zero(struct file *file, uint64_t offset, uint64_t length, bool punch)
{
    if (open_of(file)->disk->cannot_zero) {
        return -ENOTSUP;
    }
    return run_event(file, &(struct event){.op = DISK_ZERO, .offset = offset, .length = length},
                     punch ? NULL : open_of(file)->disk->midway);
}

/* Space is always there; what is seen of it is the size. */
static int disk_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    struct disk *d = open_of(file)->disk;
    uint64_t size;
    int r;

    pthread_mutex_lock(&d->lock);
    r = take_fault(d, DISK_ALLOCATE);
    size = pages_of(file)->size;
    pthread_mutex_unlock(&d->lock);
    return r != 0 || offset + length <= size ? r : disk_truncate(file, offset + length);
}

static int disk_extent(struct file *file, uint64_t offset, bool *is_data, uint64_t *end)
{
    struct disk *d = open_of(file)->disk;
    struct pages *pages = pages_of(file);

    pthread_mutex_lock(&d->lock);
    *is_data = offset < pages->size && pages_hold(pages, offset);
    *end = align_down(offset, PAGE_BYTES);
    do {
        *end += PAGE_BYTES;
    } while (*end < pages->size && pages_hold(pages, *end) == *is_data);
    *end = max_u64(offset, min_u64(*end, pages->size));
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static void disk_close(struct file *file)
{
    free(file->path);
    free(file);
}

static const struct file_ops disk_ops = {
    .preadv = disk_preadv,
    .pwritev = disk_pwritev,
    .sync = disk_sync,
    .size = disk_size,
    .truncate = disk_truncate,
    .zero = disk_zero,
    .allocate = disk_allocate,
    .extent = disk_extent,
    .close = disk_close,
};

int __wrap_file_open_posix(const char *path, const struct file_open_options *options,
                           struct file **out, struct err *err)
{
    struct disk_file *found;
    struct open_file *open;

    if (in_use == NULL) {
        return __real_file_open_posix(path, options, out, err);
    }
    found = disk_find(in_use, path);
    if (found == NULL) {
        return err_set_errno(err, -ENOENT, "Could not open '%s'", path);
    }
    open = calloc(1, sizeof(*open));
    if (open == NULL || (open->file.path = strdup(path)) == NULL) {
        abort();
    }
    open->file.ops = &disk_ops;
    open->file.fd = -1;
    open->file.writable = options->writable;
    open->file.alignment = 1;
    open->disk = in_use;
    open->index = (unsigned)(found - in_use->files);
    *out = &open->file;
    return 0;
}
