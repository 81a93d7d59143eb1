/*
 * copy.c - the copying of convert: other threads read and look for zeros (copy_read.c), the caller's thread
 * writes.
 *
 * To be compressed a slot goes to the compressor's threads as soon as it was read, and the writer waits
 * for it when its turn comes. Only whole clusters of the target can be written so; what begins or ends
 * inside one (where one source follows another, or an overlay's extent ends) is written as it is.
 *
 * A window that the kernel may copy is not read; if it then cannot, the writer reads it, and the reader
 * tries no more.
 */
#include "checked.h"
#include "copy_slots.h"
#include "img.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 4096,
    RAW_BLOCK = 4096,
    COMPRESS_SHARE = 64 << 10, /* what one thread of the compressor takes at least */
    MIN_SLOTS = 4,
};

static bool is_used(const struct copy_slot *slot, uint64_t block)
{
    return (slot->used[block / 64] >> (block % 64) & 1) != 0;
}

/* Blocks [first, end), which are to be written. */
static int write_used(const struct copier *c, const struct copy_slot *slot, uint64_t first,
                      uint64_t end)
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

static int write_data(const struct copier *c, struct copy_slot *slot)
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
        slot->failed_at = slot->offset + at;
    }
    return rc;
}

static int copy_by_kernel(struct copier *c, const struct copy_slot *slot)
{
    struct blk *target = c->job->target;
    int rc = blk_copy_range(slot->source, slot->source_offset, target, slot->offset, slot->length);

    if (rc != -ENOTSUP)
        return rc;
    atomic_store_explicit(&c->can_offload, false, memory_order_relaxed);
    rc = blk_pread(slot->source, slot->source_offset, slot->data, (size_t)slot->length);
    return rc == 0 ? blk_pwrite(target, slot->offset, slot->data, (size_t)slot->length) : rc;
}

static int write_slot(struct copier *c, struct copy_slot *slot)
{
    slot->failed_at = slot->offset;
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

static struct copy_slot *wait_for_slot(struct copier *c)
{
    struct copy_slot *slot = &c->slots[c->emptied % c->slot_count];

    pthread_mutex_lock(&c->lock);
    while (!slot->is_ready)
        pthread_cond_wait(&c->is_ready, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return slot;
}

static void give_back(struct copier *c, struct copy_slot *slot, bool failed)
{
    pthread_mutex_lock(&c->lock);
    slot->is_ready = false;
    c->emptied++;
    c->failed = failed;
    if (failed)
        pthread_cond_broadcast(&c->is_empty);
    else
        pthread_cond_signal(&c->is_empty);
    pthread_mutex_unlock(&c->lock);
}

static int write_all(struct copier *c, struct err *err)
{
    for (;;) {
        struct copy_slot *slot = wait_for_slot(c);
        int rc = slot->status;

        if (rc < 0) {
            (void)err_set(err, rc, "%s", slot->problem.text);
        } else if (slot->kind == SLOT_END) {
            return 0;
        } else {
            rc = write_slot(c, slot);
            if (rc == 0)
                progress_update(c->job->progress, slot->offset + slot->length, c->total);
            else
                (void)err_set_errno(err, rc, "error while writing at byte %" PRIu64,
                                    slot->failed_at);
        }
        give_back(c, slot, rc < 0);
        if (rc < 0)
            return rc;
    }
}

static uint64_t choose_block(const struct copy_job *job)
{
    uint64_t cluster = blk_cluster_size(job->target);

    if (cluster != 0)
        return cluster;
    return job->sparse != 0 && job->sparse < RAW_BLOCK ? COPY_SECTOR : RAW_BLOCK;
}

/* Enough slots that every thread that reads or compresses has work while the writer writes one. */
static void choose_slots(struct copier *c)
{
    uint64_t cpus = img_processors(), wanted;

    /* Compressing takes far longer than handing over what there is to compress. */
    c->window = max_u64(c->block, c->job->compress ? 2 * COMPRESS_SHARE : COPY_WINDOW);
    if (c->job->compress) {
        wanted = 2 * cpus * max_u64(c->block, COMPRESS_SHARE) / c->window + 2;
    } else {
        wanted = min_u64(cpus, COPY_READERS) + 2;
    }
    c->slot_count = (unsigned)min_u64(max_u64(wanted, MIN_SLOTS), COPY_SLOTS);
}

static int make_slot(const struct copier *c, struct copy_slot *slot, struct err *err)
{
    bool ok;

    slot->data = aligned_alloc(ALIGNMENT, c->window);
    ok = slot->data != NULL;
    if (c->job->compress) {
        slot->work.packed = malloc(c->window);
        slot->work.packed_length = calloc(c->window / c->block, sizeof(size_t));
        ok = ok && slot->work.packed != NULL && slot->work.packed_length != NULL;
    }
    return ok ? 0 : err_set(err, -ENOMEM, "out of memory");
}

int copy_images(const struct copy_job *job, struct err *err)
{
    struct copier c = {.job = job, .block = choose_block(job)};
    int rc = 0;

    for (unsigned i = 0; i < job->source_count; i++)
        c.total += blk_length(job->sources[i]);
    choose_slots(&c);
    atomic_init(&c.can_offload, job->offload);
    c.pace.rate = job->rate;
    for (unsigned i = 0; i < c.slot_count && rc == 0; i++)
        rc = make_slot(&c, &c.slots[i], err);
    if (rc == 0 && job->compress) {
        c.compressor = compressor_start(job->target, err);
        rc = c.compressor != NULL ? 0 : -EAGAIN;
    }
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.is_empty, NULL);
    pthread_cond_init(&c.is_ready, NULL);
    rc = rc == 0 ? copy_start_reading(&c, err) : rc;
    if (rc == 0) {
        rc = write_all(&c, err);
        copy_stop_reading(&c);
    }
    compressor_stop(c.compressor);
    pthread_mutex_destroy(&c.lock);
    pthread_cond_destroy(&c.is_empty);
    pthread_cond_destroy(&c.is_ready);
    for (unsigned i = 0; i < c.slot_count; i++) {
        free(c.slots[i].data);
        free(c.slots[i].work.packed);
        free(c.slots[i].work.packed_length);
    }
    return rc;
}
