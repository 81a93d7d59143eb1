/*
 * compare.c - the work of `compare`.
 *
 * Threads take windows from the front of the images to their end, read them from both and compare.
 * Taking one is where ranges are left out that need not be read: zeros in both, and what both chains
 * hold in the same place of the same file. Windows are handed out in order, and none any more once
 * something was found: so everything before the first find is looked at, and the find with the lowest
 * offset is the answer.
 *
 * `lock` covers everything in struct comparison but the job.
 */
#include "compare.h"

#include "checked.h"
#include "extent.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 256 << 10, ALIGNMENT = 4096, SECTOR = 512, MAX_THREADS = 8 };

/* An image and what was last found out about it: [offset, offset + extent.length). */
struct side {
    struct blk *blk;
    uint64_t offset;
    struct blk_extent extent;
};

struct comparison {
    const struct compare_job *job;
    uint64_t total, window;

    pthread_mutex_t lock;
    struct side a, b;
    struct extent_pair pair;
    uint64_t next; /* everything before was handed out or left out */
    struct compare_result found;
};

/* Under the lock. */
static void note(struct comparison *c, enum compare_kind kind, uint64_t offset, struct blk *failed,
                 int error)
{
    struct compare_result *found = &c->found;

    if (found->kind == COMPARE_SAME || offset < found->offset ||
        (offset == found->offset && kind < found->kind))
        *found = (struct compare_result){
            .kind = kind, .offset = offset, .failed = failed, .error = error};
}

/* ---- handing out ---- */

/* Makes side->extent what begins at `offset`. */
static int look(const struct comparison *c, struct side *side, uint64_t offset)
{
    uint64_t end = side->offset + side->extent.length;

    if (offset >= side->offset && offset < end) {
        side->extent.host_offset += offset - side->offset;
        side->extent.length = end - offset;
    } else {
        int rc = extent_map(side->blk, offset, c->total - offset, &side->extent);

        if (rc < 0) {
            side->extent.length = 0;
            return rc;
        }
    }
    side->offset = offset;
    return 0;
}

/* Looks at both images; notes what speaks against reading there when `is_start`, for it will be asked
 * for again when a range begins there. */
static bool look_both(struct comparison *c, uint64_t offset, bool is_start)
{
    const struct blk_extent *a = &c->a.extent, *b = &c->b.extent;
    struct side *failed = &c->a;
    int rc = look(c, &c->a, offset);

    if (rc == 0) {
        failed = &c->b;
        rc = look(c, &c->b, offset);
    }
    if (rc < 0) {
        if (is_start)
            note(c, COMPARE_MAP_FAILED, offset, failed->blk, rc);
        return false;
    }
    if (c->job->strict && (a->kind != b->kind || a->is_hole != b->is_hole ||
                           a->has_host_offset != b->has_host_offset)) {
        if (is_start)
            note(c, COMPARE_STATUS_DIFFERS, offset, NULL, 0);
        return false;
    }
    return true;
}

/* How far both answers hold. */
static uint64_t common_length(const struct comparison *c)
{
    return min_u64(c->a.extent.length, c->b.extent.length);
}

static bool need_not_be_read(struct comparison *c)
{
    return (extent_is_zero(&c->a.extent) && extent_is_zero(&c->b.extent)) ||
           extent_same_storage(&c->pair, &c->a.extent, &c->b.extent);
}

/* The next range to read, or false: there is none. */
static bool take_window(struct comparison *c, uint64_t *offset, size_t *length)
{
    bool is_taken = false;

    pthread_mutex_lock(&c->lock);
    while (!is_taken && c->next < c->total && c->found.kind == COMPARE_SAME &&
           look_both(c, c->next, true)) {
        uint64_t at = c->next + common_length(c);

        if (!need_not_be_read(c)) {
            uint64_t end = min_u64(c->total, c->next + c->window - c->next % c->window);

            while (at < end && look_both(c, at, false))
                at += common_length(c);
            at = min_u64(at, end);
            *offset = c->next;
            *length = (size_t)(at - c->next);
            is_taken = true;
        }
        c->next = at;
        progress_update(c->job->progress, c->next, c->total);
    }
    pthread_mutex_unlock(&c->lock);
    return is_taken;
}

/* ---- comparing ---- */

/* Behind the end: zeros. */
static int read_side(struct blk *blk, uint64_t offset, unsigned char *buf, size_t length)
{
    uint64_t end = blk_length(blk);
    size_t inside = offset < end ? (size_t)min_u64(length, end - offset) : 0;

    memset(buf + inside, 0, length - inside);
    return inside > 0 ? blk_pread(blk, offset, buf, inside) : 0;
}

static void note_find(struct comparison *c, enum compare_kind kind, uint64_t offset,
                      struct blk *failed, int error)
{
    pthread_mutex_lock(&c->lock);
    note(c, kind, offset, failed, error);
    pthread_mutex_unlock(&c->lock);
}

/* False when there was something to note, or (!is_last_try) a range could not be read. */
static bool compare_range(struct comparison *c, uint64_t offset, size_t length,
                          unsigned char *data_a, unsigned char *data_b, bool is_last_try)
{
    struct blk *failed = c->job->a;
    int rc = read_side(failed, offset, data_a, length);

    if (rc == 0) {
        failed = c->job->b;
        rc = read_side(failed, offset, data_b, length);
    }
    if (rc < 0) {
        if (is_last_try)
            note_find(c, COMPARE_READ_FAILED, offset, failed, rc);
        return false;
    }
    if (memcmp(data_a, data_b, length) == 0)
        return true;
    for (size_t at = 0; at < length; at += SECTOR) {
        size_t n = (size_t)min_u64(SECTOR, length - at);

        if (memcmp(data_a + at, data_b + at, n) != 0) {
            note_find(c, COMPARE_CONTENT_DIFFERS, offset + at, NULL, 0);
            break;
        }
    }
    return false;
}

static void *compare_main(void *opaque)
{
    struct comparison *c = opaque;
    unsigned char *data_a = aligned_alloc(ALIGNMENT, c->window);
    unsigned char *data_b = aligned_alloc(ALIGNMENT, c->window);
    uint64_t offset;
    size_t length;

    while (data_a != NULL && data_b != NULL && take_window(c, &offset, &length)) {
        if (compare_range(c, offset, length, data_a, data_b, false))
            continue;
        /* Once more in small steps: what can be read may differ, and where it cannot is to be said. */
        for (size_t at = 0, n; at < length; at += n) {
            n = (size_t)min_u64(length - at, ALIGNMENT - (offset + at) % ALIGNMENT);
            if (!compare_range(c, offset + at, n, data_a, data_b, true))
                break;
        }
    }
    free(data_a);
    free(data_b);
    return data_a == NULL || data_b == NULL ? c : NULL;
}

int compare_images(const struct compare_job *job, struct compare_result *result)
{
    uint64_t largest_cluster = max_u64(blk_cluster_size(job->a), blk_cluster_size(job->b));
    struct comparison c = {
        .job = job,
        .total = max_u64(blk_length(job->a), blk_length(job->b)),
        .window = max_u64(WINDOW, largest_cluster),
        .a = {.blk = job->a},
        .b = {.blk = job->b},
        .pair = {.a = job->a, .b = job->b},
        .found = {.kind = COMPARE_SAME},
    };
    unsigned processors = img_processors();
    pthread_t threads[MAX_THREADS - 1];
    unsigned count = 0;
    bool is_short;

    pthread_mutex_init(&c.lock, NULL);
    while (count < MAX_THREADS - 1 && count + 1 < processors &&
           pthread_create(&threads[count], NULL, compare_main, &c) == 0)
        count++;
    /* Here as well, so that it gets done with whatever threads there are. */
    is_short = compare_main(&c) != NULL;
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&c.lock);
    *result = c.found;
    return is_short ? -ENOMEM : 0;
}
