/*
 * ephemeral.c - a throwaway overlay: what is written goes to a file without a name and is gone when
 * the process ends, however it ends. There are no metadata on disk, and a flush has nothing to do.
 *
 * A block (4 KiB) lies in the file where it lies on the device; the file is sparse. One byte of memory
 * for each block says where its content is: below, in the file, or nowhere because it is zero. That
 * memory is touched only where the guest has written.
 *
 * A state leaves BELOW and ZERO only by way of BUSY, which one request at a time holds: what it does
 * not write itself, the head of the first block and the tail of the last, it copies before the block
 * becomes DATA. Requests take blocks in ascending order. To a reader a busy block is what it was. DATA
 * is written in place without asking anybody; a discard may turn it into ZERO under a write in flight,
 * whose bytes the two then have in common.
 */
#include "block.h"
#include "checked.h"
#include "iov.h"
#include "merged.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    BLOCK_BITS = 12,
    BLOCK = 1 << BLOCK_BITS,
    FEW_ENTRIES = 32, /* of a vector that needs no memory */
};

/* BUSY is a bit beside BELOW or ZERO. */
enum { BELOW = 0, ZERO = 1, DATA = 2, BUSY = 4 };

struct ephemeral {
    _Atomic uint8_t *states; /* of each block */
    size_t count;
    _Atomic uint64_t written; /* blocks that became DATA */
    atomic_uint waiting;      /* threads that wait for a block that is busy */
    pthread_mutex_t lock;
    pthread_cond_t released;
};

/* Neighbouring blocks [first, end) of a write: all of them taken by it, or all of them DATA. */
struct run {
    uint64_t first, end;
    bool is_taken;
    uint8_t first_state, last_state; /* what the outer two were */
};

static struct ephemeral *ephemeral_of(const struct blk *blk)
{
    return blk->state;
}

static void wait_until_released(struct ephemeral *e, uint64_t n)
{
    pthread_mutex_lock(&e->lock);
    atomic_fetch_add(&e->waiting, 1);
    while (atomic_load(&e->states[n]) & BUSY)
        pthread_cond_wait(&e->released, &e->lock);
    atomic_fetch_sub(&e->waiting, 1);
    pthread_mutex_unlock(&e->lock);
}

/* Makes the block busy unless it is DATA; returns what it was. */
static uint8_t take(struct ephemeral *e, uint64_t n)
{
    uint8_t state = atomic_load(&e->states[n]);

    for (;;) {
        if (state == DATA)
            return DATA;
        if (state & BUSY) {
            wait_until_released(e, n);
            state = atomic_load(&e->states[n]);
        } else if (atomic_compare_exchange_weak(&e->states[n], &state, (uint8_t)(state | BUSY))) {
            return state;
        }
    }
}

/* As readers see it: a busy block is what it was. */
static uint8_t state_of(const struct ephemeral *e, uint64_t n)
{
    return (uint8_t)(atomic_load(&e->states[n]) & (BELOW | ZERO | DATA));
}

/* Gives back blocks that this request has taken: as `state`, or (BUSY) as what they were. */
static void release(struct ephemeral *e, uint64_t first, uint64_t end, uint8_t state)
{
    for (uint64_t n = first; n < end; n++)
        atomic_store(&e->states[n], state == BUSY ? state_of(e, n) : state);
    if (atomic_load(&e->waiting) > 0) {
        pthread_mutex_lock(&e->lock);
        pthread_cond_broadcast(&e->released);
        pthread_mutex_unlock(&e->lock);
    }
}

/* ---- reading ---- */

static int ephemeral_map(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags,
                         struct layer_extent *extent)
{
    static const enum blk_extent_kind kinds[] = {
        [BELOW] = BLK_EXTENT_UNALLOCATED, [ZERO] = BLK_EXTENT_ZERO, [DATA] = BLK_EXTENT_DATA};
    const struct ephemeral *e = ephemeral_of(blk);
    uint64_t n = offset >> BLOCK_BITS, last = (offset + length - 1) >> BLOCK_BITS;
    uint8_t state = state_of(e, n);

    (void)flags;
    while (n < last && state_of(e, n + 1) == state)
        n++;
    *extent = (struct layer_extent){
        .kind = kinds[state],
        .length = min_u64(length, ((n + 1) << BLOCK_BITS) - offset),
        .host_offset = offset,
        .file = blk->file,
        .hold = BLK_NOT_HELD,
    };
    return 0;
}

/* ---- writing ---- */

/* The block as it was before the write that took it. */
static int read_block(struct blk *blk, uint64_t n, uint8_t state, uint8_t *buf)
{
    uint64_t offset = n << BLOCK_BITS;
    struct iovec iov = {.iov_base = buf, .iov_len = min_u64(BLOCK, blk->length - offset)};

    memset(buf, 0, BLOCK);
    return state == ZERO ? 0 : chain_readv(blk->backing, offset, &iov, 1, iov.iov_len);
}

/* What a write needs while it lasts: a vector of its own, and the outer two blocks of a run. */
struct room {
    struct iovec few[FEW_ENTRIES], *iov;
    uint8_t first[BLOCK], last[BLOCK];
};

static struct run take_run(struct ephemeral *e, uint64_t first, uint64_t end)
{
    uint8_t state = take(e, first);
    struct run run = {.first = first,
                      .end = first + 1,
                      .is_taken = state != DATA,
                      .first_state = state,
                      .last_state = state};

    if (!run.is_taken) {
        while (run.end < end && atomic_load(&e->states[run.end]) == DATA)
            run.end++;
        return run;
    }
    while (run.end < end && (state = take(e, run.end)) != DATA) {
        run.last_state = state;
        run.end++;
    }
    return run;
}

/* Writes the bytes [from, from + length) of the vector to the run's blocks, and around them what is to
 * be kept of the outer two; all at once. The vector in `room` takes count + 2 entries. */
static int write_run(struct blk *blk, const struct run *run, uint64_t offset,
                     const struct iovec *iov, int count, uint64_t from, uint64_t length,
                     struct room *room)
{
    uint64_t head = offset - (run->first << BLOCK_BITS), end = offset + length;
    /* What lies behind the device's end is nobody's. */
    uint64_t tail = end == blk->length ? 0 : (run->end << BLOCK_BITS) - end;
    int n = 0, rc = 0;

    if (run->is_taken && head > 0) {
        rc = read_block(blk, run->first, run->first_state, room->first);
        room->iov[n++] = (struct iovec){.iov_base = room->first, .iov_len = head};
    }
    n += iov_slice(room->iov + n, count, iov, count, from, length);
    if (rc == 0 && run->is_taken && tail > 0) {
        rc = read_block(blk, run->end - 1, run->last_state, room->last);
        room->iov[n++] = (struct iovec){.iov_base = room->last + BLOCK - tail, .iov_len = tail};
    }
    if (rc == 0)
        rc = file_pwritev(blk->file, run->is_taken ? offset - head : offset, room->iov, n);
    if (run->is_taken)
        release(ephemeral_of(blk), run->first, run->end, rc == 0 ? DATA : BUSY);
    if (run->is_taken && rc == 0)
        atomic_fetch_add_explicit(&ephemeral_of(blk)->written, run->end - run->first,
                                  memory_order_relaxed);
    return rc;
}

static int ephemeral_write(struct blk *blk, uint64_t offset, const struct iovec *iov, int count,
                           uint64_t length)
{
    struct room room;
    uint64_t end = div_round_up(offset + length, BLOCK);
    int rc = 0;

    room.iov = room.few;
    if (count > FEW_ENTRIES - 2) {
        room.iov = malloc(((size_t)count + 2) * sizeof(*room.iov));
        if (room.iov == NULL)
            return -ENOMEM;
    }
    for (uint64_t done = 0; rc == 0 && done < length;) {
        uint64_t at = offset + done;
        struct run run = take_run(ephemeral_of(blk), at >> BLOCK_BITS, end);
        uint64_t part = min_u64(length - done, (run.end << BLOCK_BITS) - at);

        rc = write_run(blk, &run, at, iov, count, done, part, &room);
        done += part;
    }
    if (room.iov != room.few)
        free(room.iov);
    return rc;
}

static bool ephemeral_map_overwrite(struct blk *blk, uint64_t offset, uint64_t length,
                                    struct layer_extent *extent)
{
    return ephemeral_map(blk, offset, length, LAYER_MAP_HOLD, extent) == 0 &&
           extent->kind == BLK_EXTENT_DATA && extent->length == length;
}

/* ---- zeros ---- */

/* The whole blocks of a range, in bytes: [*first, *last) may be empty. A block that the device's end cuts
 * is whole. */
static void whole_blocks(const struct blk *blk, uint64_t offset, uint64_t end, uint64_t *first,
                         uint64_t *last)
{
    *first = min_u64(align_up(offset, BLOCK), end);
    *last = max_u64(*first, end == blk->length ? end : align_down(end, BLOCK));
}

/* Gives the space of those that were in the file back. */
static void zero_whole_blocks(struct blk *blk, uint64_t first, uint64_t last)
{
    struct ephemeral *e = ephemeral_of(blk);
    uint64_t end = div_round_up(last, BLOCK), from = end, to = 0;

    if (first == last)
        return;
    for (uint64_t n = first >> BLOCK_BITS; n < end; n++) {
        uint8_t state = take(e, n);

        while (state == DATA && !atomic_compare_exchange_strong(&e->states[n], &state, ZERO))
            state = take(e, n);
        if (state == DATA) {
            from = min_u64(from, n);
            to = n + 1;
        } else {
            release(e, n, n + 1, ZERO);
        }
    }
    /* Where the file system cannot, the file keeps bytes that nobody reads. */
    if (from < to)
        (void)blk->file->ops->zero(blk->file, from << BLOCK_BITS, (to - from) << BLOCK_BITS, true);
}

static int write_few_zeros(struct blk *blk, uint64_t offset, uint64_t end)
{
    static uint8_t zeros[BLOCK];
    struct iovec iov = {.iov_base = zeros, .iov_len = end - offset};

    return offset < end ? ephemeral_write(blk, offset, &iov, 1, end - offset) : 0;
}

static int ephemeral_write_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags)
{
    uint64_t first, last;
    int rc;

    (void)flags;
    whole_blocks(blk, offset, offset + length, &first, &last);
    rc = write_few_zeros(blk, offset, first);
    if (rc == 0)
        rc = write_few_zeros(blk, last, offset + length);
    if (rc == 0)
        zero_whole_blocks(blk, first, last);
    return rc;
}

static int ephemeral_discard(struct blk *blk, uint64_t offset, uint64_t length)
{
    uint64_t first, last;

    whole_blocks(blk, offset, offset + length, &first, &last);
    zero_whole_blocks(blk, first, last);
    return 0;
}

/* Nothing of this outlives the process. */
static int ephemeral_flush(struct blk *blk)
{
    (void)blk;
    return 0;
}

/* ---- the overlay ---- */

static void ephemeral_info(struct blk *blk, struct blk_info *info)
{
    (void)blk;
    info->cluster_size = BLOCK;
}

static void ephemeral_count(struct blk *blk, struct blk_counters *counters)
{
    counters->allocations +=
        atomic_load_explicit(&ephemeral_of(blk)->written, memory_order_relaxed);
}

static int ephemeral_resize(struct blk *blk, uint64_t size, struct err *err)
{
    (void)size;
    return err_set(err, -ENOTSUP, "'%s': a throwaway overlay keeps the size of its base",
                   blk->path);
}

static int ephemeral_preallocate(struct blk *blk, uint64_t offset, uint64_t length,
                                 enum blk_prealloc mode, struct err *err)
{
    (void)offset;
    (void)length;
    (void)mode;
    return err_set(err, -ENOTSUP, "'%s': a throwaway overlay is not preallocated", blk->path);
}

static void ephemeral_unhold(struct blk *blk, int hold)
{
    (void)blk;
    (void)hold;
}

static int ephemeral_close(struct blk *blk, struct err *err)
{
    struct ephemeral *e = ephemeral_of(blk);

    (void)err;
    pthread_cond_destroy(&e->released);
    pthread_mutex_destroy(&e->lock);
    munmap((void *)(uintptr_t)e->states, e->count);
    free(e);
    return 0;
}

static const struct blk_format ephemeral_format = {
    .name = "ephemeral",
    .close = ephemeral_close,
    .map = ephemeral_map,
    .unhold = ephemeral_unhold,
    .write = ephemeral_write,
    .map_overwrite = ephemeral_map_overwrite,
    .write_zeroes = ephemeral_write_zeroes,
    .discard = ephemeral_discard,
    .flush = ephemeral_flush,
    .resize = ephemeral_resize,
    .preallocate = ephemeral_preallocate,
    .info = ephemeral_info,
    .count = ephemeral_count,
};

static struct ephemeral *create_states(uint64_t length)
{
    struct ephemeral *e = calloc(1, sizeof(*e));
    void *states;

    if (e == NULL)
        return NULL;
    e->count = max_u64(div_round_up(length, BLOCK), 1);
    states = mmap(NULL, e->count, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (states == MAP_FAILED) {
        free(e);
        return NULL;
    }
    /* A huge page of states would cost 2 MiB where the guest writes one block. */
    (void)madvise(states, e->count, MADV_NOHUGEPAGE);
    e->states = states;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->released, NULL);
    return e;
}

int ephemeral_open(const struct blk_open_options *options, struct blk **out, struct err *err)
{
    struct blk_open_options below = *options;
    struct file *file;
    struct blk *base, *blk;
    int rc;

    below.ephemeral = BLK_EPHEMERAL_OFF;
    below.writable = false;
    below.cache = BLK_CACHE_WRITEBACK;
    rc = blk_open(&below, &base, err);
    if (rc < 0)
        return rc;
    if (options->ephemeral == BLK_EPHEMERAL_RAM)
        rc = file_open_memory(options->path, &file, err);
    else
        rc = file_open_unnamed(options->tmpdir, options->cache == BLK_CACHE_DIRECT, &file, err);
    blk = rc == 0 ? blk_new_layer(file, options, err) : NULL;
    if (blk == NULL) {
        (void)blk_close(base, NULL);
        return rc < 0 ? rc : -ENOMEM;
    }
    blk->format = &ephemeral_format;
    blk->backing = base;
    blk->length = base->length;
    blk->writable = true;
    blk->is_volatile = true;
    blk->state = create_states(base->length);
    if (blk->state == NULL) {
        blk_free_layer(blk);
        (void)blk_close(base, NULL);
        return err_set_errno(err, -ENOMEM, "Could not open '%s'", options->path);
    }
    blk->merged = merged_create(blk);
    *out = blk;
    return 0;
}
