#include "journal.h"

#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LONGEST = 160, /* sectors of an operation */
    AHEAD = 1024,  /* operations that a thread may be ahead of its last acknowledged flush */
    MAX_THREADS = 16,
};

struct operation {
    uint64_t sector, count; /* sector: of the device */
    bool flush_after;
};

struct writer {
    struct blk *blk;
    uint64_t seed, count;
    unsigned thread;
    int result;
    pthread_t id;
    uint8_t buffer[LONGEST * 512];
};

/* Byte `offset` of sequence `seed`: 8-byte words that depend on both, so that a misplaced or old
 * byte is seen. */
void journal_sequence(uint64_t seed, uint64_t offset, uint8_t *out, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint64_t z = (seed << 40) + (offset + i) / 8 + 1;

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        out[i] = (uint8_t)((z ^ (z >> 31)) >> ((offset + i) % 8 * 8));
    }
}

static uint64_t thread_seed(uint64_t seed, unsigned thread)
{
    return (seed * MAX_THREADS + thread + 1) << 20;
}

static struct operation operation(uint64_t seed, unsigned thread, uint64_t index)
{
    uint8_t random[16];
    uint64_t a, b;

    journal_sequence(thread_seed(seed, thread) - 1, index * sizeof(random), random, sizeof(random));
    memcpy(&a, random, sizeof(a));
    memcpy(&b, random + 8, sizeof(b));
    return (struct operation){
        .sector = (uint64_t)thread * JOURNAL_SECTORS + a % (JOURNAL_SECTORS - LONGEST),
        .count = 1 + b % ((b >> 32) % 4 == 0 ? LONGEST : 12),
        .flush_after = (a >> 40) % 8 == 0,
    };
}

static void sector_bytes(uint64_t seed, unsigned thread, uint64_t index, uint64_t sector,
                         uint8_t *out)
{
    journal_sequence(thread_seed(seed, thread) + index, sector * 512, out, 512);
}

static int write_one(struct writer *w, uint64_t index)
{
    struct operation op = operation(w->seed, w->thread, index);
    int ret;

    for (uint64_t s = 0; s < op.count; s++) {
        sector_bytes(w->seed, w->thread, index, op.sector + s, w->buffer + s * 512);
    }
    ret = blk_pwrite(w->blk, op.sector * 512, w->buffer, op.count * 512);
    if (ret >= 0 && op.flush_after) {
        ret = blk_flush(w->blk);
        if (ret >= 0) {
            /* One write(2) a line, so that lines of different threads do not mix. */
            flockfile(stdout);
            printf("flushed %u %" PRIu64 "\n", w->thread, index);
            fflush(stdout);
            funlockfile(stdout);
        }
    }
    return ret;
}

static void *writer_main(void *opaque)
{
    struct writer *w = opaque;

    for (uint64_t i = 0; i < w->count && w->result >= 0; i++) {
        w->result = write_one(w, i);
    }
    return NULL;
}

int journal_write(struct blk *blk, uint64_t seed, uint64_t count, unsigned threads)
{
    struct writer *writers;
    unsigned started = 0;
    int ret = 0;

    if (threads == 0 || threads > MAX_THREADS) {
        return -EINVAL;
    }
    writers = calloc(threads, sizeof(*writers));
    if (!writers) {
        return -ENOMEM;
    }
    for (; started < threads && ret == 0; started++) {
        writers[started].blk = blk;
        writers[started].seed = seed;
        writers[started].count = count;
        writers[started].thread = started;
        ret = -pthread_create(&writers[started].id, NULL, writer_main, &writers[started]);
    }
    started -= ret < 0;
    for (unsigned i = 0; i < started; i++) {
        pthread_join(writers[i].id, NULL);
        ret = writers[i].result < 0 ? writers[i].result : ret;
    }
    free(writers);
    return ret;
}

/* Whether the sector is as one of the operations [from, from + AHEAD) would have left it. */
static bool sector_is_later(uint64_t seed, unsigned thread, uint64_t from, uint64_t sector,
                            const uint8_t *seen)
{
    uint8_t expected[512];

    for (uint64_t i = from; i < from + AHEAD; i++) {
        struct operation op = operation(seed, thread, i);

        if (sector >= op.sector && sector < op.sector + op.count) {
            sector_bytes(seed, thread, i, sector, expected);
            if (memcmp(seen, expected, 512) == 0) {
                return true;
            }
        }
    }
    return false;
}

int journal_check(struct blk *blk, uint64_t seed, unsigned thread, const char *upto)
{
    uint64_t durable = strcmp(upto, "none") == 0 ? 0 : strtoull(upto, NULL, 10) + 1;
    uint64_t first = (uint64_t)thread * JOURNAL_SECTORS;
    static int64_t last[JOURNAL_SECTORS]; /* the last durable operation on each sector */
    uint8_t seen[512], expected[512];

    memset(last, 0xff, sizeof(last));
    for (uint64_t i = 0; i < durable; i++) {
        struct operation op = operation(seed, thread, i);

        for (uint64_t s = 0; s < op.count; s++) {
            last[op.sector + s - first] = (int64_t)i;
        }
    }
    for (uint64_t s = 0; s < JOURNAL_SECTORS; s++) {
        int ret = blk_pread(blk, (first + s) * 512, seen, 512);

        if (ret < 0) {
            return ret;
        }
        if (last[s] < 0) {
            journal_sequence(0, (first + s) * 512, expected, 512);
        } else {
            sector_bytes(seed, thread, (uint64_t)last[s], first + s, expected);
        }
        if (memcmp(seen, expected, 512) != 0 &&
            !sector_is_later(seed, thread, durable, first + s, seen)) {
            log_error("sector %" PRIu64 " lost what operation %" PRId64 " of thread %u wrote",
                      first + s, last[s], thread);
            return -EILSEQ;
        }
    }
    return 0;
}
