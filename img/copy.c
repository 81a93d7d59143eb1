/*
 * copy.c - the copying of convert: one thread reads and looks for zeros, the caller's thread writes.
 *
 * Work goes through a ring of slots, each a buffer of one window (WINDOW bytes). A window in which the
 * source maps no data is passed on without a buffer's content; any other is read whole. The reader
 * marks which blocks of it are not zero; runs of these are what is written. A block is the target's
 * cluster, so that clusters are written whole or not at all, or 4 KiB for a raw target.
 *
 * Slots are handed over in order: the reader fills slot `filled`, the writer empties slot `emptied`;
 * 0 <= filled - emptied <= slot_count. `lock` covers the two counters, `failed` and nothing else.
 *
 * To be compressed a slot goes to the compressor's threads as soon as it was read, and the writer waits
 * for it when its turn comes. Only whole clusters of the target can be written so; what begins or ends
 * inside one (where one source follows another, or an overlay's extent ends) is written as it is.
 *
 * A window that the kernel may copy is not read; if it then cannot, the writer reads it, and the reader
 * tries no more.
 */
#include "copy.h"

#include "checked.h"
#include "compressor.h"
#include "extent.h"
#include "img.h"
#include "log.h"
#include "pace.h"
#include "zero.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    WINDOW = 2 << 20,
    SLOTS = 4,
    COMPRESS_SLOTS = 16, /* so that large clusters keep many threads busy too */
    ALIGNMENT = 4096,
    SECTOR = 512,
    RAW_BLOCK = 4096,
    WORDS = WINDOW / SECTOR / 64,
};

struct slot {
    enum { SLOT_DATA, SLOT_ZERO, SLOT_SKIP, SLOT_COPY, SLOT_END } kind;
    uint64_t offset; /* in the target */
    uint64_t length;
    struct blk *source; /* SLOT_COPY: where it comes from */
    uint64_t source_offset;
    unsigned char *data;
    uint64_t used[WORDS]; /* a bit a block: to be written */
    struct compress_work work;
    bool is_compressing;
};

struct copier {
    const struct copy_job *job;
    uint64_t total;
    uint64_t block;
    struct slot slots[COMPRESS_SLOTS];
    unsigned slot_count;
    struct compressor *compressor; /* NULL: nothing is compressed */
    struct pace pace;              /* the writer's */
    atomic_bool can_offload;

    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint64_t filled, emptied;
    bool failed; /* the writer gave up */

    int read_status; /* the reader's; valid once it has ended */
    struct err read_err;
};

/* ---- reader ---- */

static bool is_used(const struct slot *slot, uint64_t block)
{
    return (slot->used[block / 64] >> (block % 64) & 1) != 0;
}

static void set_used(struct slot *slot, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++)
        slot->used[i / 64] |= UINT64_C(1) << (i % 64);
}

/* Marks blocks [first, end) of zeros but for those that the source's map has as zeros: how long a run must
 * be is about what was read, and measure counts nothing else. `at` is where the window begins there. */
static void fill_gap(const struct copier *c, struct slot *slot, struct blk *source, uint64_t at,
                     uint64_t first, uint64_t end)
{
    uint64_t from = first * c->block, to = end * c->block;

    while (from < to) {
        struct blk_extent extent;
        bool is_mapped = blk_map(source, at + from, to - from, 0, &extent) == 0;
        uint64_t length = is_mapped ? extent.length : to - from;

        if (!is_mapped || !extent_is_zero(&extent))
            set_used(slot, from / c->block, div_round_up(from + length, c->block));
        from += length;
    }
}

/* Marks the blocks to write: those with data, and zeros in too short a run between them; to compress,
 * those with data alone. */
static void find_zeros(const struct copier *c, struct slot *slot, struct blk *source, uint64_t at)
{
    uint64_t blocks = div_round_up(slot->length, c->block);
    uint64_t zero_from = 0; /* [zero_from, i) is zero */

    memset(slot->used, 0, sizeof(slot->used));
    if (c->job->sparse == 0) {
        set_used(slot, 0, blocks);
        return;
    }
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t from = i * c->block;

        if (buffer_is_zero(slot->data + from, (size_t)min_u64(c->block, slot->length - from)))
            continue;
        if (zero_from > 0 && (i - zero_from) * c->block < c->job->sparse && !c->job->compress)
            fill_gap(c, slot, source, at, zero_from, i);
        set_used(slot, i, i + 1);
        zero_from = i + 1;
    }
}

static struct slot *take_empty(struct copier *c)
{
    struct slot *slot = NULL;

    pthread_mutex_lock(&c->lock);
    while (c->filled - c->emptied == c->slot_count && !c->failed)
        pthread_cond_wait(&c->moved, &c->lock);
    if (!c->failed)
        slot = &c->slots[c->filled % c->slot_count];
    pthread_mutex_unlock(&c->lock);
    return slot;
}

static void hand_over(struct copier *c)
{
    pthread_mutex_lock(&c->lock);
    c->filled++;
    pthread_cond_signal(&c->moved);
    pthread_mutex_unlock(&c->lock);
}

/* Decides what the next slot is: `at` and the answer's length are in the source, `start` is where the
 * source begins in the target. */
static int plan_slot(const struct copier *c, struct blk *source, uint64_t start, uint64_t at,
                     struct slot *slot)
{
    uint64_t left = blk_length(source) - at;
    uint64_t window = min_u64(WINDOW - (start + at) % WINDOW, left);
    bool top_only = c->job->skip_unallocated && blk_backing(source) != NULL;
    struct blk_extent extent;
    int rc;

    /* From inside a cluster only to its end, so that the next slot begins with one. */
    if (c->compressor != NULL && !is_aligned(start + at, c->block))
        window = min_u64(window, c->block - (start + at) % c->block);
    slot->offset = start + at;
    slot->kind = SLOT_DATA;
    slot->length = window;
    if (c->job->sparse == 0)
        return 0;
    rc = blk_map(source, at, left, top_only ? BLK_MAP_TOP_ONLY : 0, &extent);
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
        if (extent.length < left)
            slot->length = align_down(start + at + extent.length, WINDOW) - (start + at);
        else
            slot->length = left;
    }
    if (slot->kind == SLOT_DATA && extent.kind == BLK_EXTENT_DATA && extent.has_host_offset &&
        atomic_load_explicit(&c->can_offload, memory_order_relaxed)) {
        slot->kind = SLOT_COPY;
        slot->length = min_u64(slot->length, extent.length);
        slot->source = source;
        slot->source_offset = at;
    }
    return 0;
}

/* What can be read of a window, sector by sector; the rest is zeros. */
static void read_sectors(const struct copier *c, struct blk *source, uint64_t at, struct slot *slot)
{
    for (uint64_t done = 0; done < slot->length; done += SECTOR) {
        size_t n = (size_t)min_u64(SECTOR, slot->length - done);
        int rc = blk_pread(source, at + done, slot->data + done, n);

        if (rc == 0)
            continue;
        memset(slot->data + done, 0, n);
        if (!c->job->quiet)
            log_warn("error while reading offset %" PRIu64 ": %s", slot->offset + done,
                     strerror(-rc));
    }
}

static int read_window(const struct copier *c, struct blk *source, uint64_t at, struct slot *slot)
{
    int rc = blk_pread(source, at, slot->data, (size_t)slot->length);

    if (rc < 0 && c->job->salvage) {
        read_sectors(c, source, at, slot);
        rc = 0;
    }
    return rc;
}

static void begin_compression(struct copier *c, struct slot *slot)
{
    slot->is_compressing = c->compressor != NULL && is_aligned(slot->offset, c->block);
    if (slot->is_compressing) {
        slot->work.data = slot->data;
        slot->work.length = slot->length;
        slot->work.used = slot->used;
        compressor_add(c->compressor, &slot->work);
    }
}

static int read_source(struct copier *c, struct blk *source, uint64_t start)
{
    for (uint64_t at = 0; at < blk_length(source);) {
        struct slot *slot = take_empty(c);
        int rc;

        if (slot == NULL)
            return -ECANCELED;
        rc = plan_slot(c, source, start, at, slot);
        if (rc == 0 && slot->kind == SLOT_DATA) {
            rc = read_window(c, source, at, slot);
            if (rc == 0) {
                find_zeros(c, slot, source, at);
                begin_compression(c, slot);
            }
        }
        if (rc < 0) {
            struct err problem;

            img_explain(source, rc, &problem);
            return err_set(&c->read_err, rc, "error while reading at byte %" PRIu64 ": %s",
                           start + at, problem.text);
        }
        at += slot->length;
        hand_over(c);
    }
    return 0;
}

static void *reader_main(void *opaque)
{
    struct copier *c = opaque;
    uint64_t start = 0;
    struct slot *slot;
    int rc = 0;

    for (unsigned i = 0; i < c->job->source_count && rc == 0; i++) {
        rc = read_source(c, c->job->sources[i], start);
        start += blk_length(c->job->sources[i]);
    }
    slot = take_empty(c);
    c->read_status = rc;
    if (slot != NULL) {
        slot->kind = SLOT_END;
        hand_over(c);
    }
    return NULL;
}

/* ---- writer ---- */

/* Blocks [first, end), which are to be written. */
static int write_used(const struct copier *c, const struct slot *slot, uint64_t first, uint64_t end)
{
    struct blk *target = c->job->target;
    uint64_t at = first * c->block, length = min_u64(end * c->block, slot->length) - at;
    int rc = 0;

    if (!slot->is_compressing)
        return blk_pwrite(target, slot->offset + at, slot->data + at, (size_t)length);
    for (uint64_t i = first; i < end && rc == 0; i++) {
        size_t n;

        at = i * c->block;
        n = (size_t)min_u64(c->block, slot->length - at);
        if (n == c->block || slot->offset + slot->length == blk_length(target))
            rc = blk_pwrite_packed(target, slot->offset + at, slot->data + at, n,
                                   slot->work.packed + at, slot->work.packed_length[i]);
        else
            rc = blk_pwrite(target, slot->offset + at, slot->data + at, n);
    }
    return rc;
}

static int write_data(const struct copier *c, struct slot *slot)
{
    struct blk *target = c->job->target;
    uint64_t blocks = div_round_up(slot->length, c->block);
    int rc = slot->is_compressing ? compressor_wait(c->compressor, &slot->work) : 0;

    for (uint64_t first = 0, end; first < blocks && rc == 0; first = end) {
        bool used = is_used(slot, first);
        uint64_t at = first * c->block, length;

        for (end = first + 1; end < blocks && is_used(slot, end) == used; end++)
            ;
        length = min_u64(end * c->block, slot->length) - at;
        if (used)
            rc = write_used(c, slot, first, end);
        else if (!c->job->target_is_zero)
            rc = blk_pwrite_zeroes(target, slot->offset + at, length, BLK_REQ_MAY_UNMAP);
    }
    return rc;
}

static int copy_by_kernel(struct copier *c, const struct slot *slot)
{
    struct blk *target = c->job->target;
    int rc = blk_copy_range(slot->source, slot->source_offset, target, slot->offset, slot->length);

    if (rc != -ENOTSUP)
        return rc;
    atomic_store_explicit(&c->can_offload, false, memory_order_relaxed);
    rc = blk_pread(slot->source, slot->source_offset, slot->data, (size_t)slot->length);
    return rc == 0 ? blk_pwrite(target, slot->offset, slot->data, (size_t)slot->length) : rc;
}

static int write_slot(struct copier *c, struct slot *slot)
{
    if (slot->kind == SLOT_DATA || slot->kind == SLOT_COPY)
        pace_wait(&c->pace, slot->length);
    if (slot->kind == SLOT_COPY)
        return copy_by_kernel(c, slot);
    if (slot->kind == SLOT_DATA)
        return write_data(c, slot);
    if (slot->kind == SLOT_ZERO && !c->job->target_is_zero)
        return blk_pwrite_zeroes(c->job->target, slot->offset, slot->length, BLK_REQ_MAY_UNMAP);
    return 0;
}

static int write_all(struct copier *c, struct err *err)
{
    for (;;) {
        struct slot *slot;
        int rc;

        pthread_mutex_lock(&c->lock);
        while (c->filled == c->emptied)
            pthread_cond_wait(&c->moved, &c->lock);
        pthread_mutex_unlock(&c->lock);
        slot = &c->slots[c->emptied % c->slot_count];
        if (slot->kind == SLOT_END)
            return 0;
        rc = write_slot(c, slot);
        if (rc == 0)
            progress_update(c->job->progress, slot->offset + slot->length, c->total);
        else
            err_set_errno(err, rc, "error while writing at byte %" PRIu64, slot->offset);
        pthread_mutex_lock(&c->lock);
        c->emptied++;
        c->failed = rc < 0;
        pthread_cond_signal(&c->moved);
        pthread_mutex_unlock(&c->lock);
        if (rc < 0)
            return rc;
    }
}

static uint64_t choose_block(const struct copy_job *job)
{
    uint64_t cluster = blk_cluster_size(job->target);

    if (cluster != 0)
        return cluster;
    return job->sparse != 0 && job->sparse < RAW_BLOCK ? SECTOR : RAW_BLOCK;
}

static int make_slot(const struct copier *c, struct slot *slot, struct err *err)
{
    bool ok;

    slot->data = aligned_alloc(ALIGNMENT, WINDOW);
    ok = slot->data != NULL;
    if (c->job->compress) {
        slot->work.packed = malloc(WINDOW);
        slot->work.packed_length = calloc(WINDOW / c->block, sizeof(size_t));
        ok = ok && slot->work.packed != NULL && slot->work.packed_length != NULL;
    }
    return ok ? 0 : err_set(err, -ENOMEM, "out of memory");
}

int copy_images(const struct copy_job *job, struct err *err)
{
    struct copier c = {.job = job, .block = choose_block(job)};
    pthread_t reader;
    int rc = 0;

    for (unsigned i = 0; i < job->source_count; i++)
        c.total += blk_length(job->sources[i]);
    c.slot_count = job->compress ? COMPRESS_SLOTS : SLOTS;
    atomic_init(&c.can_offload, job->offload);
    c.pace.rate = job->rate;
    for (unsigned i = 0; i < c.slot_count && rc == 0; i++)
        rc = make_slot(&c, &c.slots[i], err);
    if (rc == 0 && job->compress) {
        c.compressor = compressor_start(job->target, err);
        rc = c.compressor != NULL ? 0 : -EAGAIN;
    }
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.moved, NULL);
    if (rc == 0) {
        rc = -pthread_create(&reader, NULL, reader_main, &c);
        if (rc < 0) {
            err_set_errno(err, rc, "Could not start a thread");
        } else {
            rc = write_all(&c, err);
            pthread_join(reader, NULL);
            if (rc == 0 && c.read_status < 0)
                rc = err_set(err, c.read_status, "%s", c.read_err.text);
        }
    }
    pthread_mutex_destroy(&c.lock);
    pthread_cond_destroy(&c.moved);
    compressor_stop(c.compressor);
    for (unsigned i = 0; i < c.slot_count; i++) {
        free(c.slots[i].data);
        free(c.slots[i].work.packed);
        free(c.slots[i].work.packed_length);
    }
    return rc;
}
