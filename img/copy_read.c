/*
 * copy_read.c - the reading side of a copy: see copy_slots.h.
 *
 * A window in which the source maps no data is passed on without a buffer's content, and so is one that
 * the kernel may copy; any other is read whole. The reader marks which blocks of it are not zero.
 *
 * One thread reads faster than the writer writes, unless what it reads has to be decompressed or decrypted
 * first: when it meets such data, as many threads as there are processors read.
 */
#include "copy_slots.h"

#include "checked.h"
#include "extent.h"
#include "img.h"
#include "log.h"
#include "zero.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static void *reader_main(void *opaque);

static void set_used(struct copy_slot *slot, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++)
        slot->used[i / 64] |= UINT64_C(1) << (i % 64);
}

/* Marks blocks [first, end) of zeros but for those that the source's map has as zeros: how long a run must
 * be is about what was read, and measure counts nothing else. */
static void fill_gap(const struct copier *c, struct copy_slot *slot, uint64_t first, uint64_t end)
{
    uint64_t from = first * c->block, to = end * c->block;

    while (from < to) {
        struct blk_extent extent;
        bool is_mapped =
            blk_map(slot->source, slot->source_offset + from, to - from, 0, &extent) == 0;
        uint64_t length = is_mapped ? extent.length : to - from;

        if (!is_mapped || !extent_is_zero(&extent))
            set_used(slot, from / c->block, div_round_up(from + length, c->block));
        from += length;
    }
}

/* Marks the blocks to write: those with data, and zeros in too short a run between them; to compress,
 * those with data alone. */
static void find_zeros(const struct copier *c, struct copy_slot *slot)
{
    uint64_t blocks = div_round_up(slot->length, c->block);
    uint64_t zero_from = 0; /* [zero_from, i) is zero */

    memset(slot->used, 0, sizeof(slot->used));
    if (c->job->sparse == 0) {
        set_used(slot, 0, blocks);
        return;
    }
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t at = i * c->block;

        if (buffer_is_zero(slot->data + at, (size_t)min_u64(c->block, slot->length - at)))
            continue;
        if (zero_from > 0 && (i - zero_from) * c->block < c->job->sparse && !c->job->compress)
            fill_gap(c, slot, zero_from, i);
        set_used(slot, i, i + 1);
        zero_from = i + 1;
    }
}

/* ---- planning, under plan_lock ---- */

/* NULL: the writer has given up. */
static struct copy_slot *take_empty(struct copier *c)
{
    struct copy_slot *slot = NULL;

    pthread_mutex_lock(&c->lock);
    while (c->planned - c->emptied == c->slot_count && !c->failed)
        pthread_cond_wait(&c->is_empty, &c->lock);
    if (!c->failed)
        slot = &c->slots[c->planned++ % c->slot_count];
    pthread_mutex_unlock(&c->lock);
    return slot;
}

/* Warnings about what cannot be read shall come in order. */
static void start_more_readers(struct copier *c)
{
    unsigned wanted = c->job->salvage ? 1 : (unsigned)min_u64(img_processors(), COPY_READERS);

    while (c->reader_count < wanted) {
        if (pthread_create(&c->readers[c->reader_count], NULL, reader_main, c) != 0)
            return;
        c->reader_count++;
    }
}

/* Decides what the next slot is, and how long. */
static int plan_slot(struct copier *c, struct copy_slot *slot)
{
    struct blk *source = c->job->sources[c->source];
    uint64_t left = blk_length(source) - c->position, at = c->start + c->position;
    uint64_t window = min_u64(c->window - at % c->window, left);
    bool top_only = c->job->skip_unallocated && blk_backing(source) != NULL;
    struct blk_extent extent;
    int rc;

    /* From inside a cluster only to its end, so that the next slot begins with one. */
    if (c->compressor != NULL && !is_aligned(at, c->block))
        window = min_u64(window, c->block - at % c->block);
    slot->offset = at;
    slot->source = source;
    slot->source_offset = c->position;
    slot->kind = SLOT_DATA;
    slot->length = window;
    if (c->job->sparse == 0)
        return 0;
    rc = blk_map(source, c->position, left, top_only ? BLK_MAP_TOP_ONLY : 0, &extent);
    if (rc < 0)
        return c->job->salvage && !top_only ? 0 : rc; /* reading finds what is left */
    if (top_only) {
        /* Exactly what the layer holds: no window may reach into what it does not. */
        slot->kind = extent.kind == BLK_EXTENT_UNALLOCATED ? SLOT_SKIP
                     : extent.kind == BLK_EXTENT_ZERO      ? SLOT_ZERO
                                                           : SLOT_DATA;
        slot->length = slot->kind == SLOT_DATA ? min_u64(window, extent.length) : extent.length;
    } else if (extent_is_zero(&extent) && extent.length >= window) {
        slot->kind = SLOT_ZERO;
        /* As far as whole windows go, and not less than this one, which may have been cut short. */
        if (extent.length < left)
            slot->length = max_u64(align_down(at + extent.length, c->window), at + window) - at;
        else
            slot->length = left;
    }
    if (slot->kind != SLOT_DATA)
        return 0;
    if (extent.kind == BLK_EXTENT_DATA && extent.has_host_offset &&
        atomic_load_explicit(&c->can_offload, memory_order_relaxed)) {
        slot->kind = SLOT_COPY;
        slot->length = min_u64(slot->length, extent.length);
    }
    if (c->reader_count == 1 && (extent.kind == BLK_EXTENT_COMPRESSED ||
                                 (extent.kind == BLK_EXTENT_DATA && !extent.has_host_offset)))
        start_more_readers(c);
    return 0;
}

static void fail(struct copy_slot *slot, int code)
{
    struct err problem;

    img_explain(slot->source, code, &problem);
    slot->status = err_set(&slot->problem, code, "error while reading at byte %" PRIu64 ": %s",
                           slot->offset, problem.text);
}

static void plan(struct copier *c, struct copy_slot *slot)
{
    int rc;

    slot->status = 0;
    while (c->source < c->job->source_count &&
           c->position == blk_length(c->job->sources[c->source])) {
        c->start += c->position;
        c->position = 0;
        c->source++;
    }
    if (c->source == c->job->source_count) {
        slot->kind = SLOT_END;
        c->is_planned = true;
        return;
    }
    rc = plan_slot(c, slot);
    if (rc < 0) {
        fail(slot, rc);
        c->is_planned = true;
    }
    c->position += slot->length;
}

/* The next slot, planned; NULL: there is none to be filled. */
static struct copy_slot *plan_next(struct copier *c)
{
    struct copy_slot *slot = NULL;

    pthread_mutex_lock(&c->plan_lock);
    if (!c->is_planned)
        slot = take_empty(c);
    if (slot != NULL)
        plan(c, slot);
    pthread_mutex_unlock(&c->plan_lock);
    return slot;
}

/* ---- filling ---- */

/* What can be read of a window, sector by sector; the rest is zeros. */
static void read_sectors(const struct copier *c, struct copy_slot *slot)
{
    for (uint64_t done = 0; done < slot->length; done += COPY_SECTOR) {
        size_t n = (size_t)min_u64(COPY_SECTOR, slot->length - done);
        int rc = blk_pread(slot->source, slot->source_offset + done, slot->data + done, n);

        if (rc == 0)
            continue;
        memset(slot->data + done, 0, n);
        if (!c->job->quiet)
            log_warn("error while reading offset %" PRIu64 ": %s", slot->offset + done,
                     strerror(-rc));
    }
}

static void begin_compression(struct copier *c, struct copy_slot *slot)
{
    slot->is_compressing = c->compressor != NULL && is_aligned(slot->offset, c->block);
    if (slot->is_compressing) {
        slot->work.data = slot->data;
        slot->work.length = slot->length;
        slot->work.used = slot->used;
        compressor_add(c->compressor, &slot->work);
    }
}

static void fill(struct copier *c, struct copy_slot *slot)
{
    int rc = blk_pread(slot->source, slot->source_offset, slot->data, (size_t)slot->length);

    if (rc < 0 && c->job->salvage) {
        read_sectors(c, slot);
        rc = 0;
    }
    if (rc < 0) {
        fail(slot, rc);
        return;
    }
    find_zeros(c, slot);
    begin_compression(c, slot);
}

static void *reader_main(void *opaque)
{
    struct copier *c = opaque;
    struct copy_slot *slot;

    while ((slot = plan_next(c)) != NULL) {
        if (slot->kind == SLOT_DATA && slot->status == 0)
            fill(c, slot);
        pthread_mutex_lock(&c->lock);
        slot->is_ready = true;
        pthread_cond_signal(&c->is_ready);
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

int copy_start_reading(struct copier *c, struct err *err)
{
    int rc;

    pthread_mutex_init(&c->plan_lock, NULL);
    c->reader_count = 1;
    rc = -pthread_create(&c->readers[0], NULL, reader_main, c);
    if (rc == 0)
        return 0;
    c->reader_count = 0;
    pthread_mutex_destroy(&c->plan_lock);
    return err_set_errno(err, rc, "Could not start a thread");
}

void copy_stop_reading(struct copier *c)
{
    /* It starts the others: once it has ended there will be no more. */
    pthread_join(c->readers[0], NULL);
    for (unsigned i = 1; i < c->reader_count; i++)
        pthread_join(c->readers[i], NULL);
    pthread_mutex_destroy(&c->plan_lock);
}
