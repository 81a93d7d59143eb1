/*
 * compressor.c - see compressor.h. The works stand in a queue; a thread takes a few clusters of the
 * first one at a time. `lock` covers the queue and the counters of the works in it.
 */
#include "compressor.h"

#include "checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { MAX_THREADS = 64, PORTION = 64 << 10 };

struct compressor {
    struct blk *target;
    uint64_t cluster;
    pthread_t threads[MAX_THREADS];
    unsigned count;

    pthread_mutex_t lock;
    pthread_cond_t added, done;
    struct compress_work *first, **last; /* with clusters that nobody has begun with */
    bool stopping;
};

static int compress(struct compressor *c, struct compress_work *work, uint64_t from, uint64_t to)
{
    int rc = 0;

    for (uint64_t i = from; i < to && rc == 0; i++) {
        uint64_t at = i * c->cluster;

        work->packed_length[i] = 0;
        if ((work->used[i / 64] >> (i % 64) & 1) != 0)
            rc = blk_compress(c->target, work->data + at,
                              (size_t)min_u64(c->cluster, work->length - at), work->packed + at,
                              &work->packed_length[i]);
    }
    return rc;
}

static void *compressor_main(void *opaque)
{
    struct compressor *c = opaque;
    uint64_t portion = max_u64(1, PORTION / c->cluster);

    pthread_mutex_lock(&c->lock);
    while (!c->stopping) {
        struct compress_work *work = c->first;
        uint64_t clusters, from, to;
        int rc;

        if (work == NULL) {
            pthread_cond_wait(&c->added, &c->lock);
            continue;
        }
        clusters = div_round_up(work->length, c->cluster);
        from = work->next;
        to = min_u64(from + portion, clusters);
        work->next = to;
        if (to == clusters) {
            c->first = work->link;
            if (c->first == NULL)
                c->last = &c->first;
        }
        pthread_mutex_unlock(&c->lock);
        rc = compress(c, work, from, to);
        pthread_mutex_lock(&c->lock);
        work->status = work->status != 0 ? work->status : rc;
        work->left -= to - from;
        if (work->left == 0)
            pthread_cond_broadcast(&c->done);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

struct compressor *compressor_start(struct blk *target, struct err *err)
{
    unsigned wanted = (unsigned)min_u64(img_processors(), MAX_THREADS);
    struct compressor *c = calloc(1, sizeof(*c));
    int rc = 0;

    if (c == NULL) {
        (void)err_set(err, -ENOMEM, "out of memory");
        return NULL;
    }
    c->target = target;
    c->cluster = blk_cluster_size(target);
    c->last = &c->first;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->added, NULL);
    pthread_cond_init(&c->done, NULL);
    while (rc == 0 && c->count < wanted) {
        rc = -pthread_create(&c->threads[c->count], NULL, compressor_main, c);
        c->count += rc == 0;
    }
    if (c->count == 0) {
        (void)err_set_errno(err, rc, "Could not start a thread");
        compressor_stop(c);
        return NULL;
    }
    return c;
}

void compressor_add(struct compressor *c, struct compress_work *work)
{
    work->next = 0;
    work->left = div_round_up(work->length, c->cluster);
    work->status = 0;
    work->link = NULL;
    pthread_mutex_lock(&c->lock);
    *c->last = work;
    c->last = &work->link;
    pthread_cond_broadcast(&c->added);
    pthread_mutex_unlock(&c->lock);
}

int compressor_wait(struct compressor *c, struct compress_work *work)
{
    pthread_mutex_lock(&c->lock);
    while (work->left > 0)
        pthread_cond_wait(&c->done, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return work->status;
}

void compressor_stop(struct compressor *c)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->added);
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < c->count; i++)
        pthread_join(c->threads[i], NULL);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->added);
    pthread_cond_destroy(&c->done);
    free(c);
}
